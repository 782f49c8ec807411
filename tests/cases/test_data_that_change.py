"""Results and cached features know their data: what was computed of other images is never taken for these."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from bench.commands import driver, evaluate
from bench.commands.evaluate import CheckpointRequest
from bench.data import fingerprint, listing
from bench.data.sets import folders
from bench.runs.folder import Runs
from bench.settings.site import Site

Evaluated = Callable[..., list[str]]


@pytest.fixture(scope="module")
def sorted_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's layout with three classes by hue, which even random features tell apart, and a random ResNet-18."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(3):
        for split, count in (("train", 8), ("val", 3)):
            folder = root / split / f"n{number + 1:08d}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.full((64, 72, 3), 40 + 50 * number)
                pixels[:, :, number] = 200
                noise = rng.integers(-25, 25, pixels.shape)
                Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.JPEG", quality=90)
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), root / "resnet18.pth")
    return root


@pytest.fixture
def images(sorted_images: Path, workplace: Path) -> Path:
    return Path(shutil.copytree(sorted_images, workplace / "data"))


@pytest.fixture
def evaluated(workplace: Path, images: Path, capfd: pytest.CaptureFixture[str]) -> Evaluated:
    """`evaluated("knn")`: the command with its lines; `data` names another folder under [data]."""

    def run(protocol: str, *, data: Path = images, accept_data: bool = False) -> list[str]:
        (workplace / "bench.toml").write_text(f'[data]\nimagenet = "{data}"\n')
        folders._image_folder.cache_clear()  # a command is a process of its own
        site = Site(
            root=workplace,
            runs=workplace / "runs",
            output=workplace / "out",
            report=workplace / "report",
            data={"imagenet": data},
        )
        asked = CheckpointRequest(site, images / "resnet18.pth", (protocol,), "paper", "resnet18")
        assert evaluate.run(asked, "inline", accept_data=accept_data) == 0
        return capfd.readouterr().out.splitlines()

    return run


def shuffle(root: Path) -> None:
    """As a copy that was sorted into classes wrongly, with the names and the order of the right one."""
    files = sorted((root / "train").rglob("*.JPEG"))
    contents = [file.read_bytes() for file in files]
    random.Random(0).shuffle(contents)
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)


def top1(lines: list[str]) -> float:
    (line,) = (line for line in lines if " on imagenet: top1 " in line)
    return float(line.split("top1 ")[1].split()[0])


def about(lines: list[str], beginning: str) -> list[str]:
    return [line for line in lines if line.startswith(beginning)]


def test_a_copy_that_is_put_right_in_place_is_evaluated_again(
    evaluated: Evaluated, images: Path, sorted_images: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shuffle(images)
    wrong = top1(evaluated("knn"))
    assert wrong < 100
    shutil.copytree(sorted_images, images, dirs_exist_ok=True)  # in place: no folder's time changes
    lines = evaluated("knn")
    assert top1(lines) == 100
    (said,) = about(lines, "data changed: imagenet: ")
    assert "files differ, e.g. train/n0000000" in said
    assert said.endswith("these jobs run again: resnet18.pth | knn")
    looks: list[str] = []
    look = fingerprint.DataHere._look

    def counting(self: fingerprint.DataHere, name: str) -> listing.Listing:
        looks.append(name)
        return look(self, name)

    monkeypatch.setattr(fingerprint.DataHere, "_look", counting)
    assert top1(evaluated("linear")) == 100  # a new job: nor does it take the features of the wrong copy
    assert any(line.endswith("nothing to compute") for line in evaluated("knn"))
    assert looks == ["imagenet"] * 3  # once for the command that runs something and for its job, once for the other
    earlier = list((workplace / "runs").glob("evaluate-*/earlier/*/result.json"))
    assert len(earlier) == 1


def test_another_folder_under_data_is_other_data_and_a_true_copy_is_not(
    evaluated: Evaluated, images: Path, sorted_images: Path, workplace: Path
) -> None:
    part = Path(shutil.copytree(images, workplace / "part"))
    shuffle(part)
    for file in sorted((part / "train").rglob("[67].JPEG")):
        file.unlink()
    assert top1(evaluated("knn", data=part)) < 100
    lines = evaluated("knn")
    assert top1(lines) == 100
    assert "6 new" in about(lines, "data changed: imagenet: ")[0]
    copy = Path(shutil.copytree(images, workplace / "copy"))
    assert any(line.endswith("nothing to compute") for line in evaluated("knn", data=copy))


def test_data_that_are_accepted_keep_the_old_numbers_and_the_results_say_so(
    evaluated: Evaluated, images: Path, sorted_images: Path, workplace: Path
) -> None:
    shuffle(images)
    wrong = top1(evaluated("knn"))
    shutil.copytree(sorted_images, images, dirs_exist_ok=True)
    lines = evaluated("knn", accept_data=True)
    assert top1(lines) == wrong
    assert "kept on purpose (--accept-data): resnet18.pth | knn" in about(lines, "data changed: imagenet: ")[0]
    lines = evaluated("knn")
    assert top1(lines) == wrong
    assert not about(lines, "data changed")
    (file,) = (workplace / "runs").glob("evaluate-*/result.json")
    read = Runs(workplace / "runs")[file.parent.name].result().provenance.inputs
    assert read.accepted["imagenet"] != read.data["imagenet"]
    (images / "val/n00000001/new.JPEG").write_bytes((images / "val/n00000001/0.JPEG").read_bytes())
    assert top1(evaluated("knn")) == 100  # it was accepted for those data, not for any


def test_a_job_that_runs_while_its_data_change_has_what_it_found(
    evaluated: Evaluated, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = fingerprint.DataHere.remember

    def changes_meanwhile(self: fingerprint.DataHere, name: str) -> None:
        look(self, name)
        (images / "train/n00000003/0.JPEG").write_bytes(b"damaged by now")

    with monkeypatch.context() as patch:
        patch.setattr(fingerprint.DataHere, "remember", changes_meanwhile)
        patch.setattr(driver, "closing", lambda *_: 0)  # it fails: an image cannot be read
        evaluated("knn")
    shutil.copyfile(images / "train/n00000003/1.JPEG", images / "train/n00000003/0.JPEG")
    assert not about(evaluated("knn"), "data changed")
