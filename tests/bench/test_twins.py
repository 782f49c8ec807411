"""The stand-ins of Places205, VOC07 and iNat18: true labels, no digit in two splits, trivial for no classifier."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import combinations
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import Tensor

from bench.data.catalogue import entry
from bench.data.datasets import open_split
from bench.data.location import check_present
from bench.data.sets import twins
from bench.data.sets.digits import mnist5k
from bench.data.splits import SPLITS, Arrays, Split
from bench.errors import BenchError
from bench.settings.site import Site
from bench.spec import Data

SIZES = {"digits1797": 32, "digit_scenes": 64, "digit_pairs": 32}
MAKERS = {"digits1797": twins.digits1797, "digit_scenes": twins.digit_scenes, "digit_pairs": twins.digit_pairs}


def gray(images: Tensor) -> Tensor:
    return images[:, 0]


def as_bytes(images: Iterable[Tensor]) -> list[bytes]:
    return [image.contiguous().numpy().tobytes() for image in images]


def ink(image_HW: Tensor) -> bytes:
    """The image without its black rim, and its shape."""
    rows, columns = image_HW.amax(dim=1).nonzero(), image_HW.amax(dim=0).nonzero()
    part = image_HW[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    return bytes(part.shape) + part.contiguous().numpy().tobytes()


def tiles(split: Split) -> tuple[Tensor, Tensor]:
    """The digits of mnist5k without the padding: an own way to them, beside `embedded.source`."""
    return gray(mnist5k()[split].images)[:, 2:30, 2:30], mnist5k()[split].labels


# -- all three -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
def test_opened_like_every_data_set_and_as_the_catalogue_says(name: str, here: Site) -> None:
    check_present(name, here)
    size, known = SIZES[name], entry(name)
    found = {
        split: cast(Arrays, open_split(Data(name=name, size=size), split, here)) for split in (*SPLITS, "trainval")
    }
    for part in found.values():
        assert part.images.dtype == torch.uint8
        assert part.images.shape == (len(part), 3, size, size)
        assert torch.equal(part.images[:, 0], part.images[:, 2])
        assert (part.classes, len(part.labels)) == (known.classes, len(part.images))
    assert (len(found["train"]), len(found["trainval"]), len(found["test"])) == (
        known.train_images,
        known.trainval_images,
        known.test_images,
    )
    with pytest.raises(BenchError, match=f"{name} has images of {size} px, the spec asks for 28"):
        open_split(Data(name=name, size=28), "train", here)


@pytest.mark.parametrize("name", SIZES)
def test_every_job_sees_the_same_images_whatever_was_drawn_before(name: str) -> None:
    first = MAKERS[name]()
    MAKERS[name].cache_clear()
    torch.manual_seed(12345)
    state = torch.get_rng_state()
    again = MAKERS[name]()
    assert torch.equal(torch.get_rng_state(), state)
    for split in SPLITS:
        assert first[split].images is not again[split].images
        assert torch.equal(first[split].images, again[split].images)
        assert torch.equal(first[split].labels, again[split].labels)


def test_the_digits_that_scenes_and_pairs_are_made_of_are_in_one_split_each() -> None:
    for split in SPLITS:
        pixels, labels = twins.source(split)
        assert torch.equal(pixels, tiles(split)[0])
        assert torch.equal(labels, tiles(split)[1])
    found = {split: set(as_bytes(tiles(split)[0])) for split in SPLITS}
    for first, second in combinations(SPLITS, 2):
        assert not found[first] & found[second]


# -- for Places205 ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def originals() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(np.asarray(pixels, dtype=np.float32)).view(-1, 8, 8) / 16, torch.from_numpy(labels)


def traced(split: Split) -> list[int]:
    """Which of the 1,797 each image is, by its pixels."""
    known = {image: row for row, image in enumerate(as_bytes(twins.enlarged(originals()[0][:, None])))}
    assert len(known) == 1797
    return [known[image] for image in as_bytes(gray(twins.digits1797()[split].images))]


def test_each_of_scikit_learns_digits_is_used_once_with_its_label() -> None:
    rows = {split: traced(split) for split in SPLITS}
    together = [row for split in SPLITS for row in rows[split]]
    assert len(set(together)) == len(together) == 1740
    for split, each in zip(SPLITS, (30, 20, 124), strict=True):
        labels = twins.digits1797()[split].labels
        assert torch.equal(labels, originals()[1][rows[split]])
        assert labels.bincount().tolist() == [each] * 10


def test_enlarging_keeps_the_digit_and_gives_it_the_place_and_size_of_mnists() -> None:
    small = originals()[0]
    large = twins.enlarged(small[:, None]).float() / 255
    weight = large.sum(dim=(1, 2))
    middle = torch.arange(32) - 15.5
    assert float((large.sum(dim=1) @ middle / weight).abs().max()) < 0.5  # pixels from the middle
    assert float((large.sum(dim=2) @ middle / weight).abs().max()) < 0.5
    # what bicubic overshoots is clipped
    torch.testing.assert_close(weight, small.sum(dim=(1, 2)) * 2.5**2, rtol=0.1, atol=0)
    tall = (large.amax(dim=2) > 0.25).sum(dim=1).float()
    theirs = (gray(mnist5k()["train"].images).amax(dim=2) > 64).sum(dim=1).float()
    assert abs(float(tall.mean() - theirs.mean())) < 1.5
    # The digit itself, upright and not mirrored: but for the shift what Pillow makes of it.
    for row in range(0, 1797, 60):
        theirs = torch.from_numpy(
            np.array(Image.fromarray(small[row].numpy()).resize((20, 20), Image.Resampling.BICUBIC))
        ).clamp(0, 1)
        cosine = F.conv2d(large[row][None, None], theirs[None, None]).max() / (large[row].norm() * theirs.norm())
        assert float(cosine) > 0.95


# -- for VOC07 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_is_its_digits_painted_one_by_one(split: Split) -> None:
    pixels, labels = tiles(split)
    scenes, made = twins.draw_scenes(split), twins.digit_scenes()[split]
    for row in range(0, len(made), 7):
        canvas = np.zeros((64, 64), dtype=np.uint8)
        seen: dict[int, list[bool]] = {}
        for place in range(4):
            source, side = int(scenes.source_N4[row, place]), int(scenes.side_N4[row, place])
            if source < 0:
                continue
            tile = pixels[source].numpy().copy()
            if side >= 0:
                tile[
                    (slice(0, 14), slice(14, 28), slice(None), slice(None))[side],
                    (slice(None), slice(None), slice(0, 14), slice(14, 28))[side],
                ] = 128
            top, left = scenes.corner_N42[row, place].tolist()
            for y in range(28):
                for x in range(28):
                    if 0 <= top + y < 64 and 0 <= left + x < 64:
                        canvas[top + y, left + x] = max(canvas[top + y, left + x], tile[y, x])
            hard = side >= 0 or bool(scenes.cut_N4[row, place])
            seen.setdefault(int(labels[source]), []).append(hard)
        assert np.array_equal(canvas, gray(made.images)[row].numpy())
        truth = [0 if c not in seen else (-1 if all(seen[c]) else 1) for c in range(10)]
        assert made.labels[row].tolist() == truth


@pytest.mark.parametrize("split", SPLITS)
def test_the_label_of_a_scene_of_one_digit_is_read_off_its_pixels(split: Split) -> None:
    known = dict(zip(map(ink, tiles(split)[0]), tiles(split)[1].tolist(), strict=True))
    made = twins.digit_scenes()[split]
    alone = ((twins.draw_scenes(split).source_N4 >= 0).sum(dim=1) == 1).nonzero().squeeze(1)
    found = [known.get(ink(image)) for image in gray(made.images)[alone]]
    whole = [row for row, label in enumerate(found) if label is not None]
    assert len(whole) > 0.97 * len(alone) > 50  # of a few the ink itself reaches the rim of the scene
    for row in whole:
        assert made.labels[alone[row]].tolist() == [int(c == found[row]) for c in range(10)]


@pytest.mark.parametrize("split", SPLITS)
def test_what_counts_can_be_seen_and_what_does_not_is_half_gone(split: Split) -> None:
    scenes, (pixels, _) = twins.draw_scenes(split), tiles(split)
    filled, hard = scenes.source_N4 >= 0, scenes.hard()
    assert not bool(hard[~filled].any())
    assert not bool(hard[:, 0].any())
    assert 0.05 < float(hard[filled].float().mean()) < 0.1
    assert bool(scenes.cut_N4.any())
    assert not bool((scenes.cut_N4 & (scenes.side_N4 >= 0)).any())
    inside = torch.zeros(84, 84)
    inside[10:74, 10:74] = 1  # rows and columns from -14 to 70, with a margin of tiles
    inside = F.pad(inside, (10, 10, 10, 10))
    shares: dict[bool, list[float]] = {False: [], True: []}
    for row, place in filled.nonzero().tolist():
        top, left = (scenes.corner_N42[row, place] + 20).tolist()
        tile = pixels[scenes.source_N4[row, place]].float()
        visible = inside[top : top + 28, left : left + 28].clone()
        side = int(scenes.side_N4[row, place])
        if side >= 0:
            (visible if side < 2 else visible.T)[(side % 2) * 14 :][:14] = 0
        kept = float((tile * visible).sum() / tile.sum())
        shares[bool(hard[row, place])].append(kept)
    assert min(shares[False]) > 0.93
    assert 0.05 < min(shares[True]) < max(shares[True]) < 0.95
    assert 0.4 < sum(shares[True]) / len(shares[True]) < 0.6


def test_scenes_have_one_to_four_digits_and_every_class_alike() -> None:
    for split in SPLITS:
        digits = (twins.draw_scenes(split).source_N4 >= 0).sum(dim=1).bincount(minlength=5)
        count = len(twins.digit_scenes()[split])
        assert digits[0] == 0
        assert bool(((digits[1:] / count - 0.25).abs() < 5 * math.sqrt(0.25 * 0.75 / count)).all())
        labels = twins.digit_scenes()[split].labels
        assert labels.dtype == torch.int8
        assert bool((labels == 1).any(dim=1).all())
        assert (
            0.14 < float((labels == 1).float().mean(dim=0).min()) < float((labels == 1).float().mean(dim=0).max()) < 0.3
        )
        assert bool((labels == -1).any(dim=0).all())
    sources = twins.draw_scenes("train").source_N4
    used = sources[sources >= 0].tolist()
    assert len(set(used)) == len(used)  # there are more training digits than places: none is seen twice


# -- for iNat18 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_both_digits_of_a_number_are_read_off_its_halves(split: Split) -> None:
    known = dict(zip(as_bytes(twins.narrowed(tiles(split)[0])), tiles(split)[1].tolist(), strict=True))
    made = twins.digit_pairs()[split]
    tens, ones = (as_bytes(gray(made.images)[:, :, half]) for half in (slice(0, 16), slice(16, 32)))
    assert [10 * known[a] + known[b] for a, b in zip(tens, ones, strict=True)] == made.labels.tolist()
    assert len(set(as_bytes(made.images))) == len(made)  # no number is the same image twice


def test_narrowed_digits_lose_no_ink_to_speak_of() -> None:
    pixels, _ = tiles("test")
    before, after = pixels.float().sum(dim=(1, 2)) * 20 / 28, twins.narrowed(pixels).float().sum(dim=(1, 2))
    assert float((after / before).mean()) > 0.995
    assert float((after / before).min()) > 0.85


def test_training_frequencies_follow_zipfs_law_and_the_others_are_balanced() -> None:
    counts = {split: twins.digit_pairs()[split].labels.bincount(minlength=100) for split in SPLITS}
    ranked = counts["train"].sort(descending=True).values
    assert ranked.tolist() == [round(400 / rank) for rank in range(1, 101)]
    slope = np.polyfit(np.log(np.arange(1, 101)), np.log(ranked.numpy()), 1)[0]
    assert slope == pytest.approx(-1, abs=0.02)
    assert (counts["val"].tolist(), counts["test"].tolist()) == ([3] * 100, [10] * 100)
    # Which numbers are frequent tells nothing of the number or of its digits.
    table = counts["train"].view(10, 10)
    assert abs(float(np.corrcoef(np.arange(100), counts["train"].numpy())[0, 1])) < 0.3
    assert min(table.sum(dim=0).min(), table.sum(dim=1).min()) > 50


# -- what they are worth ---------------------------------------------------------------------------------------------


def ridge(train_x: Tensor, train_y: Tensor, test_x: Tensor) -> Tensor:
    """Scores of a ridge regression on pixels, in its closed dual form: the plainest linear classifier."""
    mean = train_x.mean(dim=0)
    train_x, test_x = train_x - mean, test_x - mean
    kernel = train_x @ train_x.T
    kernel.diagonal().add_(0.01 * kernel.trace())
    dual: Tensor = torch.linalg.solve(kernel, train_y - train_y.mean(dim=0))
    return (test_x @ train_x.T) @ dual + train_y.mean(dim=0)


def pixels_of(part: Arrays) -> Tensor:
    return gray(part.images).flatten(1).float() / 255


@pytest.mark.parametrize(("name", "low", "high"), [("digits1797", 70, 98), ("digit_pairs", 5, 60)])
def test_a_linear_classifier_on_pixels_is_above_chance_and_below_perfect(name: str, low: float, high: float) -> None:
    made = MAKERS[name]()
    train, test = made["train"], made["test"]
    scores = ridge(pixels_of(train), F.one_hot(train.labels, train.classes).float(), pixels_of(test))
    top1 = float((scores.argmax(dim=1) == test.labels).float().mean()) * 100
    assert low < top1 < high


def test_a_linear_classifier_on_the_pixels_of_scenes_is_above_chance_and_below_perfect() -> None:
    made = twins.digit_scenes()
    scores = ridge(pixels_of(made["train"]), (made["train"].labels == 1).float(), pixels_of(made["test"]))
    labels = made["test"].labels
    found = [
        average_precision_score(labels[:, c][labels[:, c] >= 0] == 1, scores[:, c][labels[:, c] >= 0])
        for c in range(10)
    ]
    chance = float((labels == 1).float().mean())
    assert chance + 0.05 < sum(found) / 10 < 0.7
