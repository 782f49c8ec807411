"""Every job id that this project plans: `python -m tests.planned_ids` prints how many, and one digest of all.

Whoever moves code runs it before and after: an equal digest says that no finished run of anyone is lost. `--list`
prints the ids themselves, for `diff`. Released weights take part with the hash of a file that is not here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from hashlib import sha256

from bench import plugins
from bench.planning import scales
from results.cells import load_table, plan_table

SEEDS = 3


def planned() -> Iterator[str]:
    """`table scale seed row | column id`, for all tables at all scales, with --released where that is possible."""
    for table in map(load_table, plugins.names("table")):
        hashes = {row.released: "0" * 64 for row in table.rows if row.released}
        for scale in scales.SCALES.values():
            for cell in plan_table(table, scale, SEEDS).cells:
                yield f"{table.id} {scale.name} {cell.seed} {cell.row.name} | {cell.column.name} {cell.job}"
            for cell in plan_table(table, scale, SEEDS, released=hashes).cells if scale.published and hashes else ():
                yield f"{table.id} released {cell.seed} {cell.row.name} | {cell.column.name} {cell.job}"


def digest(lines: list[str]) -> str:
    """The sha256 of all lines."""
    return sha256("\n".join(lines).encode()).hexdigest()


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print every id")
    lines = list(planned())
    if parser.parse_args().list:
        print("\n".join(lines))
    print(f"{len(lines)} planned jobs of {len(plugins.names('table'))} tables, sha256 {digest(lines)}")


if __name__ == "__main__":
    main()
