"""One process, one job: job.json -> result.json or error.json. `python -m bench.worker RUN_FOLDER`, also under torchrun."""

from __future__ import annotations

import faulthandler
import platform
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import torch

from bench import encoders, plugins, train
from bench.contracts import Context, Outcome, Subject
from bench.distributed import Ranks, device_of, from_environment, process_group
from bench.errors import BenchError, InputCorrupt, Stopped, one_line
from bench.files import disk_full, is_disk_full
from bench.identity import digest, job_id
from bench.result import Provenance, Result
from bench.runs import HEARTBEAT_SECONDS, FailureKind, RunFolder, Runs
from bench.site import Site, find_site
from bench.spec import Encoder, Evaluate, Pixels, Pretrain, Random, Resources

DONE, FAILED, TAKEN, STOPPED = 0, 1, 3, 75  # exit codes; 75 is EX_TEMPFAIL: the job can go on later
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")


def main(folder: str) -> int:
    """Work on one run folder until it is done, failed or asked to stop; returns the exit code."""
    faulthandler.enable()
    run = RunFolder(Path(folder).resolve())
    ranks = from_environment()
    if ranks.first and not run.claim():
        print("another process has this job, or it is done", flush=True)
        return TAKEN
    if not ranks.first:
        return _work(run, ranks)
    try:
        with _heartbeat(run):
            return _work(run, ranks)
    finally:
        run.release()


def _work(run: RunFolder, ranks: Ranks) -> int:
    """Everything that can go wrong becomes error.json and an exit code."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock, cpu = time.monotonic(), time.process_time()
    print(f"--- {started} {run.job_id}", flush=True)
    try:
        run.error_file.unlink(missing_ok=True)
        site = find_site()
        spec = run.read_spec()
        if job_id(spec) != run.job_id:
            raise BenchError(f"{run.job_file} describes {job_id(spec)}: it was edited. Run the table anew.")
        resources = run.resources
        device = _prepare(resources, ranks)
        with process_group(ranks, device), _stop_on_signal(raises=isinstance(spec, Evaluate)) as should_stop:
            trained = None
            if isinstance(spec, Pretrain):
                trained = _pretrain(spec, train.Place(run, site, ranks, device, should_stop, workers=0 if device.type == "cpu" else 8))
                outcome = Outcome(metrics=trained.metrics, details={"weights_sha256": trained.weights_sha256})
            else:
                outcome = _evaluate(spec, run, site, device)
        if not ranks.first:
            return DONE
        provenance = Provenance(
            started=started,
            seconds=round((trained.seconds if trained else 0) + time.monotonic() - clock, 2),
            cpu_seconds=round((trained.cpu_seconds if trained else 0) + time.process_time() - cpu, 2),
            host=platform.node(),
            device=_device_name(device),
            ranks=ranks.world,
            threads=resources.threads,
            commit=_commit(),
            versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            resumed=trained.resumed if trained else 0,
        )
        Result(job=run.job_id, metrics=outcome.metrics, details=outcome.details, provenance=provenance).write(run.result_file)
        run.checkpoint.unlink(missing_ok=True)  # it has served: weights.pt and result.json are there
    except Stopped as stopped:
        print(stopped, flush=True)
        return STOPPED
    except Exception as error:
        if not isinstance(error, BenchError):
            traceback.print_exc()
        shown = disk_full(run.path) if is_disk_full(error) else error
        print(f"failed: {one_line(shown)}", flush=True)
        if ranks.first:
            _record(run, getattr(error, "kind", "error"), one_line(shown))
        return FAILED
    print("done", flush=True)
    return DONE


def _pretrain(spec: Pretrain, place: train.Place) -> train.Trained:
    try:
        return train.pretrain(spec, place)
    except InputCorrupt:  # the checkpoint was damaged and is set aside: start from nothing
        return train.pretrain(spec, place)


def _evaluate(spec: Evaluate, run: RunFolder, site: Site, device: torch.device) -> Outcome:
    runs = Runs(run.path.parent)
    subject = load_subject(spec.encoder, spec.data.size, runs, device)
    module = plugins.load("evaluation", type(spec.protocol).__module__.rpartition(".")[2])
    context = Context(site=site, data=spec.data, seed=spec.seed, device=device, features=runs.features)
    outcome: Outcome = module.evaluate(spec.protocol, subject, context)
    unknown = set(outcome.metrics) - set(module.METRICS)
    if unknown:
        raise BenchError(f"evaluation {module.__name__} returned {sorted(unknown)}, which its METRICS do not name.")
    return outcome


def load_subject(spec: Encoder, size: int, runs: Runs, device: torch.device) -> Subject:
    """The frozen encoder of a spec. Raises InputCorrupt when its weights are damaged, after setting them aside."""
    network: torch.nn.Module
    if isinstance(spec, Pixels):
        network, key, dim = encoders.PixelEncoder(size), f"pixels-{size}", 3 * size * size
    elif isinstance(spec, Random):
        resnet = encoders.build(spec.backbone, spec.seed)
        network, key, dim = resnet, f"random-{digest(spec)}", resnet.feature_dim
    else:
        resnet = encoders.build(spec.backbone, spec.seed)
        parent = runs[job_id(spec)]
        try:
            resnet.load_state_dict(torch.load(parent.weights, map_location="cpu", weights_only=True)["encoder"])
        except Exception as error:  # torch raises many kinds for a damaged file
            for file in (parent.weights, parent.result_file):
                parent.set_aside(file)
            raise InputCorrupt(f"{parent.weights} is damaged ({one_line(error)}) and set aside: the same command trains it again.") from error
        network, key, dim = resnet, job_id(spec), resnet.feature_dim
    network = network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return Subject(key=key, network=network, feature_dim=dim)


def _record(run: RunFolder, kind: FailureKind, message: str) -> None:
    try:
        run.fail(kind, message)
    except BenchError as error:  # the disk is full: the driver reads the log instead
        print(one_line(error), flush=True)


def _prepare(resources: Resources, ranks: Ranks) -> torch.device:
    """Threads as given, one GPU a rank, deterministic kernels."""
    torch.set_num_threads(resources.threads)
    torch.set_flush_denormal(True)  # softmax gradients underflow: 7 times the speed of the linear sweep on pixels
    device = device_of(ranks)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return device


@contextmanager
def _heartbeat(run: RunFolder) -> Iterator[None]:
    """Touch the heartbeat from a thread of its own until the work is over."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            try:
                run.beat()
            except OSError as error:  # a full disk or a lost mount must not kill the work
                print(f"heartbeat: {one_line(error)}", flush=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _stop_on_signal(*, raises: bool) -> Iterator[Callable[[], bool]]:
    """SIGTERM, SIGINT and SIGUSR2 ask for a stop: at the next step, or at once (`raises`) where there is no state to save."""
    asked = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        asked.set()
        if raises:
            raise Stopped(f"stopped by {signal.Signals(number).name}")

    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield asked.is_set
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"cpu: {model}"


def _commit() -> str:
    """Commit of the checkout that this code is in."""
    folder = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *args], capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
