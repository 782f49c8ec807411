from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.contracts import Attempt
from bench.data.datasets import open_split
from bench.data.splits import Arrays, Split
from bench.errors import BenchError, InputCorrupt, Stopped
from bench.execution import exits, worker
from bench.files import file_sha256
from bench.identity import job_id
from bench.planning.graph import plan
from bench.runs.folder import RunFolder
from bench.settings.site import Site
from bench.spec import Data, Evaluate, Optim, Pretrain, Random, Resources, Spec
from bench.training import checkpoint, health, loop, methods, optim
from bench.training.health import TrainingFailedError, embedding_std
from bench.training.loop import Place
from evals.semi_supervised import Config as FineTuningConfig
from methods.simclr import Method
from tests.conftest import DIGITS, TINY, knn_of

Places = Callable[..., Place]
PARTS = {"wait_ms", "forward_ms", "backward_ms", "optimizer_ms"}
TIMES = {"seconds", "img_s"} | PARTS


def weights(place: Place) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(place.run.weights, weights_only=True)["method"]
    return found


def curve(place: Place) -> list[dict[str, float]]:
    """What was logged, without what depends on the clock."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in place.run.curves()]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def after(steps: int) -> Callable[[], bool]:
    """Asks for a stop after so many steps."""
    calls = iter(range(1, 1000))
    return lambda: next(calls) >= steps


def interrupted(spec: Pretrain, place: Places, name: str, stops: list[int]) -> Place:
    """Train with a stop after each of `stops` steps (counted from the start), then to the end."""
    done = 0
    for stop in stops:
        with pytest.raises(Stopped, match=f"after step {stop} of 6"):
            loop.pretrain(spec, place(name, after(stop - done)))
        done = stop
    there = place(name)
    trained = loop.pretrain(spec, there)
    assert trained.resumed == len(stops)
    return there


LARS = Optim(name="lars", lr=0.5, weight_decay=1e-6, warmup_epochs=2 / 54)
SGD = Optim(name="sgd", lr=0.05, weight_decay=1e-4, warmup_epochs=2 / 54)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stops", [[1], [3], [5], [2, 3, 5]])
def test_a_resumed_run_ends_with_the_digits_of_an_uninterrupted_one(
    small: Pretrain, place: Places, precision: Any, stops: list[int]
) -> None:
    spec = replace(small, precision=precision)
    whole = place("whole")
    trained = loop.pretrain(spec, whole)
    assert trained.resumed == 0
    resumed = interrupted(spec, place, "resumed", stops)
    assert equal(weights(whole), weights(resumed))
    assert curve(whole) == curve(resumed)
    assert [line["step"] for line in curve(resumed)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("optimizer", [LARS, SGD], ids=["lars", "sgd"])
def test_every_optimizer_resumes_with_its_buffers(small: Pretrain, place: Places, optimizer: Optim) -> None:
    spec = replace(small, optim=optimizer)
    whole = place("whole")
    loop.pretrain(spec, whole)
    assert equal(weights(whole), weights(interrupted(spec, place, "resumed", [3])))


def test_a_resume_in_the_second_epoch_goes_on_with_its_order(
    small: Pretrain, place: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(data: Data, split: Split, site: Site) -> Arrays:
        whole = open_split(data, split, site)
        assert isinstance(whole, Arrays)
        return Arrays(whole.images[::17], whole.labels[::17], whole.classes)

    monkeypatch.setattr(loop, "open_split", few)
    spec = replace(small, epochs=2)  # 206 images: three steps an epoch
    whole = place("whole")
    loop.pretrain(spec, whole)
    assert equal(weights(whole), weights(interrupted(spec, place, "resumed", [4])))


def test_lines_from_after_the_checkpoint_are_dropped_on_resume(small: Pretrain, place: Places) -> None:
    there = place("run", after(3))
    with pytest.raises(Stopped):
        loop.pretrain(small, there)
    with there.run.metrics.open("a") as file:  # a killed process leaves steps after its checkpoint, and half a line
        file.write(json.dumps({"step": 4, "loss": 99.0}) + "\n" + '{"step": 5, "lo')
    again = place("run")
    loop.pretrain(small, again)
    assert [line["step"] for line in curve(again)] == [1, 2, 3, 4, 5, 6]
    assert all(line["loss"] < 99 for line in curve(again))


def test_a_seed_gives_the_same_digits_and_another_seed_others(small: Pretrain, place: Places) -> None:
    places = [place("first"), place("second"), place("third")]
    for there, seed in zip(places, (0, 0, 1), strict=True):
        torch.rand(7)  # the state of the global generator must not matter
        loop.pretrain(replace(small, seed=seed), there)
    first, second, third = places
    assert equal(weights(first), weights(second))
    assert curve(first) == curve(second)
    assert curve(first)[0]["loss"] != curve(third)[0]["loss"]
    assert not equal(weights(first), weights(third))


def test_precision_changes_the_digits_but_not_the_outcome(small: Pretrain, place: Places) -> None:
    fine, coarse = place("fp32"), place("bf16")
    loop.pretrain(small, fine)
    loop.pretrain(replace(small, precision="bf16"), coarse)
    a, b = ([line["loss"] for line in curve(there)] for there in (fine, coarse))
    assert a != b
    assert a == pytest.approx(b, rel=0.05)
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights(coarse).values())


def test_a_rate_set_by_epoch_stays_for_a_whole_one(small: Pretrain, place: Places) -> None:
    there = place("run")
    by_epoch = replace(small.optim, warmup_epochs=0.25, steps="epoch", warmup_from=0.5)
    loop.pretrain(replace(small, batch_size=875, epochs=1.5, optim=by_epoch), there)  # 4 steps an epoch
    second = 0.5 * (1 + math.cos(math.pi * 4 / 6))
    assert [line["lr"] / small.optim.lr for line in there.run.curves()] == pytest.approx([0.5, 1, 1, 1, second, second])


def test_metrics_say_where_the_run_stands(small: Pretrain, place: Places) -> None:
    there = place("run")
    trained = loop.pretrain(small, there)
    lines = there.run.curves()
    per_epoch = 3500 // 64
    assert len(lines) == 6
    for number, line in enumerate(lines):
        assert {"step", "steps", "epoch", "lr", "img_s", "seconds", "loss", "embedding_std"} <= set(line)
        assert (line["step"], line["steps"]) == (number + 1, 6)
        assert line["epoch"] == pytest.approx((number + 1) / per_epoch)
        assert line["lr"] == pytest.approx(4e-3 * optim.schedule(number, 6, 2, 0.0))
        assert line["img_s"] > 0
        assert all(line[part] > 0 for part in PARTS)
        # parts of the step, whose whole img_s counts
        assert sum(line[part] for part in PARTS) < 1.01e3 * small.batch_size / line["img_s"]
        assert math.isfinite(line["loss"])
    assert [line["lr"] for line in lines][:3] == pytest.approx([0, 2e-3, 4e-3])
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert trained.metrics["loss"] == lines[-1]["loss"]
    assert trained.metrics["embedding_std"] == lines[-1]["embedding_std"]
    assert trained.metrics["steps"] == 6
    assert trained.metrics["parameters_million"] == pytest.approx(sum(p.numel() for p in _encoder_weights(small)) / 1e6)


def _encoder_weights(spec: Pretrain) -> Iterator[Tensor]:
    encoder = methods.build_method(spec, 6).get_submodule("encoder")
    return iter(encoder.parameters())


def test_a_step_at_rate_zero_moves_no_weight_and_the_next_does(small: Pretrain, place: Places) -> None:
    there = place("run", after(1))
    with pytest.raises(Stopped):
        loop.pretrain(small, there)
    saved = torch.load(there.run.checkpoint, weights_only=True)["network"]
    start = {name: p.detach() for name, p in methods.build_method(small, 6).named_parameters()}
    assert all(torch.equal(saved[name], value) for name, value in start.items())  # warm-up starts at 0
    again = place("run", after(1))
    with pytest.raises(Stopped):
        loop.pretrain(small, again)
    saved = torch.load(again.run.checkpoint, weights_only=True)["network"]
    assert not any(torch.equal(saved[name], value) for name, value in start.items() if value.ndim > 1)


def test_a_finished_run_leaves_the_encoder_by_itself_and_in_the_method(small: Pretrain, place: Places) -> None:
    there = place("run")
    trained = loop.pretrain(small, there)
    saved = torch.load(there.run.weights, weights_only=True)
    assert trained.weights_sha256 == file_sha256(there.run.weights)
    for key, value in saved["encoder"].items():
        assert torch.equal(value, saved["method"][f"encoder.{key}"])


# -- damage ----------------------------------------------------------------------------------------------------------


@contextmanager
def as_worker(there: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The working folder and, afterwards, the process settings of a worker."""
    monkeypatch.chdir(there)
    monkeypatch.delenv("BENCH_SITE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def job_folder(spec: Spec, root: Path) -> RunFolder:
    (job,) = plan([("small", spec)])
    run = RunFolder(root / job.id)
    run.create(job, Resources())
    return run


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "overwritten": lambda content: b"\0" * len(content),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_worker_sets_a_damaged_checkpoint_aside_and_starts_anew_where_it_may(
    small: Pretrain, place: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    whole = place("whole")
    loop.pretrain(small, whole)
    run = job_folder(small, tmp_path / "runs")
    with pytest.raises(Stopped):
        loop.pretrain(small, place(run.job_id, after(3)))
    broken = DAMAGE[damage](run.checkpoint.read_bytes())
    run.checkpoint.write_bytes(broken)
    with as_worker(tmp_path, monkeypatch):
        assert worker.main(str(run.path)) == exits.FAILED  # half of the job would be lost, and nobody said that it may
        assert "loses 3 of 6 steps: `bench run --restart`" in run.failure().message
        assert run.checkpoint.read_bytes() == broken
        run.forget_failure()
        run.let_restart(True)
        assert worker.main(str(run.path)) == exits.DONE
    assert not run.may_restart()
    assert (run.path / "checkpoint.pt.corrupt-1").read_bytes() == broken  # kept for a look
    assert equal(torch.load(run.weights, weights_only=True)["method"], weights(whole))
    assert [line["step"] for line in run.curves()] == [1, 2, 3, 4, 5, 6]
    assert run.result().provenance.resumed == 0
    assert run.result().provenance.computed == "channels_last in memory, activations kept"


def test_a_checkpoint_of_an_older_version_is_gone_on_from(small: Pretrain, place: Places) -> None:
    whole, there = place("whole"), place("run", after(3))
    loop.pretrain(small, whole)
    with pytest.raises(Stopped):
        loop.pretrain(small, there)
    state = torch.load(there.run.checkpoint, weights_only=True)
    assert state.pop("step") == state["progress"]["step"] == 3
    torch.save(state, there.run.checkpoint)  # as older versions wrote it
    trained = loop.pretrain(small, place("run"))
    assert trained.resumed == 1
    assert equal(weights(whole), weights(there))


def test_an_attempt_without_a_checkpoint_leaves_no_lines_behind(tmp_path: Path) -> None:
    keeper = checkpoint.Keeper(tmp_path, steps=4)
    keeper.log_line({"step": 1, "steps": 4})  # then killed, before it was time to save
    assert checkpoint.Keeper(tmp_path, steps=4).load() is None
    assert RunFolder(tmp_path).curves() == []


def test_a_checkpoint_of_another_network_is_not_loaded(small: Pretrain, place: Places) -> None:
    other = replace(small, backbone=replace(small.backbone, base_channels=8))
    with pytest.raises(Stopped):
        loop.pretrain(other, place("run", after(2)))
    there = place("run")
    before = there.run.checkpoint.read_bytes()
    with pytest.raises(
        BenchError, match=r"checkpoint\.pt \(after step 2\) does not fit .* lose 2 steps with `bench run "
    ):
        loop.pretrain(small, there)
    assert there.run.checkpoint.read_bytes() == before
    there.run.let_restart(True)
    with pytest.raises(InputCorrupt, match="does not fit and is set aside"):  # which the worker takes to begin again
        loop.pretrain(small, there)
    assert (there.run.path / "checkpoint.pt.corrupt-1").read_bytes() == before


class Dangerous:
    """What a pickle from outside could hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_in_a_checkpoint_is_never_executed(
    small: Pretrain, place: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = place("run")
    torch.save({"network": Dangerous()}, there.run.checkpoint)
    with pytest.raises(BenchError, match="does not fit"):
        loop.pretrain(small, there)
    assert not (tmp_path / "executed").exists()


# -- attempts at evaluations -----------------------------------------------------------------------------------------


def attempt(seconds: float, *, cached: bool | None = None) -> Attempt:
    """One that has taken so many seconds, and a tenth of them of the processor."""
    return Attempt(time.monotonic() - seconds, time.process_time() - seconds / 10, cached)


@pytest.mark.parametrize(
    ("cached", "told"), [((True, True), True), ((False, True), False), ((None, True), None), ((None, None), None)]
)
def test_a_checkpoint_carries_what_all_attempts_before_took(
    tmp_path: Path, cached: tuple[bool | None, bool | None], told: bool | None
) -> None:
    run = RunFolder(tmp_path)
    assert checkpoint.spent_before(run) == checkpoint.Spent()
    for number, seconds in enumerate((1e5, 2e5)):
        keeper = checkpoint.Keeper(tmp_path, steps=9, attempt=attempt(seconds, cached=cached[number]))
        keeper.load()
        with pytest.raises(Stopped):
            keeper.keep(number + 1, lambda: {"step": 7}, stop=True)
    spent = checkpoint.spent_before(run).after(attempt(4e5, cached=cached[1]))
    assert (spent.seconds // 1e4, spent.cpu_seconds // 1e3, spent.resumed) == (70, 70, 2)
    assert spent.features_cached is told
    run.checkpoint.write_bytes(b"damaged")
    spent = checkpoint.spent_before(run)
    assert (spent.seconds // 1e4, spent.resumed) == (10, 1)  # of the checkpoint before it
    run.previous.write_bytes(b"damaged")
    assert checkpoint.spent_before(run) == checkpoint.Spent()


def test_what_an_older_versions_checkpoint_took_is_not_known(tmp_path: Path) -> None:
    torch.save({"step": 3, "model": {}}, tmp_path / "checkpoint.pt")
    assert checkpoint.spent_before(RunFolder(tmp_path)) == checkpoint.Spent(resumed=1)


@contextmanager
def at_once(*, raises: bool) -> Iterator[Callable[[], bool]]:
    """In place of the worker's signals: a stop is asked for."""
    yield lambda: True


def test_the_result_of_a_resumed_evaluation_has_the_seconds_of_all_its_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = FineTuningConfig(label_fraction=0.05, batch_size=16, epochs=2)
    spec = Evaluate(encoder=Random(backbone=TINY), protocol=tuning, data=DIGITS)
    run = job_folder(spec, tmp_path / "runs")
    with as_worker(tmp_path, monkeypatch):
        with monkeypatch.context() as stopping:
            stopping.setattr(worker, "stop_on_signal", at_once)
            assert worker.main(str(run.path)) == exits.STOPPED
        state = torch.load(run.checkpoint, weights_only=True)
        assert state["attempts"]["seconds"] > 0
        state["attempts"]["seconds"] += 1e6
        state["attempts"]["cpu_seconds"] += 1e5
        torch.save(state, run.checkpoint)
        assert worker.main(str(run.path)) == exits.DONE
    made = run.result().provenance
    assert (made.resumed, made.seconds // 1e6, made.cpu_seconds // 1e5) == (1, 1, 1)
    assert made.features_cached is None


def test_the_result_says_whether_an_evaluation_found_its_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (replace(knn_of(Random(backbone=TINY)), seed=seed) for seed in (0, 1))
    found = []
    with as_worker(tmp_path, monkeypatch):
        for spec in (first, second):
            run = job_folder(spec, tmp_path / "runs")
            assert worker.main(str(run.path)) == exits.DONE
            found.append(run.result().provenance.features_cached)
    assert found == [False, True]


# -- health ----------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_fails_the_run_with_the_word(
    small: Pretrain, place: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_loss = Method.loss

    def loss(self: Method, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        found = whole_loss(self, embeddings, labels)
        steps.append(1)
        return {**found, "loss": found["loss"] * (float("nan") if len(steps) == 3 else 1.0)}

    steps: list[int] = []
    monkeypatch.setattr(Method, "loss", loss)
    there = place("run")
    with pytest.raises(TrainingFailedError, match="diverged: loss not finite at step 3 of 6") as caught:
        loop.pretrain(small, there)
    assert caught.value.kind == "diverged"
    assert not there.run.weights.exists()
    assert [line["step"] for line in there.run.curves()] == [1, 2]


def test_a_rate_that_is_far_too_high_is_reported_as_diverged(small: Pretrain, place: Places) -> None:
    spec = replace(small, optim=Optim(name="sgd", lr=1e30, weight_decay=1.0, warmup_epochs=0))
    with pytest.raises(TrainingFailedError, match=r"^diverged"):
        loop.pretrain(spec, place("run"))


def test_a_collapsed_embedding_fails_the_job_with_the_word(
    small: Pretrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole_embed = Method.embed

    def embed(self: Method, batch: Any) -> dict[str, Tensor]:
        return {name: z * 0 + 1 for name, z in whole_embed(self, batch).items()}

    monkeypatch.setattr(Method, "embed", embed)
    run = job_folder(small, tmp_path / "runs")
    with as_worker(tmp_path, monkeypatch):
        assert worker.main(str(run.path)) == exits.FAILED
    failure = run.failure()
    assert failure.kind == "collapsed"
    assert "standard deviation" in failure.message
    assert not run.result_file.exists()
    assert not run.weights.exists()
    assert "Traceback" not in capfd.readouterr().err  # the user can mend this one


def test_embedding_std_is_one_for_isotropic_and_zero_for_constant_embeddings() -> None:
    rng = torch.Generator().manual_seed(0)
    isotropic = torch.randn(4000, 64, generator=rng)
    assert embedding_std(isotropic) == pytest.approx(1, abs=0.02)
    assert embedding_std(isotropic * 1000) == pytest.approx(1, abs=0.02)
    assert embedding_std(torch.ones(100, 64)) == pytest.approx(0, abs=1e-6)
    # collapsed to one dimension, both signs
    line = torch.randn(4000, 1, generator=rng) @ torch.randn(1, 64, generator=rng)
    assert 0.5 < embedding_std(line) < 1
    nearly = torch.ones(1000, 64) + 1e-5 * torch.randn(1000, 64, generator=rng)
    assert embedding_std(nearly) < health.COLLAPSED_BELOW


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")  # 3.13.1 mends it
def test_a_compiled_encoder_is_another_job_with_the_same_weights_file(
    small: Pretrain, place: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def compiler(call: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        compiled.append(call)
        made: Callable[..., Tensor] = compile_(call, backend="aot_eager")  # traces all of it, and writes no C++
        return made

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", compiler)
    plain, other = place("plain"), place("compiled")
    loop.pretrain(small, plain)
    assert compiled == []
    loop.pretrain(replace(small, compile=True), other)
    assert [call.__self__.__class__.__name__ for call in compiled] == ["ResNet"]  # type: ignore[attr-defined]
    assert equal(weights(plain), weights(other))
    assert job_id(replace(small, compile=True)) != job_id(small)
