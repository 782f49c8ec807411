"""One process, one job: job.json -> result.json or error.json.

`python -m bench.execution.worker RUN_FOLDER`, also under torchrun.
"""

from __future__ import annotations

import faulthandler
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch

from bench import plugins
from bench.bench_toml import find_site
from bench.contracts import Attempt, Context, Outcome
from bench.data.catalogue import entry
from bench.data.fingerprint import DataHere
from bench.data.stream import Steps, alone
from bench.data.workers import in_a_worker
from bench.errors import BenchError, ClaimLost, InputCorrupt, Stopped, first_words, one_line
from bench.execution import energy
from bench.execution.device import autotunes, layout_word, prepare_device
from bench.execution.exits import DONE, FAILED, STOPPED, TAKEN
from bench.execution.near import near
from bench.execution.subject import load_subject
from bench.files import Json, want_of_room
from bench.identity import job_id
from bench.machine import cores_of_rank, device_name, versions
from bench.runs import features, inputs
from bench.runs.commit import commit
from bench.runs.folder import FailureKind, RunFolder, Runs, State
from bench.runs.heartbeat import beating
from bench.runs.result import Provenance, Result
from bench.settings.site import Site
from bench.settings.workers import decoding
from bench.spec import Evaluate, Pretrain, Spec
from bench.training import loop
from bench.training.checkpoint import Spent, spent_before
from bench.training.ranks import Ranks, from_environment, of_first, process_group

Done = TypeVar("Done")


def main(folder: str, slot: str = "") -> int:
    """Work on one run folder until it is done, failed or asked to stop; returns the exit code.

    `slot` names the place in the claim.
    """
    faulthandler.enable()
    run = RunFolder(Path(folder).resolve())
    ranks = from_environment()
    if not ranks.first:
        return alone(in_steps(run, ranks, threading.Event(), Attempt()))
    if run.state() is State.CANCELLED:
        return STOPPED
    if not run.claim(slot):
        print("another process has this job, or it is done", flush=True)
        return TAKEN
    try:
        with beating(run) as lost:
            return alone(in_steps(run, ranks, lost, Attempt()))
    finally:
        run.release()


