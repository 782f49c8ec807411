from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from bench import machine
from bench.commands.throughput import measure as throughput
from bench.commands.throughput.measure import Throughput, measure, recipe, room_for_workers, show, worker_counts
from bench.commands.throughput.verdict import HEADROOM, judge
from bench.data import loader
from bench.data.splits import Files
from bench.errors import BenchError
from bench.runs.folder import RunFolder
from bench.settings.overrides import Overrides
from bench.settings.site import Site
from bench.spec import Pretrain
from bench.training import loop as training
from bench.training.ranks import Ranks

CPU = torch.device("cpu")
LINEAR = {0: 700.0, 1: 600.0, 2: 1200.0, 4: 2400.0, 8: 4800.0}

# -- the verdict -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "workers"), [(1, 1), (500, 1), (600, 2), (1500, 3), (2000, 4), (2200, 5), (4300, 8)])
def test_a_loader_that_outruns_the_step_needs_as_few_workers_as_give_a_tenth_more(step: float, workers: int) -> None:
    verdict = judge(LINEAR, step, cores=8)
    assert (verdict.bottleneck, verdict.workers, verdict.needed) == ("step", workers, None)
    assert verdict.loader_rate == pytest.approx(600 * workers)
    assert verdict.allowed == step
    assert verdict.sentence().startswith(
        f"The step is the bottleneck: {workers} worker{' is' if workers == 1 else 's are'} enough ("
    )


def test_a_loader_that_cannot_keep_up_says_how_many_workers_would() -> None:
    verdict = judge(LINEAR, 10_000, cores=8)
    assert (verdict.bottleneck, verdict.workers, verdict.needed) == ("loader", 8, 19)  # 11,000 / 600
    assert verdict.allowed == 4800
    assert verdict.sentence() == (
        "The loader is the bottleneck: 4,800 of the step's 10,000 images/s with 8 workers; each further one gives "
        "600, so 19 would be needed, "
        "and there are cores for 8."
    )


def test_a_loader_that_scales_badly_is_continued_as_it_scaled_last() -> None:
    verdict = judge({1: 600, 2: 1150, 4: 1900, 8: 2300}, 3000, cores=8)
    assert (verdict.bottleneck, verdict.workers, verdict.gain) == ("loader", 8, 100)
    assert verdict.needed == 18  # not the six that 600 each would make


@pytest.mark.parametrize("last", [2010.0, 2000.0, 1500.0])
def test_where_more_workers_bring_nothing_the_fewest_are_used_and_none_are_asked_for(last: float) -> None:
    verdict = judge({1: 900, 2: 1700, 4: 2000, 8: last}, 3000, cores=8)
    assert (verdict.bottleneck, verdict.workers, verdict.loader_rate, verdict.needed) == ("loader", 4, 2000, None)
    assert "more workers give no more, so look at the disk" in verdict.sentence()


def test_a_tie_is_the_steps() -> None:
    verdict = judge(LINEAR, 4800, cores=8)
    assert (verdict.bottleneck, verdict.workers) == ("step", 8)
    assert "with little to spare" in verdict.sentence()
    assert judge(LINEAR, 4800.1, cores=8).bottleneck == "loader"
    assert judge({0: 1000}, 1000, cores=0).bottleneck == "step"


def test_a_rate_within_the_noise_does_not_hide_that_more_workers_keep_up() -> None:
    verdict = judge({1: 600, 4: 990, 8: 1005}, 1000, cores=8)
    assert (verdict.bottleneck, verdict.workers) == ("step", 8)


def test_a_rate_of_just_a_tenth_more_is_enough_in_spite_of_rounding() -> None:
    assert judge({1: 110, 2: 220}, 100, cores=2).workers == 1
    assert judge({1: 110, 2: 220}, 200, cores=2).workers == 2


