"""The text files: nothing lost, nothing that a reader's tool would take for markup."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bench.planning.scales import scale_of
from bench.runs.folder import Runs
from reports.text.tables import CSV_COLUMNS, to_csv, to_latex, to_markdown, write_outputs
from reports.words import agreement_sentence, signed, took
from results.cells import load_table, plan_table
from results.store import Store
from results.table import Row
from results.view import Agreement, CellView, TableView, view
from tests.reports.conftest import HOSTILE, TABLE, TOP1, Demo


def job_views(view: TableView) -> dict[tuple[str, str], dict[str, str]]:
    return {(line["row"], line["column"]): line for line in csv.DictReader(io.StringIO(to_csv(view)))}


def relabelled(view: TableView, label: str) -> TableView:
    """The view with another label on its first row."""
    row = replace(view.rows[0], label=label)
    cells = {
        (row.name if name == view.rows[0].name else name, column): cell for (name, column), cell in view.cells.items()
    }
    return replace(view, rows=(row, *view.rows[1:]), cells=cells)


def test_csv_has_a_line_for_every_cell_in_the_papers_order(demo: Demo) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(demo.embedded))))
    order = [row.name for row in (*TABLE.rows, *TABLE.anchors)]
    assert [(line["row"], line["column"]) for line in lines] == [
        (row, column.name) for row in order for column in TABLE.columns
    ]
    assert tuple(lines[0]) == CSV_COLUMNS
    assert [line["kind"] for line in lines] == ["paper"] * 20 + ["reference"] * 8


def test_csv_keeps_full_precision_and_the_printed_string(demo: Demo) -> None:
    line = job_views(demo.embedded)["SimCLR, ResNet-50", "Top-1"]
    cell = demo.embedded.cells["SimCLR, ResNet-50", "Top-1"]
    assert line["published"] == "69.3"
    assert float(line["measured_mean"]) == cell.mean
    assert float(line["sd"]) == cell.sd
    assert line["n"] == "2"
    assert line["job_ids"].split(";") == list(cell.jobs)


def test_csv_leaves_missing_values_empty(demo: Demo) -> None:
    lines = job_views(demo.embedded)
    failed, foreign = lines["SimCLR, ResNet-50 (4x)", "Top-1"], lines["Rotation, RevNet-50 (4x)", "Top-1"]
    assert (failed["measured_mean"], failed["sd"], failed["n"], failed["status"]) == ("", "", "0", "blocked")
    assert (foreign["published"], foreign["job_ids"], foreign["status"]) == ("55.4", "", "not implemented")
    assert job_views(demo.paper)["SimCLR, ResNet-50", "Top-1"]["sd"] == ""


def test_csv_is_read_back_by_pandas(demo: Demo) -> None:
    frame = pd.read_csv(io.StringIO(to_csv(demo.embedded)))
    assert len(frame) == 28
    top1 = frame[(frame["row"] == "Raw pixels") & (frame["column"] == "Top-1")]
    assert top1["measured_mean"].item() == pytest.approx(90.925)


def markdown_rows(text: str) -> list[list[str]]:
    """Cells of a GitHub table, split where GitHub splits."""
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_markdown_pairs_published_and_measured(demo: Demo) -> None:
    rows = {tuple(row[:2]): row for row in markdown_rows(to_markdown(demo.embedded))}
    assert rows["SimCLR", "ResNet-50"][3] == "69.3 / 95.2 ± 0.2 (n=2)"
    assert rows["SimCLR", "ResNet-50 (4x)"][3] == "76.5 / blocked"
    assert rows["Rotation", "RevNet-50 (4x)"][2:4] == ["86", "55.4 / not implemented"]
    assert rows["Raw pixels", ""][3] == "90.9 ± 0.2 (n=2)"


def test_markdown_keeps_sections_and_puts_references_last(demo: Demo) -> None:
    first = [row[0] for row in markdown_rows(to_markdown(demo.embedded))]
    headings = [cell for cell in first if cell.startswith("**")]
    assert headings == ["**Theirs**", "**Ours**", "**References (ours, not in the paper)**"]
    assert first[-2:] == ["Raw pixels", "Random encoder"]


def test_markdown_escapes_labels(demo: Demo) -> None:
    text = to_markdown(demo.embedded)
    assert {len(row) for row in markdown_rows(text)} == {6}  # the pipe in the label split no cell
    assert "<script" not in text
    assert r"a\_b" in text


def test_markdown_says_under_the_table_what_a_reader_must_know(demo: Demo) -> None:
    under = to_markdown(demo.embedded).rpartition("|\n")[2]
    assert "This is not ImageNet" in under
    assert "Top-1: Kendall's tau" in under
    assert "This is not ImageNet" not in to_markdown(demo.paper)


def test_markdown_shows_gap_and_verdict_at_the_published_scale(demo: Demo) -> None:
    rows = {tuple(row[:2]): row for row in markdown_rows(to_markdown(demo.paper))}
    assert rows["SimCLR", "ResNet-50"][3] == "69.3 / 95.1 (+25.8, above)"


def latex_width(line: str) -> int:
    """Columns that a row of the tabular fills."""
    cells = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
    return sum(int(span.group(1)) if (span := re.search(r"\\multicolumn\{(\d+)\}", cell)) else 1 for cell in cells)


def test_latex_rows_all_fill_the_tabular(demo: Demo) -> None:
    text = to_latex(demo.embedded)
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 2 + 2 + 5 + 1 + 2  # head, sections, rows, the heading of the references, references
    assert {latex_width(row) for row in rows} == {len(columns.group(1))}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("50 % & $5 #1_x {y} ~z ^2", r"50 \% \& \$5 \#1\_x \{y\} \textasciitilde{}z \textasciicircum{}2"),
        (r"a\b|c <d>", r"a\textbackslash{}b\textbar{}c \textless{}d\textgreater{}"),
        ("[1] first", "{[}1] first"),  # else the optional argument of the row end before it
        ("* starred", "{*} starred"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_escapes(demo: Demo, label: str, expected: str) -> None:
    assert f"{expected} & RevNet-50 (4x) &" in to_latex(relabelled(demo.embedded, label))


def test_the_same_view_gives_the_same_bytes(demo: Demo, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in write_outputs(demo.embedded, tmp_path / "a")}
    second = {path.name: path.read_bytes() for path in write_outputs(demo.embedded, tmp_path / "b")}
    assert first == second
    assert sorted(first) == ["demo_table1.bib", "demo_table1.csv", "demo_table1.md", "demo_table1.tex"]
    assert (tmp_path / "a" / "embedded" / "demo_table1.csv").read_text() == to_csv(demo.embedded)


def test_a_table_without_architectures_has_no_such_column(demo: Demo) -> None:
    row, column = Row(label="A", method="simclr", printed={"Top-1": "50.0"}), TABLE.column("Top-1")
    table = replace(TABLE, columns=(column,), rows=(row,), anchors=())
    cells = {("A", "Top-1"): CellView(published="50.0", measured=(49.0,), digits=1, status="done", jobs=("j",))}
    view = replace(demo.embedded, table=table, columns=(column,), rows=(row,), anchors=(), cells=cells)
    assert markdown_rows(to_markdown(view))[0] == ["Method", "Top-1"]
    assert r"A & 50.0 & 49.0 \\" in to_latex(view)


@pytest.mark.parametrize(
    ("agreement", "expected"),
    [
        (Agreement(column="Top-1", rows=1, tau=None), "not defined (n = 1 row "),
        (
            Agreement(column="Top-1", rows=3, tau=-1 / 3),
            "is \N{MINUS SIGN}0.33 (n = 3 rows). This is weak evidence: 3 rows in random order",
        ),
        (Agreement(column="Top-1", rows=8, tau=0.5), "weak evidence"),
    ],
)
def test_agreement_in_words(agreement: Agreement, expected: str) -> None:
    assert expected in agreement_sentence(agreement)


def test_agreement_of_many_rows_is_not_called_weak() -> None:
    assert agreement_sentence(Agreement(column="Top-1", rows=12, tau=0.5)).endswith("is 0.50 (n = 12 rows).")


@pytest.mark.parametrize(
    ("value", "expected"), [(0.04, "0.0"), (-0.04, "0.0"), (-1.25, "\N{MINUS SIGN}1.2"), (3.0, "+3.0")]
)
def test_signed(value: float, expected: str) -> None:
    assert signed(value, 1) == expected


@pytest.mark.parametrize(("value", "expected"), [(63, "1 min 03 s"), ("long", "long"), (float("nan"), "nan")])
def test_what_is_no_duration_stands_as_it_is(value: object, expected: str) -> None:
    assert took(value) == expected


def test_the_demo_has_the_label_that_these_tests_are_about() -> None:
    assert HOSTILE in [row.label for row in TABLE.rows]
    assert set(TOP1) <= {row.name for row in (*TABLE.rows, *TABLE.anchors)}


def test_a_printed_value_that_is_not_certain_carries_a_question_mark(runs: Runs) -> None:
    shown = view(plan_table(load_table("fnc_table5"), scale_of("embedded"), 1), Store(runs))
    markdown = to_markdown(shown)
    assert "30.7?" in markdown
    assert "57.2?" not in markdown
    assert "A question mark: the printed value is not certain." in markdown
    assert "30.7?" in to_latex(shown)
    assert "question mark" not in to_markdown(
        view(plan_table(load_table("barlow_table1"), scale_of("embedded"), 1), Store(runs))
    )
