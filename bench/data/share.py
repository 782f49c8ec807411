"""A share of the labels: SimCLR's published lists of 1 % and 10 % of ImageNet, seeded and class-balanced elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.data.sets.lists import PUBLISHED, list_file, read_list
from bench.errors import BenchError
from bench.settings.site import Site
from bench.spec import Data

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data.splits import Files, Split


@dataclass(frozen=True)
class Share:
    """Sorted positions (n,) in a split whose labels may be used, and where they come from, for the result's details."""

    indices: Tensor
    source: str


def labelled_share(data: Data, fraction: float, seed: int, site: Site, split: Split = "trainval") -> Share:
    """The labelled images of a split: a published list if there is one for this share, else seeded and class-balanced.

    A list speaks of all training images: of "train" alone it gives those that are not held out as `val`. Raises
    BenchError when a published list is not there, is another file, or names images that are not there.
    """
    from bench.data.datasets import open_split
    from bench.data.splits import Files

    images = open_split(data, split, site)
    name = published_for(data.name, fraction)
    if name is None:
        return seeded_share(images.labels, images.classes, fraction, seed)
    assert isinstance(images, Files)  # lists name files
    file = list_file(name, site)
    listed = read_list(name, file)
    chosen = _positions(listed, images, name, whole=split == "trainval")
    left_out = f" less {len(listed) - len(chosen)} held out as val" if len(chosen) < len(listed) else ""
    return Share(
        chosen, f"SimCLR's published list {name}, {len(listed):,} images{left_out}, sha256 {PUBLISHED[name].sha256}"
    )


def seeded_share(labels: Tensor, classes: int, fraction: float, seed: int) -> Share:
    """A class-balanced share of labels (N,), for data sets without a published list.

    Raises BenchError where an image has several.
    """
    from bench.data.splits import labelled_subset

    if fraction == 1:
        return Share(labelled_subset(labels, classes, 1.0, seed), f"all {len(labels):,} images")
    if labels.ndim != 1:
        raise BenchError(f"images with several labels each: a share of {fraction:.0%} of them is not defined.")
    chosen = labelled_subset(labels, classes, fraction, seed)
    return Share(chosen, f"seeded class-balanced share, {len(chosen):,} of {len(labels):,} images, seed {seed}")


def check_share(data: str, fraction: float, site: Site) -> None:
    """Raises BenchError when the list for a share of a data set is missing or another file: for plans.

    Imports no torch.
    """
    name = published_for(data, fraction)
    if name is not None:
        read_list(name, list_file(name, site))


def published_for(data: str, fraction: float) -> str | None:
    """Name of the published list for a share of a data set; None where shares are seeded.

    Packed ImageNet is refused: it has no file names.
    """
    if data.startswith("imagenet-") and published_for("imagenet", fraction):
        raise BenchError(
            f"{fraction:.0%} of the labels means SimCLR's published list of file names, which the packed {data} has "
            "not: "
            "use imagenet (no recipe.data in bench.toml), or leave that column out."
        )
    return next((name for name, known in PUBLISHED.items() if (known.data, known.fraction) == (data, fraction)), None)


def _positions(listed: list[str], images: Files, name: str, *, whole: bool) -> Tensor:
    import torch

    from bench.data.splits import compact

    wanted = {f"{line.partition('_')[0]}/{line}" for line in listed}
    # The last two parts of a path, class folder and file name, as in ImageNet's layout.
    there = {
        "/".join(path.rsplit("/", 2)[-2:]): position for position, path in enumerate(compact(images.paths).names())
    }
    missing = sorted(wanted - there.keys())
    if missing and whole:
        raise BenchError(
            f"{name} names {len(missing):,} images that {PUBLISHED[name].data} does not have here, "
            f"e.g. train/{missing[0]}: `bench data check {PUBLISHED[name].data}`."
        )
    return torch.tensor(sorted(there[key] for key in wanted & there.keys()))
