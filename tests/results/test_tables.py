"""Every table file: what is printed, what runs it, and that it can be planned at every scale."""

from __future__ import annotations

import csv
import io

import pytest

from bench import plugins
from bench.planning.scales import SCALES
from bench.planning.translate import encoder as scale_encoder
from bench.spec import Evaluate, Pretrain, Random, Released
from results.cells import load_table, plan_table, protocol_of

# Typed from the paper's page, independently of the table file: table 6 of arXiv:2002.05709v3.
SIMCLR_TABLE_6 = """\
Local Agg.,ResNet-50,24,60.2,
MoCo,ResNet-50,24,60.6,
PIRL,ResNet-50,24,63.6,
CPC v2,ResNet-50,24,63.8,85.3
SimCLR (ours),ResNet-50,24,69.3,89.0
Rotation,RevNet-50 (4x),86,55.4,
BigBiGAN,RevNet-50 (4x),86,61.3,81.9
AMDIM,Custom-ResNet,626,68.1,
CMC,ResNet-50 (2x),188,68.4,88.2
MoCo,ResNet-50 (4x),375,68.6,
CPC v2,ResNet-161 (*),305,71.5,90.1
SimCLR (ours),ResNet-50 (2x),94,74.2,92.0
SimCLR (ours),ResNet-50 (4x),375,76.5,93.2
"""


def test_simclr_table6_prints_what_the_paper_prints() -> None:
    table = load_table("simclr_table6")
    expected = list(csv.reader(io.StringIO(SIMCLR_TABLE_6)))
    found = [
        [row.label, row.architecture, *(row.printed.get(name, "") for name in ("Param (M)", "Top-1", "Top-5"))]
        for row in table.rows
    ]
    for row in found:
        row[4] = row[4] or ""
    assert found == expected


# Table 1 of the same paper, independently typed; the header is 1/8, 1/4, 1/2, 1, 1 (+Blur), AutoAug.
SIMCLR_TABLE_1 = """\
SimCLR,59.6,61.0,62.6,63.2,64.5,61.1
Supervised,77.0,76.7,76.5,75.7,75.4,77.1
"""


def test_simclr_table1_prints_what_the_paper_prints() -> None:
    table = load_table("simclr_table1")
    assert [column.name for column in table.columns] == ["1/8", "1/4", "1/2", "1", "1 (+Blur)", "AutoAug"]
    found = [[row.label, *(row.printed[column.name] for column in table.columns)] for row in table.rows]
    assert found == list(csv.reader(io.StringIO(SIMCLR_TABLE_1)))


def test_simclr_table1_trains_one_encoder_a_column_at_the_papers_length() -> None:
    table = load_table("simclr_table1")
    for scale, length in (("paper", 100), ("embedded", encoder_of("simclr", "embedded").epochs)):
        cells = plan_table(table, SCALES[scale], 1, rows=["SimCLR"]).asked
        trained = {
            cell.column.name: encoder
            for cell in cells
            if isinstance(cell.spec, Evaluate) and isinstance(encoder := cell.spec.encoder, Pretrain)
        }
        assert {encoder.epochs for encoder in trained.values()} == {length}
        assert len({encoder.views for encoder in trained.values()}) == len(table.columns) == len(trained)
        assert [encoder.views[0].hue for encoder in trained.values()] == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.2, 0])
        assert [encoder.views[0].blur for encoder in trained.values()] == [0, 0, 0, 0, 0.5, 0]
        assert [encoder.views[0].policy for encoder in trained.values()] == ["none"] * 5 + ["autoaugment"]
        assert all(encoder.views[0] == encoder.views[1] for encoder in trained.values())