def in_steps(
    run: RunFolder,
    ranks: Ranks,
    lost: threading.Event,
    attempt: Attempt,
    told: Callable[[], bool] | None = None,
) -> Steps[int]:
    """Everything that can go wrong becomes error.json and an exit code; `lost` is set when another has the job.

    `told`: whether to stop, from one who listens to signals for several jobs; None: this job listens itself.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    before = Spent()
    print(f"--- {started} {run.job_id}", flush=True)
    try:
        if ranks.first:
            run.error_file.unlink(missing_ok=True)
        spec = run.read_spec()
        if job_id(spec) != run.job_id:
            raise BenchError(f"{run.job_file} describes {job_id(spec)}: it was edited. Run the table anew.")
        resources = run.resources
        site = replace(find_site(), checkpoint_activations=resources.checkpoint_activations)
        device = prepare_device(resources, ranks, deterministic=site.deterministic, autotune=autotunes(spec))
        with (
            process_group(ranks, device),
            nullcontext(told) if told is not None else stop_on_signal(raises=not _resumes(spec)) as asked,
            energy.metered(run, ranks, device) as used,
        ):

            def should_stop() -> bool:
                return asked() or lost.is_set()

            # before the data are opened: what changes from here on is found by the next plan
            here = DataHere(site, run.path.parent / "data")
            reads = of_first(lambda: inputs.take(spec, run.path, here), ranks)
            inputs.note(reads, run.path, writes=ranks.first)
            site = near(spec, site, ranks, device, should_stop)
            if ranks.first and decodes(spec.data.name):
                print(decoding(site, device.type, cores_of_rank()).line(), flush=True)
            if isinstance(spec, Pretrain):
                place = loop.Place(run, site, ranks, device, should_stop, workers=site.loader_workers(device.type))
                trained = _again(lambda: loop.pretrain(spec, place))
                before = Spent(trained.seconds, trained.cpu_seconds, trained.resumed)
                details: dict[str, Json] = {"weights_sha256": trained.weights_sha256}
                details |= {"precision": trained.precision} if trained.precision else {}
                outcome = Outcome(metrics=trained.metrics, details=details)
            else:
                outcome, before, attempt = yield from _evaluate(spec, run, site, device, should_stop, attempt)
        if not ranks.first:
            return DONE
        spent = before.after(attempt)
        joules = {part: attempt.share * value for part, value in used().items()}
        provenance = Provenance(
            started=started,
            seconds=round(spent.seconds, 2),
            cpu_seconds=round(spent.cpu_seconds, 2),
            host=platform.node(),
            device=device_name(device.type),
            ranks=ranks.world,
            threads=resources.threads,
            commit=commit(),
            versions={"python": platform.python_version()} | versions(),
            resumed=spent.resumed,
            together=spent.together,
            features_cached=spent.features_cached,
            energy_joules=round(sum(joules.values()), 1) if joules else None,
            energy_parts={part: round(value, 1) for part, value in joules.items()},
            inputs=reads,
            deterministic=site.deterministic if device.type == "cuda" else None,
            layout=layout_word(spec, device),
            checkpoint_activations=resources.checkpoint_activations if _may_recompute(spec) else None,
        )
        run.check_claim()
        Result(job=run.job_id, metrics=outcome.metrics, details=outcome.details, provenance=provenance).write(
            run.result_file
        )
        run.forget_checkpoints()  # they have served: weights.pt and result.json are there
    except ClaimLost as taken:
        print(taken, flush=True)
        return TAKEN
    except Stopped as stopped:
        print(stopped, flush=True)
        return STOPPED
    except Exception as error:
        if not isinstance(error, BenchError):
            traceback.print_exc()
        # no name for what may be the error itself: its traceback has this frame, and both would stay, with the network
        said = one_line(in_a_worker(error) or want_of_room(error, run.path) or _crowded(error, attempt) or error)
        print(f"failed: {said}", flush=True)
        # the rank that fails first knows why; the others see a lost connection
        if ranks.first or not run.error_file.exists():
            record_failure(run, getattr(error, "kind", "error"), said)
        return TAKEN if run.has_lost_claim() else FAILED
    print("done", flush=True)
    return DONE


def decodes(name: str) -> bool:
    """Whether the images of a data set are decoded while a job runs, and not before it begins."""
    known = entry(name)
    return not (known.package or known.in_memory)


def _may_recompute(spec: Spec) -> bool:
    return isinstance(spec, Pretrain) or plugins.evaluation_of(spec.protocol).recomputes


def _crowded(error: Exception, attempt: Attempt) -> BenchError | None:
    """The one line for a GPU that has no room for several jobs together."""
    if not isinstance(error, torch.OutOfMemoryError) or attempt.together == 1:
        return None
    return BenchError(
        f"the GPU has no memory left ({first_words(error)}), with the networks and heads of {attempt.together} jobs "
        f"in it: set probes_together = {attempt.together // 2} under [local] in bench.toml."
    )


def _again(work: Callable[[], Done]) -> Done:
    """Do it; once more from nothing when a checkpoint does not fit and was given up (`bench run --restart`)."""
    try:
        return work()
    except InputCorrupt:
        return work()


def _resumes(spec: Spec) -> bool:
    """Whether the job keeps its state and so may finish its step when asked to stop."""
    return isinstance(spec, Pretrain) or plugins.evaluation_of(spec.protocol).resumes


def _evaluate(
    spec: Evaluate,
    run: RunFolder,
    site: Site,
    device: torch.device,
    should_stop: Callable[[], bool],
    attempt: Attempt,
) -> Steps[tuple[Outcome, Spent, Attempt]]:
    """The outcome, what earlier attempts spent on it, and this attempt with what it found cached."""
    runs = Runs(run.path.parent)
    evaluation = plugins.evaluation_of(spec.protocol)
    subject = load_subject(spec.encoder, spec.data.size, runs, device, projector=evaluation.needs_projector)
    read = inputs.noted(run.path).data.get(spec.data.name)
    fingerprint = "" if read is None else read.short
    attempt = replace(attempt, features_cached=features.all_cached(spec, subject.key, runs.features, fingerprint))
    context = Context(
        site=site,
        data=spec.data,
        seed=spec.seed,
        device=device,
        features=runs.features,
        folder=run.path,
        should_stop=should_stop,
        attempt=attempt,
        fingerprint=fingerprint,
    )

    def evaluate() -> Steps[tuple[Spent, Outcome]]:
        before = spent_before(run) if evaluation.resumes else Spent()
        if evaluation.evaluate_in_steps is None:
            return before, evaluation.evaluate(spec.protocol, subject, context)
        return before, (yield from evaluation.evaluate_in_steps(spec.protocol, subject, context))

    try:
        before, outcome = yield from evaluate()
    except InputCorrupt:  # as in _again
        before, outcome = yield from evaluate()
    unknown = set(outcome.metrics) - set(evaluation.metrics)
    if unknown:
        raise BenchError(f"evaluation {evaluation.name} returned {sorted(unknown)}, which its METRICS do not name.")
    if subject.origin:
        outcome = replace(outcome, details={**outcome.details, "encoder": dict(subject.origin)})
    return outcome, before, attempt


def record_failure(run: RunFolder, kind: FailureKind, message: str) -> None:
    """In the run folder, unless the job is another's or the disk is full."""
    if run.has_lost_claim():  # whatever went wrong here, the job is another's now
        return
    try:
        run.fail(kind, message)
    except BenchError as error:  # the disk is full: the driver reads the log instead
        print(one_line(error), flush=True)


@contextmanager
def stop_on_signal(*, raises: bool) -> Iterator[Callable[[], bool]]:
    """SIGTERM, SIGINT and SIGUSR2 ask for a stop: at the next step, or at once (`raises`) with no state to save."""
    asked = threading.Event()
    before: dict[signal.Signals, object] = {}

    def handler(number: int, frame: FrameType | None) -> None:
        asked.set()
        previous = before.get(signal.Signals(number))
        if callable(previous) and previous is not signal.default_int_handler:
            previous(number, frame)  # inside a driver's process (executor inline) the driver stops too
        if raises:
            raise Stopped(f"stopped by {signal.Signals(number).name}")

    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before.update({number: signal.signal(number, handler) for number in wanted})
    try:
        yield asked.is_set
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
