"""Stand-ins, made of real digits, for the data sets that papers transfer to: no download, under two seconds each.

    digits1797    for Places205: scikit-learn's 1,797 digits, another source and another pen, enlarged to the look of
                  mnist5k
    digit_scenes  for VOC07: scenes of one to four digits with one label per class, and -1 where a digit is hard to read
    digit_pairs   for iNat18: two-digit numbers, 100 classes, frequencies by Zipf's law in training and balanced
                  otherwise

The last two are made of the digits of mnist5k, split by split: no digit is seen in two splits. What each of them is not
is in docs/embedded_twins.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.sets.digits import mnist5k
from bench.data.splits import SPLITS, Arrays, Split, SplitData, check_size
from bench.errors import BenchError
from bench.seeding import generator
from bench.settings.site import Site

TILE = 28  # pixels of an mnist digit with its rim; the ink is scaled to 20 and its centre of mass lies in the middle
INK = 20
HALF = TILE // 2

# -- Places205 -------------------------------------------------------------------------------------------------------

DIGITS_SIZE = 32
# Few for training: with 90 of each class a linear head on any encoder, trained or not, reads 95 to 98.5 %.
DIGITS_PER_CLASS: Mapping[Split, slice] = {"train": slice(0, 30), "val": slice(30, 50), "test": slice(50, 174)}


@lru_cache(maxsize=1)
def digits1797() -> Mapping[Split, Arrays]:
    """300 / 200 / 1,240 images, balanced: the rarest class has 174, so 57 of the 1,797 are left out."""
    from sklearn.datasets import load_digits  # imported when asked for: slow to import

    pixels, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(np.asarray(pixels, dtype=np.float32)).view(-1, 1, 8, 8)
    targets = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    if len(targets) != 1797 or int(targets.bincount(minlength=10).min()) != 174:
        raise BenchError(
            f"scikit-learn's digits are {len(targets)}, expected 1,797 with at least 174 of each class: another "
            "version of the package?"
        )
    whole = Arrays(_colour(enlarged(small / 16)), targets, 10)
    members = [_cycled((targets == c).nonzero().squeeze(1), 174, generator(0, "digits1797", c)) for c in range(10)]
    return {
        split: whole.rows(torch.cat([rows[bound] for rows in members])) for split, bound in DIGITS_PER_CLASS.items()
    }


def load_digits1797(site: Site, size: int) -> Mapping[Split, SplitData]:
    """Raises BenchError for another size."""
    check_size("digits1797", size, DIGITS_SIZE)
    return digits1797()


def enlarged(small_N1HW: Tensor) -> Tensor:
    """Gray digits (N, 1, 8, 8) in [0, 1] -> uint8 (N, 32, 32): ink of 20 px, centred by mass, as mnist's."""
    count, _, height, width = small_N1HW.shape
    mass = small_N1HW.sum(dim=(1, 2, 3))
    x = (small_N1HW.sum(dim=(1, 2)) @ _middles(width)) / mass
    y = (small_N1HW.sum(dim=(1, 3)) @ _middles(height)) / mass
    stretch = torch.full((count,), DIGITS_SIZE / INK)
    zero = torch.zeros(count)
    theta = torch.stack([torch.stack([stretch, zero, x], dim=1), torch.stack([zero, stretch, y], dim=1)], dim=1)
    grid = F.affine_grid(theta, [count, 1, DIGITS_SIZE, DIGITS_SIZE], align_corners=False)
    large = F.grid_sample(small_N1HW, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    return (large.clamp(0, 1) * 255).round().to(torch.uint8)[:, 0]


def _middles(size: int) -> Tensor:
    """Middles of the pixels where the image runs from -1 to 1."""
    return (torch.arange(size) * 2 + 1) / size - 1


# -- VOC07 -----------------------------------------------------------------------------------------------------------

SCENE_SIZE = 64
SCENES: Mapping[Split, int] = {"train": 1000, "val": 300, "test": 1000}
MOST = 4  # digits in a scene
HARD = 0.12  # share of the second to fourth digits that are cut or hidden
COVER = 128  # gray of what hides half of a digit


@dataclass(frozen=True)
class Scenes:
    """What N scenes hold, in up to four places each."""

    source_N4: Tensor  # row of the digit in its split, -1 for an empty place
    corner_N42: Tensor  # top and left of its tile in pixels; cut digits reach over the rim
    cut_N4: Tensor  # bool: half of it lies outside of the image
    side_N4: Tensor  # half of the tile under a gray cover: 0 top, 1 bottom, 2 left, 3 right; -1 without a cover

    def hard(self) -> Tensor:
        """Which digits do not count (N, 4), as the objects that VOC marks as difficult."""
        return self.cut_N4 | (self.side_N4 >= 0)


@lru_cache(maxsize=1)
def digit_scenes() -> Mapping[Split, Arrays]:
    """1,000 / 300 / 1,000 scenes of 64 px; labels int8 (N, 10)."""
    made = {}
    for split in SPLITS:
        gray, digits = source(split)
        scenes = draw_scenes(split)
        made[split] = Arrays(_colour(paint(gray, scenes)), scene_labels(digits, scenes), 10)
    return made


def load_digit_scenes(site: Site, size: int) -> Mapping[Split, SplitData]:
    """Raises BenchError for another size."""
    check_size("digit_scenes", size, SCENE_SIZE)
    return digit_scenes()


def draw_scenes(split: Split) -> Scenes:
    """The scenes of a split. Each place is a quarter of the image, so digits touch at most."""
    count, rng = SCENES[split], generator(0, "digit_scenes", split)
    filled = torch.arange(MOST) < torch.randint(1, MOST + 1, (count, 1), generator=rng)
    source_N4 = torch.full((count, MOST), -1)
    source_N4[filled] = _cycled(torch.arange(len(source(split)[1])), int(filled.sum()), rng)
    quarter_N4 = torch.rand(count, MOST, generator=rng).argsort(dim=1)
    quarter_N42 = torch.stack([quarter_N4 // 2, quarter_N4 % 2], dim=2)
    middle_N42 = 16 + 32 * quarter_N42 + torch.randint(-4, 5, (count, MOST, 2), generator=rng)
    hard = filled & (torch.rand(count, MOST, generator=rng) < HARD)
    hard[:, 0] = False  # every scene shows something
    cut = hard & (torch.rand(count, MOST, generator=rng) < 0.5)
    axis = torch.randint(0, 2, (count, MOST), generator=rng)
    on_rim = cut[..., None] & (torch.arange(2) == axis[..., None])
    middle_N42 = torch.where(on_rim, SCENE_SIZE * quarter_N42, middle_N42)
    side = torch.where(hard & ~cut, torch.randint(0, 4, (count, MOST), generator=rng), -1)
    return Scenes(source_N4, middle_N42 - HALF, cut, side)


def paint(gray_M: Tensor, scenes: Scenes) -> Tensor:
    """Tiles (M, 28, 28) uint8 -> scenes (N, 64, 64); where two meet, the lighter pixel stays."""
    count, rim = len(scenes.source_N4), TILE  # painted with a rim that takes what is cut off
    canvas = torch.zeros(count, SCENE_SIZE + 2 * rim, SCENE_SIZE + 2 * rim, dtype=torch.uint8)
    pixels = torch.arange(TILE)
    row, column = (pixels < HALF)[:, None].expand(TILE, TILE), (pixels < HALF)[None].expand(TILE, TILE)
    halves_4HW = torch.stack([row, ~row, column, ~column])
    for place in range(MOST):
        index = scenes.source_N4[:, place]
        scene = (index >= 0).nonzero().squeeze(1)
        tile = gray_M[index[scene]]
        side = scenes.side_N4[scene, place]
        covered = halves_4HW[side.clamp(min=0)] & (side >= 0)[:, None, None]
        tile = tile.masked_fill(covered, COVER)
        corner = scenes.corner_N42[scene, place] + rim
        where = (scene[:, None, None], (corner[:, :1] + pixels)[:, :, None], (corner[:, 1:] + pixels)[:, None, :])
        canvas[where] = torch.maximum(canvas[where], tile)
    return canvas[:, rim:-rim, rim:-rim]


def scene_labels(digits_M: Tensor, scenes: Scenes) -> Tensor:
    """int8 (N, 10): 1 where the class stands in full, else -1 where it stands cut or hidden, else 0."""
    count = len(scenes.source_N4)
    filled, hard = scenes.source_N4 >= 0, scenes.hard()
    class_N4 = digits_M[scenes.source_N4.clamp(min=0)]
    scene_N4 = torch.arange(count)[:, None].expand_as(class_N4)
    labels = torch.zeros(count, 10, dtype=torch.int8)
    for chosen, value in ((filled & hard, -1), (filled & ~hard, 1)):
        labels[scene_N4[chosen], class_N4[chosen]] = value
    return labels


# -- iNat18 ----------------------------------------------------------------------------------------------------------

PAIR_SIZE = 32
PITCH = PAIR_SIZE // 2  # pixels from digit to digit
NARROW = 20  # columns of a tile of 28 after squeezing
HEAD = 400  # training images of the most frequent number; the one of rank r has HEAD / r
EACH: Mapping[Split, int] = {"val": 3, "test": 10}  # of every number; iNat18 has 3 a class in its validation images


@lru_cache(maxsize=1)
def digit_pairs() -> Mapping[Split, Arrays]:
    """2,073 / 300 / 1,000 images of the numbers 00 to 99."""
    made = {}
    for split in SPLITS:
        gray, digits = source(split)
        tens, ones, numbers = draw_pairs(split, digits)
        made[split] = Arrays(_colour(torch.cat([narrowed(gray[tens]), narrowed(gray[ones])], dim=2)), numbers, 100)
    return made


def load_digit_pairs(site: Site, size: int) -> Mapping[Split, SplitData]:
    """Raises BenchError for another size."""
    check_size("digit_pairs", size, PAIR_SIZE)
    return digit_pairs()


def draw_pairs(split: Split, digits_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the digits that make the tens and the ones, and the number, each (N,)."""
    rng = generator(0, "digit_pairs", split)
    numbers = torch.arange(100).repeat_interleave(zipf() if split == "train" else torch.full((100,), EACH[split]))
    parts = torch.stack([numbers // 10, numbers % 10])
    rows = torch.empty_like(parts)
    for digit in range(10):
        places = parts == digit
        rows[places] = _cycled((digits_M == digit).nonzero().squeeze(1), int(places.sum()), rng)
    return rows[0], rows[1], numbers


def zipf() -> Tensor:
    """Training images of each number, (100,): HEAD / rank, with ranks in a fixed random order."""
    ranks = torch.randperm(100, generator=generator(0, "digit_pairs", "ranks")) + 1
    return (HEAD / ranks).round().long()


def narrowed(tiles_NHW: Tensor) -> Tensor:
    """uint8 tiles (N, 28, 28) -> (N, 32, 16): as tall as they were, and the 20 columns of ink become about 14."""
    tile_N1HW = F.interpolate(tiles_NHW[:, None].float(), size=(TILE, NARROW), mode="bilinear", antialias=True)
    excess, rim = (NARROW - PITCH) // 2, (PAIR_SIZE - TILE) // 2
    return F.pad(tile_N1HW[:, 0, :, excess:-excess].round().to(torch.uint8), (0, 0, rim, rim))


# -- parts -----------------------------------------------------------------------------------------------------------


def source(split: Split) -> tuple[Tensor, Tensor]:
    """The digits of mnist5k's split: uint8 tiles (M, 28, 28) and their classes (M,)."""
    digits = mnist5k()[split]
    rim = (digits.images.shape[-1] - TILE) // 2
    return digits.images[:, 0, rim:-rim, rim:-rim], digits.labels


def _cycled(rows: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """`count` of the rows in random order: all of them before any comes again."""
    orders = [rows[torch.randperm(len(rows), generator=rng)] for _ in range(-(-count // len(rows)))]
    return torch.cat(orders)[:count]


def _colour(gray_NHW: Tensor) -> Tensor:
    """(N, H, W) -> (N, 3, H, W)."""
    return gray_NHW[:, None].expand(-1, 3, -1, -1).contiguous()
