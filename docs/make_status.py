"""Write what is reproduced at which scale, from the table files and the committed references.

README.md gets a summary by paper, docs/status.md a line a table.

python docs/make_status.py            # rewrite both
python docs/make_status.py --check    # exit 1 when one is out of date
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from bench import plugins
from bench.errors import BenchError
from bench.planning.scales import SCALES, Scale
from reports.words import title
from results.cells import load_table, plan_table
from results.regression import reference
from results.table import Table
from results.view import kendall_tau, number

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- status: made by docs/make_status.py, not typed -->", "<!-- end of status -->"
SHOWN = ("embedded", "cifar", "paper")


def tables() -> list[Table]:
    """Every table of the project, by name."""
    return [load_table(name) for name in plugins.names("table")]


def status() -> str:
    """The Markdown table of docs/status.md, a line a table."""
    lines = [
        "| table | rows that run | printed values | " + " | ".join(f"`{scale}`" for scale in SHOWN) + " |",
        "|---|---:|---:|" + "---|" * len(SHOWN),
    ]
    for table in tables():
        runnable, rows, printed = _counts([table])
        states = " | ".join(_state(table, SCALES[scale]) for scale in SHOWN)
        lines.append(f"| {title(table)} (`{table.id}`) | {runnable} of {rows} | {printed or ''} | {states} |")
    return "\n".join(lines)


def summary() -> str:
    """The Markdown table of the README, a line a paper, and how far the order of the rows agrees."""
    papers: dict[str, list[Table]] = {}
    for table in tables():
        papers.setdefault(table.paper, []).append(table)
    lines = ["| paper | tables | rows that run | printed values | measured at `embedded` |", "|---|---:|---:|---:|---|"]
    for paper, group in [*sorted(papers.items(), key=lambda item: item[0].lower()), ("**together**", tables())]:
        runnable, rows, printed = _counts(group)
        cells = [cell for table in group for cell in _measured(table)]
        measured = f"{len(cells)} cells, {_seeds(cells)}" if cells else "nothing yet"
        name = f"[{paper}](https://arxiv.org/abs/{group[0].arxiv})" if paper in papers and group[0].arxiv else paper
        lines.append(f"| {name} | {len(group)} | {runnable} of {rows} | {printed or ''} | {measured} |")
    return "\n".join([*lines, "", _agreement()])


def _counts(group: Sequence[Table]) -> tuple[int, int, int]:
    """Rows that run, rows, and printed values."""
    rows = [row for table in group for row in table.rows]
    printed = sum(bool(text) for row in rows for text in row.printed.values())
    return sum(row.method is not None for row in rows), len(rows), printed


def _agreement() -> str:
    """One sentence on Kendall's tau over all tables that print an order."""
    orders = [tau for table in tables() if (tau := _order(table, _measured(table))[0]) is not None]
    middle = f"{median(orders):.2f}".replace("-", "\N{MINUS SIGN}")
    against = sum(tau <= 0 for tau in orders)
    at_paper = sum(reference.path_of(table.id, "paper").exists() for table in tables())
    return (
        "Kendall's τ between the printed and the measured order of the rows has the median "
        f"{middle} over {len(orders)} tables,\nand is zero or less in {against} of them; "
        f"at `paper` {at_paper or 'none'} of the tables {'are' if at_paper > 1 else 'is'} measured here yet."
    )


def _measured(table: Table) -> list[reference.Measured]:
    """Cells of the reference at the scale `embedded`, if there is one."""
    path = reference.path_of(table.id, "embedded")
    return reference.read(path) if path.exists() else []


def _seeds(cells: Sequence[reference.Measured]) -> str:
    counts = sorted({cell.n for cell in cells})
    span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{span} {'seed' if counts == [1] else 'seeds'}"


def _state(table: Table, scale: Scale) -> str:
    """What is committed: cells, seeds and the agreement of the order; else whether it can be planned."""
    path = reference.path_of(table.id, scale.name)
    if not path.exists():
        try:
            return "can run" if plan_table(table, scale, 1).cells else "nothing to run"
        except BenchError:
            return "cannot run"
    cells = reference.read(path)
    tau, rows = _order(table, cells)
    order = "" if tau is None else f", order τ {tau:.2f} (n = {rows})".replace("-", "\N{MINUS SIGN}")
    return f"{len(cells)} cells, {_seeds(cells)}{order}"


def _order(table: Table, cells: Sequence[reference.Measured]) -> tuple[float | None, int]:
    """Kendall's tau of the column whose order is compared, and its rows."""
    means = {cell.row: cell.mean for cell in cells if cell.column == table.order_by}
    pairs = [
        (printed, means[row.name])
        for row in table.rows
        if row.name in means and (printed := number(row.printed.get(table.order_by, ""))) is not None
    ]
    return kendall_tau(pairs), len(pairs)


PAGES: dict[str, Callable[[], str]] = {"README.md": summary, "docs/status.md": status}


def main() -> int:
    """Rewrite or check the section between the markers of each page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder of README.md and docs/status.md")
    asked = parser.parse_args()
    stale = 0
    for name, text in PAGES.items():
        page = asked.root / name
        before = page.read_text(encoding="utf-8")
        head, opened, rest = before.partition(BEGIN)
        _, closed, tail = rest.partition(END)
        if not opened or not closed:
            print(f"{page} has no section between {BEGIN} and {END}")
            return 1
        after = f"{head}{BEGIN}\n\n{text()}\n\n{END}{tail}"
        if after == before:
            continue
        if asked.check:
            print(f"{name} does not show what the table files say: python docs/make_status.py")
            stale = 1
        else:
            page.write_text(after, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
