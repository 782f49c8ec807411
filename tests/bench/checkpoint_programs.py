"""Processes of test_checkpoints.py: `python checkpoint_programs.py ranks|lines|kills FOLDER [RANK]`.

Each leaves what it found as JSON. No pytest, no threads: they fork and are killed.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn

import bench.files
from bench.errors import BenchError, Stopped
from bench.runs.folder import RunFolder
from bench.training import generations, going_on
from bench.training.checkpoint import Keeper
from bench.training.generations import Seal
from bench.training.ranks import Ranks

STEPS = 1000
INTERVAL = 100  # between two checkpoints
NEWEST = 300
TIMES = 5  # that each fault is met on each rank
ROUNDS = 12  # processes that are killed at some moment


class Training:
    """A network and its optimizer, which take a checkpoint over."""

    def __init__(self, width: int = 8, name: str = "layer") -> None:
        self.network: nn.Module = nn.ModuleDict({name: nn.Linear(width, width)})
        self.optimizer = torch.optim.AdamW(self.network.parameters())
        self.fails: BaseException | None = None

    def step(self, number: int) -> None:
        for parameter in self.network.parameters():
            parameter.grad = torch.full_like(parameter, float(number))
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if self.fails is not None:  # half of it is taken over
            raise self.fails
        self.optimizer.load_state_dict(state["optimizer"])


def keep(keeper: Keeper, step: int, state: Callable[[], Mapping[str, Any]]) -> None:
    with suppress(Stopped):
        keeper.keep(step, state, stop=True)


def cut(content: bytes, number: int) -> bytes:
    return content[: len(content) * (number + 1) // (TIMES + 2)]


def flipped(content: bytes, number: int) -> bytes:
    place = 200 + (len(content) - 400) * number // TIMES  # somewhere in torch's part
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


def lost_tail(content: bytes, number: int) -> bytes:
    return content[: -600 * (number + 1)] + b"\0" * 600 * (number + 1)


DAMAGE = {"cut off": cut, "wrong check sum": flipped, "a lost end": lost_tail}
PASSING: dict[str, BaseException] = {
    "input error": OSError(errno.EIO, "Input/output error"),
    "stale handle": OSError(errno.ESTALE, "Stale file handle"),
    "not permitted": PermissionError(errno.EACCES, "Permission denied"),
    "no memory": MemoryError(),
    "no memory on the GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
}
UNFIT = {"renamed key": {"name": "other"}, "other shape": {"width": 4}}
FAULTS = (*DAMAGE, *PASSING, *UNFIT)


@contextmanager
def fault(kind: str, number: int) -> Any:
    """One error of this kind, at one of the moments of reading; the training that the rank has."""
    training = Training(**UNFIT.get(kind, {}))  # type: ignore[arg-type]
    error = PASSING.get(kind)
    if error is None:
        yield training
    elif number % 3 == 0:
        training.fails = error
        yield training
    else:
        where = mock.patch.object(torch, "load", side_effect=error)
        if number % 3 == 1 and isinstance(error, OSError | MemoryError):
            where = mock.patch.object(generations, "_sums", side_effect=error)
        with where:
            yield training


def attempt(folder: Path, ranks: Ranks, training: Training) -> dict[str, Any]:
    """What a process that begins now comes to."""
    generations._checked.clear()
    keeper = Keeper(folder, STEPS, ranks=ranks)
    try:
        state = keeper.load("cpu", training.restore)
    except BenchError as error:
        return {"error": str(error)}
    return {"step": None if state is None else state["step"]}


def ranks(folder: Path, rank: int) -> None:
    """Every fault on every rank, several times: the attempt that meets it, and the next one, which meets none."""
    both = Ranks(rank=rank, world=2)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    found = []
    for kind in FAULTS:
        for victim in (0, 1):
            for number in range(TIMES):
                job = folder / f"{kind}-{victim}-{number}"
                run, training = RunFolder(job), Training()
                if rank == 0:
                    job.mkdir()
                    keeper = Keeper(job, STEPS)
                    for step in range(INTERVAL, NEWEST + 1, INTERVAL):
                        training.step(step)
                        keep(keeper, step, training.state)
                    if kind in DAMAGE:
                        run.checkpoint.write_bytes(DAMAGE[kind](run.checkpoint.read_bytes(), number))
                files = {file.name for file in job.iterdir()} if rank == 0 else set()
                dist.barrier()
                with fault(kind if rank == victim else "", number) as mine:
                    first = attempt(job, both, mine)
                dist.barrier()
                after = {file.name for file in job.iterdir()} if rank == 0 else set()
                second = attempt(job, both, Training())
                found.append({"kind": kind, "victim": victim, "first": first, "second": second, "stay": files <= after})
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def newest(folder: Path) -> int | None:
    """The step that a job goes on from."""
    generations._checked.clear()
    choice = going_on.choose(RunFolder(folder), STEPS, {})
    assert choice.trouble is None, choice.trouble
    return None if choice.about is None else choice.about.step


def lines(folder: Path) -> None:
    """A process is killed at each line of the code that saves, in turn, until one survives; one step a process."""
    files = {generations.__file__, bench.files.__file__}
    found = []
    for other_data in (False, True):
        for number in range(1, 10_000):
            job = folder / f"{other_data}-{number}"
            job.mkdir()
            run, state = RunFolder(job), {"x": torch.zeros(3)}
            for step in (1, 2):
                generations.save(run, state, Seal(step, STEPS))
            child = os.fork()
            if not child:
                left, writes = number, 0

                def trace(frame: FrameType, event: str, argument: Any) -> Any:
                    nonlocal left, writes
                    if frame.f_code.co_filename in files and event == "line":
                        if frame.f_code.co_name == "write":  # many and alike: every ninth line of them
                            writes += 1
                            if writes % 9:
                                return trace
                        left -= 1
                        if not left:
                            os.kill(os.getpid(), signal.SIGKILL)
                    return trace

                sys.settrace(trace)
                generations.save(run, state, Seal(3, STEPS), other_data=other_data)
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            after, apart = newest(job), job / "checkpoint.pt.other-data"
            kept = generations.seal_of(apart) if apart.exists() else None
            generations.drop_leftovers(run)
            generations.save(run, state, Seal(4, STEPS))
            left_over = [file.name for file in job.iterdir() if file.name.endswith(".tmp")]
            found.append(
                {
                    "other_data": other_data,
                    "step": after,
                    "apart": kept and kept.step,
                    "code": code,
                    "then": newest(job),
                }
                | {"left_over": left_over}
            )
            if code == 0:
                break
    (folder / "lines.json").write_text(json.dumps(found))


def kills(folder: Path) -> None:
    """Processes that save without a pause are killed at moments that nobody chose; each goes on from the one before."""
    found, state = [], {"x": torch.zeros(2_000_000)}
    for number in range(ROUNDS):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            keeper = Keeper(folder, STEPS)
            before = keeper.load()
            for step in range(1 + int(before["step"] if before else 0), 10**6):
                keep(keeper, step, lambda: state)
                os.write(writer, f"{step}\n".encode())
        os.close(writer)
        said = b""
        while said.count(b"\n") < 2 + number % 3:
            said += os.read(reader, 1000)
        select.select([], [], [], 0.003 * number)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(reader, 1000):
            said += more
        os.close(reader)
        found.append({"said": int(said.split(b"\n")[-2]), "step": newest(folder)})
    (folder / "kills.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "ranks":
        ranks(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        {"lines": lines, "kills": kills}[sys.argv[1]](Path(sys.argv[2]))
