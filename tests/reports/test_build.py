"""The report folder: complete, linked, honest about what is missing, and replaced only as a whole."""

from __future__ import annotations

import html
import json
import re
from dataclasses import astuple, replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from bench import plugins
from bench.errors import BenchError
from bench.planning.scales import scale_of
from reports import build as building
from reports.build import build
from results.cells import plan_table
from results.store import Store
from results.view import view
from tests.reports.conftest import FAILURE, HOSTILE, LOG_LINE, TABLE, Demo


class Page(HTMLParser):
    """Links, ids, tags and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        if tag in ("td", "th", "dt", "dd", "div"):
            self.text += " "
        self.tags.append((tag, own))
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.links += [value for key, value in attrs if key in ("href", "src") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def report(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built report; read only."""
    return build([demo.embedded, demo.paper], demo.runs, tmp_path_factory.mktemp("out") / "report").parent


def job_of(demo: Demo, row: str, column: str, seed: int = 0) -> str:
    return demo.embedded.cells[row, column].jobs[seed]


def rebuilt(demo: Demo, out: Path) -> Path:
    """The report of what the run folders say now."""
    return build([view(plan_table(TABLE, scale_of("embedded"), 2), Store(demo.runs))], demo.runs, out).parent


def table_rows(path: Path) -> dict[str, str]:
    """First words of a row of the result table -> its text."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", path.read_text(encoding="utf-8"), flags=re.S)
    plain = [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", row)).split()) for row in rows]
    return {row: row for row in plain}


def row_text(path: Path, *words: str) -> str:
    found = [row for row in table_rows(path) if all(word in row for word in words)]
    assert len(found) == 1, found
    return found[0]


def test_every_link_resolves(report: Path) -> None:
    pages = sorted(report.rglob("*.html"))
    assert len(pages) > 20
    ids = {page: set(Page(page).ids) for page in pages}
    for page in pages:
        for link in Page(page).links:
            parts = urlsplit(link)
            if parts.scheme in ("https", "data"):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.is_file(), f"{page.name} -> {link}"
            if parts.fragment:
                assert parts.fragment in ids[target] or target.suffix != ".html", f"{page.name} -> {link}"


def test_nothing_is_loaded_from_elsewhere_and_the_only_script_is_our_own(report: Path) -> None:
    for page in report.rglob("*.html"):
        found = Page(page)
        assert {tag for tag, _ in found.tags}.isdisjoint({"iframe", "img", "object", "embed"})
        (script,) = [attributes["src"] or "" for tag, attributes in found.tags if tag == "script"]
        assert (page.parent / script).resolve() == (report / "script.js").resolve()
        outside = [link for link in found.links if link.startswith(("http:", "https:", "//"))]
        assert set(outside) <= {"https://arxiv.org/abs/2002.05709"}
        assert not any(key.startswith("on") for _, attributes in found.tags for key in attributes)
    assert "url(" not in (report / "style.css").read_text()
    assert "@import" not in (report / "style.css").read_text()


def test_ids_are_unique_on_every_page(report: Path) -> None:
    for page in report.rglob("*.html"):
        ids = Page(page).ids
        assert len(ids) == len(set(ids)), page


def test_index_lists_the_tables_with_counts(report: Path) -> None:
    row = row_text(report / "index.html", "embedded", TABLE.title)
    # Done: four cells each of SimCLR 1x and 2x, three each of the references, which have no parameter count.
    assert row.endswith("14 0 4 6")
    assert "conditions" in row
    assert "as published" in row_text(report / "index.html", "paper as published")


def test_caveat_stands_above_the_table_and_only_where_it_applies(report: Path) -> None:
    embedded, paper = ((report / scale / "demo_table1.html").read_text() for scale in ("embedded", "paper"))
    assert embedded.index("mnist5k stands in for ImageNet") < embedded.index('class="result"')
    assert 'class="caveat"' not in paper


def test_table_has_the_papers_order_sections_and_sub_columns(report: Path) -> None:
    text = Page(report / "embedded" / "demo_table1.html").text
    places = [
        text.index(word)
        for word in (
            "Theirs",
            "Rotation",
            "Ours",
            "SimCLR ResNet-50 (2x)",
            "References (ours, not in the paper)",
            "Raw pixels",
        )
    ]
    assert places == sorted(places)
    heads = [attributes for tag, attributes in Page(report / "embedded" / "demo_table1.html").tags if tag == "th"]
    assert sum(head.get("scope") == "colgroup" for head in heads) == 3
    assert all(head.get("scope") for head in heads)
    assert "kNN Top-1not in the paper" in text


def test_cells_show_published_mean_spread_and_seeds(report: Path, demo: Demo) -> None:
    page = report / "embedded" / "demo_table1.html"
    assert "69.3 95.2 ± 0.2 rank 2 of 2, 2 in the paper: as in the paper = #2 n=2 · seed 0 seed 1" in row_text(
        page, "SimCLR ResNet-50 24"
    )
    for seed in (0, 1):
        assert f"../jobs/{job_of(demo, 'SimCLR, ResNet-50', 'Top-1', seed)}.html" in Page(page).links


def test_failed_cells_say_why(report: Path) -> None:
    page = report / "embedded" / "demo_table1.html"
    row = row_text(page, "ResNet-50 (4x) ", "76.5")
    assert "failed" in row
    assert "blocked" in row
    assert FAILURE in Page(page).text
    assert "#failure-1" in Page(page).links


def test_rows_that_nothing_can_run_say_so(report: Path) -> None:
    page = report / "embedded" / "demo_table1.html"
    assert row_text(page, "Rotation").startswith("Rotation not implemented RevNet-50 (4x) 86 55.4")
    assert "(rotation)" in Page(page).text


def test_gap_and_verdict_only_at_the_published_scale(report: Path) -> None:
    assert "+25.8 above" in row_text(report / "paper" / "demo_table1.html", "SimCLR ResNet-50 24")
    assert "above" not in row_text(report / "embedded" / "demo_table1.html", "SimCLR ResNet-50 24")


def test_agreement_protocols_plots_curves_and_downloads_are_there(report: Path, demo: Demo) -> None:
    page = report / "embedded" / "demo_table1.html"
    found = Page(page)
    assert "1 time in 2" in found.text
    assert demo.embedded.protocols["Top-1"] in found.text
    figures = [attributes["aria-label"] or "" for tag, attributes in found.tags if tag == "svg"]
    assert [name.partition(":")[0] for name in figures] == [
        "Top-1",
        "Top-5",
        "Learning-rate sweeps",
        "Training curves",
        "Training curves",
    ]
    assert "A note with <angle> brackets." in found.text
    for suffix in ("csv", "md", "tex", "bib"):
        assert (page.parent / f"demo_table1.{suffix}").stat().st_size > 0
        assert f"demo_table1.{suffix}" in found.links


def test_pages_list_what_differs_from_released_code(report: Path, demo: Demo) -> None:
    table, evaluation, pretraining = (
        report / "embedded" / "demo_table1.html",
        report / "jobs" / f"{job_of(demo, 'SimCLR, ResNet-50', 'kNN Top-1')}.html",
        report / "jobs" / f"{job_of(demo, 'SimCLR, ResNet-50', 'Param (M)')}.html",
    )
    method, protocol = plugins.method("simclr").differences, plugins.evaluation("knn").differences
    for page, listed in ((table, method + protocol), (evaluation, method + protocol), (pretraining, method)):
        found = Page(page)
        text = " ".join(found.text.split())
        assert re.search("Differs from the authors. code", text)
        assert "details" in [tag for tag, _ in found.tags]
        for difference in listed:
            for words in astuple(difference):
                assert words in text
    assert "Weight of a neighbour" not in Page(pretraining).text


def test_pending_cells_have_no_link(demo: Demo, tmp_path: Path) -> None:
    pending = view(plan_table(TABLE, scale_of("embedded"), 1), Store(type(demo.runs)(tmp_path / "none")))
    index = build([pending], type(demo.runs)(tmp_path / "none"), tmp_path / "out")
    page = Page(index.parent / "embedded" / "demo_table1.html")
    assert "pending" in page.text
    assert not [link for link in page.links if "jobs/" in link]
    assert "not defined (n = 0 rows" in page.text


def test_job_page_of_an_evaluation(report: Path, demo: Demo) -> None:
    job = job_of(demo, "SimCLR, ResNet-50", "Top-1", 1)
    parent = job_of(demo, "SimCLR, ResNet-50", "Param (M)", 1)
    found = Page(report / "jobs" / f"{job}.html")
    assert f"{parent}.html" in found.links
    assert "../embedded/demo_table1.html" in found.links
    assert "SimCLR, ResNet-50: Top-5" in found.text  # one job fills both cells
    for words in (
        "top1 95.3735",
        "chosen learning rate 0.03",
        "node-17",
        "0123abc+dirty",
        "1 min 03 s",
        "Resumed 1 time",
        "torch 2.9.0",
        "best of",
    ):
        assert words in found.text
    assert [attributes["aria-label"] for tag, attributes in found.tags if tag == "svg"] == [
        "Learning-rate and weight-decay sweep of SimCLR, ResNet-50 seed 1 | Top-1"
    ]


def test_job_page_shows_the_end_of_the_log_as_text(report: Path, demo: Demo) -> None:
    found = Page(report / "jobs" / f"{job_of(demo, 'SimCLR, ResNet-50', 'Top-1')}.html")
    assert LOG_LINE in found.text
    assert "line 21 " in found.text
    assert "line 20 " not in found.text  # 60 lines


def test_job_page_of_a_pretraining_names_its_evaluations(report: Path, demo: Demo) -> None:
    found = Page(report / "jobs" / f"{job_of(demo, 'SimCLR, ResNet-50', 'Param (M)')}.html")
    assert f"{job_of(demo, 'SimCLR, ResNet-50', 'Top-1')}.html" in found.links
    assert [attributes["aria-label"] for tag, attributes in found.tags if tag == "svg"] == [
        "Training curves of SimCLR, ResNet-50 seed 0"
    ]


def test_job_page_of_a_failure_shows_message_and_curves(report: Path, demo: Demo) -> None:
    found = Page(report / "jobs" / f"{job_of(demo, 'SimCLR, ResNet-50 (4x)', 'Param (M)')}.html")
    assert "Why it failed: diverged" in found.text
    assert FAILURE in found.text
    assert [tag for tag, _ in found.tags].count("svg") == 1


def test_labels_are_text(report: Path) -> None:
    page = report / "embedded" / "demo_table1.html"
    assert HOSTILE in Page(page).text
    assert page.read_text().count("<script") == 1  # our own


def test_spec_of_another_version_is_shown_raw(own_demo: Demo, tmp_path: Path) -> None:
    job = job_of(own_demo, "SimCLR, ResNet-50", "Top-1")
    run = own_demo.runs[job]
    body = json.loads(run.job_file.read_text())
    body["spec"]["protocol"]["gone"] = "</pre><script>alert(1)</script>"
    run.job_file.write_text(json.dumps(body))
    found = Page(rebuilt(own_demo, tmp_path / "out") / "jobs" / f"{job}.html")
    assert "the spec cannot be rebuilt" in found.text
    assert "alert(1)" in found.text
    assert [tag for tag, _ in found.tags].count("script") == 1  # our own
    assert f"{body['needs'][0]}.html" in found.links


def test_names_that_are_no_text_stop_no_report(own_demo: Demo, tmp_path: Path) -> None:
    """Python holds the bytes of such a file's name as characters that no page can be written with."""
    job = job_of(own_demo, "SimCLR, ResNet-50", "Top-1")
    run = own_demo.runs[job]
    run.log.write_bytes(b"unreadable image: caf\xe9_1.JPEG\n")
    body = json.loads(run.job_file.read_text())
    run.job_file.write_text(json.dumps(body | {"label": "caf\udce9_2.JPEG"}))
    found = Page(rebuilt(own_demo, tmp_path / "out") / "jobs" / f"{job}.html")
    assert r"unreadable image: caf\xe9_1.JPEG" in found.text
    assert r"caf\xe9_2.JPEG" in found.text