def test_cores_that_other_processes_have_are_not_given_away() -> None:
    verdict = judge(LINEAR, 2000, cores=2)
    assert (verdict.bottleneck, verdict.workers, verdict.needed, verdict.gain) == ("loader", 2, 4, 600)
    assert verdict.sentence().endswith("so 4 would be needed, and there are cores for 2.")
    assert (judge(LINEAR, 5000, cores=3).workers, judge(LINEAR, 5000, cores=3).loader_rate) == (3, 1800)


def test_cores_that_were_not_measured_are_reckoned_with() -> None:
    verdict = judge({1: 100, 2: 200}, 1000, cores=4)
    assert (verdict.workers, verdict.loader_rate, verdict.needed) == (4, 400, 11)


def test_without_a_core_for_workers_load_and_step_take_turns() -> None:
    step = judge({0: 4000, 1: 9000}, 1000, cores=0)
    assert (step.bottleneck, step.workers) == ("step", 0)
    assert step.allowed == pytest.approx(800)
    assert step.sentence() == (
        "The step is the bottleneck: the step takes 80% of an image's time and loading the rest; no core is left for "
        "workers, so use 0."
    )
    memory = judge({0: 500}, 1500, cores=8)
    assert memory.bottleneck == "loader"
    assert memory.sentence(in_memory=True) == (
        "The loader is the bottleneck: making the views takes 75% of an image's time and the step the rest; data in "
        "memory need no workers."
    )


def test_verdicts_hold_together_whatever_the_rates() -> None:
    found = set()
    for first, growth, step, cores in product(
        (10, 100, 1000), (0.9, 1.0, 1.01, 1.5, 2.0), (5, 50, 130, 1000, 9000), (1, 2, 3, 8, 20)
    ):
        rates = {2**power: first * growth**power for power in range(4)}
        verdict = judge(rates, step, cores)
        found.add(verdict.bottleneck)
        assert 1 <= verdict.workers <= cores
        assert (verdict.bottleneck == "loader") == (verdict.loader_rate < step)
        assert verdict.needed is None or (verdict.needed > cores and verdict.gain > 0)
        if verdict.bottleneck == "step" and verdict.workers < cores:
            assert verdict.loader_rate >= HEADROOM * step * (1 - 1e-9) or growth < 1.5
    assert found == {"loader", "step"}


@pytest.mark.parametrize(("rates", "step"), [({}, 100), ({1: 0.0}, 100), ({1: 100.0}, 0), ({1: float("nan")}, 100)])
def test_rates_that_cannot_be_are_refused(rates: dict[int, float], step: float) -> None:
    with pytest.raises(ValueError, match="expected positive rates"):
        judge(rates, step, 4)


# -- the measuring ---------------------------------------------------------------------------------------------------


