"""The catalogue of the authors' weights, getting and finding their files, and a table that is run on them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench import plugins
from bench.authors import Weights, catalogue
from bench.bench_toml import find_site
from bench.commands.plan import show_plan
from bench.commands.request import TableRequest
from bench.commands.run import run
from bench.errors import BenchError
from bench.identity import canonical, from_json, job_id
from bench.networks import encoders
from bench.planning.scales import SCALES
from bench.runs import plans
from bench.runs.folder import Runs, State
from bench.settings.site import KnownFile, Site
from bench.spec import Backbone, Data, Evaluate, Released
from bench.weights import released
from bench.weights.released import fetch, find, folder_of, locate, register
from evals.knn import Config as Knn
from reports.serve import build_site
from results.cells import load_table, plan_table
from results.store import Store
from results.view import view
from tests.bench import tensor_bundle

CONTENT = b"weights" * 1000
HASH = sha256(CONTENT).hexdigest()
SMALL = Backbone(name="resnet50", base_channels=4, padding="tensorflow")


def test_every_entry_can_be_got_and_built() -> None:
    for name, entry in catalogue().items():
        assert bool(entry.url) != bool(entry.by_hand), name
        encoders.check_backbone(entry.backbone, [224])
        assert entry.paper
        assert set(entry.sha256) <= set("0123456789abcdef")
        tensorflow = name.startswith(("simclr", "fnc"))
        assert (entry.backbone.padding, entry.backbone.normalize) == (
            ("tensorflow", "none") if tensorflow else ("torch", "imagenet")
        ), name
    torchvision = catalogue()["torchvision_supervised"]
    assert Path(torchvision.url).stem.endswith(torchvision.sha256)


def test_published_accuracies_and_widths() -> None:
    published = {name: (entry.backbone.width, entry.top1) for name, entry in catalogue().items()}
    assert published["barlow_twins"] == (1, 73.5)
    assert published["vicreg_x2"] == (2, 75.5)
    assert published["twist"] == (1, 75.5)
    assert [published[f"simclr_{width}x"] for width in (1, 2, 4)] == [(1, 69.1), (2, 74.2), (4, 76.6)]
    assert published["truncated_triplet"] == (1, 75.9)
    assert published["fnc"] == (1, 74.4)
    with torch.device("meta"):
        large = encoders.build(catalogue()["vicreg_resnet200_x2"].backbone, seed=0)
    assert round(encoders.parameters(large) / 1e6) == 250  # as VICReg's README prints it


class _Answers(BaseHTTPRequestHandler):
    """What the test server says, by path."""

    def do_GET(self) -> None:
        kind, body, promised = {
            "/weights.pth": ("application/octet-stream", CONTENT, len(CONTENT)),
            "/page.pth": ("text/html; charset=utf-8", b"<html>sign in</html>", 20),
            "/short.pth": ("application/octet-stream", CONTENT[:500], len(CONTENT)),
        }.get(self.path, ("", b"", 0))
        self.send_response(200 if kind else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Answers) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch, server: str) -> Callable[..., None]:
    """`entry(url, sha256)`: what the catalogue says of barlow_twins in this test."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def make(url: str, sha256: str = "") -> None:
        monkeypatch.setitem(
            catalogue(), "barlow_twins", Weights(paper="p", backbone=SMALL, url=server + url, sha256=sha256)
        )

    return make


def test_weights_are_downloaded_once_and_checked(here: Site, entry: Callable[..., None]) -> None:
    entry("/weights.pth", HASH[:8])
    with pytest.raises(BenchError, match=r"'barlow_twins' are not here yet: `bench run --released` downloads http"):
        locate("barlow_twins", here)
    found = fetch("barlow_twins", here)
    assert (found.sha256, found.path.read_bytes()) == (HASH, CONTENT)
    entry("/gone.pth", HASH[:8])  # whatever the server has now
    assert fetch("barlow_twins", here) == locate("barlow_twins", here) == found


@pytest.mark.parametrize(
    ("url", "pin", "message"),
    [
        ("/page.pth", "", "answers with a web page, not a file"),
        ("/short.pth", "", "broke off after 500 of 7000 bytes"),
        ("/nothing.pth", "", r"cannot be downloaded \(HTTPError: HTTP Error 404"),
        ("/weights.pth", "0676ba61", rf"has sha256 {HASH}, expected 0676ba61\.\.\.: a damaged or another file"),
    ],
)
def test_a_download_that_goes_wrong_is_one_line_and_leaves_nothing(
    here: Site, entry: Callable[..., None], url: str, pin: str, message: str
) -> None:
    entry(url, pin)
    with pytest.raises(BenchError, match=message) as caught:
        fetch("barlow_twins", here)
    assert "\n" not in str(caught.value)
    assert not list(folder_of(here.runs).iterdir())


