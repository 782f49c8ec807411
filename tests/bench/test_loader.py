from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bench.contracts import Batch
from bench.data import decoding, loader
from bench.data.datasets import open_split
from bench.data.loader import Plan
from bench.data.sets.class_folders import scan_folder
from bench.data.shared_memory import Batches
from bench.data.splits import SPLITS, Arrays, Files, SplitData, labelled_subset
from bench.data.views import crops, draws
from bench.data.workers import load
from bench.errors import BenchError
from bench.seeding import generator
from bench.settings.site import Site
from bench.spec import Augment, Data

CPU = torch.device("cpu")
VIEWS = (
    Augment(
        size=32,
        crop_scale=(0.3, 1.0),
        flip=0.5,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        gray=0.2,
        blur=0.5,
        solarize=0.2,
    ),
    Augment(size=24, crop_scale=(0.1, 0.5), flip=0.0),
)
DIGITS = Data(name="mnist5k", size=32)


def read(
    split: SplitData, plan: Plan, steps: Sequence[int], views: tuple[Augment, ...] = VIEWS, workers: int = 0
) -> list[Batch]:
    return list(loader.train_batches(split, views, plan, range(steps[0], steps[-1] + 1), CPU, workers=workers))


def same(a: Batch, b: Batch) -> bool:
    views = all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
    return views and torch.equal(a.labels, b.labels) and torch.equal(a.indices, b.indices)


def joined(parts: Sequence[Batch]) -> Batch:
    views = [torch.cat(view) for view in zip(*(part.views for part in parts), strict=True)]
    return Batch(
        views=views, labels=torch.cat([p.labels for p in parts]), indices=torch.cat([p.indices for p in parts])
    )


@pytest.fixture
def files_site(here: Site, photographs: Path) -> Site:
    return replace(here, data={"imagenet": photographs})


@pytest.fixture(params=["arrays", "files"])
def split(request: pytest.FixtureRequest, here: Site, photographs: Path) -> SplitData:
    """The same checks for data in memory and on disk."""
    if request.param == "files":
        return open_split(Data(name="imagenet", size=32), "train", replace(here, data={"imagenet": photographs}))
    digits = cast(Arrays, open_split(DIGITS, "train", here))
    return Arrays(digits.images[::150], digits.labels[::150], 10)


# -- which images ----------------------------------------------------------------------------------------------------


def test_an_epoch_has_every_image_at_most_once_and_drops_the_last_partial_batch() -> None:
    plan = Plan(images=23, batch_size=5, seed=0)
    assert plan.steps_per_epoch == 4
    for epoch in range(3):
        seen = torch.cat([plan.indices(4 * epoch + step) for step in range(4)])
        assert len(set(seen.tolist())) == len(seen) == 20
        assert set(seen.tolist()) <= set(range(23))


def test_the_order_differs_between_epochs_and_seeds_and_comes_back() -> None:
    plan, other = Plan(images=40, batch_size=10, seed=0), Plan(images=40, batch_size=10, seed=1)
    orders = [
        torch.cat([p.indices(4 * epoch + step) for step in range(4)]).tolist()
        for p in (plan, other)
        for epoch in range(3)
    ]
    assert len({tuple(order) for order in orders}) == 6
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert plan.indices(7).tolist() == orders[1][30:40]


def test_ranks_share_a_batch_without_overlap() -> None:
    whole = Plan(images=23, batch_size=6, seed=3)
    for step in range(8):
        parts = [replace(whole, rank=rank, world=3).indices(step) for rank in range(3)]
        assert torch.equal(torch.cat(parts), whole.indices(step))


def test_a_batch_that_cannot_be_is_refused() -> None:
    with pytest.raises(BenchError, match="batch_size is 24, but the training split has 23 images"):
        Plan(images=23, batch_size=24, seed=0)
    with pytest.raises(BenchError, match="batch_size 10 does not divide into 3 ranks"):
        Plan(images=23, batch_size=10, seed=0, world=3)


# -- what a batch holds ----------------------------------------------------------------------------------------------


