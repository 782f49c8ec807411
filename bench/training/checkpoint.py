"""Checkpoints to go on from, of pretrainings and long evaluations, and the weights that a finished pretraining leaves.

An evaluation with RESUMES = True makes a Keeper, asks `load` for the state of an earlier attempt, calls `keep` after
every step and `log_line` now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.contracts import Attempt
from bench.errors import BenchError, Stopped, first_words
from bench.files import atomic_path, file_sha256, write_json
from bench.identity import job_id
from bench.runs import inputs
from bench.runs.folder import RunFolder
from bench.runs.metrics import append_metrics, truncate_metrics
from bench.spec import Pretrain
from bench.training import going_on
from bench.training.generations import Seal, drop_leftovers, save
from bench.training.ranks import Ranks

SECONDS = 20.0  # between two saves, at least; saving never takes more than 2 % of the time


@dataclass(frozen=True)
class TrainingState:
    """The part of a pretraining's checkpoint that is plain data."""

    step: int = 0
    resumed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Spent:
    """What the attempts at a job took: of those before, what led to the checkpoint that the next one goes on from."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    resumed: int = 0
    features_cached: bool | None = None  # whether no attempt had to extract features; None: none reads any, or unknown
    together: int = 1  # jobs that one process worked on, at most: their seconds are shares

    def after(self, attempt: Attempt) -> Spent:
        """With this attempt, as far as it has come."""
        cached = attempt.features_cached
        if self.resumed and cached is not None:
            cached = None if self.features_cached is None else self.features_cached and cached
        return replace(
            self,
            seconds=self.seconds + attempt.seconds,
            cpu_seconds=self.cpu_seconds + attempt.cpu_seconds,
            features_cached=cached,
            together=max(self.together, attempt.together),
        )


def spent_before(run: RunFolder) -> Spent:
    """What led to the checkpoint from which an evaluation goes on.

    Nothing when there is none, it is damaged, or it is of other data.
    """
    try:
        file, _ = going_on.newest_whole(run)
        if file is None:
            return Spent()
        about = going_on.about(file)
        changed = inputs.other(about.reads, inputs.mark_of(inputs.noted(run.path)))
        return Spent() if changed else _spent(about)
    except Exception:  # whatever it is, `Keeper.load` meets it again and says so
        return Spent()


def _spent(about: Seal) -> Spent:
    before = Spent(**about.attempts)  # older versions wrote none for an evaluation
    return replace(before, resumed=before.resumed + 1)


class Keeper:
    """Saves the state of one job. State is a mapping of tensors, numbers, strings and containers of them.

    `folder` None (tests, a call by hand): nothing is kept. `steps`: of the whole job. `ranks`: that make a Keeper each;
    the first writes. `attempt`: that of the evaluation's context; None: it begins now.
    """

    def __init__(
        self, folder: Path | None, steps: int, *, ranks: Ranks | None = None, attempt: Attempt | None = None
    ) -> None:
        self.run = RunFolder(folder) if folder is not None else None
        self.steps, self.ranks = steps, ranks or Ranks()
        self.attempt, self.before = attempt or Attempt(), Spent()
        self.saved_at, self.cost = time.monotonic(), 0.0
        self.reads = inputs.mark_of(inputs.noted(folder)) if folder is not None else {}
        self.replaces = False  # a checkpoint of other data, which stays until there is one of these

    def load(
        self,
        device: torch.device | str = "cpu",
        restore: Callable[[Mapping[str, Any]], object] = lambda state: None,
    ) -> Mapping[str, Any] | None:
        """What an earlier attempt saved, in the processor's memory; None to start anew.

        All ranks call it. `restore` takes it over, to `device` where the state belongs there; where it raises, the file
        stays. Metrics from after the checkpoint are dropped. Nothing to go on from: no file, one of other data, or
        damaged ones whose loss is small or allowed.

        Raises BenchError when it cannot be read on some rank or does not fit; InputCorrupt when it did not fit and the
        user said that such a job may start anew: it is set aside, and the caller begins again.
        """
        if self.run is None:
            return None
        run, ranks, state, step = self.run, self.ranks, None, 0
        choice = going_on.shared(
            going_on.choose(run, self.steps, self.reads) if ranks.first else going_on.Choice(), ranks
        )
        if choice.refusal:
            raise BenchError(choice.refusal)
        if choice.trouble is not None:
            going_on.fail(run, choice, ranks, [choice.trouble])
        self.replaces = bool(choice.changed)
        if self.replaces and ranks.first:
            print(f"{choice.file} is of other data ({', '.join(choice.changed)} changed): starting anew", flush=True)
        if choice.about is not None and not self.replaces:
            state, step = going_on.read(run, choice, ranks, device, restore), choice.about.step
            self.before = _spent(choice.about)
            if ranks.first:
                print(f"going on after step {step} of {self.steps}", flush=True)
        if ranks.first:
            run.let_restart(False)  # it was for this time
            drop_leftovers(run)
            run.now.unlink(missing_ok=True)
            truncate_metrics(run.metrics, step)
        return state

    def keep(self, step: int, state: Callable[[], Mapping[str, Any]], *, stop: bool) -> None:
        """Save when it is time or to `stop`; `step` steps are done. Raises Stopped."""
        # of several jobs of one process each saves the more seldom, while they are there
        beside = self.attempt.together - self.attempt.elsewhere.ended
        due = time.monotonic() - self.saved_at > max(SECONDS, 50 * self.cost * beside)
        if self.run is not None and self.ranks.first and (stop or due):
            begun = time.monotonic()
            self.run.check_claim()
            attempts = asdict(self.before.after(self.attempt))
            about = Seal(step, self.steps, attempts, self.reads)
            kept = {**state(), "step": step, "attempts": attempts, "reads": self.reads}
            save(self.run, kept, about, other_data=self.replaces)
            self.replaces = False
            self.saved_at, self.cost = time.monotonic(), time.monotonic() - begun
        if stop:
            raise Stopped(f"stopped after step {step} of {self.steps}; the checkpoint is saved")

    def seconds(self) -> float:
        """What all attempts at an evaluation took so far."""
        return round(self.before.after(self.attempt).seconds, 2)

    def log_line(self, line: Mapping[str, float]) -> None:
        """One line of metrics.jsonl; `step` and `steps` among the keys, so that progress is shown."""
        if self.run is not None and self.ranks.first:
            self.run.check_claim()
            append_metrics(self.run.metrics, line)

    def show(self, line: Mapping[str, float]) -> None:
        """The same line at a moment that the clock chose: seen until the next one, and not kept.

        So metrics.jsonl has the same steps whatever the machine's speed and however often a job was interrupted.
        """
        if self.run is not None and self.ranks.first:
            self.run.check_claim()
            write_json(self.run.now, dict(line), durable=False)


def save_weights(path: Path, method: nn.Module, encoder: nn.Module) -> str:
    """What evaluations read: the encoder, and the whole method for those that look at the embedding.

    Returns the sha256.
    """
    # Through a handle: given a path, torch writes the temporary name into the file, and equal weights would differ in
    # their hash.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save({"encoder": encoder.state_dict(), "method": method.state_dict()}, file)
        RunFolder(path.parent).check_claim()
    return file_sha256(path)


def load_start(network: nn.Module, start: Pretrain, run: RunFolder) -> None:
    """Put the weights that another pretraining left into the method.

    Raises InputCorrupt, BenchError when they do not fit.
    """
    path = run.path.parent / job_id(start) / "weights.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["method"]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise BenchError(f"{path} cannot be read ({first_words(error)}): the same command trains it again.") from error
    found = network.load_state_dict(state, strict=False)
    if found.missing_keys or found.unexpected_keys:
        raise BenchError(
            f"{path} does not fit: missing {found.missing_keys[:3]}, unexpected {found.unexpected_keys[:3]}."
        )
