"""Write the tables that the README points at, from the committed results.

python docs/make_tables.py            # rewrite them
python docs/make_tables.py --check    # exit 1 when one is out of date
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.planning.scales import SCALES
from bench.runs import plans
from bench.runs.folder import Runs
from reports.text.tables import to_markdown
from results.cells import load_table, plan_table
from results.regression import kept
from results.store import Store
from results.view import view

DOCS = Path(__file__).parent
PAGES = {
    "all_methods": "all_methods.md",
    "simclr_table1": "simclr_table1_embedded.md",
    "simclr_table6": "simclr_table6_embedded.md",
}


def pages() -> Iterator[tuple[str, str]]:
    """Names of the files and what they are to say: each table with the seeds of its reference."""
    with TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        kept.unpack(runs)
        seeds = {last.table: last.seeds for last in plans.read_all(runs) if last.scale == "embedded"}
        for table, page in PAGES.items():
            yield page, to_markdown(view(plan_table(load_table(table), SCALES["embedded"], seeds[table]), Store(runs)))


def main() -> int:
    """Rewrite or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path, default=DOCS)
    asked = parser.parse_args()
    stale = {
        page: text
        for page, text in pages()
        if not (asked.out / page).exists() or (asked.out / page).read_text(encoding="utf-8") != text
    }
    if asked.check:
        for page in stale:
            print(f"{page} does not show what the committed results say: python docs/make_tables.py")
        return int(bool(stale))
    for page, text in stale.items():
        (asked.out / page).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
