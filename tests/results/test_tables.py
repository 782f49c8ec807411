"""Every table file: what is printed, what runs it, and that it can be planned at every scale."""

from __future__ import annotations

import csv
import io

import pytest

from bench import plugins
from bench.scales import SCALES
from results.table import cell_jobs, load_table, protocol_of

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
    found = [[row.label, row.architecture, *(row.printed.get(name, "") for name in ("Param (M)", "Top-1", "Top-5"))] for row in table.rows]
    for row in found:
        row[4] = row[4] or ""
    assert found == expected


def test_the_three_simclr_rows_run_and_the_others_say_what_they_lack() -> None:
    table = load_table("simclr_table6")
    assert [(row.method, row.width) for row in table.rows if row.method] == [("simclr", 1), ("simclr", 2), ("simclr", 4)]
    assert all(row.missing for row in table.rows if row.method is None)
    assert [row.method for row in table.references] == ["pixels", "random", "supervised"]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", plugins.names("table"))
def test_every_table_can_be_planned_at_every_scale(name: str, scale: str) -> None:
    table = load_table(name)
    cells = cell_jobs(table, SCALES[scale], 2)
    runnable = {row.name for row in (*table.rows, *table.references) if row.method}
    assert {cell.row.name for cell in cells} == runnable
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