class Clock:
    """Moves only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 100.0, 0
        monkeypatch.setattr(throughput, "perf_counter", lambda: self.now)

    def taking(self, seconds: Iterator[float]) -> Callable[[], None]:
        def advance() -> None:
            self.calls += 1
            self.now += next(seconds)

        return advance


def test_a_rate_is_the_median_of_slices_and_its_spread_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    seconds = iter([9.0, 9.0, 1.0, 2.0, 1.0, 1.0])  # two to warm up, then a slice each until five seconds are over
    assert measure(clock.taking(seconds), 100, 5.0, CPU) == Throughput(100, 50, 100)
    assert clock.calls == 6


def test_batches_that_come_in_rounds_of_all_workers_are_timed_in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    rate = measure(clock.taking(cycle([0.3, 0.0, 0.0])), 10, 2.0, CPU, rounds=3)
    assert [rate.low, rate.high] == pytest.approx([100, 100])


def test_a_step_longer_than_the_time_is_still_measured_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert measure(clock.taking(cycle([50.0])), 10, 1.0, CPU).median == pytest.approx(0.2)
    assert clock.calls == 2 + 3


def test_workers_are_tried_up_to_the_cores() -> None:
    assert worker_counts(1, 0) == [0, 1]
    assert worker_counts(6, 6) == [0, 1, 2, 4, 6]
    assert worker_counts(96, 12) == [0, 1, 2, 4, 8, 12, 16, 32, 64, 96]


def test_processes_side_by_side_share_the_cores(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert room_for_workers(replace(here, slots=1, threads=2), 8, on_gpu=False) == 6
    assert room_for_workers(replace(here, slots=4), 8, on_gpu=False) == 1
    assert room_for_workers(replace(here, slots=4, ranks=2), 8, on_gpu=False) == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert room_for_workers(replace(here, ranks=4), 96, on_gpu=True) == 24


# -- what is measured ------------------------------------------------------------------------------------------------


@pytest.fixture
def on_disk(here: Site, photographs: Path, small: Pretrain, monkeypatch: pytest.MonkeyPatch) -> Site:
    """24 photographs, a tiny network without rotation instead of a scale's, one job on at most two cores."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    spec = replace(small, views=tuple(replace(view, rotation=0.0) for view in small.views), batch_size=8)
    monkeypatch.setattr(
        throughput,
        "encoder",
        lambda scale, *args, **kwargs: replace(spec, chunks=scale.overrides.chunks, compile=scale.overrides.compile),
    )
    cores = min(2, machine.cores())
    monkeypatch.setattr(machine, "cores", lambda: cores)
    return replace(here, data={"imagenet": photographs}, slots=1)


def image_rate(line: str) -> float:
    found = re.search(r"([\d,.]+) images/s \(", line)
    assert found, line
    return float(found[1].replace(",", ""))


