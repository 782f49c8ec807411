"""The figures of singular values: what is drawn, what is left out, and on which pages they stand."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.files import Json
from bench.planning.graph import plan
from bench.planning.scales import scale_of
from bench.runs.folder import Runs
from bench.runs.result import Provenance, Result
from bench.spec import Evaluate, Resources
from reports.build import build
from reports.figures.spectra import dynamics_figure, spectra_of, spectrum_figure
from reports.figures.svg import RAMP, SERIES
from results.cells import plan_table
from results.store import Store
from results.table import Column, Row, Table
from results.view import view

SVG = "{http://www.w3.org/2000/svg}"
SPECTRA: list[Json] = [
    {"label": "embedding", "values": [1.0, 0.1, 0.01]},
    {"label": "representation", "values": [10.0, 1.0, 0.0, 0.0]},
]
DYNAMICS: dict[str, Json] = {
    "steps": [0, 1, 10, 100],
    "singular_values": {"first layer": [[1.0, 0.5], [1.1, 0.5], [1.5, 0.4], [2.0, 0.0]], "embedding": [[1.0, 0.1]] * 4},
    "alignment": [0.2, 0.3, 0.7, 1.0],
    "alignment_matrix": [[1.0, 0.0], [0.0, 1.0]],
}


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def lines(svg: str, color: str) -> list[list[tuple[float, float]]]:
    """The points of every line of one colour."""
    paths = [
        path.attrib
        for path in ElementTree.fromstring(svg).iter(f"{SVG}path")
        if f", {color})" in path.attrib.get("style", "")
    ]
    numbers = [
        [float(number) for number in re.findall(r"-?[\d.]+", path["d"])]
        for path in paths
        if "fill: none" in path["style"]
    ]
    return [list(zip(found[::2], found[1::2], strict=True)) for found in numbers if len(found) > 2]


def test_a_spectrum_is_drawn_as_logarithms_over_the_index() -> None:
    svg = spectrum_figure({"spectra": SPECTRA[:1]}, name="s", title="t")
    (drawn,) = lines(svg, SERIES[0])
    assert len(drawn) == 3
    (x0, y0), (x1, y1), (x2, y2) = drawn
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.01)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.01)  # a decade each
    assert y1 > y0  # downwards
    assert {"index", "log10 singular value"} <= set(texts(svg))
    assert "embedding" not in texts(svg)  # one line needs no legend


def test_each_label_has_a_line_and_zeros_are_left_out() -> None:
    svg = spectrum_figure({"spectra": SPECTRA}, name="s", title="t")
    assert {"embedding", "representation"} <= set(texts(svg))
    # in the legend they are level
    falling = [[line for line in lines(svg, color) if line[0][1] != line[-1][1]] for color in SERIES[:2]]
    assert [[len(line) for line in found] for found in falling] == [[3], [2]]
    assert "nan" not in svg.lower()
    assert "inf" not in svg.lower()


def test_rounding_far_below_the_largest_value_does_not_press_the_rest_together() -> None:
    def height(values: list[Json]) -> float:
        (drawn,) = lines(
            spectrum_figure({"spectra": [{"label": "a", "values": values}]}, name="s", title="t"), SERIES[0]
        )
        return abs(drawn[1][1] - drawn[0][1])

    assert height([1.0, 1e-6, 1e-300]) == pytest.approx(height([1.0, 1e-6, 1e-13]), rel=0.01)
    assert height([1.0, 1e-6, 1e-300]) > 50


@pytest.mark.parametrize(
    "details",
    [
        {},
        {"spectra": "a"},
        {"spectra": []},
        {"spectra": [1, {"label": "a"}, {"values": [1.0]}, {"label": 3, "values": [1.0]}]},
        {
            "spectra": [
                {"label": "a", "values": []},
                {"label": "b", "values": [1.0, "x"]},
                {"label": "c", "values": [0.0, 0.0]},
            ]
        },
        {"spectra": [{"label": "a", "values": [math.nan, math.inf]}]},
    ],
)
def test_no_spectrum_no_figure(details: dict[str, Json]) -> None:
    assert spectrum_figure(details, name="s", title="t") == ""


def test_dynamics_have_a_panel_for_each_matrix_then_the_alignment_and_its_last_matrix() -> None:
    svg = dynamics_figure({"dynamics": DYNAMICS}, name="d", title="t")
    titles = [text for text in texts(svg) if "singular" in text or "alignment" in text]
    assert titles == [
        "first layer, log10 singular values",
        "embedding, log10 singular values",
        "alignment, mean of the diagonal",
        "last alignment matrix, 0 to 1",
    ]
    assert [len(line) for line in lines(svg, RAMP[-1])] == [3, 3]  # the largest value, darkest; step 0 has no logarithm
    assert [len(line) for line in lines(svg, RAMP[0])] == [2, 3]  # nor has a value of 0
    (drawn,) = lines(svg, SERIES[0])
    assert [x - drawn[0][0] for x, _ in drawn] == pytest.approx(
        [0, drawn[1][0] - drawn[0][0], 2 * (drawn[1][0] - drawn[0][0])], abs=0.01
    )
    assert {"1", "10", "100"} <= set(texts(svg))
    assert "$" not in svg
    cells = [re.findall(rf"fill: var\(--ramp-\d, {color}\)", svg) for color in (RAMP[0], RAMP[-1])]
    assert [len(found) for found in cells] == [2, 2]


def test_dynamics_of_one_layer_have_no_alignment() -> None:
    svg = dynamics_figure(
        {"dynamics": {key: DYNAMICS[key] for key in ("steps", "singular_values")}}, name="d", title="t"
    )
    assert not any("alignment" in text for text in texts(svg))


@pytest.mark.parametrize(
    "dynamics",
    [
        None,
        [],
        {},
        {"steps": [0, 1]},
        {"steps": [0, 1], "singular_values": [1]},
        {"steps": [0, 1], "singular_values": {"a": [[1.0]]}},
        {"steps": ["0", 1], "singular_values": {"a": [[1.0], [1.0]]}},
        {"steps": [0, 1], "singular_values": {"a": [[1.0], [1.0, 2.0]]}},
        {"steps": [], "singular_values": {"a": []}},
    ],
)
def test_damaged_dynamics_are_no_figure(dynamics: Json) -> None:
    assert dynamics_figure({"dynamics": dynamics}, name="d", title="t") == ""


def test_figures_are_fit_for_inlining_and_deterministic() -> None:
    for draw, details in ((spectrum_figure, {"spectra": SPECTRA}), (dynamics_figure, {"dynamics": DYNAMICS})):
        first = draw(details, name="one", title="a < b")
        root = ElementTree.fromstring(first)
        assert root.attrib["aria-label"] == "a < b"
        assert first == draw(details, name="one", title="a < b")
        ids = set(re.findall(r'id="([^"]+)"', first))
        assert all(name.startswith("one-") for name in ids)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', first)) <= ids
        assert "base64" not in first  # nothing but vectors


def test_spectra_are_read_tolerantly() -> None:
    assert spectra_of({"spectra": [*SPECTRA, "x", {"label": "a"}]}) == [
        ("embedding", [1.0, 0.1, 0.01]),
        ("representation", [10.0, 1.0, 0.0, 0.0]),
    ]


def _rank(name: str) -> Column:
    return Column(
        name=name, metric=f"{name}_effective_rank", protocol="spectrum", unit="", higher_is_better=None, printed=False
    )


TABLE = Table(
    id="spectra",
    paper="DirectCLR",
    arxiv="2110.09348",
    number="1",
    title="t",
    columns=(_rank("representation"), _rank("embedding")),
    rows=(
        Row(label="First <b>", method="directclr"),
        Row(label="Second", method="simclr"),
        Row(label="Toy", method="random"),
    ),
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows with spectra and one whose spectrum has a label of its own, dynamics, and detail that is no spectrum."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    provenance = Provenance(
        started="2025-11-22T10:00:00+00:00", seconds=1.0, cpu_seconds=1.0, host="h", device="cpu", ranks=1, threads=1,
        commit="0", versions={"python": "3.11"}, resumed=0,
    )  # fmt: skip
    for cell in plan_table(TABLE, scale_of("embedded"), 1).cells:
        for job in plan([(cell.label, cell.spec)]):
            run = runs[job.id]
            if run.job_file.exists():
                continue
            run.create(job, Resources())
            if not isinstance(job.spec, Evaluate):
                continue
            details: dict[str, Json] = {"spectra": SPECTRA, "test_images": 7}
            if cell.row.label == "Toy":
                details = {"spectra": [{"label": "k = 1", "values": [1.0, 0.5]}], "dynamics": DYNAMICS}
            metrics = {"representation_effective_rank": 2.0, "embedding_effective_rank": 1.5}
            Result(job=job.id, metrics=metrics, details=details, provenance=provenance).write(run.result_file)
    return build(
        [view(plan_table(TABLE, scale_of("embedded"), 1), Store(runs))], runs, tmp_path_factory.mktemp("out") / "report"
    ).parent


def figures_of(page: Path) -> dict[str, str]:
    """Inline figures by what they are called."""
    found = re.findall(r"<svg .*?</svg>", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {ElementTree.fromstring(svg).attrib["aria-label"]: svg for svg in found}


def test_table_page_has_a_figure_for_each_space_with_a_line_for_each_row(report: Path) -> None:
    page = report / "embedded" / "spectra.html"
    figures = figures_of(page)
    assert {"Singular values: representation", "Singular values: embedding", "Singular values: Toy"} <= set(figures)
    for space in ("representation", "embedding"):
        assert [
            text for text in texts(figures[f"Singular values: {space}"]) if text in ("First <b>", "Second", "Toy")
        ] == ["First <b>", "Second"]
    assert any(name.startswith("Singular values over training: Toy") for name in figures)
    text = page.read_text(encoding="utf-8")
    assert "<b>," not in text
    assert "First <b>" not in text  # escaped everywhere


def test_job_page_has_the_figures_instead_of_the_numbers(report: Path) -> None:
    pages = [page.read_text(encoding="utf-8") for page in sorted((report / "jobs").glob("evaluate-*.html"))]
    assert len(pages) == 3
    for text in pages:
        assert text.count('id="spectra-head"') == 1
        assert ">spectra<" not in text  # not as JSON among the details
        assert ">dynamics<" not in text
    assert sum('id="dynamics-head"' in text for text in pages) == 1
    assert sum(">test images<" in text for text in pages) == 2


def test_pages_without_spectra_have_no_empty_section(report: Path) -> None:
    pages = [page.read_text(encoding="utf-8") for page in (report / "jobs").glob("pretrain-*.html")]
    assert pages
    assert not any("spectra-head" in text or "dynamics-head" in text for text in pages)
