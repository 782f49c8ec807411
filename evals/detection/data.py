"""Detection data as Detectron2 reads them, and batches that are functions of (seed, iteration).

So a resumed run sees the same batches.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bench.contracts import Context
from bench.data.sets import detection_layouts as layouts
from bench.data.shared_memory import PAGE, Batches, fitting, whole_pages
from bench.data.workers import PREFETCHED, batches_of, speak_up
from bench.errors import BenchError, Stopped
from bench.identity import digest
from bench.machine import start_of_helpers
from bench.seeding import generator, seed_of
from bench.spec import Data
from bench.training.ranks import Ranks

GROUP = 2  # images of one aspect that stand together in a batch, which is what a GPU gets of 16 on 8
Key = tuple[int, int, int]  # iteration, place in the batch, image
Item = Mapping[str, Any]


@dataclass(frozen=True)
class Scenes:
    """One opened data set: names in Detectron2's catalogue, its dictionaries, class names, and where it lies."""

    train: tuple[str, ...]
    test: str
    train_items: Sequence[Item]
    classes: tuple[str, ...]
    bitmasks: bool  # masks are run lengths
    root: Path


def open_scenes(context: Context, *, masks: bool, first: bool = True) -> Scenes:
    """Check the data set, on the first rank, and register it.

    Raises BenchError when it has another layout, is not there, or not whole; Stopped when asked to stop while waiting.
    """

    def wait() -> None:
        if context.should_stop():
            raise Stopped("stopped before training")
        time.sleep(1)

    data, names = context.data, layouts.COCO if masks else layouts.VOC
    if data.name not in names:
        raise BenchError(
            f"this protocol needs a data set in {'COCO' if masks else 'VOC'}'s layout ({' or '.join(names)}), found "
            f"{data.name!r}."
        )
    root = layouts.detection_root(data, context.site, context.features)
    layouts.check_whole(data, root, context.features, None if first else wait, context.fingerprint)
    train, test = (_register_coco if masks else _register_voc)(data, root)

    from detectron2.data import MetadataCatalog, get_detection_dataset_dicts

    items = get_detection_dataset_dicts(train, filter_empty=True)
    shapes = (one.get("segmentation") for item in items for one in item["annotations"] if not one.get("iscrowd"))
    return Scenes(
        train,
        test,
        items,
        tuple(MetadataCatalog.get(test).thing_classes),
        any(isinstance(shape, dict) for shape in shapes),
        root,
    )


def _register_coco(data: Data, root: Path) -> tuple[tuple[str, ...], str]:
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances

    found = []
    for split in layouts.COCO_SPLITS:
        name = f"{data.name}_{split}_{digest(str(root))}"
        if name not in DatasetCatalog.list():
            register_coco_instances(name, {}, str(root / "annotations" / f"instances_{split}.json"), str(root / split))
        DatasetCatalog.get(name)  # fills in the classes
        found.append(name)
    return (found[0],), found[1]


def _register_voc(data: Data, root: Path) -> tuple[tuple[str, ...], str]:
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_pascal_voc

    found = []
    for year, split in layouts.VOC_SPLITS:
        name = f"{data.name}_{year}_{split}_{digest(str(root))}"
        if name not in DatasetCatalog.list():
            register_pascal_voc(name, str(root / f"VOC{year}"), split, int(year), list(layouts.class_names(data)))
        found.append(name)
    return tuple(found[:2]), found[2]


def plan_batches(upright: Sequence[bool], batch_size: int, iterations: int, seed: int) -> list[list[int]]:
    """Images of each iteration's batch over all ranks.

    Every image is seen once before one is seen again, but that pairs have one aspect.

    Wide and upright images are padded to one size in a batch, which is why Detectron2 keeps them apart too.
    """
    group = GROUP if batch_size % GROUP == 0 else 1
    wanted = iterations * batch_size
    waiting: dict[bool, list[int]] = {False: [], True: []}
    stream: list[int] = []
    epoch = 0
    while len(stream) < wanted:
        for image in torch.randperm(len(upright), generator=generator(seed, "order", epoch)).tolist():
            pair = waiting[upright[image]]
            pair.append(image)
            if len(pair) == group:
                stream += pair
                pair.clear()
        epoch += 1
    return [stream[start : start + batch_size] for start in range(0, wanted, batch_size)]


class _Mapped(Dataset[Any]):
    """Images by key, each augmented with random numbers of its own."""

    def __init__(self, items: Sequence[Item], mapper: Callable[[Item], Any], seed: int) -> None:
        self._items, self._mapper, self._seed = items, mapper, seed

    def __getitem__(self, key: Key) -> Any:
        iteration, place, image = key
        own = seed_of(self._seed, "augment", iteration, place)
        np.random.seed(own % 2**32)  # Detectron2 draws from the global generators
        random.seed(own)
        return self._mapper(self._items[image])


def train_batches(cfg: Any, scenes: Scenes, seed: int, steps: range, ranks: Ranks, workers: int) -> Iterator[list[Any]]:
    """This rank's share of each of the batches. Raises BenchError when the batch does not divide among the ranks."""
    from detectron2.data import DatasetFromList, DatasetMapper

    batch = cfg.SOLVER.IMS_PER_BATCH
    if batch % ranks.world:
        raise BenchError(f"a batch of {batch} does not divide among {ranks.world} ranks.")
    share = batch // ranks.world
    upright = [item["width"] < item["height"] for item in scenes.train_items]
    planned = plan_batches(upright, batch, steps.stop, seed)
    keys = [
        [(step, place, planned[step][place]) for place in range(ranks.rank * share, (ranks.rank + 1) * share)]
        for step in steps
    ]
    mapped = _Mapped(DatasetFromList(scenes.train_items, copy=False), DatasetMapper(cfg, is_train=True), seed)
    workers = fitting(workers, _takes(cfg, share, len(keys)))
    loader = DataLoader(
        mapped,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=speak_up,
        multiprocessing_context=start_of_helpers(workers),
    )
    return batches_of(loader)


def _takes(cfg: Any, share: int, batches: int) -> Batches:
    """Of shared memory, at most: each image and its boxes are files of their own; masks are polygons or small."""
    image = 3 * max(cfg.INPUT.MIN_SIZE_TRAIN) * cfg.INPUT.MAX_SIZE_TRAIN
    return Batches(share * whole_pages([image, PAGE, PAGE]), per_worker=PREFETCHED, held=2, most=batches)


def test_loader(cfg: Any, name: str, workers: int) -> Any:
    """Detectron2's loader of the test images, one at a time, shared among the ranks."""
    from detectron2.data import DatasetMapper, build_detection_test_loader, get_detection_dataset_dicts

    items = get_detection_dataset_dicts(name, filter_empty=False)
    loader = build_detection_test_loader(items, mapper=partial(DatasetMapper(cfg, is_train=False)), num_workers=workers)
    loader.worker_init_fn = speak_up  # there is no argument for it
    loader.multiprocessing_context = start_of_helpers(workers)
    return loader
