"""`bench status`; with --watch redrawn in place on a terminal, elsewhere a new block when something has changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.commands.jobs import Standing, show_status, standing_of
from bench.errors import BenchError
from bench.runs import drivers
from bench.runs.folder import Runs
from bench.settings.site import Site
from bench.wording import counted

SECONDS = 2.0
SLURM_SECONDS = 5.0  # where each look asks Slurm
UNFINISHED = ("running", "queued", "starting", "ending")
BAR = 30  # characters


def status(site: Site, tables: Sequence[str], *, watch: bool) -> int:
    """Show how things stand, with `watch` until nothing runs; the exit code: 130 when interrupted."""
    if not watch:
        show_status(site, tables)
        return 0
    rounds = _rounds(Runs(site.runs), tables)
    try:
        if sys.stdout.isatty():
            _redraw(rounds)
        else:
            _append(rounds)
    except KeyboardInterrupt:
        print("\nno longer watching; what runs goes on", flush=True)
        return 130
    return 0


def _rounds(runs: Runs, tables: Sequence[str]) -> Iterator[Standing]:
    """How things stand, now and then, to the last time: when no job runs and no `bench run` will start another."""
    while True:
        driven = drivers.working_on(runs)  # before the look: what a driver has left behind then is seen
        if tables:
            driven = {name for name in driven if name.partition("@")[0] in tables}
        try:
            standing = standing_of(runs, tables)
        except BenchError:
            if not driven:
                raise
            standing = Standing((), {})  # of a table that was never run before nothing is written yet
        planning = sorted(driven - standing.states.keys())
        standing = replace(standing, lines=(*standing.lines, *(f"{name}: starting" for name in planning)))
        yield standing
        unfinished = {
            name for name, states in standing.states.items() if any(state != "done" for state in states.values())
        }
        words = {word for states in standing.states.values() for word in states.values()}
        if not (planning or driven & unfinished or words.intersection(UNFINISHED)):
            return
        time.sleep(SLURM_SECONDS if standing.slurm else SECONDS)


def _append(rounds: Iterator[Standing]) -> None:
    """A block whenever the state of a job has changed."""
    before = None
    for standing in rounds:
        told = (standing.states, standing.lines if not standing.states else len(standing.lines))
        if told != before:
            print("\n".join(standing.lines), flush=True)
        before = told


def _redraw(rounds: Iterator[Standing]) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        for standing in rounds:
            text = "\n".join([*standing.lines, *_bar(standing)])
            live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)


def _bar(standing: Standing) -> list[str]:
    """How much of everything that is shown is done, each job once."""
    words = {job: word for states in standing.states.values() for job, word in states.items()}
    if not words:
        return []
    done = sum(word == "done" for word in words.values())
    filled = BAR * done // len(words)
    return [f"[{'#' * filled}{'-' * (BAR - filled)}] {done} of {counted(len(words), 'job')} done"]
