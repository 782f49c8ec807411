"""`bench data list` and `bench data check NAME`: what is here, and whether it is whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.data import as_is
from bench.data.catalogue import CATALOGUE, entry
from bench.data.fingerprint import DataHere
from bench.data.location import check_present, fetch_folder, root_of
from bench.data.sets import lists
from bench.data.share import labelled_share
from bench.errors import BenchError, one_line, unknown_name
from bench.settings.site import Site
from bench.spec import Data
from bench.wording import counted, size

if TYPE_CHECKING:
    from bench.data.splits import Files, SplitData

SAMPLE = 64  # images of a split that are decoded
NAMED = 3  # of many problems of one kind


@dataclass
class Findings:
    """What a check says: lines to read, and the problems among them."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def overview(site: Site) -> Iterator[str]:
    """One line a data set and list: name, whether it is here, where, what it is. Opens nothing."""
    for name, known in CATALOGUE.items():
        try:
            check_present(name, site)
            state, where = "present", f"package {known.package}" if known.package else str(fetch_folder(name, site))
        except BenchError:
            folder = fetch_folder(name, site)
            state, where = (
                ("incomplete", str(folder))
                if folder.is_dir()
                else ("missing", "bench data fetch" if known.fetched else "by hand")
            )
        yield f"{name:<17} {state:<10} {known.summary} [{where}]"
    for name, published in lists.PUBLISHED.items():
        try:
            state, where = "present", str(lists.list_file(name, site))
        except BenchError:
            state, where = "missing", "bench data fetch"
        yield (
            f"{name:<17} {state:<10} SimCLR's list of {published.images:,} labelled images of {published.data} "
            f"[{where}]"
        )


def check_data(name: str, site: Site) -> Findings:
    """Look over a data set or a list: presence, layout, numbers, and a seeded sample of images.

    Raises BenchError for an unknown name.
    """
    found = Findings()
    if name not in CATALOGUE and name not in lists.PUBLISHED:
        raise unknown_name("data set or list", name, [*CATALOGUE, *lists.PUBLISHED])
    try:
        (_check_list if name in lists.PUBLISHED else _check_set)(name, site, found)
        if name in CATALOGUE and (fingerprint := DataHere(site).fingerprint(name)) is not None:
            found.lines.append(f"what its readers read: {fingerprint.words()}")
    except BenchError as error:
        found.problems.append(one_line(error))
    return found


def _check_list(name: str, site: Site, found: Findings) -> None:
    known = lists.PUBLISHED[name]
    file = lists.list_file(name, site)
    listed = lists.read_list(name, file)
    found.lines.append(f"{file}: {len(listed):,} images, sha256 as published")
    check_present(known.data, site)
    share = labelled_share(Data(name=known.data, size=224), known.fraction, 0, site)
    found.lines.append(f"all {len(share.indices):,} are in {known.data}")


def _check_set(name: str, site: Site, found: Findings) -> None:
    from bench.data.datasets import open_splits
    from bench.data.splits import Files

    check_present(name, site)
    known = entry(name)
    if not known.package:
        found.lines.append(f"{name}: {fetch_folder(name, site)}")
    if known.boxes:
        _check_boxes(name, site, found)
        return
    if not known.package and as_is.is_pack(root := root_of(name, site)):
        pack = as_is.described(root, name)
        found.lines.append(
            f"a pack of the files as they are: {pack.images:,} images, {size(pack.bytes)}, "
            f"{counted(len(pack.shards), 'shard')}; all checksums are compared"
        )
        found.problems += as_is.damaged(pack)
    splits = open_splits(name, known.pixels, site)
    sizes = {split: len(data) for split, data in splits.items()}
    found.lines += [f"{split}: {len(data):,} images, {data.classes} classes" for split, data in splits.items()]
    _compare(found, "classes", splits["train"].classes, known.classes, known.hint)
    _compare(found, "training images", sizes["train"] + sizes["val"], known.trainval_images, known.hint)
    _compare(found, "test images", sizes["test"], known.test_images, known.hint)
    said: set[str] = set()
    for split, data in splits.items():
        if isinstance(data, Files):  # several splits may be made of one list
            found.lines += [f"{split}: {sentence}" for sentence in data.left_out if sentence not in said]
            said.update(data.left_out)
        if data.labels.ndim == 1:
            found.problems += _uneven(split, data)
        if isinstance(data, Files):
            _decode_some(found, split, data)


def _check_boxes(name: str, site: Site, found: Findings) -> None:
    """Every annotation and every image of a detection set."""
    from bench.data.sets import detection_layouts as layouts

    data = Data(name=name, size=entry(name).pixels)
    root = layouts.detection_root(data, site, site.runs / "features")
    in_coco = name in layouts.COCO
    found.problems += layouts.check_coco(root) if in_coco else layouts.check_voc0712(root, layouts.class_names(data))
    train, test = layouts.numbers(root, coco=in_coco)
    found.lines += [f"trainval: {train:,} images", f"test: {test:,} images"]
    _compare(found, "training images", train, entry(name).trainval_images, entry(name).hint)
    _compare(found, "test images", test, entry(name).test_images, entry(name).hint)


def _compare(found: Findings, what: str, here: int, expected: int, hint: str) -> None:
    if not expected:
        found.lines.append(f"{what}: {here:,}; copies differ, so there is no number to compare with")
    elif here != expected:
        gap = f"{expected - here:,} are missing" if here < expected else f"{here - expected:,} too many"
        found.problems.append(f"{here:,} {what}, expected {expected:,}: {gap}; {hint or 'install the package anew'}.")


def _uneven(split: str, data: SplitData) -> Iterator[str]:
    """Classes without images, and the few that differ where nearly all have the same number."""
    counts = Counter(data.labels.tolist())
    if not counts:
        if split != "val":
            yield f"{split}: no image{' is left where those of val are held out' if split == 'train' else ''}."
        return
    empty = [label for label in range(data.classes) if not counts[label]]
    if empty and split != "val":  # a small random part may lack a rare class
        yield f"{split}: {len(empty)} classes have no image, e.g. number {', '.join(map(str, empty[:NAMED]))}."
    usual, classes = Counter(counts.values()).most_common(1)[0]
    odd = [label for label, count in counts.items() if count != usual]
    if split == "test" and 0.9 * data.classes <= classes < data.classes:
        named = ", ".join(f"{_class_name(data, label)} has {counts[label]}" for label in odd[:NAMED])
        yield f"test: {classes} classes have {usual} images, {len(odd)} have not: {named}."


def _class_name(data: SplitData, label: int) -> str:
    from bench.data.splits import Files

    row = int((data.labels == label).nonzero()[0])
    return data.paths[row].parent.name if isinstance(data, Files) else f"number {label}"


def _decode_some(found: Findings, split: str, data: Files) -> None:
    """Decode a seeded sample."""
    import torch

    from bench.data.loader import decode
    from bench.seeding import generator

    chosen = torch.randperm(len(data), generator=generator(0, "check", split))[:SAMPLE].tolist()
    broken = []
    for index in chosen:
        try:
            decode(data, index)
        except BenchError as error:
            broken.append(one_line(error))
    found.lines.append(f"{split}: {len(chosen) - len(broken)} of {len(chosen)} images drawn at random can be decoded")
    found.problems += broken[:NAMED]
    if len(broken) > NAMED:
        found.problems.append(f"{split}: {len(broken)} of {len(chosen)} images drawn at random cannot be decoded.")
