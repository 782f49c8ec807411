"""Opening a split of a data set by its catalogue name; LOADERS has the function for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from bench.data import as_is
from bench.data.catalogue import entry
from bench.data.location import check_present, root_of
from bench.data.sets import digits, folders, packed, twins, vision
from bench.data.splits import Split, SplitData, joined
from bench.errors import BenchError
from bench.settings.site import Site
from bench.spec import Data


def open_split(data: Data, split: Split, site: Site) -> SplitData:
    """One split of a data set at the size that the spec asks for.

    Raises BenchError when it is not there or not whole.
    """
    check_present(data.name, site)
    if data.name not in LOADERS:
        raise BenchError(f"{data.name} has boxes instead of labelled images: only a detection protocol can read it.")
    splits = open_splits(data.name, data.size, site)
    return joined(splits["train"], splits["val"]) if split == "trainval" else splits[split]


def open_splits(name: str, size: int, site: Site) -> Mapping[Split, SplitData]:
    """All splits of a data set with labels, from its folder or from a pack of its files as they are."""
    if not entry(name).package and as_is.is_pack(root := root_of(name, site)):
        return as_is.load(root, name)
    return LOADERS[name](site, size)


LOADERS: Mapping[str, Callable[[Site, int], Mapping[Split, SplitData]]] = {
    "mnist5k": digits.load_mnist5k,
    "tflat": digits.load_tflat,
    "digits1797": twins.load_digits1797,
    "digit_scenes": twins.load_digit_scenes,
    "digit_pairs": twins.load_digit_pairs,
    "cifar10": vision.load_cifar10,
    "cifar100": vision.load_cifar100,
    "stl10": vision.load_stl10,
    "stl10-unlabelled": vision.load_stl10_unlabelled,
    "imagenet": folders.load_imagenet,
    "imagenet-256": partial(packed.load_pack, "imagenet-256"),
    "places205": folders.load_places205,
    "inat18": folders.load_inat18,
    "voc2007": folders.load_voc2007,
    "food101": vision.load_food101,
    "birdsnap": folders.load_birdsnap,
    "sun397": folders.load_sun397,
    "cars": vision.load_cars,
    "aircraft": vision.load_aircraft,
    "dtd": vision.load_dtd,
    "pets": vision.load_pets,
    "caltech101": folders.load_caltech101,
    "flowers102": vision.load_flowers102,
}
