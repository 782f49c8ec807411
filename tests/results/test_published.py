"""Every printed value, held against a second copy, tests/results/published.csv.

It was taken from the papers apart from the table files.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench import plugins
from results.cells import load_table
from results.table import Row, Table

LINES = list(csv.DictReader((Path(__file__).parent / "published.csv").read_text(encoding="utf-8").splitlines()))
TABLES = list(dict.fromkeys(line["table"] for line in LINES))
# ticks and names: they stand in the row's note or label
NOT_CELLS = {
    "directclr_table2": {"diagonal", "low-rank"},
    "twist_table3": {"arch"},
}


def copy_of(name: str) -> dict[tuple[str, str], dict[str, tuple[str, str]]]:
    """Rows in the paper's order: (row, detail) -> column -> (value, confidence)."""
    rows: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    for line in LINES:
        if line["table"] == name and line["column"] not in NOT_CELLS.get(name, set()):
            rows.setdefault((line["row"], line["detail"]), {})[line["column"]] = (
                line["value"].replace("not-applicable", "not applicable"),
                line["confidence"],
            )
    return rows


def printed(table: Table, row: Row) -> list[str]:
    return [row.printed.get(column.name, "") for column in table.columns if column.printed]


def test_no_table_of_the_copy_is_missing() -> None:
    assert set(TABLES) <= set(plugins.names("table"))
    assert len(LINES) == 895


@pytest.mark.parametrize("name", [name for name in TABLES if name not in {"fnc_table3", "twist_detection"}])
def test_every_row_and_value_stands_in_the_papers_order(name: str) -> None:
    table, rows = load_table(name), copy_of(name)
    assert [row.label.split(" (")[0] for row in table.rows] == [row.split(" (")[0] for row, _ in rows]
    for row, (key, cells) in zip(table.rows, rows.items(), strict=True):
        assert printed(table, row) == [value for value, _ in cells.values()], key


def test_fnc_table_3_has_its_pairs_as_rows() -> None:
    table = load_table("fnc_table3")
    for number, cells in enumerate(copy_of("fnc_table3").values()):
        baseline, cancelled, difference = (value for value, _ in cells.values())
        first, second = table.rows[2 * number : 2 * number + 2]
        assert (first.printed["Top-1"], second.printed["Top-1"], second.printed["Difference"]) == (
            baseline,
            cancelled,
            difference,
        )
    assert len(table.rows) == 6


def test_twists_three_tasks_stand_in_one_row() -> None:
    table = load_table("twist_detection")
    values = [value for cells in copy_of("twist_detection").values() for value, _ in cells.values()]
    assert printed(table, table.rows[0]) == values


@pytest.mark.parametrize("name", TABLES)
def test_what_is_unverified_is_shown_as_such_and_nothing_else(name: str) -> None:
    table = load_table(name)
    unverified = Counter(
        value for cells in copy_of(name).values() for value, sure in cells.values() if sure == "unverified" and value
    )
    doubted: Counter[str] = Counter()
    for row in table.rows:
        doubted.update(row.printed[column] for column in row.doubts)
        assert all(reason for reason in row.doubts.values())
    assert doubted == unverified


def test_a_wrong_digit_would_be_seen() -> None:
    """The comparison itself: every printed cell of the tables is looked at."""
    seen: Mapping[str, int] = Counter(
        line["table"] for line in LINES if line["value"] and line["column"] not in NOT_CELLS.get(line["table"], set())
    )
    for name in TABLES:
        table = load_table(name)
        assert sum(bool(value) for row in table.rows for value in printed(table, row)) == seen[name]
