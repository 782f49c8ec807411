from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.data.catalogue import entry
from bench.data.datasets import open_split
from bench.data.loader import decode
from bench.data.sets.digits import mnist5k
from bench.data.splits import SPLITS, Arrays, Files, Split
from bench.errors import BenchError
from bench.execution.worker import decodes
from bench.settings.site import Site
from bench.spec import Data
from tests.bench.data_trees import files_below, save, site_with


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def rows(each: int, skip: int = 0) -> tuple[NDArray[np.uint8], list[int]]:
    """Real digits (N, 3, 32, 32), `each` of every class, and their labels."""
    known = mnist5k()["train"]
    index = torch.cat([(known.labels == c).nonzero().squeeze(1)[skip : skip + each] for c in range(10)])
    return known.images[index].numpy(), known.labels[index].tolist()


# -- CIFAR and STL-10, in their own binary formats; the checksums that torchvision compares are those of the small files
# ----------


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, labels: str) -> None:
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    names = [name for name, _ in (*kind.train_list, *kind.test_list)]
    found: dict[str, str] = {}
    for number, name in enumerate(names):
        images, targets = rows(4, skip=4 * number)
        (folder / name).write_bytes(pickle.dumps({"data": images.reshape(len(images), -1), labels: targets}))
        found[name] = md5(folder / name)
    meta = folder / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: [str(c) for c in range(10)]}))
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(kind, name, [[file, found[file]] for file, _ in getattr(kind, name)])


@pytest.mark.parametrize(
    ("name", "labels", "sizes"), [("cifar10", "labels", (180, 20, 40)), ("cifar100", "fine_labels", (36, 4, 40))]
)
def test_cifar_is_read_by_torchvision(
    here: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, labels: str, sizes: tuple[int, ...]
) -> None:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    root = tmp_path / name
    cifar(root, monkeypatch, kind, labels)
    site = site_with(here, name, root)
    assert entry(name).in_memory
    assert not decodes(name)
    parts = {split: cast(Arrays, open_split(Data(name=name, size=32), split, site)) for split in SPLITS}
    assert tuple(len(part) for part in parts.values()) == sizes
    expected, targets = rows(4, skip=4 * (5 if name == "cifar10" else 1))
    assert np.array_equal(parts["test"].images.numpy(), expected)
    assert parts["test"].labels.tolist() == targets
    train = {image.tobytes() for part in ("train", "val") for image in parts[part].images.numpy()}
    assert len(train) == sizes[0] + sizes[1]
    with pytest.raises(BenchError, match=f"{name} has images of 32 px, the spec asks for 224"):
        open_split(Data(name=name, size=224), "train", site)


