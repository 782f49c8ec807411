from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import pytest

import results.tables
from bench import plugins
from bench.commands import list as listing
from bench.errors import BenchError
from results.cells import load_table

TABLE = '''"""A table of mine."""
from results.table import Column, Row, Table

TABLE = Table(
    id="zz_mine", paper="Mine", arxiv="", number="1", title="A table",
    columns=(Column(name="Top-1", metric="top1", protocol="knn"),),
    rows=(
        Row(label="Pixels", method="pixels"), Row(label="SimCLR", method="simclr"), Row(label="PIRL", missing="pirl"),
        Row(label="PIRL", architecture="twice as wide", missing="pirl"),
        Row(label="aardvark", method="not_written_yet"), Row(label="Unsaid"),
    ),
)
'''


@pytest.fixture
def own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One more table, zz_mine."""
    (tmp_path / "zz_mine.py").write_text(TABLE)
    monkeypatch.setattr(results.tables, "__path__", [*results.tables.__path__, str(tmp_path)])
    yield
    sys.modules.pop("results.tables.zz_mine", None)


def test_missing_methods_are_listed_once_with_their_tables_and_what_they_take(
    own_table: None, capsys: pytest.CaptureFixture[str]
) -> None:
    listing.show("methods", missing=True)
    heading, *lines, count = capsys.readouterr().out.splitlines()
    assert heading.split() == ["as", "printed", "would", "take", "tables"]
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert [name for name, *_ in cells] == sorted((name for name, *_ in cells), key=str.casefold)
    found = {(name, takes): tables.split(", ") for name, takes, tables in cells}
    assert len(found) == len(lines)
    assert found["PIRL", "pirl"] == [*dict.fromkeys(found["PIRL", "pirl"])]  # two rows of one table name it once
    assert {"simclr_table6", "barlow_table1", "zz_mine"} <= set(found["PIRL", "pirl"])
    assert found["aardvark", "not_written_yet"] == found["Unsaid", "not said"] == ["zz_mine"]
    assert not {"SimCLR", "Pixels"} & {name for name, takes in found if "zz_mine" in found[name, takes]}

    rows = [
        (name, row)
        for name in plugins.names("table")
        for row in load_table(name).rows
        if row.method in (None, "not_written_yet")
    ]
    names, tables = {row.label for _, row in rows}, {table for table, _ in rows}
    assert count == f"{len(names)} names that nothing here can run yet, in {len(rows)} rows of {len(tables)} tables"


def test_missing_goes_with_methods_alone() -> None:
    with pytest.raises(BenchError, match="--missing goes with methods, found 'tables': `bench list methods --missing`"):
        listing.show("tables", missing=True)


@pytest.mark.parametrize("what", ["methods", "evals"])
def test_differences_from_released_code_are_listed_under_each_name(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    listing.show(what, differences=True)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    heads = [line for line in lines if not line.startswith(" ")]
    assert [head.partition(":")[0] for head in heads] == plugins.names(listing.KINDS[what])
    read = plugins.method if what == "methods" else plugins.evaluation
    listed = [difference for name in plugins.names(listing.KINDS[what]) for difference in read(name).differences]
    for key in ("there", "here", "why", "effect"):
        assert sum(line.startswith(f"      {key:<8}") for line in lines) == len(listed)
    words = " ".join(" ".join(lines).split())
    for difference in listed:
        for text in astuple(difference):
            assert text in words


@pytest.mark.parametrize(
    ("what", "missing", "found"), [("tables", False, "'tables'"), ("methods", True, "--missing"), ("x", False, "'x'")]
)
def test_differences_go_with_methods_and_evals_alone(what: str, missing: bool, found: str) -> None:
    with pytest.raises(BenchError, match=f"--differences goes with methods or evals alone, found {found}"):
        listing.show(what, missing=missing, differences=True)
