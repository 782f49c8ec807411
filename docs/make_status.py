"""Write the README's table of what is reproduced at which scale, from the table files and the committed references.

python docs/make_status.py            # rewrite it
python docs/make_status.py --check    # exit 1 when it is out of date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import plugins
from bench.errors import BenchError
from bench.planning.scales import SCALES, Scale
from reports.words import title
from results.regression import reference
from results.table import Table, cell_jobs, load_table
from results.view import kendall_tau, number

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- status: made by docs/make_status.py, not typed -->", "<!-- end of status -->"
SHOWN = ("embedded", "cifar", "paper")


def status() -> str:
    """The Markdown table, a line a table."""
    lines = [
        "| table | rows that run | printed values | " + " | ".join(f"`{scale}`" for scale in SHOWN) + " |",
        "|---|---:|---:|" + "---|" * len(SHOWN),
    ]
    for name in plugins.names("table"):
        table = load_table(name)
        runnable = sum(row.method is not None for row in table.rows)
        printed = sum(bool(text) for row in table.rows for text in row.printed.values())
        states = " | ".join(_state(table, SCALES[scale]) for scale in SHOWN)
        lines.append(f"| {title(table)} (`{name}`) | {runnable} of {len(table.rows)} | {printed or ''} | {states} |")
    return "\n".join(lines)


def _state(table: Table, scale: Scale) -> str:
    """What is committed: cells, seeds and the agreement of the order; else whether it can be planned."""
    path = reference.path_of(table.id, scale.name)
    if not path.exists():
        try:
            return "can run" if cell_jobs(table, scale, 1) else "nothing to run"
        except BenchError:
            return "cannot run"
    cells = reference.read(path)
    seeds = sorted({cell.n for cell in cells})
    span = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    tau, rows = _order(table, cells)
    order = "" if tau is None else f", order τ {tau:.2f} (n = {rows})".replace("-", "\N{MINUS SIGN}")
    return f"{len(cells)} cells, {span} {'seed' if seeds == [1] else 'seeds'}{order}"


def _order(table: Table, cells: list[reference.Measured]) -> tuple[float | None, int]:
    """Kendall's tau of the column whose order is compared, and its rows."""
    means = {cell.row: cell.mean for cell in cells if cell.column == table.order_by}
    pairs = [
        (printed, means[row.name]) for row in table.rows if row.name in means and (printed := number(row.printed.get(table.order_by, ""))) is not None
    ]
    return kendall_tau(pairs), len(pairs)


def main() -> int:
    """Rewrite or check the section between the markers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--readme", type=Path, default=README)
    asked = parser.parse_args()
    before = asked.readme.read_text(encoding="utf-8")
    head, found, rest = before.partition(BEGIN)
    _, closed, tail = rest.partition(END)
    if not found or not closed:
        print(f"{asked.readme} has no section between {BEGIN} and {END}")
        return 1
    after = f"{head}{BEGIN}\n\n{status()}\n\n{END}{tail}"
    if after == before:
        return 0
    if asked.check:
        print(f"{asked.readme.name} does not show what the table files say: python docs/make_status.py")
        return 1
    asked.readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
