"""A regenerated table as CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from bench.files import write_atomic
from reports import words
from reports.text import bibtex
from reports.text.latex import latex
from reports.words import REFERENCES, agreement_sentence, gap, sections
from results.table import Column, Row
from results.view import CellView, TableView

CSV_COLUMNS = (
    "table", "row", "column", "published", "measured_mean", "sd", "n", "scale", "protocol", "status", "job_ids", "kind",
)  # fmt: skip

_NO_VALUE = "\N{EN DASH}"
_MARKDOWN = str.maketrans(
    {**{character: f"\\{character}" for character in "\\`*_[]|~$"}, "&": "&amp;", "<": "&lt;", ">": "&gt;"}
)


def to_csv(view: TableView) -> str:
    """One line a cell: rows in the paper's order, then the references. Numbers keep their full precision."""
    lines = []
    for kind, row in _rows(view):
        for column in view.columns:
            cell = view.cell(row, column)
            lines.append(
                (
                    view.table.id, row.name, column.name, cell.published, cell.mean, cell.sd, cell.n, view.scale,
                    view.protocols[column.name], cell.status, ";".join(cell.jobs), kind,
                )
            )  # fmt: skip
    # dtype object: pandas must not turn counts beside empty cells into floats.
    return pd.DataFrame(lines, columns=list(CSV_COLUMNS), dtype=object).to_csv(index=False, lineterminator="\n")


def to_markdown(view: TableView) -> str:
    """A GitHub table whose cells read `published / measured`; what must be known to read it stands under it."""
    lead = ["Method", "Architecture"] if has_architecture(view) else ["Method"]
    header = [
        *lead,
        *(
            view.heading(column) if column.printed else f"{view.heading(column)} (not in the paper)"
            for column in view.columns
        ),
    ]
    lines = [_line([_markdown(text) for text in header]), _line(["---"] * len(lead) + ["---:"] * len(view.columns))]

    def body(rows: tuple[Row, ...], *, reference: bool) -> None:
        for section, members in sections(rows):
            if section:
                lines.append(_line([f"**{_markdown(section)}**"] + [""] * (len(header) - 1)))
            for row in members:
                cells = [_pair(view.cell(row, column), column, reference=reference) for column in view.columns]
                lines.append(_line([_markdown(text) for text in [row.label, row.architecture][: len(lead)] + cells]))

    body(view.rows, reference=False)
    if view.anchors:
        lines.append(_line([f"**{REFERENCES}**"] + [""] * (len(header) - 1)))
        body(view.anchors, reference=True)
    source = f" (arXiv:{_markdown(view.table.arxiv)})" if view.table.arxiv else ""
    title = f"**{_markdown(f'{words.title(view.table)}: {view.table.title}')}**{source}"
    legend = (
        f"Scale `{view.scale}`. Cells are `paper / here`; here is the mean over seeds ± sample standard "
        "deviation (n seeds)."
    )
    under = [_markdown(text) for text in _under(view)]
    return "\n\n".join([title, "\n".join(lines), legend, *under]) + "\n"


def to_latex(view: TableView) -> str:
    """A table environment for the booktabs package; under each printed column stand `paper` and `here`."""
    lead = 2 if has_architecture(view) else 1
    width = lead + sum(2 if column.printed else 1 for column in view.columns)
    names, rules, parts, place = [], [], [], lead + 1
    for column in view.columns:
        span = 2 if column.printed else 1
        names.append(rf"\multicolumn{{{span}}}{{c}}{{{latex(view.heading(column))}}}")
        rules.append(rf"\cmidrule(lr){{{place}-{place + span - 1}}}")
        parts += ["paper", "here"][-span:]
        place += span
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(_caption(view))}}}",
        rf"\label{{tab:{view.table.id}-{view.scale}}}",
        rf"\begin{{tabular}}{{{'l' * lead}{'r' * (width - lead)}}}",
        r"\toprule",
        " & ".join([*["Method", "Architecture"][:lead], *names]) + r" \\",
        " ".join(rules),
        " & ".join([""] * lead + parts).strip() + r" \\",
        r"\midrule",
    ]

    def body(rows: tuple[Row, ...]) -> None:
        for place, (section, members) in enumerate(sections(rows)):
            if section:
                lines.extend([r"\addlinespace"] if place else [])
                lines.append(rf"\multicolumn{{{width}}}{{l}}{{\emph{{{latex(section)}}}}} \\")
            lines.extend(
                " & ".join([latex(row.label), latex(row.architecture)][:lead] + _latex_cells(view, row)) + r" \\"
                for row in members
            )

    body(view.rows)
    if view.anchors:
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{latex(REFERENCES)}}}}} \\"]
        body(view.anchors)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def write_outputs(view: TableView, folder: Path, *, durable: bool = True) -> list[Path]:
    """Write `folder/<scale>/<table>.csv`, `.md`, `.tex` and, for a table of a paper, `.bib`; returns the paths.

    `durable`: wait for the disk. Raises BenchError when it is full.
    """
    outputs = {".csv": to_csv(view), ".md": to_markdown(view), ".tex": to_latex(view), ".bib": bibtex.entry(view.table)}
    outputs = {suffix: text for suffix, text in outputs.items() if text}
    paths = []
    for suffix, text in outputs.items():
        path = folder / view.scale / f"{view.table.id}{suffix}"
        write_atomic(path, text, durable=durable)
        paths.append(path)
    return paths


def has_architecture(view: TableView) -> bool:
    """Whether the paper's table has a column for it."""
    return any(row.architecture for row in (*view.rows, *view.anchors))


def _rows(view: TableView) -> Iterator[tuple[str, Row]]:
    for row in view.rows:
        yield "paper", row
    for row in view.anchors:
        yield "reference", row


def _pair(cell: CellView, column: Column, *, reference: bool) -> str:
    if reference or not column.printed:
        return cell.text
    if cell.status == "none" or (not cell.published and cell.status == "not implemented"):
        return _printed(cell)
    verdict = f" ({gap(cell)}, {cell.verdict})" if cell.verdict and cell.mean is not None else ""
    return f"{_printed(cell) or _NO_VALUE} / {cell.text}{verdict}"


def _printed(cell: CellView) -> str:
    """As printed, with a question mark where that is not certain."""
    return f"{cell.published}?" if cell.doubt else cell.published


def _latex_cells(view: TableView, row: Row) -> list[str]:
    found = []
    for column in view.columns:
        cell = view.cell(row, column)
        # A word of eleven letters in every cell would push the table off the page; the caption explains the dash.
        here = _NO_VALUE if cell.status == "not implemented" else cell.text
        found += [latex(_printed(cell)), latex(here)] if column.printed else [latex(here)]
    return found


def _caption(view: TableView) -> str:
    table = view.table
    source = f" (arXiv:{table.arxiv})" if table.arxiv else ""
    head = f"{words.title(table)}: {table.title}{source}, regenerated at scale {view.scale}."
    dash = (
        " A dash under here: not implemented."
        if any(cell.status == "not implemented" for cell in view.cells.values())
        else ""
    )
    return " ".join([head + dash, *_under(view)])


def _under(view: TableView) -> list[str]:
    unsure = (
        ["A question mark: the printed value is not certain."]
        if any(cell.doubt for cell in view.cells.values())
        else []
    )
    return [
        *unsure,
        *(text for text in (view.caveat, view.overrides, view.precision) if text),
        *(agreement_sentence(agreement) for agreement in view.agreement),
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    return " ".join(text.split()).translate(_MARKDOWN)