def test_a_damaged_cifar_says_what_to_do(here: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    cifar(tmp_path / "cifar10", monkeypatch, CIFAR10, "labels")
    (tmp_path / "cifar10" / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"cut")
    with pytest.raises(
        BenchError, match=r"'cifar10' cannot be read by torchvision .*corrupted.*`bench data fetch cifar10` gets it"
    ):
        open_split(Data(name="cifar10", size=32), "train", site_with(here, "cifar10", tmp_path / "cifar10"))


@pytest.fixture
def stl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from torchvision.datasets import STL10

    folder = tmp_path / "stl" / "stl10_binary"
    folder.mkdir(parents=True)
    for number, (part, each) in enumerate((("train", 10), ("test", 3), ("unlabeled", 5))):
        images, labels = rows(each, skip=20 * number)
        large = images.repeat(3, axis=2).repeat(3, axis=3)
        (folder / f"{part}_X.bin").write_bytes(large.transpose(0, 1, 3, 2).tobytes())  # STL-10 stores columns first
        if part != "unlabeled":
            (folder / f"{part}_y.bin").write_bytes((np.array(labels, dtype=np.uint8) + 1).tobytes())
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(STL10, name, [[file, md5(folder / file)] for file, _ in getattr(STL10, name)])
    return tmp_path / "stl"


def test_stl_has_its_labelled_images_and_with_the_unlabelled_ones(here: Site, stl: Path) -> None:
    site = site_with(site_with(here, "stl10", stl), "stl10-unlabelled", stl)
    assert entry("stl10").in_memory
    assert entry("stl10-unlabelled").in_memory
    parts = {split: cast(Arrays, open_split(Data(name="stl10", size=96), split, site)) for split in SPLITS}
    assert [len(part) for part in parts.values()] == [90, 10, 30]
    assert parts["val"].labels.tolist() == list(range(10))
    expected, labels = rows(3, skip=20)
    assert np.array_equal(parts["test"].images[:, :, ::3, ::3].numpy(), expected)
    assert parts["test"].labels.tolist() == labels
    more = cast(Arrays, open_split(Data(name="stl10-unlabelled", size=96), "train", site))
    assert torch.equal(more.images[:90], parts["train"].images)
    assert more.labels[90:].tolist() == [-1] * 50
    assert np.array_equal(more.images[90:, :, ::3, ::3].numpy(), rows(5, skip=40)[0])
    with pytest.raises(BenchError, match="stl10 has images of 96 px, the spec asks for 32"):
        open_split(Data(name="stl10", size=32), "train", site)


# -- photographs -----------------------------------------------------------------------------------------------------


def food(root: Path) -> None:
    for part, each in (("train", 20), ("test", 3)):
        lists = {name: [f"{name}/{part}{n}" for n in range(each)] for name in ("apple_pie", "waffles")}
        for name in (name for names in lists.values() for name in names):
            save(root / "food-101" / "images" / f"{name}.jpg")
        (root / "food-101" / "meta").mkdir(exist_ok=True)
        (root / "food-101" / "meta" / f"{part}.json").write_text(json.dumps(lists))


def cars(root: Path) -> None:
    from scipy.io import savemat

    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["Acura", "Volvo"], dtype=object)})
    for part, file, each in (
        ("train", "devkit/cars_train_annos.mat", 20),
        ("test", "cars_test_annos_withlabels.mat", 3),
    ):
        names = [f"{number:05}.jpg" for number in range(2 * each)]
        kind = [("class", "u1"), ("fname", "O")]
        savemat(
            base / file,
            {"annotations": np.array([(1 + number // each, name) for number, name in enumerate(names)], dtype=kind)},
        )
        for name in names:
            save(base / f"cars_{part}" / name)


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    number = 0
    for part, each in (("train", 5), ("val", 4), ("test", 3)):
        lines = []
        for name in ("707-320", "Boeing 717"):
            for _ in range(each):
                number += 1
                save(data / "images" / f"{number:07}.jpg")
                lines.append(f"{number:07} {name}")
        (data / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")
    (data / "variants.txt").write_text("707-320\nBoeing 717\n")


def dtd(root: Path) -> None:
    base = root / "dtd" / "dtd"
    for part, each in (("train", 5), ("val", 4), ("test", 3)):
        lines = [f"{name}/{name}_{part}{n}.jpg" for name in ("banded", "woven") for n in range(each)]
        for line in lines:
            save(base / "images" / line)
        (base / "labels").mkdir(exist_ok=True)
        (base / "labels" / f"{part}1.txt").write_text("\n".join(lines) + "\n")
        (base / "labels" / f"{part}2.txt").write_text("nothing/of_this.jpg\n")


def pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    for part, each in (("trainval", 20), ("test", 3)):
        lines = []
        for label, name in enumerate(("Abyssinian", "Beagle"), 1):
            for number in range(each):
                save(base / "images" / f"{name}_{part}{number}.jpg")
                lines.append(f"{name}_{part}{number} {label} {label} 1")
        (base / "annotations").mkdir(exist_ok=True)
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")


def flowers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision.datasets import Flowers102

    base = root / "flowers-102"
    for number in range(1, 25):
        save(base / "jpg" / f"image_{number:05}.jpg")
    savemat(base / "imagelabels.mat", {"labels": np.array([1, 2] * 12)})
    savemat(base / "setid.mat", {"trnid": np.arange(1, 11), "valid": np.arange(11, 19), "tstid": np.arange(19, 25)})
    known = {
        **Flowers102._file_dict,
        **{
            key: (f"{file}.mat", md5(base / f"{file}.mat"))
            for key, file in (("label", "imagelabels"), ("setid", "setid"))
        },
    }
    monkeypatch.setattr(Flowers102, "_file_dict", known)


@pytest.mark.parametrize(
    ("name", "build", "sizes"),
    [
        ("food101", food, (36, 4, 6)),
        ("cars", cars, (36, 4, 6)),
        ("aircraft", aircraft, (10, 8, 6)),
        ("dtd", dtd, (10, 8, 6)),
        ("pets", pets, (36, 4, 6)),
        ("flowers102", flowers, (10, 8, 6)),
    ],
)
def test_photographs_are_read_by_torchvision(
    here: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    build: Callable[..., None],
    sizes: tuple[int, ...],
) -> None:
    root = tmp_path / name
    build(root, monkeypatch) if build is flowers else build(root)
    site = site_with(here, name, root)
    parts: dict[Split, Files] = {
        split: cast(Files, open_split(Data(name=name, size=32), split, site)) for split in SPLITS
    }
    assert tuple(len(part) for part in parts.values()) == sizes
    for part, size in zip(parts.values(), sizes, strict=True):
        assert part.classes == 2
        assert part.labels.bincount().tolist() == [size // 2] * 2
        assert decode(part, 0).shape == (3, 32, 32)
    paths = [path for part in parts.values() for path in part.paths]
    assert len(set(paths)) == len(paths)
    assert set(paths) == set(files_below(root))


def test_a_class_that_torchvision_cannot_place_is_a_plain_error(here: Site, tmp_path: Path) -> None:
    aircraft(tmp_path / "a")
    (tmp_path / "a" / "fgvc-aircraft-2013b" / "data" / "variants.txt").write_text("707-320\n")
    with pytest.raises(
        BenchError,
        match=r"'aircraft' cannot be read by torchvision \(KeyError: 'Boeing 717'\): `bench data fetch aircraft` "
        r"gets it",
    ):
        open_split(Data(name="aircraft", size=32), "train", site_with(here, "aircraft", tmp_path / "a"))
