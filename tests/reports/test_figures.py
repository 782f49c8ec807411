"""The figures: what is drawn where, and that several of them can stand inline on one page."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from bench.files import Json
from reports.figures.curves import sweep_figure, training_curves
from reports.figures.dots import dot_plot
from reports.figures.svg import HERE, PAPER, REFERENCE, SERIES
from results.view import CellView
from tests.reports.conftest import HOSTILE, TABLE, Demo

TOP1 = TABLE.column("Top-1")
SVG = "{http://www.w3.org/2000/svg}"
CURVES: list[dict[str, float]] = [
    {"step": step, "loss": 5.0 / step, "img_s": 900.0, "epoch": step / 9} for step in range(1, 10)
]
SWEEP: list[Json] = [
    {"learning_rate": rate, "weight_decay": decay, "val_top1": 90 + rate - decay}
    for rate in (0.0, 0.1, 1.0)
    for decay in (0.0, 0.01)
]


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def marks(svg: str, color: str, *, filled: bool) -> list[tuple[float, float]]:
    """Positions of the markers of one colour inside the axes."""
    wanted = re.compile(rf"fill: var\([\w-]+, {color}\)" if filled else rf"stroke: var\([\w-]+, {color}\)")
    groups = [(group, group.attrib.get("id", "")) for group in ElementTree.fromstring(svg).iter(f"{SVG}g")]
    in_legends = {use for group, name in groups if re.search(r"-legend_\d+$", name) for use in group.iter(f"{SVG}use")}
    drawn = [use for group, name in groups if re.search(r"-axes_\d+$", name) for use in group.iter(f"{SVG}use")]
    uses = [use for use in drawn if use not in in_legends and wanted.search(use.attrib.get("style", ""))]
    return [(float(use.attrib["x"]), float(use.attrib["y"])) for use in uses]


def test_dot_plot_draws_published_measured_and_references_apart(demo: Demo) -> None:
    svg = dot_plot(demo.embedded, TOP1, name="dots")
    published, measured, references = (
        marks(svg, PAPER, filled=False),
        marks(svg, HERE, filled=True),
        marks(svg, REFERENCE, filled=True),
    )
    assert (len(published), len(measured), len(references)) == (5, 2, 2)
    rows = {round(y) for _, y in published}
    assert {round(y) for _, y in measured} <= rows
    assert all(y > max(rows) for _, y in references)  # under the paper's rows


def test_dot_plot_keeps_other_scales_off_the_papers_axis(demo: Demo) -> None:
    panels = [
        len(re.findall(r'id="dots-axes_\d"', dot_plot(view, TOP1, name="dots"))) for view in (demo.embedded, demo.paper)
    ]
    assert panels == [2, 1]


def test_dot_plot_names_the_rows_and_why_one_has_no_dot(demo: Demo) -> None:
    found = texts(dot_plot(demo.embedded, TOP1, name="dots"))
    assert {"SimCLR, ResNet-50 (2x)", "Raw pixels", "not implemented", "blocked"} <= set(found)


def test_dot_plot_has_error_bars_only_with_several_seeds(demo: Demo) -> None:
    def bars(view: CellView) -> float:
        cells = {**demo.embedded.cells, ("SimCLR, ResNet-50", "Top-1"): view}
        root = ElementTree.fromstring(dot_plot(replace(demo.embedded, cells=cells), TOP1, name="d"))
        lines = [
            path.attrib["d"].split() for path in root.iter(f"{SVG}path") if f", {HERE})" in path.attrib.get("style", "")
        ]
        return max(abs(float(line[4]) - float(line[1])) for line in lines if line[3:4] == ["L"])

    spread = demo.embedded.cells["SimCLR, ResNet-50", "Top-1"]
    assert bars(replace(spread, measured=(90.0, 98.0))) > 3 * bars(replace(spread, measured=(94.0,)))


def test_a_reference_far_from_all_rows_does_not_press_them_together(demo: Demo) -> None:
    far = CellView(published="", measured=(0.1,), digits=1, status="done", jobs=("j",))
    near = replace(far, measured=(69.0,))
    own = {("Random encoder, ResNet-50", "Top-1"): far, ("Raw pixels", "Top-1"): near}
    view = replace(demo.paper, cells={**demo.paper.cells, **own})
    svg = dot_plot(view, TOP1, name="dots")
    assert "\N{LEFTWARDS ARROW} 0.1" in texts(svg)
    assert len(marks(svg, REFERENCE, filled=True)) == 1  # the other one


def test_dot_plot_of_nothing_is_nothing(demo: Demo) -> None:
    empty = CellView(published="", measured=(), digits=1, status="pending", jobs=())
    assert dot_plot(replace(demo.embedded, cells=dict.fromkeys(demo.embedded.cells, empty)), TOP1, name="dots") == ""


def test_labels_are_text_and_never_markup(demo: Demo) -> None:
    svg = dot_plot(demo.embedded, TOP1, name="dots")
    assert "<script" not in svg
    assert any(text.startswith(HOSTILE[:20]) for text in texts(svg))


@pytest.mark.parametrize("label", ["cost $5 and $6", "a\x1b[31mb", "\N{CJK UNIFIED IDEOGRAPH-6570}", 'id="x" url(#y)'])
def test_odd_labels_are_drawn(label: str) -> None:
    svg = training_curves([(label, CURVES), ("b", CURVES)], name="c", title=label)
    assert any(text.startswith(label[:1]) for text in texts(svg))


def test_figures_do_not_share_ids_and_point_to_their_own() -> None:
    both = [training_curves([("a", CURVES)], name=name, title="t") for name in ("one", "two")]
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in both]
    assert ids[0].isdisjoint(ids[1])
    for svg, own in zip(both, ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= own
        assert "clip-path" in svg  # there is something to point to


def test_svg_is_fit_for_inlining(demo: Demo) -> None:
    svg = dot_plot(demo.embedded, TOP1, name="dots")
    root = ElementTree.fromstring(svg)
    assert svg.startswith("<svg ")  # no XML declaration, no doctype
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == root.findtext(f"{SVG}title")
    assert not list(root.iter(f"{SVG}style"))  # would act on the whole page
    assert "font-family" not in svg
    assert "var(--ink, " in svg  # the page's colours, light or dark


def test_bytes_are_deterministic(demo: Demo) -> None:
    assert dot_plot(demo.embedded, TOP1, name="dots") == dot_plot(demo.embedded, TOP1, name="dots")


def test_training_curves_have_a_panel_for_each_term_and_the_loss_first() -> None:
    curves = [{**line, "redundancy": 1.0, "accuracy": 2.0, "lr": 0.1} for line in CURVES]
    titles = [
        text
        for text in texts(training_curves([("a", curves)], name="c", title="t"))
        if text.isidentifier() and text != "step"
    ]
    assert titles == ["loss", "accuracy", "redundancy", "lr"]


def test_runs_of_one_label_share_a_colour_and_a_legend_entry() -> None:
    svg = training_curves([("a", CURVES), ("a", CURVES), ("b", CURVES)], name="c", title="t")
    found = texts(svg)
    assert (found.count("a"), found.count("b")) == (1, 1)
    drawn = [len(re.findall(rf"stroke: var\(--series-\d, {color}\)", svg)) for color in SERIES[:3]]
    assert drawn == [3, 2, 0]  # a line each, and one in the legend


def test_training_curves_survive_holes() -> None:
    curves: list[dict[str, float]] = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}, {"loss": 3.0}]
    svg = training_curves([("a", curves), ("b", [])], name="c", title="t")
    assert "nan" not in svg.lower()
    assert training_curves([("a", [{"step": 1, "loss": float("inf")}])], name="c", title="t") == ""
    assert training_curves([], name="c", title="t") == ""


def test_sweep_has_a_line_for_each_weight_decay_and_rings_the_chosen_head() -> None:
    svg = sweep_figure({"sweep": SWEEP, "chosen": SWEEP[4]}, name="s", title="t")
    found = texts(svg)
    assert {"0", "0.1", "1", "weight decay 0", "weight decay 0.01", "chosen"} <= set(found)
    rings = [
        mark.attrib
        for mark in ElementTree.fromstring(svg).iter(f"{SVG}circle")
        if f"stroke: var(--series-2, {SERIES[1]})" in mark.attrib["style"]
    ]
    assert len(rings) == 2  # the head, and the legend's
    assert "chosen" not in texts(sweep_figure({"sweep": SWEEP}, name="s", title="t"))


@pytest.mark.parametrize("details", [{}, {"sweep": "a"}, {"sweep": [1, {"learning_rate": 1}]}, {"sweep": []}])
def test_no_sweep_no_figure(details: dict[str, Json]) -> None:
    assert sweep_figure(details, name="s", title="t") == ""
