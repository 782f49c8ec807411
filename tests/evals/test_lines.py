"""Long evaluations say early, each minute and at the same steps where they stand, and what they wait for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.contracts import Context, Subject
from bench.data import datasets
from bench.errors import Stopped
from bench.runs.folder import RunFolder
from bench.runs.metrics import waiting, waiting_share
from bench.training import pace
from evals import linear, linear_augmented, semi_supervised
from evals.parts import augmented_heads, finetune
from tests.evals.known_answers import as_files, own_place, small, splits, subject

HEADS = linear_augmented.Config(learning_rates=(0.02, 0.2), epochs=3, batch_size=32)
TUNING = semi_supervised.Config(label_fraction=1.0, batch_size=16, epochs=2, lr_backbone=0.01, lr_head=0.1, tests=1)
PARTS = {"wait_ms", "forward_ms", "optimizer_ms"}


def network() -> Subject:
    """One that fine-tuning can train."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 8))
    return Subject(key="small", network=layers.eval().requires_grad_(False), feature_dim=8)


PROTOCOLS: dict[str, tuple[Any, Any]] = {
    "heads": (lambda context: linear_augmented.evaluate(HEADS, subject(), context), augmented_heads),
    "fine-tuning": (lambda context: semi_supervised.evaluate(TUNING, network(), context), finetune),
}


@pytest.fixture
def place(context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Context:
    monkeypatch.setitem(datasets.LOADERS, "mnist5k", lambda site, size: splits(doubt=40.0))
    return own_place(small(context), tmp_path / "job")


def run_of(context: Context) -> RunFolder:
    assert context.folder is not None
    return RunFolder(context.folder)


def curves(context: Context) -> list[dict[str, float]]:
    return [json.loads(line) for line in run_of(context).metrics.read_text().splitlines()]


def seldom(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """Lines at the end alone."""
    if module is augmented_heads:
        monkeypatch.setattr(module, "is_logged", lambda done, total: done == total)
    else:
        monkeypatch.setattr(module, "LOGGED_STEPS", 1)
        monkeypatch.setattr(module, "is_early", lambda done, every: False)


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_a_line_says_where_the_job_stands_how_long_it_took_and_on_what(name: str, place: Context) -> None:
    evaluate, _ = PROTOCOLS[name]
    evaluate(place)
    found = curves(place)
    assert [line["step"] for line in found[:2]] == [1, 2]
    for line in found:
        assert {"steps", "epoch", "loss", "img_s", "seconds"} | PARTS <= line.keys()
        assert "unreadable_images" not in line  # in memory nothing waits for files
        assert line["forward_ms"] > 0
    assert [line["seconds"] for line in found] == sorted(line["seconds"] for line in found)


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_between_two_lines_a_job_shows_each_minute_where_it_stands(
    name: str, place: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evaluate, module = PROTOCOLS[name]
    seldom(monkeypatch, module)
    whole = own_place(place, tmp_path / "whole")
    expected = evaluate(whole)
    assert not run_of(whole).now.exists()
    monkeypatch.setattr(pace, "SECONDS", -1.0)  # whoever looks finds the last look long ago
    answers = iter([False] * 4 + [True])
    with pytest.raises(Stopped):
        evaluate(replace(place, should_stop=lambda: next(answers)))
    last = run_of(place).last_metrics()
    assert (last["step"], last["steps"]) == (5, curves(whole)[-1]["steps"])
    assert {"loss", "seconds", "img_s"} <= last.keys()
    assert evaluate(place) == expected  # digits do not depend on who looks
    assert [line["step"] for line in curves(place)] == [line["step"] for line in curves(whole)]


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_of_images_from_files_the_share_of_waiting_is_known_and_a_slow_loader_named(
    name: str,
    place: Context,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = as_files(splits(sizes=(60, 30, 60)), tmp_path)
    monkeypatch.setitem(datasets.LOADERS, "mnist5k", lambda site, size: made)
    monkeypatch.setattr(pace, "WARM_STEPS", 1)
    monkeypatch.setattr(pace, "SLOW_SHARE", 0.0)  # a share of images that are decoded in the process
    evaluate, _ = PROTOCOLS[name]
    evaluate(place)
    for line in curves(place):
        assert line["unreadable_images"] == 0
        assert 0 < (waiting_share(line) or 0) < 1
        assert waiting(line).startswith("waits for images")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("slow")]
    assert len(said) == 1
    assert said[0].startswith("slow at step 2: the run waits for images")


def test_heads_on_cached_features_show_where_they_stand(place: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    config = linear.Config(learning_rates=(0.1,), weight_decays=(0.0,), epochs=2, minimum_steps=20)
    expected = linear.evaluate(config, subject(), place)
    assert not run_of(place).now.exists()
    monkeypatch.setattr(pace, "SECONDS", -1.0)
    assert linear.evaluate(config, subject(), place) == expected
    last = run_of(place).last_metrics()
    assert (last["step"], last["steps"]) == (20, 20)
    assert not run_of(place).metrics.exists()
