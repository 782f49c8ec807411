"""The command `bench`, by a name that no other distribution has: only so can it find out that `bench` is another's."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """What `bench` runs; exit code 2 when Python would import another package called bench."""
    spec = importlib.util.find_spec("bench")
    ours = Path(__file__).resolve().parent / "bench"
    found = None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent
    if found != ours:
        print(
            f"error: the package bench is imported from {found or 'nowhere'}, which is not this project's ({ours}): "
            "another distribution or folder has taken its name. Take that folder out of PYTHONPATH, uninstall the "
            "distribution, or give this project an environment of its own.",
            file=sys.stderr,
        )
        sys.exit(2)
    from bench.cli import main as command

    command()


if __name__ == "__main__":
    main()
