from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bench.bench_toml import find_site
from bench.commands.plan import show_plan
from bench.commands.request import TableRequest
from bench.costs import history
from bench.costs.devices import DEVICES
from bench.costs.estimates import STARTUP_SECONDS, Costs, Estimate, Where
from bench.data.catalogue import entry
from bench.files import read_json
from bench.planning import graph
from bench.planning.scales import SCALES
from bench.runs.features import entries_of
from bench.runs.folder import Runs
from bench.runs.result import Provenance, Result
from bench.spec import Evaluate, Pixels, Pretrain, Random, Resources, Spec
from results.cells import load_table, plan_table
from tests.conftest import knn_of, linear_of, tiny_pretrain

H100, A100, CPU = "cuda: NVIDIA H100 80GB HBM3", "cuda: NVIDIA A100-SXM4-80GB", "cpu: Core i5"
EPOCHS = 10.0
clock = iter(range(1, 1_000_000))


def done(
    runs: Runs,
    spec: Spec,
    device: str,
    seconds: float,
    steps: float = 100.0,
    ranks: int = 1,
    cached: bool | None = None,
    together: int = 1,
) -> Path:
    """A finished job; later calls leave newer results."""
    job = list(graph.plan([("x", spec)]))[-1]
    run = runs[job.id]
    run.create(job, Resources())
    provenance = Provenance(
        started="",
        seconds=seconds,
        cpu_seconds=seconds,
        host="",
        device=device,
        ranks=ranks,
        threads=1,
        commit="",
        versions={},
        features_cached=cached,
        together=together,
    )
    Result(job=job.id, metrics={"steps": steps}, provenance=provenance).write(run.result_file)
    when = next(clock)
    os.utime(run.result_file, (when, when))
    return run.path


def estimate(runs: Runs, spec: Spec, here: str = A100, asked: list[Spec] | None = None) -> Estimate:
    planned = graph.plan([("x", other) for other in asked or []])
    return Costs(runs, planned, here=here).estimate(list(graph.plan([("x", spec)]))[-1])


def rate(found: Estimate) -> float:
    """Images a second, from the seconds of `planned()`."""
    return EPOCHS * entry("mnist5k").train_images / (found.seconds - STARTUP_SECONDS)


def planned() -> Pretrain:
    return tiny_pretrain(seed=99, epochs=EPOCHS)


def test_the_median_over_results_of_other_seeds_methods_and_tables(runs: Runs) -> None:
    for seed, seconds in enumerate((10.0, 25.0, 1000.0)):  # 100 steps of 250 images
        done(
            runs, replace(tiny_pretrain(seed), optim=replace(tiny_pretrain().optim, lr=0.1 * (seed + 1))), A100, seconds
        )
    found = estimate(runs, planned())
    assert rate(found) == pytest.approx(1000, rel=0.01)
    assert (found.kind, found.device) == ("measured", "GPU")
    assert found.source == "resnet10 1x at 32 px, 1,000 images/s, median of 3 results on cuda: NVIDIA A100-SXM4-80GB"


def test_ranks_share_the_images_and_local_crops_count_by_their_area(runs: Runs) -> None:
    spec = tiny_pretrain()
    crops = replace(spec, views=(*spec.views, *[replace(spec.views[0], size=16)] * 4))  # 1.5 pairs
    done(runs, crops, A100, 10.0, ranks=4)
    assert rate(estimate(runs, planned())) == pytest.approx(100 * 250 * 1.5 / 10 / 4, rel=0.01)


def test_this_machines_device_comes_before_newer_results_of_another(runs: Runs) -> None:
    done(runs, tiny_pretrain(0), A100, 50.0)
    done(runs, tiny_pretrain(1), H100, 10.0)
    assert rate(estimate(runs, planned())) == pytest.approx(500, rel=0.01)
    other = estimate(runs, planned(), here="cuda: NVIDIA L4")
    assert rate(other) == pytest.approx(2500, rel=0.01)
    assert "1 result on cuda: NVIDIA H100 80GB HBM3; this machine has cuda: NVIDIA L4" in other.source
    cluster = estimate(runs, planned(), here="cuda")  # which GPU its nodes have is not known
    assert cluster.source.endswith("1 result on cuda: NVIDIA H100 80GB HBM3")


def on_imagenet(spec: Pretrain) -> Pretrain:
    views = tuple(replace(view, size=224) for view in spec.views)
    backbone = replace(spec.backbone, name="resnet50", base_channels=64, stem="imagenet")
    return replace(spec, backbone=backbone, views=views, data=replace(spec.data, name="imagenet", size=224))


