"""The colour operations of a view for one photograph on a CPU: what augment.finish does for a batch on a device.

Per image, because a batch does not stay in a core's cache; in place in a few buffers, because fresh memory for every image costs
more than the arithmetic; hue and blur in 16-bit whole numbers, because twice as many fit into an instruction and into the cache. What
goes in and comes out of each operation are levels from 0 to 255, whole ones as in Pillow's 8-bit images.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data import augment, policies
from bench.data.augment import GRAY_WEIGHTS, NUDGE, Row
from bench.spec import Augment


@lru_cache(maxsize=4)
def painter(size: int) -> Painter:
    """The process's own painter for views of one size."""
    return Painter(size)


class Painter:
    """Finishes views of `size` pixels, one at a time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reach = max(1, (size // 10) // 2)  # of a blur, as augment.gaussian_blur
        self.x, self.y = torch.empty(3, size, size), torch.empty(3, size, size)  # the view; `y` is changed for it after a product
        self.weights = torch.tensor(GRAY_WEIGHTS)
        self.rgb, self.planes = np.empty((3, size, size), np.int16), np.empty((8, size, size), np.int16)
        self.tall, self.wide = np.empty((size + 2 * self.reach, size), np.uint16), np.empty((size, size + 2 * self.reach), np.uint16)
        self.sum, self.term = np.empty((size, size), np.uint16), np.empty((size, size), np.uint16)

    def paint(self, crop_CHW: Tensor, spec: Augment, row: Row, out_CHW: Tensor) -> None:
        """uint8 crop (3, size, size) -> the view, written to the contiguous uint8 `out_CHW`."""
        if row.flip:
            crop_CHW = crop_CHW.flip(2)
        if spec.policy != "none":
            drawn = torch.tensor(row.policy, dtype=torch.float64)[None]
            crop_CHW = (policies.apply(crop_CHW[None].float().div_(255), drawn)[0] * 255).round_().to(torch.uint8)
        jitter, gray = row.jitter and augment.jitters(spec), row.gray and bool(spec.gray)
        out = out_CHW.numpy()
        if jitter or gray:
            self.x.copy_(crop_CHW)
            if jitter:
                self._jitter(spec, row)
            if gray:
                torch.mm(self.weights[None], self.x.view(3, -1), out=self.y[0].view(1, -1))
                self.x.copy_(self.y[:1].add_(0.5).floor_())
            np.copyto(out, self.x.numpy(), casting="unsafe")  # four times as fast as torch's, the same numbers
        else:
            out_CHW.copy_(crop_CHW)
        if row.blur and spec.blur:
            self._blur(out, row.sigma)
        if row.solarize and spec.solarize:
            np.copyto(out, 255 - out, where=out >= math.ceil(spec.solarize_threshold * 255))

    def _jitter(self, spec: Augment, row: Row) -> None:
        active = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
        for operation in row.order:
            if active[operation]:
                (self._brightness, self._contrast, self._saturation, self._hue)[operation](row.factors[operation])

    def _brightness(self, factor: float) -> None:
        self.x.mul_(factor)
        self._whole(factor)

    def _contrast(self, factor: float) -> None:
        mean = math.floor(float(self.x.mean(dim=(1, 2)) @ self.weights) + 0.5)
        torch.add(torch.tensor((1 - factor) * mean + NUDGE), self.x, alpha=factor, out=self.x)
        self._whole(factor)

    def _saturation(self, factor: float) -> None:
        """One product with a 3 x 3 matrix: `factor` times the colour, the rest gray."""
        matrix = factor * torch.eye(3) + (1 - factor) * self.weights
        torch.mm(matrix.mul_(1 + 1e-5), self.x.view(3, -1), out=self.y.view(3, -1))  # gray must not come out just below a whole level
        self.x, self.y = self.y, self.x
        self._whole(factor)

    def _whole(self, factor: float) -> None:
        """Cut off the fraction; only a factor above 1 leaves the range."""
        if factor > 1:
            self.x.clamp_(0, 255)
        self.x.floor_()

    def _hue(self, turn: float) -> None:
        """Turn the hue by a share of the circle without a division or a branch; exact to a level.

        With the value M, the least channel m, the chroma c = M - m and the hue H in sixths of the circle times c (-3c to 3c),
        red is clamp(||H| - 3c| + m - c, m, M) and the others clamp(M + c - ||H +- c| - 3c|, m, M): a triangle wave, and its
        thirds. A third of the circle exchanges channels, so at most a sixth is turned here and one fold at 3c is enough.
        """
        thirds = round(3 * turn)
        sixths = np.int16(round(128 * 6 * (turn - thirds / 3)))  # of the rest, times 128: with c <= 255 it fits
        rgb = self.rgb
        np.copyto(rgb, self.x.numpy(), casting="unsafe")
        red, green, blue = rgb
        most, least, chroma, level, hue, spare, thrice, low = self.planes
        np.maximum(np.maximum(red, green, out=most), blue, out=most)
        np.minimum(np.minimum(red, green, out=least), blue, out=least)
        np.subtract(most, least, out=chroma)
        np.multiply(chroma, 3, out=thrice)
        # |H| = M - red + c + clamp(M + m - 2 red, -e, e) with e = c - |green - blue|, and H has the sign of green - blue.
        np.subtract(green, blue, out=hue)
        np.subtract(chroma, np.abs(hue, out=spare), out=spare)
        np.subtract(np.add(np.subtract(most, red, out=low), least, out=level), red, out=level)
        np.minimum(level, spare, out=level)
        np.maximum(level, np.negative(spare, out=spare), out=level)
        np.add(np.add(level, low, out=level), chroma, out=level)
        np.right_shift(hue, 15, out=spare)  # -1 where negative: level ^ -1 - -1 is -level
        np.subtract(np.bitwise_xor(level, spare, out=level), spare, out=level)
        np.right_shift(np.add(np.multiply(chroma, sixths, out=hue), 64, out=hue), 7, out=hue)
        np.add(hue, level, out=hue)
        np.subtract(least, chroma, out=low)
        np.add(most, chroma, out=level)
        first, second, third = (rgb[(channel + thirds) % 3] for channel in range(3))
        np.add(hue, chroma, out=second)
        np.subtract(hue, chroma, out=third)
        np.abs(np.subtract(np.abs(hue, out=hue), thrice, out=hue), out=hue)
        np.minimum(np.maximum(np.add(hue, low, out=hue), least, out=hue), most, out=first)
        for channel in (second, third):
            np.abs(np.subtract(np.abs(channel, out=channel), thrice, out=channel), out=channel)
            np.minimum(np.maximum(np.subtract(level, channel, out=channel), least, out=channel), most, out=channel)
        self.x.copy_(torch.from_numpy(rgb))

    def _blur(self, x: NDArray[Any], sigma: float) -> None:
        """Gaussian blur of uint8 (3, size, size) in place: columns, then rows, with weights in 256ths and rounded after each."""
        size, weights = self.size, blur_weights(sigma, self.reach)
        reach = len(weights) - 1
        if reach == 0:
            return
        tall, wide = self.tall[: size + 2 * reach], self.wide[:, : size + 2 * reach]
        down = [tall[shift : shift + size] for shift in range(2 * reach + 1)]
        along = [wide[:, shift : shift + size] for shift in range(2 * reach + 1)]
        for plane in x:  # one colour at a time: it stays in the cache
            np.copyto(down[reach], plane)
            tall[:reach] = tall[2 * reach : reach : -1]  # reflected at the rim
            tall[reach + size :] = tall[reach + size - 2 : size - 2 : -1]
            self._weigh(down, weights, along[reach])
            wide[:, :reach] = wide[:, 2 * reach : reach : -1]
            wide[:, reach + size :] = wide[:, reach + size - 2 : size - 2 : -1]
            self._weigh(along, weights, self.sum)
            np.copyto(plane, self.sum, casting="unsafe")

    def _weigh(self, shifted: list[NDArray[Any]], weights: list[int], out: NDArray[Any]) -> None:
        """The weighted mean of a plane shifted from -reach to reach; the sums stay below 2^16."""
        reach = len(weights) - 1
        np.multiply(shifted[reach], np.uint16(weights[0]), out=self.sum)
        for distance in range(1, reach + 1):
            np.add(shifted[reach - distance], shifted[reach + distance], out=self.term)
            np.multiply(self.term, np.uint16(weights[distance]), out=self.term)
            np.add(self.sum, self.term, out=self.sum)
        np.right_shift(np.add(self.sum, np.uint16(128), out=self.sum), 8, out=out)


def blur_weights(sigma: float, reach: int) -> list[int]:
    """Weights of the pixel itself and of those 1, 2, ... away, in 256ths; they sum to 256. Ends before the first zero."""
    weights = [math.exp(-(distance**2) / (2 * sigma**2)) for distance in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    side = [weight for weight in (round(256 * weight / total) for weight in weights[1:]) if weight]
    return [256 - 2 * sum(side), *side]
