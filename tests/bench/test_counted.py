"""Work as torch counts it: the file of the tables is what would be counted now, and what is new is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import plugins
from bench.costs import counted
from bench.costs.amounts import StepWork, numbers
from bench.costs.counted import OF_TABLES, Counts, network_key, shape, step_key
from bench.costs.counting import amount, network_work, step_work
from bench.costs.estimates import Costs
from bench.errors import BenchError
from bench.planning.graph import plan
from bench.planning.scales import SCALES
from bench.planning.translate import encoder
from bench.runs.folder import Runs
from bench.spec import Backbone, Evaluate, Pixels, Pretrain
from results.cells import load_table, plan_table
from tests.conftest import tiny_pretrain

R50 = Backbone(name="resnet50")


def written() -> dict[str, list[float]]:
    return {found["key"]: found["work"] for found in map(json.loads, OF_TABLES.read_text().splitlines())}


@pytest.mark.parametrize("method", plugins.names("method"))
def test_the_counts_of_every_method_are_what_torch_counts_now(method: str) -> None:
    scale = SCALES["embedded"]
    spec = encoder(scale, method, network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(spec, Pretrain)
    assert written()[step_key(spec)] == numbers(step_work(replace(spec, backbone=shape(spec.backbone)))), (
        "run `python docs/count_work.py`"
    )


def test_the_counts_of_networks_are_what_torch_counts_now() -> None:
    for backbone, size in (
        (R50, 224),
        (SCALES["embedded"].networks["resnet50"], 32),
        (Backbone(name="vit_small16"), 224),
    ):
        now = numbers(network_work(shape(backbone), size))
        assert written()[network_key(backbone, size)] == pytest.approx(now, rel=0.01), backbone


def test_no_job_of_a_table_has_to_be_counted() -> None:
    known = written()
    for table in map(load_table, plugins.names("table")):
        for scale in SCALES.values():
            for cell in plan_table(table, scale, 1).asked:
                spec = cell.spec.encoder if isinstance(cell.spec, Evaluate) else cell.spec
                if isinstance(spec, Pretrain):
                    assert step_key(spec) in known, f"{table.id} at {scale.name}: run `python docs/count_work.py`"
                if isinstance(spec, Pixels):
                    continue
                size = min(cell.spec.data.size, 224)
                assert network_key(spec.backbone, size) in known, f"{table.id} at {scale.name}"


def test_products_of_a_resnet_50_are_the_published_multiply_adds() -> None:
    work = Counts(None).network(R50, 224)
    assert work.frozen.flops / 2 == pytest.approx(4.1e9, rel=0.01)  # torchvision: 4.09 G
    assert work.trained.flops / work.frozen.flops == pytest.approx(3, rel=0.02)
    # what is moved: about ten times the 10.6 M outputs of its convolutions in a forward pass
    assert 5 < work.frozen.values / 10.6e6 < 12


def test_views_do_not_count_and_inputs_and_outputs_do() -> None:
    import torch

    x = torch.zeros(4, 8)
    assert amount(lambda: x.view(8, 4).t().unsqueeze(0)).kernels == 0
    added = amount(lambda: x + x)
    assert (added.kernels, added.values, added.flops) == (1, 3 * 32, 0)
    assert amount(lambda: x @ x.T).flops == 2 * 4 * 8 * 4


def test_a_moving_network_a_queue_and_a_product_over_the_batch_are_in_a_step() -> None:
    def paper(method: str) -> Pretrain:
        made = encoder(SCALES["paper"], method, network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
        assert isinstance(made, Pretrain)
        return made

    counts = Counts(None)
    once = counts.network(R50, 224).frozen.flops
    assert counts.step(paper("simclr")).image.flops / once == pytest.approx(6, rel=0.02)  # two views, three passes
    assert counts.step(paper("moco")).image.flops / once == pytest.approx(4, rel=0.02)  # one is of the slow encoder
    assert counts.step(paper("byol")).image.flops / once == pytest.approx(8, rel=0.02)
    batch, width = 2048, 8192
    assert counts.step(paper("vicreg")).loss.flops == pytest.approx(6 * 2 * batch * width**2, rel=0.01)
    assert counts.step(paper("barlow_twins")).loss.flops == pytest.approx(3 * 2 * batch * width**2, rel=0.01)
    keys = 65536
    assert counts.step(paper("moco")).loss.flops == pytest.approx(2 * 2 * 256 * 128 * keys, rel=0.01)


def test_what_is_counted_here_is_kept_and_a_damaged_line_is_counted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(tiny_pretrain(), batch_size=222)
    monkeypatch.setattr(counted, "_NEW", {})
    first = Counts(tmp_path).step(spec)
    file = tmp_path / counted.NAME
    assert [json.loads(text)["key"] for text in file.read_text().splitlines()] == [step_key(spec)]
    monkeypatch.setattr(counted, "_NEW", {})
    with monkeypatch.context() as context:
        context.setattr("bench.costs.counting.step_work", lambda _: pytest.fail("counted again"))
        assert Counts(tmp_path).step(spec) == first
    file.write_text(
        '{"key": "'
        + step_key(spec)
        + '", "work": [1, 2]}\n{"key"\n\udcff'.encode("utf-8", "surrogateescape").decode("latin-1")
    )
    assert Counts(tmp_path).step(spec) == first
    monkeypatch.setattr(counted, "_NEW", {})
    assert Counts(tmp_path / "not_there").step(spec) == first  # a plan makes no folder
    assert not (tmp_path / "not_there").exists()


def test_known_counts_bring_no_torch() -> None:
    program = (
        "import sys; from bench.costs.counted import Counts; from bench.spec import Backbone;"
        "Counts(None).network(Backbone(name='resnet50'), 224); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_run_counts_no_step_as_that_would_run_a_methods_code_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(spec: Pretrain) -> StepWork:
        raise AssertionError("the method's code ran")

    monkeypatch.setattr("bench.costs.counting.step_work", deadly)
    spec = tiny_pretrain(seed=7)
    with pytest.raises(BenchError, match=r"was not counted before"):
        Counts(tmp_path, runs_code=False).step(spec)
    job = next(iter(plan([("tiny", spec)])))
    found = Costs(Runs(tmp_path), plan([("tiny", spec)]), "cpu: x", runs_code=False).estimate(job)
    assert (found.kind, found.seconds > 0) == ("guessed", True)
