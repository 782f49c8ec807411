"""Which steps have a line of metrics, what is shown between them, and how waiting for images is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.commands.progress import describe
from bench.errors import Stopped
from bench.runs.folder import RunFolder
from bench.runs.metrics import is_logged, waiting, waiting_share
from bench.settings.site import Site
from bench.spec import Resources
from bench.training import loop, pace
from bench.training.ranks import Ranks
from reports.job_view import read_job
from tests.conftest import tiny_pretrain

PARTS = {"forward_ms": 20.0, "backward_ms": 40.0, "optimizer_ms": 10.0}


def test_the_first_lines_come_after_1_2_5_10_steps_and_so_on_and_then_evenly() -> None:
    logged = [step for step in range(1, 1_000_001) if is_logged(step, 1_000_000)]
    early = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
    assert logged == [*early, *range(5000, 1_000_001, 5000)]


@pytest.mark.parametrize("total", [1, 6, 199, 200, 399])
def test_a_short_job_has_a_line_for_each_step(total: int) -> None:
    assert all(is_logged(step, total) for step in range(1, total + 1))


def test_a_job_whose_steps_do_not_divide_has_its_last_line_at_the_end() -> None:
    assert [step for step in range(1, 542) if is_logged(step, 541)] == [1, *range(2, 541, 2), 541]


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., loop.Place]:
    """A place of six steps' length, whose run folder has this name."""

    def make(name: str, stop_after: int = 1000) -> loop.Place:
        site = Site(root=tmp_path, runs=tmp_path, output=tmp_path, report=tmp_path)
        calls = iter(range(1, 1000))
        (tmp_path / name).mkdir(exist_ok=True)
        return loop.Place(
            RunFolder(tmp_path / name), site, Ranks(), torch.device("cpu"), lambda: next(calls) >= stop_after
        )

    return make


def test_what_the_clock_shows_is_seen_and_leaves_the_lines_as_they_are(
    place: Callable[..., loop.Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(tiny_pretrain(), epochs=6 / 14)
    monkeypatch.setattr(loop, "is_logged", lambda done, total: done in (1, 4, total))
    whole = place("whole")
    loop.pretrain(spec, whole)
    assert not whole.run.now.exists()
    monkeypatch.setattr(pace, "SECONDS", -1.0)  # whoever looks finds the last look long ago
    for stop, last in ((3, 3), (2, 5)):
        with pytest.raises(Stopped):
            loop.pretrain(spec, place("watched", stop))
        assert RunFolder(whole.run.path.parent / "watched").last_metrics()["step"] == last
    watched = place("watched")
    with watched.run.metrics.open("a") as file:
        file.write('{"step": 6}\n')  # of a process that was killed: dropped, as is what it showed
    (watched.run.now).write_text(json.dumps({"step": 6}))
    loop.pretrain(spec, watched)
    assert [line["step"] for line in watched.run.curves()] == [1, 4, 6]
    assert [line["loss"] for line in watched.run.curves()] == [line["loss"] for line in whole.run.curves()]
    assert watched.run.last_metrics()["step"] == 6


def test_the_share_of_waiting_counts_for_images_from_files_only() -> None:
    line = {"step": 5, "wait_ms": 30.0, **PARTS}
    assert waiting_share(line) is None  # in memory: the process makes them itself
    assert waiting_share(line | {"unreadable_images": 0}) == pytest.approx(0.3)
    assert waiting_share({"step": 5, "unreadable_images": 0}) is None
    assert waiting(line) == ""


def test_status_and_the_jobs_page_say_how_much_of_a_step_waits_for_images(tmp_path: Path) -> None:
    line = {"step": 5, "steps": 10, "img_s": 1000.0, "unreadable_images": 0.0, "wait_ms": 30.0, **PARTS}
    slow = "waits for images 30% of the time (slow: `bench doctor --throughput` says what bounds it)"
    assert describe(line).endswith(f"1000 img/s  {slow}")
    assert describe(line | {"wait_ms": 3.5}).endswith("1000 img/s  waits for images 5% of the time")
    run = RunFolder(tmp_path / "pretrain-0123456789abcdef")
    run.path.mkdir()
    run.job_file.write_text(json.dumps({"format": 1, "label": "x", "resources": vars(Resources())}))
    run.metrics.write_text(json.dumps(line | {"step": 4}) + "\n")
    assert run.claim()
    run.now.write_text(json.dumps(line))
    view = read_job(run)
    assert view is not None
    assert (view.progress, view.waiting) == ("step 5 of 10", slow)
    run.release()


def test_a_slow_loader_is_named_in_the_log_once(
    place: Callable[..., loop.Place], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pace, "waiting_share", lambda line: 0.4)
    monkeypatch.setattr(pace, "waiting", lambda line: "waits for images 40% of the time")
    monkeypatch.setattr(pace, "WARM_STEPS", 2)
    loop.pretrain(replace(tiny_pretrain(), epochs=6 / 14), place("run"))
    said = [line for line in capsys.readouterr().out.splitlines() if "waits" in line]
    assert said == ["slow at step 3: the run waits for images 40% of the time"]
