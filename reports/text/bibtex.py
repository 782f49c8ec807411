"""A BibTeX entry for a table's paper, of the facts that the table file has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reports.text.latex import latex
from results.table import Table


def entry(table: Table) -> str:
    """An @misc with the eprint number; "" for a table of no paper."""
    if not table.arxiv:
        return ""
    key = re.sub(r"[^a-z0-9]+", "", table.paper.lower()) or "paper"
    number = re.sub(r"[^\w.\-/]", "", table.arxiv)
    fields = {
        "title": f"{{{latex(table.paper)}}}",
        "eprint": number,
        "archivePrefix": "arXiv",
        "url": f"https://arxiv.org/abs/{number}",
    }
    return (
        f"@misc{{{key}-{number},\n"
        + "".join(f"  {name:<13} = {{{value}}},\n" for name, value in fields.items())
        + "}\n"
    )


def entries(tables: Sequence[Table]) -> str:
    """Every paper once, in the order of the tables."""
    return "\n".join(dict.fromkeys(text for table in tables if (text := entry(table))))