def test_hostile_job_json_names_no_file_outside(own_demo: Demo, tmp_path: Path) -> None:
    job = job_of(own_demo, "SimCLR, ResNet-50", "Top-1")
    own_demo.runs[job].job_file.write_text(json.dumps({"spec": 3, "needs": ["../../x"], "label": ["no"]}))
    out = rebuilt(own_demo, tmp_path / "out")
    assert "../../x" not in Page(out / "jobs" / f"{job}.html").links
    assert not list(tmp_path.rglob("x.html"))


@pytest.mark.parametrize("content", ["", "{", '{"format": 1}', '{"format": 99}'])
def test_damaged_files_break_nothing(own_demo: Demo, tmp_path: Path, content: str) -> None:
    job = job_of(own_demo, "SimCLR, ResNet-50", "Top-1")
    before = own_demo.embedded
    own_demo.runs[job].job_file.write_text(content)
    own_demo.runs[job].result_file.write_text(content)
    own_demo.runs[job].metrics.write_text(content)
    out = build([before], own_demo.runs, tmp_path / "out").parent
    assert "the result cannot be read" in Page(out / "jobs" / f"{job}.html").text


def test_a_damaged_result_is_named_on_the_table_page(own_demo: Demo, tmp_path: Path) -> None:
    job = job_of(own_demo, "Raw pixels", "Top-1")
    own_demo.runs[job].result_file.write_text("{")
    found = Page(rebuilt(own_demo, tmp_path / "out") / "embedded" / "demo_table1.html")
    assert "Problems met while reading the results" in found.text
    assert job in found.text


