"""Write docs/differences.md: where methods and protocols differ from their authors' released code.

python docs/make_differences.py            # rewrite it
python docs/make_differences.py --check    # exit 1 when it is out of date
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

from bench import plugins
from bench.contracts import Difference

PAGE = Path(__file__).parent / "differences.md"
HEAD = """# Where this project differs from released code

The authors' released code was run beside the recipes of the scale `paper`: losses, gradients, optimizers, schedules,
views, heads and protocols. What is listed here is what stays different, why, and what is expected of it. What is not
listed was found equal or could not be compared: whole pretrainings on many GPUs, and what was never released. The
lists are data, `DIFFERENCES` of each file; `bench list methods --differences`, `bench list evals --differences` and
the pages of a report show them, and `python docs/make_differences.py` writes this page.
"""


def text() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_house("methods", "method"), *_house("evals", "evaluation")])


def _house(folder: str, kind: str) -> Iterator[str]:
    yield f"## {folder}/\n"
    for name in plugins.names(kind):
        file = plugins.method(name) if kind == "method" else plugins.evaluation(name)
        yield f"### `{folder}/{name}.py`\n"
        yield _table(file.differences) if file.differences else f"{_reason(kind, name)}\n"


def _table(differences: tuple[Difference, ...]) -> str:
    lines = ["| what | released code | here | why | expected effect |", "|---|---|---|---|---|"]
    for difference in differences:
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in astuple(difference)) + " |")
    return "\n".join(lines) + "\n"


def _reason(kind: str, name: str) -> str:
    """Why the list is empty, from the docstring."""
    docstring = str(plugins.load(kind, name).__doc__)
    reason = " ".join(docstring.partition("DIFFERENCES is empty: ")[2].split("\n\n")[0].split())
    return f"Nothing to compare with: {reason}"


def main() -> int:
    """Rewrite or check the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is out of date")
    parser.add_argument("--out", type=Path, default=PAGE)
    asked = parser.parse_args()
    if asked.out.exists() and asked.out.read_text(encoding="utf-8") == text():
        return 0
    if asked.check:
        print(f"{asked.out.name} does not show what the files list: python docs/make_differences.py")
        return 1
    asked.out.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