def test_digits_in_memory_are_measured_from_views_to_training(
    here: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert show(here, seconds=0.2) == 0
    head, machine, views, step, together, split, empty, verdict = capsys.readouterr().out.splitlines()
    assert head.startswith(
        "SimCLR on mnist5k (3,500 training images in memory): resnet10 with 8 channels, 2 views of 32 px, batch 256, "
        "bf16"
    )
    assert machine.startswith("CPU")
    assert (views.startswith("views, in batches "), step.startswith("step, nothing to load "), empty) == (
        True,
        True,
        "",
    )
    assert re.fullmatch(
        r"The (loader|step) is the bottleneck: .* takes \d+% of an image's time .*; data in memory need no workers\.",
        verdict,
    )
    assert min(image_rate(line) for line in (views, step, together)) > 0
    parts = [int(share) for share in re.findall(r"\w+ [\d,.]+ ms \((\d+)%\)", split)]
    assert len(parts) == 4
    assert sum(parts) <= 102  # the rest, for the log, depends on what else the machine does
    assert not here.runs.exists()


def test_photographs_on_disk_are_measured_for_growing_numbers_of_workers(
    on_disk: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []

    def pretrain(spec: Pretrain, place: training.Place) -> training.Trained:
        trained.append((spec.data.name, place.workers))
        return real(spec, place)

    real = training.pretrain
    monkeypatch.setattr(training, "pretrain", pretrain)
    assert show(on_disk, data="imagenet", seconds=0.2) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = worker_counts(machine.cores(), 0)
    measured = [line for line in lines if re.match("loader|step|together|a step", line)]
    titles = [line.split("  ")[0] for line in measured]
    room = room_for_workers(on_disk, machine.cores(), on_gpu=False)
    use = min(1, room)
    assert lines[0].startswith(
        "SimCLR on imagenet (23 training images on disk): resnet10 with 4 channels, 2 views of 32 px, batch 8, fp32"
    )
    assert titles == [
        *(f"loader, {count} worker{'' if count == 1 else 's'}" for count in counts),
        "step, nothing to load",
        f"together, {use} worker{'' if use == 1 else 's'}",
        "a step",
    ]
    assert all(image_rate(line) > 0 for line in measured[:-1])
    assert trained == [("imagenet", use)]
    assert re.match(r"The (step|loader) is the bottleneck: ", lines[-1])
    assert multiprocessing.active_children() == []


def test_the_step_is_measured_without_decoding(on_disk: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    real = loader.decode

    def decode(split: Files, index: int, *, pillow: bool = False) -> torch.Tensor:
        decoded.append(index)
        return real(split, index, pillow=pillow)

    monkeypatch.setattr(loader, "decode", decode)
    spec, _ = recipe(on_disk, None, "imagenet", CPU)
    (tmp_path / "step").mkdir()
    loop = training.Loop(
        replace(spec, optim=replace(spec.optim, lr=1e-3)),
        training.Place(RunFolder(tmp_path / "step"), on_disk, Ranks(), CPU),
    )
    before = [p.clone() for p in loop.network.parameters()]
    advance = throughput._stepping(loop)
    for _ in range(3):
        advance()
    assert len(decoded) == spec.batch_size == 8
    assert any(not torch.equal(old, new) for old, new in zip(before, loop.network.parameters(), strict=True))


def test_no_measurement_of_the_loader_reads_what_another_brought_into_memory(on_disk: Site, tmp_path: Path) -> None:
    spec, _ = recipe(on_disk, None, "imagenet", CPU)
    (tmp_path / "step").mkdir()
    loop = training.Loop(spec, training.Place(RunFolder(tmp_path / "step"), on_disk, Ranks(), CPU))
    orders = [cast(Any, throughput._loading(loop, workers)())[1].tolist() for workers in (0, 1)]
    assert len(orders[0]) == len(orders[1]) == 8
    assert orders[0] != orders[1]


def test_a_process_gets_its_part_of_the_recipes_batch_as_far_as_it_can_hold_it(here: Site, photographs: Path) -> None:
    site = replace(here, data={"imagenet": photographs}, ranks=4)
    assert recipe(site, None, None, CPU)[0].batch_size == 64
    spec, split = recipe(site, None, "imagenet", CPU)
    assert (spec.batch_size, spec.views[0].size, spec.backbone.name, len(split)) == (8, 224, "resnet50", 23)
    assert spec.optim.lr == 0


def test_what_cannot_be_measured_is_said_in_a_line(here: Site) -> None:
    with pytest.raises(BenchError, match=r"data set 'food101' needs a folder: add .* under \[data\]"):
        show(here, data="food101")
    with pytest.raises(BenchError, match="data set 'imagenet' needs a folder"):
        show(here, scale="paper")
    with pytest.raises(BenchError, match=r"unknown data set 'imagnet'\. Did you mean 'imagenet'"):
        show(here, data="imagnet")
    with pytest.raises(BenchError, match="unknown scale 'papr'"):
        show(here, scale="papr")
    with pytest.raises(BenchError, match="--seconds is 0, expected more than 0"):
        show(here, seconds=0)


def test_what_bench_toml_changes_in_the_recipe_is_measured(on_disk: Site) -> None:
    spec, _ = recipe(
        replace(on_disk, overrides=Overrides(chunks=2, compile=True, exact_views=True)), None, "imagenet", CPU
    )
    assert (spec.chunks, spec.compile, {view.exact for view in spec.views}) == (2, True, {True})
    assert not any(view.exact for view in recipe(on_disk, None, "imagenet", CPU)[0].views)


def test_more_chunks_than_images_are_refused(on_disk: Site) -> None:
    with pytest.raises(BenchError, match="23 training images of imagenet in 4 ranks and 4 chunks leave no batch"):
        show(replace(on_disk, ranks=4, overrides=Overrides(chunks=4)), data="imagenet")


def test_a_scale_that_rotates_in_memory_is_refused_for_images_on_disk(here: Site, photographs: Path) -> None:
    with pytest.raises(
        BenchError,
        match="scale 'embedded' rotates images in memory, and those of imagenet are on disk: give --scale paper or "
        "cifar",
    ):
        show(replace(here, data={"imagenet": photographs}), scale="embedded", data="imagenet")