def test_a_batch_holds_the_views_and_labels_of_its_images(split: SplitData) -> None:
    plan = Plan(images=len(split), batch_size=8, seed=0)
    for step, batch in enumerate(read(split, plan, range(3))):
        assert [tuple(view.shape) for view in batch.views] == [(8, 3, 32, 32), (8, 3, 24, 24)]
        assert all(
            view.dtype == torch.float32 and bool(((view >= -1e-6) & (view <= 1 + 1e-6)).all()) for view in batch.views
        )
        assert torch.equal(
            batch.indices,
            plan.indices(step % plan.steps_per_epoch + step // plan.steps_per_epoch * plan.steps_per_epoch),
        )
        assert torch.equal(batch.labels, split.labels[batch.indices])


def test_views_of_one_image_differ_between_views_steps_and_seeds(split: SplitData) -> None:
    twice = (VIEWS[0], VIEWS[0])
    first, second = read(split, Plan(images=len(split), batch_size=len(split), seed=0), range(2), twice)
    (other,) = read(split, Plan(images=len(split), batch_size=len(split), seed=1), range(1), twice)

    def of_image(batch: Batch, view: int) -> Tensor:
        return batch.views[view][batch.indices.argsort()]

    kinds = [of_image(first, 0), of_image(first, 1), of_image(second, 0), of_image(other, 0)]
    for i, a in enumerate(kinds):
        for b in kinds[i + 1 :]:
            assert bool(((a - b).abs().amax(dim=(1, 2, 3)) > 1e-3).all())


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_exactly_the_batches_of_one_process(split: SplitData, world: int) -> None:
    plan = Plan(images=len(split), batch_size=8, seed=5)
    whole = read(split, plan, range(4))
    parts = [read(split, replace(plan, rank=rank, world=world), range(4)) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert same(joined([part[step] for part in parts]), batch), step


@pytest.mark.parametrize("start", [1, 3, 5])
def test_starting_in_the_middle_gives_the_batches_of_running_through(split: SplitData, start: int) -> None:
    plan = Plan(images=len(split), batch_size=8, seed=5)
    through, later = read(split, plan, range(6)), read(split, plan, range(start, 6))
    assert len(later) == 6 - start
    assert all(same(a, b) for a, b in zip(through[start:], later, strict=True))


def test_batches_leave_the_global_generator_alone(split: SplitData) -> None:
    before = torch.random.get_rng_state()
    read(split, Plan(images=len(split), batch_size=8, seed=5), range(2))
    assert torch.equal(before, torch.random.get_rng_state())


# -- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_split_into_balanced_disjoint_parts(here: Site) -> None:
    parts = {name: cast(Arrays, open_split(DIGITS, name, here)) for name in SPLITS}
    assert {name: len(part) for name, part in parts.items()} == {"train": 3500, "val": 500, "test": 1000}
    for part in parts.values():
        assert part.labels.bincount().tolist() == [len(part) // 10] * 10
        assert (part.images.dtype, part.images.shape[1:], part.classes) == (torch.uint8, (3, 32, 32), 10)
        assert bool((part.images[:, 0] == part.images[:, 2]).all())
        assert not bool(part.images[:, :, :2].any())  # 28 px padded to 32
    images = [image.numpy().tobytes() for part in parts.values() for image in part.images]
    assert len(set(images)) == 5000  # no image twice, so no test image was trained on


def test_digits_of_another_size_are_refused(here: Site) -> None:
    with pytest.raises(BenchError, match="mnist5k has images of 32 px, the spec asks for 28"):
        open_split(Data(name="mnist5k", size=28), "train", here)


def test_an_unknown_data_set_is_answered_with_the_nearest(here: Site) -> None:
    with pytest.raises(BenchError, match=r"unknown data set 'mnist'.*Did you mean 'mnist5k'"):
        open_split(Data(name="mnist", size=32), "train", here)


def test_evaluation_sees_the_digits_once_in_order_and_untouched(here: Site) -> None:
    part = cast(Arrays, open_split(DIGITS, "test", here))
    batches = list(loader.eval_batches(part, 32, 300, CPU, 0))
    assert [len(labels) for _, labels in batches] == [300, 300, 300, 100]
    assert torch.equal(torch.cat([images for images, _ in batches]), part.images / 255)
    assert torch.equal(torch.cat([labels for _, labels in batches]), part.labels)


# -- few labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 35), (0.1, 350), (0.0123, 43), (0.5, 1750)])
def test_a_labelled_share_is_balanced_and_exact(here: Site, fraction: float, count: int) -> None:
    labels = open_split(DIGITS, "train", here).labels
    chosen = labelled_subset(labels, 10, fraction, seed=0)
    assert len(set(chosen.tolist())) == len(chosen) == count
    assert chosen.tolist() == sorted(chosen.tolist())
    counts = labels[chosen].bincount(minlength=10)
    assert int(counts.max() - counts.min()) <= 1


def test_a_labelled_share_follows_its_seed(here: Site) -> None:
    labels = open_split(DIGITS, "train", here).labels
    first, again, other = (labelled_subset(labels, 10, 0.01, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert labels[first].bincount().tolist() != labels[other].bincount().tolist()  # which classes get the odd image


def test_all_labels_are_all_labels() -> None:
    assert labelled_subset(torch.tensor([0, 1, 1]), 2, 1.0, seed=0).tolist() == [0, 1, 2]


def test_a_rare_class_keeps_one_image() -> None:
    labels = torch.cat([torch.zeros(99, dtype=torch.long), torch.ones(1, dtype=torch.long)])
    assert labels[labelled_subset(labels, 2, 0.1, seed=0)].tolist() == [0] * 9 + [1]


def test_a_share_below_one_image_a_class_is_refused() -> None:
    labels = torch.arange(10).repeat(10)
    with pytest.raises(BenchError, match="are 9, fewer than one for each of 10 classes"):
        labelled_subset(labels, 10, 0.09, seed=0)
    for fraction in (0.0, -0.1, 1.5):
        with pytest.raises(BenchError, match="expected more than 0 and at most 1"):
            labelled_subset(labels, 10, fraction, seed=0)


# -- files -----------------------------------------------------------------------------------------------------------


def test_folders_become_train_val_and_test(files_site: Site, photographs: Path) -> None:
    parts = {name: cast(Files, open_split(Data(name="imagenet", size=32), name, files_site)) for name in SPLITS}
    assert {name: len(part) for name, part in parts.items()} == {"train": 23, "val": 1, "test": 6}
    held_in, held_out = set(parts["train"].paths), set(parts["val"].paths)
    assert not held_in & held_out
    assert held_in | held_out == set((photographs / "train").glob("*/*"))
    assert set(parts["test"].paths) == set((photographs / "val").glob("*/*"))
    for part in parts.values():
        assert part.classes == 2
        assert [("china", "flower")[label] for label in part.labels.tolist()] == [
            path.parent.name for path in part.paths
        ]


def test_other_classes_in_the_test_folder_are_refused(photographs: Path, tmp_path: Path, here: Site) -> None:
    root = tmp_path / "odd"
    shutil.copytree(photographs, root)
    (root / "val" / "flower").rename(root / "val" / "flowers")
    with pytest.raises(
        BenchError, match=r"val has other classes than the training folder: 2 differ, e\.g\. flower, flowers"
    ):
        open_split(Data(name="imagenet", size=32), "train", replace(here, data={"imagenet": root}))


def test_an_empty_class_is_refused(photographs: Path, tmp_path: Path, here: Site) -> None:
    root = tmp_path / "empty"
    shutil.copytree(photographs, root)
    for image in (root / "train" / "china").iterdir():
        image.rename(image.with_suffix(".txt"))
    with pytest.raises(
        BenchError, match=r"train/china holds no image \(\.jpg, \.jpeg, \.png, \.webp and what else Pillow reads\)"
    ):
        open_split(Data(name="imagenet", size=32), "train", replace(here, data={"imagenet": root}))


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="has no class folders"):
        scan_folder(tmp_path)
    with pytest.raises(BenchError, match="has no class folders"):
        scan_folder(tmp_path / "missing")


def test_a_missing_root_or_folder_says_what_to_do(here: Site, tmp_path: Path) -> None:
    data = Data(name="imagenet", size=32)
    with pytest.raises(BenchError, match=r'add `imagenet = "/path"` under \[data\]'):
        open_split(data, "train", here)
    (tmp_path / "train").mkdir()
    with pytest.raises(BenchError, match="val is missing"):
        open_split(data, "train", replace(here, data={"imagenet": tmp_path}))


def test_files_are_cut_at_the_drawn_box_and_flipped(files_site: Site) -> None:
    split = cast(Files, open_split(Data(name="imagenet", size=32), "train", files_site))
    plan = Plan(images=len(split), batch_size=12, seed=2)
    view = Augment(size=16, crop_scale=(0.3, 0.9), flip=0.5)
    (batch,) = read(split, plan, range(1), (view,))
    drawn = draws.draw(view, 12, generator(plan.seed, "augment", 0, 0)).images()
    assert 0 < sum(row.flip for row in drawn) < 12
    for found, index, row in zip(batch.views[0], batch.indices.tolist(), drawn, strict=True):
        image = loader.decode(split, index)
        top, left, height, width = crops.pixel_box(view, row, *image.shape[1:])
        part = image[None, :, top : top + height, left : left + width]
        assert part.shape[2:] == (height, width)
        expected = F.interpolate(part.float(), size=(16, 16), mode="bicubic", antialias=True)[0].clamp(0, 255) / 255
        expected = expected.flip(2) if row.flip else expected
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02)  # resized on whole numbers


def test_what_a_device_finishes_is_what_a_cpu_finishes(files_site: Site) -> None:
    """The way of a GPU, with a CPU in its place: crops from the workers, the rest for the batch."""
    split = cast(Files, open_split(Data(name="imagenet", size=32), "train", files_site))
    plan, view = Plan(images=len(split), batch_size=len(split), seed=2), replace(VIEWS[0], size=48)
    (batch,) = read(split, plan, range(1), (view,))
    crops = loader.FileViews(split, (view,), plan, replace_unreadable=False, finish=False)
    (other,) = loader._file_batches(crops, range(1), CPU, workers=0)
    assert torch.equal(batch.indices, other.indices)
    gap = (batch.views[0] - other.views[0]).abs().mean(dim=(1, 2, 3)) * 255
    assert float(gap.median()) < 1
    assert float(gap.max()) < 4  # solarize turns a level near its threshold into its opposite


@pytest.mark.parametrize("finish", [True, False])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_many_batches_in_reused_memory_are_those_of_one_at_a_time(files_site: Site, workers: int, finish: bool) -> None:
    split = cast(Files, open_split(Data(name="imagenet", size=32), "train", files_site))
    plan = Plan(images=len(split), batch_size=4, seed=2)
    steps = range(3, 17)
    views = loader.FileViews(split, VIEWS, plan, replace_unreadable=False, finish=finish)
    found = list(loader._file_batches(views, steps, CPU, workers=workers))
    for step, batch in zip(steps, found, strict=True):
        alone = loader.FileViews(split, VIEWS, plan, replace_unreadable=False, finish=finish)
        (expected,) = loader._file_batches(alone, range(step, step + 1), CPU, workers=0)
        assert same(batch, expected), step


def test_each_image_is_decoded_once_and_only_those_of_the_steps(
    files_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = cast(Files, open_split(Data(name="imagenet", size=32), "train", files_site))
    plan = Plan(images=len(split), batch_size=8, seed=2)
    decoded: list[Path] = []

    def noted(path: Path, *, pillow: bool) -> Tensor:
        decoded.append(path)
        return decoding.read_image(path, pillow=pillow)

    monkeypatch.setattr(loader, "read_image", noted)
    small = replace(VIEWS[1], size=16)
    read(split, plan, range(1, 2), (*VIEWS, small, small, small))  # multi-crop, resumed in the middle of an epoch
    assert decoded == [split.paths[index] for index in plan.indices(1).tolist()]


def test_an_epochs_order_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, drawn, randperm = Plan(images=1003, batch_size=10, seed=77), [], torch.randperm

    def noted(count: int, *, generator: torch.Generator) -> Tensor:
        drawn.append(count)
        return randperm(count, generator=generator)

    monkeypatch.setattr(torch, "randperm", noted)
    first = plan.indices(0).clone()
    for step in range(1, 100):
        plan.indices(step).fill_(0)  # whoever changes what it got changes nobody else's
    assert drawn == [1003]
    assert torch.equal(replace(plan, rank=0).indices(0), first)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Python chooses how processes start")
def test_processes_that_decode_are_forked_so_that_the_listing_is_neither_sent_nor_kept_twice() -> None:
    listing = object()
    nothing = Batches(0, per_worker=0, held=0, most=0)
    there = load(lambda _: [os.getppid(), id(listing)], range(2), CPU, seed=0, workers=1, shared=nothing)
    assert list(there) == [[os.getpid(), id(listing)]] * 2


def test_workers_do_not_change_the_batches(files_site: Site) -> None:
    split = open_split(Data(name="imagenet", size=32), "train", files_site)
    plan = Plan(images=len(split), batch_size=8, seed=5)
    alone, helped = read(split, plan, range(3)), read(split, plan, range(3), workers=2)
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_file_is_named(photographs: Path, tmp_path: Path, here: Site, workers: int) -> None:
    root = tmp_path / "corrupt"
    shutil.copytree(photographs, root)
    split = cast(Files, open_split(Data(name="imagenet", size=32), "train", replace(here, data={"imagenet": root})))
    broken = split.paths[3]
    broken.write_bytes(broken.read_bytes()[:200])
    for batches in (
        loader.train_batches(
            split, VIEWS, Plan(images=len(split), batch_size=len(split), seed=0), range(1), CPU, workers=workers
        ),
        loader.eval_batches(split, 32, 4, CPU, workers),
    ):
        with pytest.raises(BenchError, match=f"^{broken} cannot be decoded.*replace the file") as caught:
            list(batches)
        assert "Traceback" not in str(caught.value)


def test_gray_and_png_images_are_read_as_colour(photographs: Path, tmp_path: Path, here: Site) -> None:
    root = tmp_path / "mixed"
    shutil.copytree(photographs, root)
    gray = (torch.rand(40, 30, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    for suffix in ("jpg", "png"):
        Image.fromarray(gray.numpy()).save(root / "val" / "china" / f"gray.{suffix}")
    split = cast(Files, open_split(Data(name="imagenet", size=32), "test", replace(here, data={"imagenet": root})))
    names = [path.name for path in split.paths]
    found = loader.decode(split, names.index("gray.png"))
    assert torch.equal(found, gray.expand(3, -1, -1))
    assert loader.decode(split, names.index("gray.jpg")).shape == (3, 40, 30)


def test_rotation_is_refused_for_files(files_site: Site) -> None:
    split = open_split(Data(name="imagenet", size=32), "train", files_site)
    with pytest.raises(BenchError, match="rotation is made for small images in memory"):
        read(split, Plan(images=len(split), batch_size=8, seed=0), range(1), (Augment(size=32, rotation=5.0),))


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_of_files_resizes_the_shorter_side_and_cuts_the_centre(files_site: Site, workers: int) -> None:
    split = cast(Files, open_split(Data(name="imagenet", size=56), "test", files_site))
    batches = list(loader.eval_batches(split, 56, 4, CPU, workers))
    assert torch.equal(torch.cat([labels for _, labels in batches]), split.labels)
    images = torch.cat([images for images, _ in batches])
    assert images.shape == (6, 3, 56, 56)
    for index, found in enumerate(images):
        image = loader.decode(split, index)
        tall, wide = image.shape[1:]
        size = (64, int(64 * wide / tall)) if tall <= wide else (int(64 * tall / wide), 64)  # 56 * 256 / 224
        resized = F.interpolate(image[None].float(), size=size, mode="bicubic", antialias=True)[0].clamp(0, 255) / 255
        top, left = round((size[0] - 56) / 2), round((size[1] - 56) / 2)
        torch.testing.assert_close(found, resized[:, top : top + 56, left : left + 56], rtol=0, atol=0.02)
