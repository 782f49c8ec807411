"""What workers that decode images cannot hand over ends the job with a sentence, and their room is looked at before."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import ROOT
from bench.commands import doctor
from bench.data import shared_memory
from bench.data.loader import FileViews, Plan, eval_batches, pass_takes, train_batches, training_takes
from bench.data.shared_memory import Batches, Room
from bench.data.splits import Arrays, Files
from bench.data.workers import in_a_worker, load
from bench.errors import BenchError
from bench.settings.site import AtMost, Site
from bench.spec import Augment

CPU = torch.device("cpu")
NOTHING = Batches(0, per_worker=0, held=0, most=0)


def loaded(batch: Any, workers: int = 2, shared: Batches = NOTHING) -> Iterator[Any]:
    return load(batch, range(8), CPU, seed=0, workers=workers, shared=shared)


@pytest.fixture
def files(photographs: Path) -> Files:
    paths = sorted((photographs / "train").rglob("*.JPEG"))
    return Files(paths, torch.tensor([0] * 12 + [1] * 12), classes=2)


class Unsendable:
    """Fails when it is pickled, which a thread of the worker does."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
            r"could not hand over its batch: .*`ulimit -n`.*workers = 0",
        ),
        (TypeError("of no known kind"), "could not hand over its batch: TypeError: of no known kind.*workers = 0"),
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"),
            "/dev/shm .*has no room for a batch.*--shm-size.*0 for none",
        ),
    ],
)
def test_what_a_worker_cannot_send_ends_the_job_with_the_reason(error: Exception, said: str) -> None:
    got = loaded(lambda number: Unsendable(error) if number == 3 else number)
    assert [next(got) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BenchError, match=said):
        next(got)


