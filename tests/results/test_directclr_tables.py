"""The tables of DirectCLR: what is printed, and which rows are one job."""

from __future__ import annotations

import csv
import io

import pytest

from bench.planning.scales import SCALES
from evals import linear_collapse
from results.cells import load_table, plan_table
from results.tables import directclr_fig3

# Typed from the paper's page, independently of the table files: tables 1 and 2 of arXiv:2110.09348v3.
DIRECTCLR_TABLE_1 = """\
SimCLR,2-layer nonlinear projector,66.5
SimCLR,1-layer linear projector,61.1
SimCLR,no projector,51.5
DirectCLR,no projector,62.7
"""
DIRECTCLR_TABLE_2 = """\
no projector,,51.5
orthogonal projector,,52.2
trainable projector,,61.1
trainable diagonal projector,diagonal,60.2
fixed low-rank projector,low-rank,62.3
fixed low-rank diagonal projector,"diagonal, low-rank",62.7
"""


def test_directclr_tables_print_what_the_paper_prints() -> None:
    one, two = load_table("directclr_table1"), load_table("directclr_table2")
    assert [[row.label, row.architecture, row.printed["Top-1"]] for row in one.rows] == list(
        csv.reader(io.StringIO(DIRECTCLR_TABLE_1))
    )
    assert [[row.label, row.note, row.printed["Top-1"]] for row in two.rows] == list(
        csv.reader(io.StringIO(DIRECTCLR_TABLE_2))
    )


@pytest.mark.parametrize("scale", SCALES)
def test_rows_that_directclrs_two_tables_share_are_one_pretraining(scale: str) -> None:
    jobs = {
        name: {
            cell.row.name: cell.job
            for cell in plan_table(load_table(name), SCALES[scale], 1, columns=["Top-1"]).asked
        }
        for name in ("directclr_table1", "directclr_table2")
    }  # fmt: skip
    one, two = jobs["directclr_table1"], jobs["directclr_table2"]
    assert len(set(one.values())) == 4
    assert len(set(two.values())) == 6
    assert one["SimCLR, no projector"] == two["no projector"]
    assert one["SimCLR, 1-layer linear projector"] == two["trainable projector"]
    assert one["DirectCLR, no projector"] == two["fixed low-rank diagonal projector"]


def test_directclr_fig3_is_one_job_and_prints_nothing() -> None:
    table = load_table("directclr_fig3")
    cells = plan_table(table, SCALES["embedded"], 1).cells
    assert len({cell.job for cell in cells}) == 1
    assert len(cells) == len(table.columns)
    assert not any(row.printed for row in table.rows)
    assert {column.metric for column in table.columns} <= set(linear_collapse.METRICS)
    assert tuple(f"{k:g}" for k in linear_collapse._STRENGTHS) == directclr_fig3.STRENGTHS
