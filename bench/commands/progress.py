"""What a running table looks like: a live view on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.execution.events import Event, Watcher
from bench.planning.graph import JobGraph
from bench.runs.folder import Runs, State
from bench.runs.metrics import waiting
from bench.wording import counted, duration

PLAIN_SECONDS = 30.0  # between progress lines in a pipe
SHOWN = 24  # lines of the live view; running jobs first


def describe(metrics: Mapping[str, float]) -> str:
    """Step, loss, speed and time left of a training, from its last line of metrics; "" when there is none."""
    if not {"step", "steps", "img_s"} <= metrics.keys():
        return ""
    step, steps = int(metrics["step"]), int(metrics["steps"])
    text = f"step {step}/{steps}"
    if "loss" in metrics:
        text += f"  loss {metrics['loss']:.3f}"
    text += f"  {metrics['img_s']:.0f} img/s"
    if step < steps and metrics.get("seconds"):
        text += f"  ETA {duration(metrics['seconds'] / step * (steps - step))}"
    if images := waiting(metrics):
        text += f"  {images}"
    return text


class PlainProgress:
    """One line an event, and a line a running training every half minute."""

    def __init__(self, graph: JobGraph, runs: Runs) -> None:
        self._graph, self._runs = graph, runs
        self._running: dict[str, float] = {}
        self._said = time.monotonic()
        self._ended = 0
        self._left = sum(runs[job.id].state() is not State.DONE for job in graph)

    def tell(self, event: Event) -> None:
        """Print it."""
        label = self._graph.jobs[event.job].label
        count = ""
        if event.what == "started":
            self._running[event.job] = time.monotonic()
        elif event.what in ("done", "failed", "blocked", "stopped", "cancelled"):
            self._ended += 1
            count = f"[{self._ended}/{self._left}] "
        took = ""
        if event.what in ("done", "failed") and event.job in self._running:
            took = f" after {duration(time.monotonic() - self._running[event.job])}"
        if event.what not in ("started", "elsewhere"):
            self._running.pop(event.job, None)
        tail = f": {event.message}" if event.message else ""
        print(f"{count}{event.what:<9} {label}{took}{tail}  ({event.job})", flush=True)

    def tick(self) -> None:
        """Print where the running trainings are, now and then."""
        if time.monotonic() - self._said < PLAIN_SECONDS:
            return
        self._said = time.monotonic()
        for job in self._running:
            text = describe(self._runs[job].last_metrics())
            if text:
                print(f"  ...     {self._graph.jobs[job].label}: {text}", flush=True)


class LiveProgress:
    """A table that redraws itself; events that matter stay above it."""

    def __init__(self, graph: JobGraph, runs: Runs) -> None:
        from rich.console import Console
        from rich.live import Live

        self._graph, self._runs = graph, runs
        self._what: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._already = sum(runs[job.id].state() is State.DONE for job in graph)
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)
        self._drawn = 0.0

    def __enter__(self) -> LiveProgress:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()
        self._live.stop()

    def tell(self, event: Event) -> None:
        """Remember it; failures are printed at once."""
        self._what[event.job] = event.what
        self._since[event.job] = time.monotonic()
        if event.what in ("failed", "set aside"):
            self._console.print(
                f"{event.what}: {self._graph.jobs[event.job].label}: {event.message}", markup=False, style="red"
            )
        self._draw()

    def tick(self) -> None:
        """Redraw twice a second."""
        if time.monotonic() - self._drawn > 0.5:
            self._draw()

    def _draw(self) -> None:
        from rich.table import Table
        from rich.text import Text

        self._drawn = time.monotonic()
        done = self._already + sum(what == "done" for what in self._what.values())
        grid = Table(
            box=None,
            title=Text(f"{done} of {counted(len(self._graph), 'job')} done"),
            title_justify="left",
            expand=False,
        )
        for name in ("state", "job", "", "time"):
            grid.add_column(name, no_wrap=name != "")
        running = [job for job, what in self._what.items() if what in ("started", "elsewhere")]
        others = [job for job in self._what if job not in running]
        for job in [*running, *reversed(others)][:SHOWN]:
            what = {"started": "running"}.get(self._what[job], self._what[job])
            style = {"running": "bold cyan", "done": "green", "failed": "bold red", "blocked": "yellow"}.get(what, "")
            text = describe(self._runs[job].last_metrics()) if job in running else ""
            took = duration(time.monotonic() - self._since[job]) if job in running else ""
            grid.add_row(Text(what, style=style), Text(self._graph.jobs[job].label), Text(text), Text(took))
        self._live.update(grid, refresh=True)


@contextmanager
def shown(graph: JobGraph, runs: Runs) -> Iterator[Watcher]:
    """The live view when stdout is a terminal, plain lines otherwise."""
    if sys.stdout.isatty():
        with LiveProgress(graph, runs) as live:
            yield live
    else:
        yield PlainProgress(graph, runs)
