"""Several probes in one process: one decoding of the images, and otherwise what each does alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench import contracts
from bench.contracts import Attempt
from bench.data import datasets, decoding, loader, stream
from bench.data.splits import SplitData
from bench.execution import together, worker
from bench.execution.exits import DONE, FAILED, STOPPED, TAKEN
from bench.networks import encoders
from bench.planning.graph import plan
from bench.runs.folder import RunFolder, Runs, State
from bench.settings.site import Site
from bench.spec import Data, Encoder, Evaluate, Random, Resources
from bench.training import checkpoint
from evals import linear_augmented, linear_transfer
from evals.parts import augmented_heads
from evals.parts.heads import Heads
from tests.conftest import TINY

PROBE = linear_augmented.Config(learning_rates=(0.5,), batch_size=20, epochs=5, crop_scale=(0.3, 1.0), start="zero")
PHOTOS = Data(name="imagenet", size=40)
STEPS = 5 * 40 // 20


@pytest.fixture
def photos(workplace: Path) -> Path:
    """ImageNet's layout with 40 + 8 small JPEGs of two classes, and a bench.toml that names it."""
    rng = np.random.default_rng(0)
    for number in range(48):
        name = ("reds", "blues")[number % 2]
        folder = workplace / "photos" / ("train" if number < 40 else "val") / name
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (44, 52, 3), dtype=np.uint8)
        pixels[..., 0 if name == "reds" else 2] |= 128
        Image.fromarray(pixels).save(folder / f"{number:02}.JPEG", quality=95)
    (workplace / "bench.toml").write_text('[data]\nimagenet = "photos"\n', encoding="utf-8")
    return workplace


def probe_of(encoder: Encoder, protocol: object = PROBE) -> Evaluate:
    return Evaluate(encoder=encoder, protocol=protocol, data=PHOTOS)


