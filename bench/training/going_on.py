"""Which checkpoint a job goes on from: the first rank decides, every rank reads that one, or all fail with the reason.

Only a wrong check sum makes a file damaged. Everything else that can go wrong while one is read (the disk, the memory,
a key that is not there) says nothing against the file: the job fails, and the next attempt finds it where it was.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.errors import BenchError, InputCorrupt, first_words
from bench.runs import inputs
from bench.runs.folder import RunFolder
from bench.training.generations import Seal, is_there, is_whole, seal_of
from bench.training.ranks import Ranks
from bench.wording import counted

LOST = 0.01  # of the job's steps: who starts anew after more has to be asked
_UNFIT = (KeyError, AttributeError, TypeError, ValueError, IndexError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Trouble:
    """Why a rank cannot go on: about the file itself (`unfit`: it will not fit next time either), or about anything."""

    why: str
    unfit: bool = False


@dataclass(frozen=True)
class Choice:
    """What the first rank says to all."""

    file: str = ""  # its name; "" when there is none
    about: Seal | None = None
    changed: tuple[str, ...] = ()  # it is of other data than the job reads now
    may_restart: bool = False
    trouble: Trouble | None = None
    refusal: str = ""  # what would be lost, where nobody said that it may


def newest_whole(run: RunFolder) -> tuple[Path | None, list[Path]]:
    """The checkpoint to go on from, and the newer ones that are damaged. Raises OSError and MemoryError."""
    damaged: list[Path] = []
    for file in (run.checkpoint, run.previous):
        if is_there(file):
            if is_whole(file):
                return file, damaged
            damaged.append(file)
    return None, damaged


def about(file: Path) -> Seal:
    """What a whole checkpoint says of itself, its tensors unread."""
    seal = seal_of(file)
    if seal is not None:
        return seal
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # of an older version
    # Pretrainings of still older versions have the step in one place only.
    step = int(state["step"] if "step" in state else state["progress"]["step"])
    return Seal(step, 0, state.get("attempts", {}), state.get("reads", {}))


def choose(run: RunFolder, steps: int, reads: Mapping[str, str]) -> Choice:
    """On the first rank: the newest that is whole. Damaged ones are set aside, and what that costs is said.

    Without any that is whole the job starts anew, where that loses little or the user said so.
    """
    file, may_restart = None, False
    try:
        may_restart = run.may_restart()
        file, damaged = newest_whole(run)
        if damaged and file is None and not may_restart and (refusal := _refusal(run, damaged, steps)):
            return Choice(refusal=refusal)
        for broken in damaged:
            aside = run.set_aside(broken)
            then = f"going on from {file.name}" if file is not None else "starting anew"
            print(
                f"{broken.name} is damaged (its check sum is wrong, or it is cut off); set aside as "
                f"{aside and aside.name}, {then}",
                flush=True,
            )
        if file is None:
            return Choice(may_restart=may_restart)
        if file == run.previous and not damaged:
            print(f"going on from {file.name}, as there is no {run.checkpoint.name}", flush=True)
        found = about(file)
        return Choice(file.name, found, tuple(inputs.other(found.reads, reads)), may_restart)
    except Exception as error:
        return Choice("" if file is None else file.name, may_restart=may_restart, trouble=_trouble(error))


def _refusal(run: RunFolder, damaged: list[Path], steps: int) -> str:
    """Why the job does not start anew; "" where that loses little."""
    known = [float(seal.step) for file in damaged if (seal := seal_of(file)) is not None]
    known += [float(step) for step in (run.last_metrics().get("step"),) if isinstance(step, int | float)]
    if known and max(known) <= LOST * steps:
        return ""
    lost = f"{int(max(known)):,}" if known else "an unknown number"
    return (
        f"{' and '.join(file.name for file in damaged)} in {run.path} {'are' if len(damaged) > 1 else 'is'} damaged "
        f"(the check sum is wrong, or the file is cut off), and to start anew loses {lost} of {steps:,} steps: "
        "`bench run --restart` with the same request does so."
    )


def shared(choice: Choice, ranks: Ranks) -> Choice:
    """The first rank's, on every rank."""
    if ranks.world == 1:
        return choice
    box = [choice]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def read(
    run: RunFolder,
    choice: Choice,
    ranks: Ranks,
    device: torch.device | str,
    restore: Callable[[Mapping[str, Any]], object],
) -> Mapping[str, Any]:
    """The chosen checkpoint on this rank, after `restore` has taken it over. All ranks raise when one cannot."""
    file, state, trouble = run.path / choice.file, {}, None
    cause: Exception | None = None
    try:
        if not ranks.first:
            _confirm(file, choice)
        # First into memory that all ranks of a machine share, then to where it belongs: a GPU never holds it twice.
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=torch.device(device).type != "cpu")
        restore(state)
    except Exception as error:
        cause, trouble = error, _trouble(error)
    found = [trouble]
    if ranks.world > 1:
        found = [None] * ranks.world
        dist.all_gather_object(found, trouble)
    if any(found):
        fail(run, choice, ranks, found, cause)
    return state


def _confirm(file: Path, choice: Choice) -> None:
    """Raises BenchError when this rank finds another file than the first has chosen."""
    question = "is the run folder on a shared file system?"
    if not is_there(file):
        raise BenchError(f"it does not find {file}: {question}")
    here = about(file)
    if here != choice.about:
        step = choice.about and choice.about.step
        raise BenchError(f"it finds a checkpoint after step {here.step}, the first rank one after {step}: {question}")
    if not is_whole(file):
        raise BenchError("it reads other bytes than the first rank")


def fail(
    run: RunFolder, choice: Choice, ranks: Ranks, found: list[Trouble | None], cause: Exception | None = None
) -> None:
    """Raises BenchError, or InputCorrupt after giving up checkpoints that do not fit, where the user said so."""
    troubles = {rank: trouble for rank, trouble in enumerate(found) if trouble is not None}
    rank, first = next(iter(troubles.items()))
    where = f"rank {rank}: " if ranks.world > 1 else ""
    name, step = str(run.path / (choice.file or run.checkpoint.name)), "its steps"
    if choice.about is not None:
        name, step = f"{name} (after step {choice.about.step:,})", counted(choice.about.step, "step")
    if not all(trouble.unfit for trouble in troubles.values()):
        raise BenchError(
            f"{name} could not be read ({where}{first.why}). It stays where it is: the same command goes on from it."
        ) from cause
    if not choice.may_restart:
        raise BenchError(
            f"{name} does not fit this job ({where}{first.why}) and stays where it is: run it with the version that "
            f"wrote it, or lose {step} with `bench run --restart`."
        ) from cause
    if ranks.first:
        for file in (run.checkpoint, run.previous):
            aside = run.set_aside(file)
            if aside is not None:
                print(f"{file.name} does not fit ({first.why}); set aside as {aside.name}, starting anew", flush=True)
    raise InputCorrupt(f"{name} does not fit and is set aside") from cause


def _trouble(error: Exception) -> Trouble:
    if isinstance(error, BenchError):
        return Trouble(str(error))
    unfit = isinstance(error, _UNFIT) or "loading state_dict" in str(error)
    return Trouble(first_words(error), unfit=unfit and not isinstance(error, OSError))