def test_a_processor_stands_for_no_gpu_and_no_gpu_for_a_processor(runs: Runs) -> None:
    done(runs, on_imagenet(tiny_pretrain(0)), CPU, 10_000.0)
    for here in (A100, "cuda"):
        found = estimate(runs, on_imagenet(planned()), here=here)
        assert (found.kind, found.device) == ("counted", "GPU"), here
    for here in (CPU, "cpu: another model"):
        here_too = estimate(runs, on_imagenet(planned()), here=here)
        assert (here_too.kind, here_too.device) == ("measured", "core")
    done(runs, tiny_pretrain(1), H100, 1.0)
    small = estimate(runs, planned(), here=CPU)
    assert (small.kind, small.device) == ("counted", "core")


def test_on_an_imagined_device_results_of_its_kind_count_alone(runs: Runs) -> None:
    done(runs, tiny_pretrain(0), A100, 10.0)
    jobs = graph.plan([("x", planned())])
    kinds = {
        name: Costs(runs, jobs, here=CPU, where=Where(DEVICES[name])).estimate(next(iter(jobs))).kind
        for name in ("a100", "a100-40gb", "h100", "cpu")
    }
    assert kinds == {"a100": "measured", "a100-40gb": "measured", "h100": "counted", "cpu": "counted"}


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"compile": True},
        {"chunks": 2},
        {"backbone": replace(tiny_pretrain().backbone, width=2)},
        {"data": replace(tiny_pretrain().data, size=64)},
        {"views": tuple(replace(view, exact=True) for view in tiny_pretrain().views)},
    ],
)
def test_work_at_another_speed_teaches_nothing(runs: Runs, change: dict[str, object]) -> None:
    other = replace(tiny_pretrain(0), **change)  # type: ignore[arg-type]
    done(runs, other, A100, 10.0)
    assert estimate(runs, planned()).kind == "counted"
    # as its job.json says and as a plan asks are one and the same
    assert estimate(runs, replace(other, seed=7)).kind == "measured"


def test_an_evaluation_takes_what_the_same_protocol_took_on_an_encoder_of_the_same_architecture(runs: Runs) -> None:
    for seed, seconds in enumerate((10.0, 30.0, 20.0)):
        done(runs, knn_of(tiny_pretrain(seed)), A100, seconds)
    asked = knn_of(planned())
    for spec in (asked, knn_of(Random(backbone=planned().backbone, seed=3))):
        found = estimate(runs, spec)
        assert (found.seconds, found.kind, found.device) == (STARTUP_SECONDS + 20, "measured", "GPU")
        assert (
            found.source == "knn of resnet10 1x on mnist5k, 20.0 s, median of 3 results on cuda: NVIDIA A100-SXM4-80GB"
        )
    wide = replace(planned(), backbone=replace(planned().backbone, width=2))
    others = [replace(asked, protocol=replace(asked.protocol, neighbours=7)), knn_of(wide)]  # type: ignore[type-var]
    others.append(replace(asked, data=replace(asked.data, name="digits1797")))
    assert {estimate(runs, other).kind for other in others} == {"counted"}
    pixels = Evaluate(encoder=Pixels(), protocol=asked.protocol, data=asked.data)
    assert estimate(runs, pixels).kind == "counted"
    done(runs, replace(pixels, seed=1), CPU, 2.0)
    assert estimate(runs, pixels, here=CPU).seconds == STARTUP_SECONDS + 2


def test_an_evaluation_with_cached_features_says_nothing_of_one_that_must_extract_them(runs: Runs) -> None:
    asked = knn_of(planned())
    done(runs, knn_of(tiny_pretrain(1)), A100, 90.0, cached=False)
    assert estimate(runs, asked).seconds == STARTUP_SECONDS + 90
    for seed in range(2, 15):  # newer ones, more than count
        done(runs, knn_of(tiny_pretrain(seed)), A100, 2.0, cached=True)
    found = estimate(runs, asked)
    assert found.seconds == STARTUP_SECONDS + 90
    assert found.source.startswith("knn with its features to extract of resnet10 1x on mnist5k, 90.0 s, 1 result")
    names = entries_of(asked, ("train", "val", "test"))
    for name in names:
        encoder, _, rest = name.partition("-")
        (runs.features / f"{encoder}-0a1b2c-{rest}").mkdir(parents=True)
    found = estimate(runs, asked)
    assert found.seconds == STARTUP_SECONDS + 2
    assert found.source.startswith("knn on cached features of resnet10 1x on mnist5k, 2.0 s, median of 9 results")


def test_of_the_jobs_of_a_plan_that_read_the_same_features_the_first_extracts_them(runs: Runs) -> None:
    knn, linear = knn_of(planned()), linear_of(planned())
    done(runs, linear_of(tiny_pretrain(1)), A100, 5.0, cached=True)
    done(runs, knn_of(tiny_pretrain(1)), A100, 90.0, cached=False)
    jobs = graph.plan([("x", knn), ("y", linear)])
    costs = Costs(runs, jobs, here=A100)
    first, second = (costs.estimate(job) for job in jobs if isinstance(job.spec, Evaluate))
    assert (first.seconds, second.seconds) == (STARTUP_SECONDS + 90, STARTUP_SECONDS + 5)
    turned = graph.plan([("y", linear), ("x", knn)])
    costs = Costs(runs, turned, here=A100)
    first, second = (costs.estimate(job) for job in turned if isinstance(job.spec, Evaluate))
    assert (first.kind, second.kind) == ("counted", "counted")  # neither was measured like that
    assert second.source == "knn on cached features of resnet10 1x at 32 px"