def folders(root: Path, count: int, protocol: object = PROBE) -> list[RunFolder]:
    """Run folders of probes of so many encoders."""
    specs = [probe_of(Random(backbone=TINY, seed=seed), protocol) for seed in range(count)]
    runs = Runs(root)
    for job in plan([(f"random {number}", spec) for number, spec in enumerate(specs)]):
        runs[job.id].create(job, Resources())
    return [runs[job.id] for job in plan([("", spec) for spec in specs])]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Each image that is decoded, every time."""
    found: list[Path] = []
    read = decoding.read_image

    def noted(path: Path, **more: Any) -> Tensor:
        found.append(path)
        return read(path, **more)

    monkeypatch.setattr(loader, "read_image", noted)
    return found


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> list[Heads]:
    """All heads that are made, in the order of the jobs."""
    made: list[Heads] = []

    class Noted(Heads):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            made.append(self)

    monkeypatch.setattr(augmented_heads, "Heads", Noted)
    return made


class _Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now


def said(run: RunFolder) -> tuple[object, ...]:
    """What a job leaves, without times."""
    result = run.result()
    timed = ("img_s", "seconds", "unreadable_images")  # the last marks lines that say how long the job waited
    lines = [
        {name: value for name, value in line.items() if name not in timed and not name.endswith("_ms")}
        for line in run.curves()
    ]
    return dict(result.metrics), dict(result.details), lines


def alone(runs: Sequence[RunFolder]) -> list[int]:
    return [worker.main(str(run.path)) for run in runs]


def assert_same(found: RunFolder, expected: RunFolder) -> None:
    assert found.job_id == expected.job_id
    assert said(found) == said(expected)


def interrupted(monkeypatch: pytest.MonkeyPatch, after: Callable[[], bool]) -> pytest.MonkeyPatch:
    """A worker that is asked to stop as soon as `after` says so."""

    @contextmanager
    def told(*, raises: bool) -> Iterator[Callable[[], bool]]:
        yield after

    monkeypatch.setattr(worker, "stop_on_signal", told)
    monkeypatch.setattr(together, "stop_on_signal", told)
    return monkeypatch


def stop_after(monkeypatch: pytest.MonkeyPatch, run: RunFolder, step: int) -> None:
    """Work on a job alone until so many steps are done and saved."""
    taken = iter(range(1000))
    with monkeypatch.context() as patch:
        interrupted(patch, lambda: next(taken) >= step - 1)
        assert worker.main(str(run.path)) == STOPPED
    assert torch.load(run.checkpoint, weights_only=True)["step"] == step


def test_eight_encoders_see_one_decoding_and_have_the_digits_that_they_have_alone(
    photos: Path, decoded: list[Path], heads: list[Heads]
) -> None:
    apart, beside = folders(photos / "apart", 8), folders(photos / "beside", 8)
    assert alone(apart[:1]) == [DONE]
    of_one = len(decoded)
    assert of_one == STEPS * 20 + 8
    assert alone(apart[1:]) == [DONE] * 7
    decoded.clear()
    assert together.work(beside) == [DONE] * 8
    assert len(decoded) == STEPS * 20 + 8 * 8  # the test images are read once for each encoder
    assert len(decoded) <= 1.6 * of_one
    assert len(heads) == 16
    for number, (found, expected) in enumerate(zip(beside, apart, strict=True)):
        assert_same(found, expected)
        assert "probe" not in found.log_tail()
        assert found.log_tail().startswith("--- ")
        assert found.log_tail().count("done") == 1
        assert not found.has_checkpoint()
        assert found.claim_holder() is None
        for name, tensor in heads[8 + number].state().items():
            assert torch.equal(tensor, heads[number].state()[name]), name
    assert not torch.equal(heads[8].weight.value, heads[9].weight.value)


def test_the_training_images_are_listed_once_for_all(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    opened = datasets.open_split

    def noted(data: Data, split: Any, site: Site) -> SplitData:
        listed.append(split)
        return opened(data, split, site)

    monkeypatch.setattr(stream, "open_split", noted)
    assert together.work(folders(photos / "runs", 3)) == [DONE] * 3
    assert listed == ["trainval"]
    assert together.work(folders(photos / "more", 2)) == [DONE] * 2
    assert listed == ["trainval"] * 2  # nothing stays open


@pytest.mark.parametrize(
    "protocol",
    [
        replace(PROBE, learning_rates=(0.1, 1.0), weight_decays=(0.0, 1e-3), precision="bf16"),
        linear_transfer.Config(learning_rates=(0.1,), batch_size=16, epochs=2, schedule="constant"),
    ],
)
def test_grids_and_the_transfer_protocol_work_together_too(protocol: object, photos: Path) -> None:
    apart, beside = folders(photos / "apart", 2, protocol), folders(photos / "beside", 2, protocol)
    assert alone(apart) == [DONE] * 2
    assert together.work(beside) == [DONE] * 2
    for found, expected in zip(beside, apart, strict=True):
        assert_same(found, expected)


def test_those_that_go_on_join_at_their_own_step(
    photos: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    apart, beside = folders(photos / "apart", 3), folders(photos / "beside", 3)
    assert alone(apart) == [DONE] * 3
    for run, step in zip(beside[:2], (3, 7), strict=True):
        stop_after(monkeypatch, run, step)
    decoded.clear()
    assert together.work(beside) == [DONE] * 3
    assert len(decoded) == STEPS * 20 + 8  # one pass, and the test images of the one that is new
    for found, expected, resumed in zip(beside, apart, (1, 1, 0), strict=True):
        assert_same(found, expected)
        assert found.result().provenance.resumed == resumed


def test_one_that_fails_leaves_the_others_to_go_on(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart, beside = folders(photos / "apart", 4), folders(photos / "beside", 4)
    assert alone([apart[0], apart[3]]) == [DONE] * 2
    build = encoders.build

    def some_broken(backbone: Any, seed: int) -> Any:
        if seed == 1:
            raise RuntimeError("the weights cannot be read")
        return build(backbone, seed)

    monkeypatch.setattr(encoders, "build", some_broken)
    step, steps = Heads.step, iter(range(1000))

    def diverging(self: Heads, x_BD: Tensor, y_B: Tensor, factor: float) -> Tensor:
        losses = step(self, x_BD, y_B, factor)
        return losses * float("nan") if next(steps) == 3 * 4 + 1 else losses  # of three, the second at step 5

    monkeypatch.setattr(Heads, "step", diverging)
    assert together.work(beside) == [DONE, FAILED, FAILED, DONE]
    assert beside[1].failure().message == "RuntimeError: the weights cannot be read"
    assert "Traceback" in beside[1].log_tail()
    assert "diverged by step 5 of 10" in beside[2].failure().message
    for number in (0, 3):
        assert_same(beside[number], apart[number])
        assert "failed" not in beside[number].log_tail()


def test_one_that_finds_no_memory_says_how_many_shared_it(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = folders(photos / "runs", 4)
    step, steps = Heads.step, iter(range(1000))

    def without_room(self: Heads, x_BD: Tensor, y_B: Tensor, factor: float) -> Tensor:
        if next(steps) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self, x_BD, y_B, factor)

    monkeypatch.setattr(Heads, "step", without_room)
    assert together.work(beside) == [DONE, DONE, FAILED, DONE]
    assert beside[2].failure().message == (
        "the GPU has no memory left (CUDA out of memory), with the networks and heads of 4 jobs in it: set "
        "probes_together = 2 under [local] in bench.toml."
    )


def test_eight_together_save_as_much_as_one(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the time: each saves an eighth as often, so that all of them stay below 2 %."""
    saved: list[int] = []
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "save", lambda run, kept, about, **more: saved.append(about.step))
    for jobs in (1, 8):
        keeper = checkpoint.Keeper(folders(photos / "runs", 1)[0].path, 10, attempt=Attempt(together=jobs))
        keeper.cost = 1.0
        for step, ago in enumerate((45.0, 55.0, 395.0, 405.0)):
            keeper.cost, keeper.saved_at = 1.0, time.monotonic() - ago
            keeper.keep(step, dict, stop=False)
        assert saved == [1, 2, 3] if jobs == 1 else saved == [3]
        keeper.attempt.elsewhere.ended = jobs - 1  # the others are over: as often as one that was alone from the start
        keeper.cost, keeper.saved_at = 1.0, time.monotonic() - 55.0
        keeper.keep(4, dict, stop=False)
        assert saved[-1] == 4
        saved.clear()