def end_oneself(number: signal.Signals) -> Any:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGBUS, "/dev/shm .*has no room for a batch.*--shm-size"), (signal.SIGKILL, "Killed.*out of memory")],
)
def test_a_worker_that_is_killed_is_named_with_the_likely_reason(number: signal.Signals, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        list(loaded(lambda step: end_oneself(number)))


def test_what_ranks_share_is_not_taken_for_a_batch() -> None:
    error = RuntimeError(
        "NCCL error in: NCCLUtils.cpp:94, unhandled system error, Last error: Error while creating shared memory "
        "segment /dev/shm/nccl-JFs1vl (size 9637888), error: No space left on device (28)"
    )
    said = str(in_a_worker(error))
    assert "has no room for what NCCL shares between the ranks" in said
    assert "--shm-size" in said


def test_other_errors_of_a_job_are_not_taken_for_those_of_a_worker() -> None:
    assert in_a_worker(RuntimeError("CUDA error: out of memory")) is None
    assert in_a_worker(RuntimeError("unable to mmap 8 bytes from file </torch_1>: Cannot allocate memory (12)")) is None
    assert in_a_worker(ValueError("shared memory: No space left")) is None


def test_room_is_compared_with_what_the_workers_take_before_they_start(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = Augment(size=64)
    plan = Plan(images=24, batch_size=8, seed=0)
    each = 2 * 8 * 3 * 64 * 64 + 4096
    assert FileViews(files, (view, view), plan, replace_unreadable=True, finish=True).shared(100).take(2) == 6 * each
    monkeypatch.setattr(shared_memory, "room", lambda: Room(whole=6 * each, free=6 * each - 1))
    batches = train_batches(files, (view, view), plan, range(100), CPU, workers=2)
    with pytest.raises(
        BenchError,
        match=r"/dev/shm \(shared memory\) is too small.*1.2 MB of its 1.2 MB free, 2 workers take 1.2 MB "
        r"\(6 batches of 201 kB\).*docker run --shm-size=1g.*workers = 1 under \[local\]",
    ):
        next(batches)
    monkeypatch.setattr(shared_memory, "room", lambda: Room(whole=10**6, free=10_000))
    with pytest.raises(BenchError, match="workers = 0 under"):
        next(eval_batches(files, 32, 8, CPU, workers=2))
    next(eval_batches(files, 32, 8, CPU, workers=0))


def test_few_batches_take_no_more_room_than_they_are() -> None:
    batches = Batches(1000, per_worker=3, held=1, most=5)
    assert [batches.take(workers) for workers in (0, 1, 8)] == [0, 4000, 5000]


def test_ranks_of_one_machine_must_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(1000, per_worker=3, held=0, most=100)
    monkeypatch.setattr(shared_memory, "room", lambda: Room(whole=20_000, free=20_000))
    shared_memory.fitting(2, batches)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(BenchError, match=r"4 ranks of 2 workers take 24 kB \(24 batches of 1 kB\).*workers = 1 "):
        shared_memory.fitting(2, batches)


def test_loaders_that_are_there_at_once_must_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    training, test = Batches(1000, per_worker=3, held=0, most=100), Batches(2000, per_worker=2, held=2, most=4)
    monkeypatch.setattr(shared_memory, "room", lambda: Room(whole=14_000, free=14_000))
    shared_memory.fitting(2, training, test)
    monkeypatch.setattr(shared_memory, "room", lambda: Room(whole=14_000, free=13_999))
    with pytest.raises(BenchError, match=r"take 14 kB \(6 batches of 1 kB and 4 batches of 2 kB\).*workers = 1 "):
        shared_memory.fitting(2, training, test)
    shared_memory.fitting(2, training, shared_memory.NOTHING)


def test_workers_that_nobody_asked_for_are_fewer_where_shared_memory_is_small(
    files: Files, here: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = Batches(1000, per_worker=3, held=0, most=100)
    monkeypatch.setattr(shared_memory, "room", lambda: Room(whole=20_000, free=20_000))
    default = here.loader_workers("cuda", 9)
    assert default == 8
    assert shared_memory.fitting(default, batches) == 6
    assert capsys.readouterr().out == (
        "/dev/shm (shared memory) has 20 kB of its 20 kB free, 8 workers take 24 kB (24 batches of 1 kB): images are "
        "decoded by 6 workers. Give a container more (docker run --shm-size=1g).\n"
    )
    asked = replace(here, workers=8).loader_workers("cuda", 9)
    with pytest.raises(BenchError, match=r"too small for the workers.*set workers = 6 under"):
        shared_memory.fitting(asked, batches)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    fewer = shared_memory.fitting(default, batches)
    assert fewer == 1
    assert "images are decoded by 1 worker." in capsys.readouterr().out
    monkeypatch.setattr(shared_memory, "room", lambda: Room(whole=1000, free=1000))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert shared_memory.fitting(fewer, batches) == 0  # what was lessened once may be again
    assert capsys.readouterr().out == ""  # the first rank says it
    monkeypatch.delenv("LOCAL_RANK")
    (batch, *_) = eval_batches(files, 32, 24, CPU, workers=default)
    assert batch[0].shape == (24, 3, 32, 32)
    assert "images are decoded by the job itself." in capsys.readouterr().out
    view, plan = Augment(size=32), Plan(images=24, batch_size=8, seed=0)
    assert len(list(train_batches(files, (view, view), plan, range(2), CPU, workers=default))) == 2


def test_images_in_memory_take_none(files: Files) -> None:
    arrays = Arrays(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), 1)
    plan = Plan(images=4, batch_size=2, seed=0)
    assert pass_takes(arrays, 8, 2).take(4) == training_takes(arrays, (Augment(size=8),), plan, 9).take(4) == 0
    assert pass_takes(files, 32, 10).most == 3


def test_a_system_without_a_limit_of_shared_memory_is_let_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_memory, "SHARED", tmp_path / "absent")
    assert shared_memory.room() is None
    shared_memory.fitting(8, Batches(10**15, per_worker=1, held=0, most=100))


def test_doctor_compares_shared_memory_with_what_workers_take(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(site: Site) -> doctor.Check:
        return next(check for check in doctor.checks(site) if check.text.startswith("shared:"))

    monkeypatch.setattr("bench.commands.memory.room", lambda: Room(whole=2**26, free=2**26))
    assert row(replace(here, workers=0, slots=1)).state == "ok"
    small = row(replace(here, workers=2, slots=1))
    assert small.state == "broken"
    assert "67 MB of its 67 MB free in /dev/shm; with 2 workers" in small.text
    assert "an evaluation takes 226 MB" in small.text  # six batches of 250 images of 224 px
    assert "--shm-size" in small.advice
    monkeypatch.setattr("bench.commands.memory.room", lambda: Room(whole=2**30, free=2**30))
    assert row(replace(here, workers=2, slots=1)).state == "ok"
    assert row(replace(here, workers=2, slots=8)).state == "broken"
    monkeypatch.setattr("bench.commands.memory.room", lambda: Room(whole=2**26, free=2**26))
    monkeypatch.setattr(Site, "loader_workers", lambda site, device, cores: AtMost(8))
    less = row(replace(here, slots=1, data={"imagenet": here.root}))
    assert less.state == "off"
    assert less.text.endswith("where they find no room, fewer workers are taken")


IN_A_SMALL_ROOM = """
import torch
from bench.data.shared_memory import Batches
from bench.data.workers import load
from bench.errors import BenchError

def big(number):
    return torch.zeros(1 << 20, dtype=torch.uint8)

def shared(number):
    return big(number).share_memory_()

def told(batch, batches):
    try:
        for _ in load(batch, range(8), torch.device("cpu"), seed=0, workers=2, shared=batches):
            pass
        print("no error")
    except BenchError as error:
        print(error)

nothing = Batches(0, per_worker=0, held=0, most=0)
told(big, Batches(1 << 20, per_worker=2, held=2, most=8))
told(big, nothing)
told(shared, nothing)
with open("/dev/shm/ballast", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
told(big, nothing)
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount a small /dev/shm")
def test_in_a_small_shared_memory_every_way_to_run_out_of_it_is_said() -> None:
    inside = 'mount -t tmpfs -o size=512k tmpfs /dev/shm && exec "$0" -c "$1"'
    found = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inside, sys.executable, IN_A_SMALL_ROOM],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if "unshare failed" in found.stderr or "permission denied" in found.stderr:
        pytest.skip(f"this container may not mount: {found.stderr.strip()}")
    before, fed, shared, semaphores = found.stdout.splitlines()
    assert before.startswith("/dev/shm (shared memory) is too small")
    for line in (fed, shared, semaphores):
        assert line.startswith("/dev/shm (shared memory) has no room for a batch")
        assert "of its 524 kB free" in line