def encoder_of(method: str, scale: str) -> Pretrain:
    made = scale_encoder(SCALES[scale], method, network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(made, Pretrain)
    return made


def test_simclrs_and_mocos_rows_run_and_the_others_say_what_they_lack() -> None:
    table = load_table("simclr_table6")
    running = [(row.method, row.width) for row in table.rows if row.method]
    assert running == [("moco", 1), ("simclr", 1), ("moco", 4), ("simclr", 2), ("simclr", 4)]
    assert all(row.missing for row in table.rows if row.method is None)
    assert [row.method for row in table.anchors] == ["pixels", "random", "supervised"]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", plugins.names("table"))
def test_every_table_can_be_planned_at_every_scale(name: str, scale: str) -> None:
    table = load_table(name)
    planned = plan_table(table, SCALES[scale], 2)
    cells, large = planned.cells, {row for row, _ in planned.too_large}
    runnable = {row.name for row in (*table.rows, *table.anchors) if row.method}
    assert {cell.row.name for cell in cells} == runnable - large
    assert large <= ({"Raw pixels"} if scale == "paper" else set())
    seeds = {seed: {cell.job for cell in cells if cell.seed == seed and cell.row.method != "pixels"} for seed in (0, 1)}
    assert seeds[0].isdisjoint(seeds[1])  # seeds are jobs of their own
    assert all(protocol_of(column, SCALES[scale]) for column in table.columns)


@pytest.mark.parametrize("name", plugins.names("table"))
def test_every_table_file_names_its_paper(name: str) -> None:
    table = load_table(name)
    doc = plugins.load("table", name).__doc__ or ""
    if not table.arxiv:
        assert "in no paper" in doc
        assert not any(row.printed for row in table.rows)
        return
    assert f"arxiv.org/abs/{table.arxiv}" in doc
    assert table.number in doc


def test_linear_columns_have_the_papers_protocol_as_published_and_the_sweep_elsewhere() -> None:
    for name, variant in (
        ("simclr_table6", "simclr"),
        ("directclr_table1", "directclr"),
        ("barlow_table1", "barlow_twins"),
        ("fnc_table4", "fnc"),
    ):
        table = load_table(name)
        jobs = {
            scale: [c for c in plan_table(table, SCALES[scale], 1).cells if c.column.name == "Top-1"]
            for scale in ("paper", "embedded")
        }
        published = plugins.load("evaluation", "linear_augmented").VARIANTS[variant]["paper"]
        assert all(isinstance(c.spec, Evaluate) and c.spec.protocol == published for c in jobs["paper"])
        sweep = plugins.load("evaluation", "linear").RECIPES["embedded"]
        assert all(isinstance(c.spec, Evaluate) and c.spec.protocol == sweep for c in jobs["embedded"])


def test_short_runs_have_the_published_settings_of_short_runs() -> None:
    rates = {}
    for name in ("vicreg_table5", "vicreg_table7"):
        for cell in plan_table(load_table(name), SCALES["paper"], 1).cells:
            assert isinstance(cell.spec, Evaluate)
            encoder = cell.spec.encoder
            assert isinstance(encoder, Pretrain)
            assert encoder.epochs == 100
            rates[name, cell.row.method] = (encoder.optim.lr, encoder.optim.weight_decay)
    # VICReg's appendix C.4: 0.3 x 2048 / 256; BYOL 0.45 x 4096 / 256 with decay 1e-6
    assert rates["vicreg_table5", "vicreg"] == rates["vicreg_table7", "vicreg"] == (2.4, 1e-6)
    assert rates["vicreg_table5", "byol"] == (7.2, 1e-6)


def test_a_row_is_trained_for_the_epochs_that_its_table_prints() -> None:
    exceptions = {"TWIST, RN50w2"}  # as the README has it, which the table's note says
    for cell in plan_table(load_table("twist_table3"), SCALES["paper"], 1).cells:
        encoder = cell.spec.encoder if isinstance(cell.spec, Evaluate) else cell.spec
        if isinstance(encoder, Pretrain) and cell.row.name not in exceptions:
            assert (encoder.start or encoder).epochs == float(cell.row.printed["Epochs"]), cell.row.name


def test_studies_of_false_negatives_search_as_the_paper_did() -> None:
    found = {}
    for cell in plan_table(load_table("fnc_table1"), SCALES["paper"], 1).cells:
        assert isinstance(cell.spec, Evaluate)
        assert isinstance(cell.spec.encoder, Pretrain)
        method = cell.spec.encoder.method
        found[cell.row.label] = (getattr(method, "mode"), getattr(method, "search"), getattr(method, "top_k"))  # noqa: B009
    assert found["FN Elimination"] == ("elimination", "support", 8)
    assert found["FN Attraction"] == ("attraction", "support", 4)
    assert found["SimCLR"][0] == "none"


@pytest.mark.parametrize("name", plugins.names("table"))
def test_released_weights_never_stand_for_an_untrained_network(name: str) -> None:
    table = load_table(name)
    hashes = {row.released: "0" * 64 for row in (*table.rows, *table.anchors) if row.released}
    for cell in plan_table(table, SCALES["paper"], 1, released=hashes).cells if hashes else ():
        assert isinstance(cell.spec, Evaluate)
        assert isinstance(cell.spec.encoder, Random if cell.column.name in cell.row.untrained else Released), cell.label
