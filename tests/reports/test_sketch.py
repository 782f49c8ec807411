"""Lines as SVG text: every point in its place, nothing outside, no peak lost."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from bench.files import Json
from reports.figures import svg
from reports.figures.curves import (
    best_of_sweeps,
    probe_figure,
    probe_of,
    small_multiples,
    sweep_figure,
    training_curves,
)
from reports.figures.sketch import MOST_POINTS, Key, Line, Panel, draw, thinned
from tests.reports.conftest import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


def texts(drawn: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(drawn).iter(f"{SVG}text")]


def curve(drawn: str, place: int = 0) -> list[tuple[float, float]]:
    path = [
        p.attrib["d"] for p in ElementTree.fromstring(drawn).iter(f"{SVG}path") if "fill: none" in p.attrib["style"]
    ][place]
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@pytest.mark.parametrize("offset", [0.0, -3e7, 1e-9])
def test_points_keep_their_distances(offset: float) -> None:
    points = [(0.0, offset), (1.0, offset + 2.0), (3.0, offset - 1.0)]
    (x0, y0), (x1, y1), (x2, y2) = curve(
        draw([Panel(lines=[Line(points=points, colour=svg.SERIES[0])])], name="p", title="t")
    )
    assert (x2 - x0) / (x1 - x0) == pytest.approx(3, rel=0.01)
    assert (y2 - y0) / (y1 - y0) == pytest.approx(-0.5, rel=0.02)
    assert y1 < y0  # upwards


def test_a_level_line_and_a_single_point_are_drawn() -> None:
    level = draw([Panel(lines=[Line(points=[(0.0, 5.0), (1.0, 5.0)], colour=svg.INK)])], name="p", title="t")
    assert curve(level)[0][1] == curve(level)[1][1]
    single = draw([Panel(lines=[Line(points=[(0.0, 0.0)], colour=svg.INK)])], name="p", title="t")
    assert len(list(ElementTree.fromstring(single).iter(f"{SVG}circle"))) == 1
    assert draw([Panel(lines=[Line(points=[], colour=svg.INK)])], name="p", title="t") == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, {"0.25", "1.00"}),
        (0.0, 400.0, {"100", "400"}),
        (-1.0, 1.0, {"\N{MINUS SIGN}1.0"}),
        (0.0, 2e-4, {"5e-5"}),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: set[str]) -> None:
    drawn = draw([Panel(lines=[Line(points=[(0.0, low), (1.0, high)], colour=svg.INK)])], name="p", title="t")
    assert expected <= {text.replace(f"e{svg.MINUS}", "e-") for text in texts(drawn)}
    assert texts(drawn).count("0") >= (low == 0)


def test_thinning_loses_no_peak_and_keeps_the_order() -> None:
    points = [(float(step), math.sin(step)) for step in range(20_000)]
    points[7777] = (7777.0, 50.0)
    points[12_345] = (12_345.0, -50.0)
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS + 2
    assert {(7777.0, 50.0), (12_345.0, -50.0)} <= set(kept)
    assert kept == sorted(kept)
    assert thinned(points[:MOST_POINTS]) == points[:MOST_POINTS]


def test_the_legend_wraps_and_its_labels_are_text() -> None:
    keys = [Key(label=f"{place} {HOSTILE}") for place in range(5)]
    drawn = draw(
        [Panel(lines=[Line(points=[(0.0, 0.0), (1.0, 1.0)], colour=svg.INK)])], name="p", title=HOSTILE, keys=keys
    )
    root = ElementTree.fromstring(drawn)
    assert "<script" not in drawn
    assert root.attrib["aria-label"] == root.findtext(f"{SVG}title") == svg.clean(HOSTILE)
    heights = {element.attrib["y"] for element in root.iter(f"{SVG}text") if HOSTILE[:9] in (element.text or "")}
    assert len(heights) > 1


def test_ids_are_the_figures_own() -> None:
    both = [
        training_curves([("a", [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}])], name=name, title="t")
        for name in ("one", "two")
    ]
    ids = [re.findall(r'id="([^"]+)"', drawn) for drawn in both]
    assert ids == [["one-clip-0"], ["two-clip-0"]]
    assert re.findall(r"url\(#([^)]+)\)", both[1]) == ["two-clip-0"]


def test_a_method_has_a_panel_and_a_row_keeps_its_colour_over_panels() -> None:
    def runs(*labels: str) -> list[tuple[str, list[dict[str, float]]]]:
        return [(label, [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}]) for label in labels]

    drawn = small_multiples({"simclr": runs("a", "b"), "byol": runs("b", "c")}, term="loss", name="m", title="t")
    assert [text for text in texts(drawn) if text in ("simclr", "byol")] == ["simclr", "byol"]
    colours = [len(re.findall(rf"stroke: var\(--series-{place}, ", drawn)) for place in (1, 2, 3)]
    assert colours == [2, 3, 2]  # a line each and the legend's


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"test_top1_by_epoch": [10.0, 20.0]}, [(1.0, 10.0), (2.0, 20.0)]),
        (
            {"tests": [{"epoch": 6.7, "top1": 50.0, "top5": 80.0}, {"epoch": 20, "top1": 60}]},
            [(6.7, 50.0), (20.0, 60.0)],
        ),
        ({"curve": [{"epoch": 1, "top1": 5}]}, [(1.0, 5.0)]),
        ({"tests": [1, {"epoch": 1}, {"epoch": math.nan, "top1": 2.0}]}, []),
        ({"test_top1_by_epoch": "a"}, []),
        ({}, []),
    ],
)
def test_probe_curves_are_read_from_any_of_their_forms(
    details: dict[str, Json], expected: list[tuple[float, float]]
) -> None:
    assert probe_of(details) == expected


def test_a_probe_curve_has_a_line_for_each_row() -> None:
    drawn = probe_figure(
        [("a", [(1.0, 10.0), (2.0, 20.0)]), ("b", [(1.0, 20.0), (2.0, 30.0)]), ("none", [])], name="p", title="t"
    )
    assert {"a", "b", "epoch of the evaluation"} <= set(texts(drawn))
    assert probe_figure([("a", [])], name="p", title="t") == ""


def test_the_best_weight_decay_of_each_rate_is_drawn_over_the_rates() -> None:
    sweep: list[Json] = [
        {"learning_rate": rate, "weight_decay": decay, "val_top1": 50 + rate - 9 * decay}
        for rate in (1.0, 3.0)
        for decay in (0.0, 1.0)
    ]
    drawn = best_of_sweeps([("a", {"sweep": sweep})], name="s", title="t")
    (_, low), (_, high) = curve(drawn)
    assert {"1", "3", "learning rate"} <= set(texts(drawn))
    assert low > high  # 51 and 53: the heads without decay
    assert best_of_sweeps([("a", {"sweep": sweep[:2]})], name="s", title="t") == ""  # one rate is no sweep


def test_a_path_of_penalties_is_a_sweep_too() -> None:
    path: list[Json] = [{"penalty": penalty, "top1": 70 - penalty} for penalty in (10.0, 1.0, 0.1)]
    drawn = sweep_figure({"path": path, "chosen_by": "top1", "chosen": path[2]}, name="s", title="t")
    assert {"penalty", "top1, held-out split (%)", "chosen", "1.0e-01"} <= set(texts(drawn))
    assert sweep_figure({"path": path}, name="s", title="t") == ""
