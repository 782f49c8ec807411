"""What lies in a data set's folders beside its images, and names that are no text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench import cli
from bench.commands.data import check
from bench.data.datasets import open_split
from bench.data.sets import detection_layouts
from bench.data.sets.class_folders import scan_folder
from bench.data.sets.scenes import scene_folder
from bench.data.splits import SPLITS, Files
from bench.data.unreadable import Unreadable
from bench.errors import BenchError, one_line
from bench.runs import plans
from bench.runs.folder import RunFolder, Runs
from bench.settings.site import Site
from bench.spec import Data
from bench.weights import released
from bench.wording import printable
from results.regression import kept, reference
from tests.bench.data_trees import class_folders, inat, places, save, site_with, sun, voc
from tests.conftest import ROOT

APPLE_DOUBLE = bytes.fromhex("00051607 00020000") + bytes(62)
LATIN = os.fsdecode(b"caf\xe9_1.JPEG")  # no UTF-8


def opened(name: str, site: Site) -> dict[str, Files]:
    return {split: cast(Files, open_split(Data(name=name, size=32), split, site)) for split in SPLITS}


def beside(root: Path, *names: str) -> None:
    """What macOS leaves beside each image."""
    for file in [path for path in root.rglob("*") if path.suffix.lower() in {".jpeg", ".jpg"}]:
        for name in names or ("._{}",):
            (file.parent / name.format(file.name)).write_bytes(APPLE_DOUBLE)


# -- class folders ---------------------------------------------------------------------------------------------------


def test_hidden_files_of_class_folders_are_no_images(here: Site, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "imagenet", (("train", 6), ("val", 2)), ("n01", "n02"))
    before = {name: list(part.paths) for name, part in opened("imagenet", site_with(here, "imagenet", root)).items()}
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    beside(copy, "._{}", ".{}.jpg")
    (copy / "train" / "__MACOSX" / "n01").mkdir(parents=True)
    site = site_with(here, "imagenet", copy)
    after = {
        name: [root / path.relative_to(copy) for path in part.paths] for name, part in opened("imagenet", site).items()
    }
    assert after == before
    lines = check.check_data("imagenet", site).lines
    assert sum("train: 24 hidden or AppleDouble files are left out, e.g. n0" in line for line in lines) == 1
    assert sum("test: 8 hidden or AppleDouble files are left out" in line for line in lines) == 1


def test_every_extension_of_an_image_counts_and_the_rest_is_said(here: Site, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds", (("train", 9), ("test", 3)), ("Auk", "Wren"), ".jpg")
    for suffix in ("webp", "bmp", "tif", "jfif", "TIFF", "gif"):
        save(root / "train" / "Wren" / f"bird.{suffix}")
    (root / "train" / "Wren" / "notes.txt").write_text("")
    (root / "train" / "Wren" / "film.mpg").write_text("")
    (root / "train" / "Auk" / "more.jpg").mkdir()
    os.mkfifo(root / "train" / "Auk" / "pipe.jpg")
    (root / "train" / "list.csv").write_text("")
    found = check.check_data("birdsnap", site_with(here, "birdsnap", root))
    assert [problem for problem in found.problems if "classes, expected 500" not in problem] == []
    assert "training images: 24; copies differ, so there is no number to compare with" in found.lines
    said = [line for line in found.lines if "left out" in line]
    assert [line.partition(", e.g. ")[0] for line in said] == [
        "train: 1 files beside the class folders is left out",
        "train: 2 folders or special files inside of class folders are left out",
        "train: 2 files with other extensions are left out",
    ]
    assert any("Wren/notes.txt" in line or "Wren/film.mpg" in line for line in said)


def test_a_class_of_other_files_alone_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "train" / "Auk").mkdir(parents=True)
    (tmp_path / "train" / "Auk" / "._1.jpg").write_bytes(APPLE_DOUBLE)
    with pytest.raises(BenchError, match=r"Auk holds no image .*: 1 hidden or AppleDouble files is left out, e\.g\."):
        scan_folder(tmp_path / "train")


def test_links_are_followed_and_never_change_which_images_there_are(tmp_path: Path) -> None:
    real = save(tmp_path / "real" / "Wren" / "1.jpg")
    train = tmp_path / "train"
    save(train / "Auk" / "1.jpg")
    (train / "Wren").symlink_to(real.parent)
    (train / "Auk" / "2.jpg").symlink_to(real)
    (train / "Auk" / "3.jpg").symlink_to(tmp_path / "gone.jpg")  # an error when it is read, that names it
    (train / "Auk" / "4.jpg").symlink_to("4.jpg")
    tree = scan_folder(train)
    assert tree.classes == ("Auk", "Wren")
    assert [path.removeprefix(f"{train}/") for path in tree.paths] == [
        "Auk/1.jpg",
        "Auk/2.jpg",
        "Auk/3.jpg",
        "Auk/4.jpg",
        "Wren/1.jpg",
    ]
    for name, target in (("Tit", tmp_path / "unmounted"), ("Owl", Path("Owl"))):
        (train / name).symlink_to(target)
        with pytest.raises(BenchError, match=f"train/{name} is a link to nothing"):
            scan_folder(train)
        (train / name).unlink()


# -- lists and JSON --------------------------------------------------------------------------------------------------


def test_hidden_files_of_lists_and_json_are_no_images(here: Site, tmp_path: Path) -> None:
    roots = {
        "places205": places(tmp_path / "places"),
        "sun397": sun(tmp_path / "sun"),
        "voc2007": voc(tmp_path / "voc"),
        "inat18": inat(tmp_path / "inat"),
    }
    before = {
        name: {s: len(p) for s, p in opened(name, site_with(here, name, root)).items()} for name, root in roots.items()
    }
    for name, root in roots.items():
        copy = Path(shutil.copytree(root, tmp_path / "copies" / name))
        beside(copy)
        for file in (*copy.rglob("*_places205.csv"), *copy.rglob("*_01.txt"), *copy.rglob("Main/*.txt")):
            lines = file.read_text().splitlines()
            first, _, label = lines[0].partition(" ")
            hidden = f"{first.rpartition('/')[0]}/._{first.rpartition('/')[2]}".removeprefix(
                "/" if "/" not in first else ""
            )
            file.write_text("\n".join([f"{hidden} {label}".rstrip(), *lines]) + "\n")
        for file in copy.glob("*2018.json"):
            body = json.loads(file.read_text())
            folder, _, image = body["images"][0]["file_name"].rpartition("/")
            body["images"].append({"id": 1, "file_name": f"{folder}/._{image}"})
            body["annotations"].append({"image_id": 1, "category_id": 7})
            file.write_text(json.dumps(body))
        site = site_with(here, name, copy)
        parts = opened(name, site)
        assert {split: len(part) for split, part in parts.items()} == before[name], name
        assert not any(path.name.startswith(".") for part in parts.values() for path in part.paths)
        assert any("1 hidden or AppleDouble files is left out" in line for line in check.check_data(name, site).lines)


def test_a_list_of_hidden_files_alone_is_refused(here: Site, tmp_path: Path) -> None:
    root = places(tmp_path / "places")
    (root / "trainvalsplit_places205" / "val_places205.csv").write_text("a/._1.jpg 0\n")
    with pytest.raises(BenchError, match=r"val_places205\.csv names no image: all of its 1 paths are hidden files"):
        opened("places205", site_with(here, "places205", root))


def test_class_numbers_beyond_any_number_of_classes_are_answered_at_once(here: Site, tmp_path: Path) -> None:
    root = places(tmp_path / "places")
    file = root / "trainvalsplit_places205" / "train_places205.csv"
    whole = file.read_text()
    for label, message in (
        ("999999999", r"no image of class 3 and 999,999,995 more"),
        ("9" * 5000, r"line 1: expected a path"),
    ):
        file.write_text(whole.replace(" 0\n", f" {label}\n", 1))
        with pytest.raises(BenchError, match=message):
            opened("places205", site_with(here, "places205", root))


def test_an_image_that_json_names_twice_is_refused(here: Site, tmp_path: Path) -> None:
    root = inat(tmp_path / "inat")
    body = json.loads((root / "val2018.json").read_text())
    body["annotations"].append(body["annotations"][0])
    (root / "val2018.json").write_text(json.dumps(body))
    with pytest.raises(BenchError, match=r"val2018\.json: 1 images have an id or an annotation twice"):
        opened("inat18", site_with(here, "inat18", root))


def test_detection_refuses_deep_pictures_by_name(tmp_path: Path) -> None:
    """Detectron2 reads them by a conversion that makes them white."""
    root = scene_folder("scenes_coco", 96, tmp_path)
    victim = root / "val2017" / "000000000003.png"
    Image.fromarray(np.full((96, 96), 1234, dtype=np.uint16)).save(victim)
    assert detection_layouts.check_coco(root) == [
        f"val2017: {victim} has more than 8 bits (mode I;16): save it with 8."
    ]


# -- names that are no text ------------------------------------------------------------------------------------------


def test_bytes_of_names_that_are_no_text_are_shown_as_such() -> None:
    assert printable(LATIN) == r"caf\xe9_1.JPEG"
    assert printable("é\t\U0001f600\n") == "é\t\U0001f600\n"
    assert printable("\x1b[31m\ud800\r\x7f") == r"\x1b[31m\ud800\x0d\x7f"
    assert str(BenchError(f"{LATIN} is gone")) == r"caf\xe9_1.JPEG is gone"
    assert one_line(OSError(f"{LATIN}\nis gone")) == r"OSError: caf\xe9_1.JPEG is gone"


def test_a_list_may_name_files_whose_names_are_no_text(here: Site, tmp_path: Path) -> None:
    root = places(tmp_path / "places")
    old = next(root.rglob("abbey/gsun_val0001.jpg"))
    old.rename(old.with_name(LATIN))
    file = root / "trainvalsplit_places205" / "val_places205.csv"
    file.write_bytes(file.read_bytes().replace(b"abbey/gsun_val0001.jpg", b"abbey/caf\xe9_1.JPEG"))
    assert old.with_name(LATIN) in list(opened("places205", site_with(here, "places205", root))["test"].paths)


def test_the_check_prints_names_that_are_no_text(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folders(workplace / "tree", (("train", 3), ("test", 2)), ("Auk", os.fsdecode(b"W\xe9")), ".jpg")
    (root / "train" / "Auk" / LATIN).write_bytes(b"\xff\xd8\xff")
    (root / "test" / "Auk" / os.fsdecode(b"\xe9.txt")).write_bytes(b"")
    (workplace / "bench.toml").write_text('[data]\nbirdsnap = "tree"\n')
    done = CliRunner().invoke(cli.app, ["data", "check", "birdsnap"])  # its stream is strict UTF-8
    assert done.exit_code == 1
    assert r"caf\xe9_1.JPEG cannot be decoded" in done.output
    assert r"1 files with other extensions is left out, e.g. Auk/\xe9.txt" in done.output


def test_a_damaged_image_is_recorded_and_printed_by_a_name_that_is_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = Unreadable(tmp_path, 0, data="imagenet", root=Path("/data"), images=100, batch_size=10, done=0)
    known.add(0, [Path("/data") / LATIN, Path("/data/a\nb.JPEG")])
    names = [r"caf\xe9_1.JPEG", r"a\x0ab.JPEG"]
    assert capsys.readouterr().out.splitlines() == [
        f"unreadable image, replaced by another of its batch: /data/{n}" for n in names
    ]
    lines = (tmp_path / "unreadable-0.jsonl").read_text(encoding="ascii").splitlines()
    assert [json.loads(line)["file"] for line in lines] == names
    (tmp_path / "unreadable-0.jsonl").write_text(
        json.dumps({"step": 1, "file": f"/data/{LATIN}"}) + "\n"
    )  # of version 0.2
    again = Unreadable(tmp_path, 0, data="imagenet", root=Path("/data"), images=100, batch_size=10, done=1)
    again.add(1, [Path("/data") / LATIN])
    assert again.count == 1


def test_failures_and_logs_with_any_bytes_are_read_as_text(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "job")
    run.path.mkdir()
    run.error_file.write_text(json.dumps({"kind": "error", "message": LATIN}))
    run.log.write_bytes(b"caf\xe9\n")
    assert run.failure().message == r"caf\xe9_1.JPEG"
    assert run.log_tail() == r"caf\xe9"


def test_what_macos_leaves_among_plans_records_references_and_notes_is_none_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, references = Runs(tmp_path / "runs"), tmp_path / "reference"
    plans.write(runs, plans.StoredPlan("simclr_table6", "smoke", 1, (), (), ()))
    (references / "smoke").mkdir(parents=True)
    reference.write(reference.path_of("simclr_table6", "smoke", references), [])
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights")
    digest = released.register(weights, tmp_path / "notes")
    kept.folder_of(references).mkdir(exist_ok=True)
    for file in (
        runs.root / "plans" / "._simclr_table6@smoke.json",
        references / "smoke" / "._simclr_table6.csv",
        kept.folder_of(references) / "._smoke.jsonl",
        tmp_path / "notes" / f"._{digest}.json",
    ):
        file.write_bytes(APPLE_DOUBLE)
    assert [plan.name for plan in plans.read_all(runs)] == ["simclr_table6@smoke"]
    assert capsys.readouterr().err == ""
    assert reference.read_others("vicreg_table2", "smoke", references) == []
    assert released.register(weights, tmp_path / "notes") == digest
    with pytest.raises(BenchError, match="no records"):
        kept.unpack(Runs(tmp_path / "other"), references)


def test_a_list_of_images_with_names_in_another_encoding_is_read_in_every_locale(tmp_path: Path) -> None:
    folder = tmp_path / "VOC2007" / "ImageSets" / "Main"
    folder.mkdir(parents=True)
    (folder / "trainval.txt").write_bytes(b"caf\xe9_1\ncaf\xc3\xa9_2\n")
    (folder / "test.txt").write_bytes(b"")
    code = f"""
from pathlib import Path
from bench.data.sets import detection_layouts

print(detection_layouts.numbers(Path({str(tmp_path)!r}), coco=False))
"""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **plain},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.stdout, found.stderr) == ("(2, 0)\n", "")
