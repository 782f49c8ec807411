"""`bench status`, `logs` and `cancel`: read and touch run folders, import neither torch nor any plug-in."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Sequence

from bench import manifest
from bench.errors import BenchError
from bench.manifest import Manifest
from bench.progress import describe
from bench.runs import RunFolder, Runs, State
from bench.site import Site

WATCH_SECONDS = 2.0


def show_status(site: Site, tables: Sequence[str], *, watch: bool) -> None:
    """One line a table, or with names one line a job; `watch` repeats it until nothing runs."""
    runs = Runs(site.runs)
    while True:
        found = manifest.of_table(runs, tables)
        if not found:
            print(f"nothing was run under {runs.root}: `bench run --table simclr_table6` starts the first table")
            return
        running = False
        for m in found:
            states = manifest.states(m, runs)
            running = running or State.RUNNING in states.values()
            print(f"{m.name}: {_counts(states)}", flush=True)
            if tables:
                for line in _job_lines(m, states, runs):
                    print(line, flush=True)
        if not watch or not running:
            return
        time.sleep(WATCH_SECONDS)


def show_log(site: Site, job: str, *, follow: bool) -> None:
    """Print the log; `follow` goes on until the job is neither running nor waiting."""
    run = Runs(site.runs).find(job)
    if not run.log.exists() and not follow:
        print(f"{run.job_id} has no log yet ({run.state()})")
        return
    position = 0
    while True:
        over = run.state() not in (State.RUNNING, State.PENDING)
        if run.log.exists():
            with run.log.open(errors="replace") as file:
                file.seek(position)
                print(file.read(), end="", flush=True)
                position = file.tell()
        if not follow or over:
            return
        time.sleep(0.5)


def cancel(site: Site, job: str | None, tables: Sequence[str]) -> None:
    """Cancel one job, or every unfinished job of some tables."""
    runs = Runs(site.runs)
    folders = [runs.find(job)] if job else [runs[j.id] for m in manifest.of_table(runs, tables) for j in m.jobs]
    cancelled = [run for run in dict.fromkeys(folders) if _cancel(run)]
    print(f"cancelled {len(cancelled)} of {len(folders)} jobs; done ones stay, `bench run` starts the others again")


def _cancel(run: RunFolder) -> bool:
    state = run.state()
    if state in (State.DONE, State.FAILED, State.CANCELLED):
        return False
    run.cancel()
    claim = run.claim_holder()
    if state is State.RUNNING and claim is not None:
        if claim.host != socket.gethostname():
            raise BenchError(f"{run.job_id} runs on {claim.host}: run `bench cancel` there.")
        try:
            os.kill(claim.pid, signal.SIGTERM)
        except ProcessLookupError:
            return True
    return True


def _counts(states: dict[str, State]) -> str:
    counts = Counter(states.values())
    return ", ".join(f"{counts[state]} {state}" for state in State if counts[state])


def _job_lines(m: Manifest, states: dict[str, State], runs: Runs) -> list[str]:
    lines = []
    for job in m.jobs:
        state = states[job.id]
        note = ""
        if state is State.RUNNING:
            note = describe(runs[job.id].last_metrics())
        elif state is State.FAILED:
            note = runs[job.id].failure().message
        lines.append(f"  {state:<9} {job.id:<26} {job.label}{'  ' + note if note else ''}")
    return lines