def test_the_same_input_gives_the_same_bytes(demo: Demo, report: Path, tmp_path: Path) -> None:
    again = build([demo.embedded, demo.paper], demo.runs, tmp_path / "again").parent
    files = sorted(path.relative_to(report) for path in report.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [str(name) for name in files if (report / name).read_bytes() != (again / name).read_bytes()] == []


def test_a_new_report_replaces_the_old_one_as_a_whole(demo: Demo, tmp_path: Path) -> None:
    out = tmp_path / "report"
    build([demo.embedded, demo.paper], demo.runs, out)
    build([demo.paper], demo.runs, out)
    assert not (out / "embedded").exists()
    assert (out / "paper" / "demo_table1.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_crash_leaves_the_old_report(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report"
    index = build([demo.paper], demo.runs, out)
    before = index.read_bytes()

    def crash(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "job_page", crash)
    with pytest.raises(KeyboardInterrupt):
        build([demo.embedded, demo.paper], demo.runs, out)
    assert index.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_failed_swap_puts_the_old_report_back(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report"
    index = build([demo.paper], demo.runs, out)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise PermissionError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        build([demo.paper], demo.runs, out)
    assert index.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_folder_that_is_no_report_is_never_replaced(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(BenchError, match="give another --out"):
        build([demo.paper], demo.runs, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "ten years of work"
    with pytest.raises(BenchError, match="is a file"):
        build([demo.paper], demo.runs, tmp_path / "thesis.tex")


def test_one_table_twice_is_refused(demo: Demo, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="given twice"):
        build([demo.paper, replace(demo.paper)], demo.runs, tmp_path / "out")


def test_no_tables_at_all(demo: Demo, tmp_path: Path) -> None:
    assert "No table was asked for." in Page(build([], demo.runs, tmp_path / "out")).text
