"""Transfer columns name what they read: in the headings of every output, in their protocols, and above the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.planning.scales import SCALES, scale_of
from bench.runs.folder import Runs
from bench.spec import Evaluate
from reports.build import build
from reports.text.tables import to_latex, to_markdown
from results.cells import plan_table
from results.store import Store
from results.table import Column, Row, Table
from results.view import TableView, view

TABLE = Table(
    id="demo_transfer",
    paper="A paper",
    arxiv="",
    number="2",
    title="transfer",
    columns=(
        Column(name="Top-1", metric="top1", protocol="linear"),
        Column(name="Places205", metric="top1", protocol="linear", dataset="places205"),
        Column(name="VOC07", metric="top1", protocol="knn", dataset="voc2007"),
        Column(name="iNat18", metric="top1", protocol="linear", dataset="inat18", printed=False),
    ),
    rows=(Row(label="SimCLR", method="simclr", printed={"Top-1": "69.3", "Places205": "52.5"}),),
)
HERE = {"Top-1": "", "Places205": "digits1797", "VOC07": "digit_scenes", "iNat18": "digit_pairs"}


def seen(runs: Runs, scale: str) -> TableView:
    return view(plan_table(TABLE, scale_of(scale), seeds=1), Store(runs))


def test_each_scale_reads_what_it_says(runs: Runs) -> None:
    expected = {
        "embedded": ["mnist5k", "digits1797", "digit_scenes", "digit_pairs"],
        "smoke": ["mnist5k", "digits1797", "digit_scenes", "digit_pairs"],
        "cifar": ["cifar10", "cifar100", "voc2007", "cifar100"],
        "paper": ["imagenet", "places205", "voc2007", "inat18"],
    }
    assert expected.keys() == SCALES.keys()
    for scale, names in expected.items():
        specs = [cell.spec for cell in plan_table(TABLE, scale_of(scale), seeds=1).cells]
        assert [spec.data.name for spec in specs if isinstance(spec, Evaluate)] == names
        # The encoder is the same for all: it is pretrained on this scale's ImageNet.
        assert len({spec.encoder for spec in specs if isinstance(spec, Evaluate)}) == 1


def test_headings_name_the_stand_in_of_transfer_columns_only(runs: Runs) -> None:
    embedded, paper = seen(runs, "embedded"), seen(runs, "paper")
    assert embedded.stand_ins == HERE
    assert [embedded.heading(column) for column in TABLE.columns[:2]] == ["Top-1", "Places205 (here: digits1797)"]
    assert [paper.heading(column) for column in TABLE.columns] == [column.name for column in TABLE.columns]
    assert seen(runs, "cifar").stand_ins["VOC07"] == "voc2007 at 64 px"


@pytest.mark.parametrize("write", [to_markdown, to_latex])
def test_text_outputs_have_these_headings(runs: Runs, write: object) -> None:
    assert callable(write)
    embedded, paper = write(seen(runs, "embedded")), write(seen(runs, "paper"))
    for name, here in HERE.items():
        if here:
            assert f"{name} (here: {here})".replace("_", r"\_") in embedded
        else:
            assert f"{name} (here" not in embedded
    assert "(here:" not in paper


def test_protocols_and_the_caveat_name_the_paper_s_data_and_ours(runs: Runs) -> None:
    embedded, paper = seen(runs, "embedded"), seen(runs, "paper")
    assert embedded.protocols["Places205"].startswith("Places205 (here: digits1797, scikit-learn's 1,797 digits")
    assert embedded.protocols["Top-1"].startswith("ImageNet (here: mnist5k, 5,000 real digits")
    assert paper.protocols["Places205"].startswith("places205: linear classifier")
    for name, here in (
        ("ImageNet", "mnist5k"),
        ("Places205", "digits1797"),
        ("VOC07", "digit_scenes"),
        ("iNat18", "digit_pairs"),
    ):
        assert f"{here} stands in for {name}" in embedded.caveat
    assert paper.caveat == ""


def test_the_page_says_so_under_the_name_of_the_column(runs: Runs, tmp_path: Path) -> None:
    folder = build([seen(runs, "embedded"), seen(runs, "paper")], runs, tmp_path / "report").parent
    embedded, paper = (
        (folder / scale / f"{TABLE.id}.html").read_text(encoding="utf-8") for scale in ("embedded", "paper")
    )
    headings = dict.fromkeys(HERE, "")
    for cell in re.findall(r"<th [^>]*group[^>]*>(.*?)</th>", embedded):
        name = next(name for name in HERE if cell.startswith(name))
        headings[name] = "".join(re.findall(r'<span class="tag stand-in">here: (\w+)</span>', cell))
    assert headings == HERE
    assert "stand-in" not in paper