def test_a_damaged_image_ends_those_that_need_it_and_names_it(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = folders(photos / "runs", 2)
    first = next((photos / "photos" / "train" / "reds").iterdir())
    first.write_bytes(b"no image")
    assert together.work(runs) == [FAILED] * 2
    assert all(first.name in run.failure().message for run in runs)


def test_a_stop_saves_each_and_they_go_on_together(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart, beside = folders(photos / "apart", 3), folders(photos / "beside", 3)
    assert alone(apart) == [DONE] * 3
    stop_after(monkeypatch, beside[2], 8)
    asked = iter(range(1000))
    with monkeypatch.context() as patch:
        # each asks before it begins and when all have, then after each step: the two that take part, the one that waits
        interrupted(patch, lambda: next(asked) >= 3 + 3 + 3 * 4)
        assert together.work(beside) == [STOPPED] * 3
    assert [torch.load(run.checkpoint, weights_only=True)["step"] for run in beside] == [5, 5, 8]
    assert "stopped after step 8, where its checkpoint is" in beside[2].log_tail()
    assert [run.state() for run in beside] == [State.STOPPED] * 3
    with monkeypatch.context() as patch:
        asked = iter(range(1000))
        interrupted(patch, lambda: next(asked) >= 3)  # at once
        assert together.work(beside) == [STOPPED] * 3
    assert [torch.load(run.checkpoint, weights_only=True)["step"] for run in beside] == [5, 5, 8]
    assert together.work(beside) == [DONE] * 3
    for found, expected in zip(beside, apart, strict=True):
        assert_same(found, expected)
    assert [run.result().provenance.resumed for run in beside] == [1, 1, 1]


def test_a_cancelled_one_stops_alone(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = folders(photos / "runs", 3)
    monkeypatch.setattr(together, "CANCEL_SECONDS", 0.0)
    step, steps = Heads.step, iter(range(1000))

    def cancelling(self: Heads, x_BD: Tensor, y_B: Tensor, factor: float) -> Tensor:
        if next(steps) == 3 * 2:
            beside[1].cancel()
        return step(self, x_BD, y_B, factor)

    monkeypatch.setattr(Heads, "step", cancelling)
    over: list[int] = []
    keep = checkpoint.Keeper.keep

    def noted(self: checkpoint.Keeper, *args: Any, **more: Any) -> None:
        over.append(self.attempt.elsewhere.ended)
        keep(self, *args, **more)

    monkeypatch.setattr(checkpoint.Keeper, "keep", noted)
    assert together.work(beside) == [DONE, STOPPED, DONE]
    assert over == [0] * 3 * 3 + [1] * 2 * (STEPS - 3)
    assert beside[1].state() is State.CANCELLED
    assert torch.load(beside[1].checkpoint, weights_only=True)["step"] == 3
    assert together.work(beside) == [TAKEN, STOPPED, TAKEN]


def test_a_job_of_another_process_is_left_to_it(photos: Path) -> None:
    apart, beside = folders(photos / "apart", 2), folders(photos / "beside", 2)
    assert alone(apart) == [DONE] * 2
    assert beside[0].claim("the other driver's")
    assert together.work(beside) == [TAKEN, DONE]
    holder = beside[0].claim_holder()
    assert holder is not None
    assert holder.slot == "the other driver's"
    assert beside[0].state() is State.RUNNING
    assert_same(beside[1], apart[1])
    assert beside[1].result().provenance.together == 1


def test_seconds_are_shares_of_the_time_of_the_process(photos: Path) -> None:
    beside = folders(photos / "runs", 3)
    began, cpu_began = time.monotonic(), time.process_time()
    assert together.work(beside) == [DONE] * 3
    whole, cpu = time.monotonic() - began, time.process_time() - cpu_began
    made = [run.result().provenance for run in beside]
    assert [one.together for one in made] == [3, 3, 3]
    assert all(one.seconds > 0 for one in made)
    rounded = 3 * 0.005
    assert sum(one.seconds for one in made) <= whole + rounded
    assert sum(one.cpu_seconds for one in made) <= cpu + rounded


def test_the_shares_add_up_to_the_time_of_the_process(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still but where images are made and heads take a step."""
    beside, clock, made = folders(photos / "runs", 3), _Clock(), loader.decode
    for module in (together, contracts, checkpoint):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(
        together, "Attempt", lambda together: Attempt(clock.now, clock.now, together=together)
    )  # its own defaults are the true clock's
    step, steps = Heads.step, iter(range(1000))

    def stepping(self: Heads, x_BD: Tensor, y_B: Tensor, factor: float) -> Tensor:
        clock.now += (1.0, 2.0, 4.0)[next(steps) % 3]
        return step(self, x_BD, y_B, factor)

    def decoding_one(split: Any, index: int, **more: Any) -> Tensor:
        clock.now += 3.0 / 20  # a batch takes 3 s, and each job's share of it is 1
        return made(split, index, **more)

    monkeypatch.setattr(Heads, "step", stepping)
    monkeypatch.setattr(loader, "decode", decoding_one)
    began = clock.now
    assert together.work(beside) == [DONE] * 3
    whole, found = clock.now - began, [run.result().provenance.seconds for run in beside]
    tests = 8 * 3.0 / 20  # images that each reads for itself
    assert found == pytest.approx([STEPS * (own + 1.0) + tests for own in (1.0, 2.0, 4.0)], abs=0.01)
    assert sum(found) == pytest.approx(whole, abs=0.03)