def test_results_that_do_not_know_count_where_no_other_does(runs: Runs) -> None:
    done(runs, knn_of(tiny_pretrain(1)), A100, 7.0)  # of an older version
    assert estimate(runs, knn_of(planned())).seconds == STARTUP_SECONDS + 7
    done(runs, knn_of(tiny_pretrain(2)), A100, 30.0, cached=False)
    assert estimate(runs, knn_of(planned())).seconds == STARTUP_SECONDS + 30


def test_damaged_and_unfinished_jobs_are_passed_over(runs: Runs) -> None:
    (done(runs, tiny_pretrain(0), A100, 10.0) / "job.json").write_text("{")
    (done(runs, tiny_pretrain(1), A100, 10.0) / "result.json").write_text("")
    (done(runs, tiny_pretrain(2), A100, 10.0) / "result.json").unlink()
    (done(runs, tiny_pretrain(3), A100, 10.0) / "job.json").write_text('{"spec": {"is": 1}}')
    done(runs, tiny_pretrain(4), A100, 10.0, steps=0.0)
    assert estimate(runs, planned()).kind == "counted"
    done(runs, tiny_pretrain(5), A100, 25.0)
    assert "1,000 images/s, 1 result on" in estimate(runs, planned()).source


def test_few_files_are_read_newest_first_and_the_plans_own_before_all(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LOOKED_AT", 3)
    own = tiny_pretrain(0)
    done(runs, own, A100, 250.0)
    for seed in range(1, 8):
        done(runs, tiny_pretrain(seed), A100, 25.0 if seed > 4 else 1.0)
    read: list[Path] = []

    def reading(path: Path) -> dict[str, object]:
        read.append(path)
        return read_json(path)

    monkeypatch.setattr("bench.costs.history.read_json", reading)
    found = estimate(runs, planned())
    assert "1,000 images/s, median of 3 results" in found.source
    assert len(read) <= 2 * 3
    read.clear()
    done(runs, replace(own, backbone=replace(own.backbone, width=2)), A100, 1.0)  # the newest of all, another network
    done(runs, replace(own, backbone=replace(own.backbone, width=4)), A100, 1.0)
    done(runs, replace(own, backbone=replace(own.backbone, width=8)), A100, 1.0)
    assert "100 images/s, 1 result on" in estimate(runs, planned(), asked=[own]).source


def test_nothing_is_read_before_something_is_asked(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    done(runs, tiny_pretrain(0), A100, 10.0)
    monkeypatch.setattr("bench.costs.history.read_json", lambda _: pytest.fail("read"))
    Costs(runs, graph.plan([("x", planned())]))


def test_bench_plan_says_which_hours_are_measured_on_what_and_which_are_not(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.costs.history.device_here", lambda: "cpu: Xeon")
    site = find_site(workplace)
    asked = TableRequest(site, ("simclr_table6",), "embedded", 2, ("SimCLR (ours), ResNet-50",), ("Top-1",))
    table = plan_table(load_table("simclr_table6"), SCALES["embedded"], 2, rows=asked.rows, columns=asked.columns)
    (first, second) = [cell.spec for cell in table.asked]
    assert isinstance(first, Evaluate)
    assert isinstance(second, Evaluate)
    done(Runs(site.runs), first.encoder, "cpu: Core i5", 20.0, steps=50.0)  # type: ignore[arg-type]
    show_plan(asked)
    told = [line for line in capsys.readouterr().out.splitlines() if "-hours of " in line]
    measured, *others = told
    assert measured.startswith("  measured: ")
    assert "of 1 job: resnet10 1x at 32 px, " in measured
    assert ", 1 result on cpu: Core i5; this machine has cpu: Xeon" in measured
    (counted,) = others
    assert counted.startswith("  counted: ")
    assert "of 2 jobs: linear of resnet10 1x at 32 px" in counted
    done(Runs(site.runs), first, "cpu: Core i5", 20.0)
    show_plan(asked)
    told = [line for line in capsys.readouterr().out.splitlines() if "-hours of " in line]
    assert [line.partition(":")[0] for line in told] == ["  measured", "  measured"]


def test_a_share_of_what_several_jobs_took_together_says_nothing_of_one_alone(runs: Runs) -> None:
    first, second, third = (knn_of(tiny_pretrain(seed)) for seed in range(3))
    done(runs, first, A100, 40.0)
    done(runs, second, A100, 5.0, together=8)
    found = estimate(runs, third)
    assert (found.kind, found.seconds - STARTUP_SECONDS) == ("measured", 40.0)