def test_offline_says_what_to_do(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    nobody = Weights(paper="p", backbone=SMALL, url="http://127.0.0.1:9/resnet50.pth")  # the discard port: refused
    monkeypatch.setitem(catalogue(), "barlow_twins", nobody)
    with pytest.raises(
        BenchError,
        match=r"cannot be downloaded .* Or get it by hand and add `barlow_twins = \"/path\"` under \[released\]",
    ):
        fetch("barlow_twins", here)


def test_what_only_a_browser_gets_says_where_it_is(here: Site) -> None:
    for get in (locate, fetch):
        with pytest.raises(
            BenchError,
            match=r"by hand from https://drive\.google\.com/file/d/1tiLZmsTPJWZ.* add `twist = \"/path\"` under "
            r"\[released\]",
        ):
            get("twist", here)
    with pytest.raises(BenchError, match=r"unknown released weights 'twits'\. Did you mean 'twist'"):
        locate("twits", here)


def test_a_file_named_in_bench_toml_is_taken_and_its_pin_is_kept(here: Site, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(CONTENT)
    assert locate("twist", replace(here, released={"twist": KnownFile(path=path)})).sha256 == HASH
    assert locate("twist", replace(here, released={"twist": KnownFile(path=path, sha256=HASH)})).path == path
    with pytest.raises(BenchError, match=rf"has sha256 {HASH}, expected {'0' * 64}: a damaged or another file"):
        locate("twist", replace(here, released={"twist": KnownFile(path=path, sha256="0" * 64)}))
    with pytest.raises(BenchError, match=r"gone\.pth .* is not there"):
        locate("twist", replace(here, released={"twist": KnownFile(path=tmp_path / "gone.pth")}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('twits = "a"', r"unknown weights under \[released\] .* 'twits'\. Did you mean 'twist'"),
        ("twist = 3", r"released\.twist is 3, expected a path or"),
        ('twist = { sha = "a" }', r"unknown key of released\.twist .* 'sha'\. Did you mean 'sha256'"),
        ('twist = { sha256 = "0676ba61" }', r"released\.twist\.sha256 is '0676ba61', expected 64 hexadecimal digits"),
        ("twist = {}", r"released\.twist is \{\}, expected a path or"),
    ],
)
def test_mistakes_in_bench_toml_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bench.toml").write_text(f"[released]\n{text}\n")
    with pytest.raises(BenchError, match=message):
        find_site(tmp_path)


def test_bench_toml_names_files_and_pins(tmp_path: Path) -> None:
    (tmp_path / "bench.toml").write_text(f'[released]\ntwist = "a.pth"\nvicreg = {{ sha256 = "{HASH.upper()}" }}\n')
    assert find_site(tmp_path).released == {
        "twist": KnownFile(path=tmp_path / "a.pth"),
        "vicreg": KnownFile(sha256=HASH),
    }


def test_a_worker_finds_a_file_by_its_hash_and_reads_it_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = tmp_path / "file.pth", tmp_path / "released"
    path.write_bytes(CONTENT)
    assert register(path, folder) == HASH
    assert find(HASH, folder) == path
    with monkeypatch.context() as patched:  # a second plan does not read gigabytes again
        patched.setattr(released, "file_sha256", lambda path: pytest.fail("hashed again"))
        assert register(path, folder) == HASH
    stat = path.stat()
    path.write_bytes(CONTENT[:-1] + b"!")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # size and time as before: only reading shows it
    with pytest.raises(BenchError, match=r"file\.pth has changed since this job was planned"):
        find(HASH, folder)
    path.unlink()
    with pytest.raises(BenchError, match="is gone"):
        find(HASH, folder)
    with pytest.raises(BenchError, match="no weights file with sha256 000000000000 is known here"):
        find("0" * 64, folder)


@pytest.mark.parametrize("replace_it", ["renamed over it", "written into it"])
def test_a_file_of_the_same_size_and_time_is_known_by_its_content(replace_it: str, tmp_path: Path) -> None:
    path, folder = tmp_path / "file.pth", tmp_path / "released"
    path.write_bytes(CONTENT)
    assert register(path, folder) == HASH
    stat, other = path.stat(), CONTENT[:-1] + b"!"
    time.sleep(0.05)  # longer than the clock of the file system stands
    if replace_it == "renamed over it":  # tar x, rsync
        (tmp_path / "new").write_bytes(other)
        os.utime(tmp_path / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        (tmp_path / "new").rename(path)
    else:  # cp -p
        path.write_bytes(other)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert register(path, folder) == sha256(other).hexdigest()
    assert find(sha256(other).hexdigest(), folder) == path


def test_a_note_that_reading_disproves_is_never_believed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = tmp_path / "file.pth", tmp_path / "released"
    path.write_bytes(CONTENT)
    monkeypatch.setattr(released, "_stamp", lambda file: [file.name])  # a file system that notices nothing
    assert register(path, folder) == HASH
    path.write_bytes(b"another")
    assert register(path, folder) == HASH
    assert register(path, folder, read=True) == sha256(b"another").hexdigest()
    path.write_bytes(CONTENT[:-1] + b"!")
    (folder / f"{sha256(b'another').hexdigest()}.json").unlink()
    with pytest.raises(BenchError, match="has changed since this job was planned"):
        find(HASH, folder)
    assert register(path, folder) == sha256(CONTENT[:-1] + b"!").hexdigest()


def test_the_hash_of_a_tensorflow_checkpoint_covers_its_data(tmp_path: Path) -> None:
    index = tensor_bundle.write(tmp_path / "model.ckpt-1", {"a": torch.ones(3).numpy()})
    before = register(index, tmp_path / "released")
    assert register(tmp_path / "model.ckpt-1", tmp_path / "released") == before
    data = tmp_path / "model.ckpt-1.data-00000-of-00001"
    data.write_bytes(b"x" + data.read_bytes()[1:])
    assert register(index, tmp_path / "released") != before


def test_another_file_is_another_job_and_its_place_is_none() -> None:
    def job(name: str, digest: str) -> str:
        encoder = Released(name=name, backbone=SMALL, sha256=digest)
        spec = Evaluate(encoder=encoder, protocol=Knn(), data=Data(name="mnist5k", size=32))
        assert from_json(canonical(spec)) == spec
        return job_id(spec)

    assert len({job("barlow_twins", "a"), job("barlow_twins", "b"), job("vicreg", "a")}) == 3
    assert job("barlow_twins", "a") == job("barlow_twins", "a")


HASHES = {"simclr_1x": "1" * 64, "simclr_2x": "2" * 64, "simclr_4x": "4" * 64, "torchvision_supervised": "7" * 64}


def test_released_rows_of_a_table_need_no_pretraining() -> None:
    table = load_table("simclr_table6")
    cells = plan_table(table, SCALES["paper"], 1, released=HASHES).cells
    encoders_of = {cell.row.name: cell.spec.encoder for cell in cells if isinstance(cell.spec, Evaluate)}
    assert len(cells) == 4 * 4  # the parameter count is read off a pretraining, which there is none of
    assert {
        name: (e.name, e.sha256, e.backbone.width) for name, e in encoders_of.items() if isinstance(e, Released)
    } == {
        "SimCLR (ours), ResNet-50": ("simclr_1x", "1" * 64, 1),
        "SimCLR (ours), ResNet-50 (2x)": ("simclr_2x", "2" * 64, 2),
        "SimCLR (ours), ResNet-50 (4x)": ("simclr_4x", "4" * 64, 4),
        "Supervised, ResNet-50": ("torchvision_supervised", "7" * 64, 1),
    }
    directclr = plan_table(load_table("directclr_table1"), SCALES["paper"], 1, released={"directclr": "d" * 64}).cells
    assert {cell.row.label for cell in directclr} == {"DirectCLR"}
    with pytest.raises(BenchError, match=r"--released needs --scale paper: .* at 'embedded' they fit none"):
        plan_table(table, SCALES["embedded"], 1, released=HASHES)


def test_every_table_names_weights_of_the_network_that_its_row_has() -> None:
    for name in plugins.names("table"):
        table = load_table(name)  # refuses names that the catalogue does not have
        for row in (*table.rows, *table.anchors):
            if row.released:
                wanted = replace(SCALES["paper"].networks[row.network], width=row.width)
                backbone = catalogue()[row.released].backbone
                assert (backbone.name, backbone.width) == (wanted.name, wanted.width), (name, row.name)
    row = replace(load_table("simclr_table6").rows[0], released="simclr_3x")
    with pytest.raises(
        BenchError,
        match=r"unknown released weights in row 'Local Agg\., ResNet-50' .* 'simclr_3x'\. Did you mean 'simclr_",
    ):
        replace(load_table("simclr_table6"), rows=(row,))


def test_the_view_says_where_each_encoder_comes_from(runs: Runs) -> None:
    shown = view(plan_table(load_table("simclr_table6"), SCALES["paper"], 1, released=HASHES), Store(runs))
    notes = {row.name: row.note for row in (*shown.rows, *shown.anchors)}
    expected = (
        "not pretrained here: weights simclr_2x of SimCLR (arXiv:2002.05709), sha256 222222222222, linear "
        "top-1 74.2 by their own account"
    )
    assert notes["SimCLR (ours), ResNet-50 (2x)"] == expected
    assert notes["PIRL, ResNet-50"] == "no released weights: not run"
    assert shown.cells["Random encoder, ResNet-50", "Top-1"].status == "none"
    assert shown.cells["PIRL, ResNet-50", "Top-1"].status == "not implemented"


def test_a_manifest_remembers_the_released_weights(runs: Runs) -> None:
    plain = plans.StoredPlan("t", "paper", 1, (), (), ())
    for one in (plain, replace(plain, released=HASHES)):
        plans.write(runs, one)
        assert plans.read_all(runs) == [one]


@pytest.fixture
def small_imagenet(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ImageNet's layout with few images, and SimCLR's weights of a narrow network under the real names."""
    rng = torch.Generator().manual_seed(0)
    for split, count in (("train", 6), ("val", 3)):
        for name, base in (("n01440764", 40), ("n01443537", 160)):
            folder = workplace / "imagenet" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = torch.randint(0, 60, (48, 64, 3), generator=rng, dtype=torch.uint8)
                Image.fromarray((noise + base).numpy()).save(folder / f"{name}_{number}.JPEG")
    network = encoders.build(SMALL, seed=1)
    tensor_bundle.write(
        workplace / "ResNet50_1x" / "model.ckpt-225206", tensor_bundle.simclr_names(network.state_dict())
    )
    monkeypatch.setitem(catalogue(), "simclr_1x", replace(catalogue()["simclr_1x"], backbone=SMALL))
    # which asks for all of ImageNet's features
    monkeypatch.setattr("bench.execution.readiness.free_space", lambda runs, needed: None)
    (workplace / "bench.toml").write_text(
        '[data]\nimagenet = "imagenet"\n[released]\nsimclr_1x = "ResNet50_1x/model.ckpt-225206.index"\n'
    )
    return workplace


def request(
    scale: str = "paper", rows: tuple[str, ...] = ("SimCLR (ours), ResNet-50", "Random encoder")
) -> TableRequest:
    return TableRequest(find_site(), ("simclr_table6",), scale, 1, rows, ("kNN Top-1",), released=True)


@pytest.mark.slow
def test_a_table_is_regenerated_on_released_weights_alone(
    small_imagenet: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(request(), "inline", []) == 0
    out = capfd.readouterr().out
    assert "simclr_table6: no released weights, skipped: Random encoder, ResNet-50" in out
    assert "layout TensorFlow, base_model/conv2d_k: 265 keys matched, 0 missing, 3 left out" in out
    site = find_site()
    (known,) = plans.read_all(Runs(site.runs))
    assert [job.kind for job in known.jobs] == ["evaluate"]
    assert known.released is not None
    found = Runs(site.runs)[known.jobs[0].id]
    assert found.state() is State.DONE
    origin = found.result().details["encoder"]
    assert isinstance(origin, Mapping)
    assert (origin["weights"], origin["file"], origin["matched"]) == ("simclr_1x", "model.ckpt-225206.index", 265)
    assert (origin["linear_top1_by_authors"], origin["sha256"]) == (69.1, known.released["simclr_1x"])
    page = (site.report / "paper/simclr_table6.html").read_text()
    assert "weights simclr_1x of SimCLR" in page
    # The report knows the job although the weights may be gone by then.
    for file in (small_imagenet / "ResNet50_1x").iterdir():
        file.unlink()
    assert (
        "weights simclr_1x of SimCLR"
        in (build_site(site, Runs(site.runs), None).parent / "paper/simclr_table6.html").read_text()
    )


def test_released_weights_away_from_the_published_scale_are_refused_before_anything_runs(workplace: Path) -> None:
    with pytest.raises(BenchError, match="--released needs --scale paper"):
        run(request("embedded"), "inline", [])
    with pytest.raises(BenchError, match="no chosen row of simclr_table6 names released weights"):
        show_plan(request(rows=("random",)))
    assert not (workplace / "runs").exists()


def test_a_plan_names_the_weights_that_are_not_here(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(replace(request(rows=()), tables=("simclr_table6", "directclr_table1"), columns=("Top-1",)))
    out = capsys.readouterr().out
    assert "5 jobs asked for, 5 after each is taken once" in out
    assert (
        "missing: released weights 'simclr_4x' are not here yet: `bench run --released` downloads https://storage.googleapis.com/"
        in out
    )
    assert (
        "missing: released weights 'directclr' must be downloaded by hand from https://drive.google.com/file/d/1m5z85gKPZ"
        in out
    )
    assert "directclr_table1: no released weights, skipped: SimCLR, 2-layer nonlinear projector; " in out
