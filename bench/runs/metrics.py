"""metrics.jsonl of a run folder: a line for every so many steps of a long job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bench.files import write_atomic

LINES = 200  # of a whole job, evenly spread
SECONDS = 60.0  # at most, from one look at a job that runs to the next
SLOW_SHARE = 0.1  # of the time of a step: more of it spent on waiting for images is a warning


def is_logged(done: int, total: int, lines: int = LINES) -> bool:
    """Whether a line of metrics falls on the step that makes `done`: a matter of the numbers alone, not of the clock.

    At the end, so many times evenly, and early.
    """
    every = max(1, total // lines)
    return done % every == 0 or done == total or is_early(done, every)


def is_early(done: int, every: int) -> bool:
    """Before the first evenly spaced line, which may be half an hour off: after 1, 2, 5, 10, 20, 50 steps and so on."""
    return done < every and int(str(done).rstrip("0")) in (1, 2, 5)


def waiting_share(line: Mapping[str, float]) -> float | None:
    """The share of a step that goes to waiting for images from files; None where a line has none, or no parts."""
    parts = [value for name, value in line.items() if name.endswith("_ms")]
    if "wait_ms" not in line or "unreadable_images" not in line or sum(parts) <= 0:
        return None
    return line["wait_ms"] / sum(parts)


def waiting(line: Mapping[str, float]) -> str:
    """The same in words; "" for None."""
    share = waiting_share(line)
    if share is None:
        return ""
    slow = " (slow: `bench doctor --throughput` says what bounds it)" if share > SLOW_SHARE else ""
    return f"waits for images {share:.0%} of the time{slow}"


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
