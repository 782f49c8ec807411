"""metrics.jsonl of a run folder: a line for every so many steps of a long job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bench.files import write_atomic


def append_metrics(metrics: Path, line: Mapping[str, float]) -> None:
    """One more line; `step` and `steps` among its keys, so that progress is shown."""
    with metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(line)) + "\n")


def truncate_metrics(metrics: Path, step: int) -> None:
    """Drop lines from after a checkpoint, so that each step stands once."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_atomic(metrics, "".join(kept))
