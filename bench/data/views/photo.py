"""The colour operations of a view for one photograph on a CPU: what augment.finish does for a batch on a device.

Per image, because a batch does not stay in a core's cache; in one piece of memory that every operation uses again,
because what is fresh or has left the cache costs more than the arithmetic; hue on bytes and blur on 16-bit whole
numbers, because more of them fit into an instruction. What goes in and comes out of each operation are levels from 0 to
255, whole ones as in Pillow's 8-bit images.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.views import colour, policies
from bench.data.views.colour import GRAY_WEIGHTS, NUDGE
from bench.data.views.draws import OneDraw
from bench.spec import Augment

HUE = 3  # its number among the operations of a jitter


@lru_cache(maxsize=4)
def painter(size: int) -> Painter:
    """The process's own painter for views of one size."""
    return Painter(size)


class Painter:
    """Finishes views of `size` pixels, one at a time."""

    def __init__(self, size: int) -> None:
        self.size, pixels = size, size * size
        self.reach = max(1, (size // 10) // 2)  # of a blur, as colour.gaussian_blur
        self.weights = np.array(GRAY_WEIGHTS, np.float32)
        self.memory = torch.empty(24 * pixels, dtype=torch.uint8)  # for one operation at a time
        # the view; `y` is changed for it after a product
        self.x, self.y = self.memory.view(torch.float32).view(2, 3, pixels)
        self.planes = self.memory[: 5 * pixels].view(5, pixels).numpy()
        self.spare, self.chroma = np.empty((3, pixels), np.uint8), bytearray(pixels)
        self.windows: dict[int, tuple[_Windows, _Windows]] = {}

    def paint(self, crop_CHW: Tensor, spec: Augment, row: OneDraw, out_CHW: Tensor) -> None:
        """uint8 crop (3, size, size), stored in any order -> the view, written to `out_CHW`.

        `out_CHW` is contiguous uint8, and may be the crop.
        """
        out = out_CHW.numpy()
        if out_CHW is not crop_CHW:
            np.copyto(out, crop_CHW.numpy())
        if row.flip:
            np.copyto(out, out_CHW.flip(2).numpy())
        if spec.policy != "none":
            drawn = torch.tensor(row.policy, dtype=torch.float64)[None]
            out_CHW.copy_((policies.apply(out_CHW[None].float().div_(255), drawn)[0] * 255).round_())
        if row.jitter and colour.jitters(spec):
            if spec.colour == "torchvision":
                self._jitter(out.reshape(3, -1), spec, row)
            else:
                colour.jitter_as_tensorflow(out_CHW, spec, row)
        if row.gray and spec.gray:
            self._gray(out.reshape(3, -1))
        if row.blur and spec.blur:
            self._blur(out, row.sigma)
        if row.solarize and spec.solarize:
            chosen = (out >= math.ceil(spec.solarize_threshold * 255)).view(np.uint8)
            np.bitwise_xor(out, np.negative(chosen, out=chosen), out=out)  # with 255 it is 255 - level

    def _jitter(self, out: NDArray[np.uint8], spec: Augment, row: OneDraw) -> None:
        """In place.

        The view is in `view`, or in `x` after an operation on 32-bit numbers; going back to bytes cuts off the
        fraction.
        """
        active = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
        view, spare, in_x = out, self.spare, False
        for operation in row.order:
            if not active[operation]:
                continue
            factor = row.factors[operation]
            if operation == HUE:
                if in_x:
                    np.copyto(view, self.x.numpy(), casting="unsafe")  # four times as fast as torch's
                self._hue(view, factor, spare)
                view, spare, in_x = spare, view, False
                continue
            if in_x:
                self.x.floor_()
            else:
                np.copyto(self.x.numpy(), view)
            (self._brightness, self._contrast, self._saturation)[operation](factor)
            if factor > 1:  # only such a factor leaves the range
                self.x.clamp_(0, 255)
            in_x = True
        if in_x:
            np.copyto(out, self.x.numpy(), casting="unsafe")
        elif view is not out:
            np.copyto(out, view)

    def _brightness(self, factor: float) -> None:
        self.x.mul_(factor)

    def _contrast(self, factor: float) -> None:
        mean = math.floor(float(self.x.mean(dim=1).numpy() @ self.weights) + 0.5)
        torch.add(torch.tensor((1 - factor) * mean + NUDGE), self.x, alpha=factor, out=self.x)

    def _saturation(self, factor: float) -> None:
        """One product with a 3 x 3 matrix: `factor` times the colour, the rest gray."""
        matrix = np.float32(factor) * np.eye(3, dtype=np.float32) + np.float32(1 - factor) * self.weights
        matrix *= np.float32(1 + 1e-5)  # gray must not come out just below a whole level
        torch.mm(torch.from_numpy(matrix), self.x, out=self.y)
        self.x, self.y = self.y, self.x

    def _gray(self, out: NDArray[np.uint8]) -> None:
        np.copyto(self.x.numpy(), out)
        gray = torch.mm(torch.from_numpy(self.weights)[None], self.x, out=self.y[:1]).add_(0.5)
        np.copyto(out[0], gray[0].numpy(), casting="unsafe")
        out[1:] = out[0]

    def _hue(self, view: NDArray[np.uint8], turn: float, out: NDArray[np.uint8]) -> None:
        """Turn the hue by a share of the circle, without an angle, a division or a branch; exact but for one rounding.

        With the largest channel M, the least m and the chroma c = M - m, a sixth of the circle is c levels, and a turn
        by t <= c / 2 of them takes a channel x to clamp(x - y + clamp(y, m + t, M - t), m, M), y being the next
        channel: x moves while y is near one of the ends. (Turning back, y is the channel before.) Half the circle takes
        x to M + m - x and thirds exchange channels, so that sixths cost nothing and at most half of one is left.
        Written such that bytes hold it, where only sums that come back leave 0 to 255: with k = c - t, low = max(y, M -
        t) - k and high = min(y, m + t) + k it is clamp(x, low, high) + M + m - low - high.
        """
        sixths = round(6 * turn)
        rest = 6 * turn - sixths
        most, least, rising, falling, low = self.planes
        red, green, blue = view
        np.maximum(np.maximum(red, green, out=most), blue, out=most)
        np.minimum(np.minimum(red, green, out=least), blue, out=least)
        chroma = np.frombuffer(self.chroma, np.uint8)
        np.subtract(most, least, out=chroma)
        moved = np.frombuffer(self.chroma.translate(_rounded_shares(abs(rest))), np.uint8)
        np.add(least, moved, out=rising)
        np.subtract(most, moved, out=falling)
        np.subtract(chroma, moved, out=chroma)
        both, high = np.add(most, least, out=most), least
        half = sixths % 2
        thirds = (sixths - 3 * half) // 2
        for channel in range(3):
            x, y, new = view[channel], view[(channel + (1 if rest > 0 else -1)) % 3], out[(channel + thirds) % 3]
            np.subtract(np.maximum(y, falling, out=low), chroma, out=low)
            np.add(np.minimum(y, rising, out=high), chroma, out=high)
            np.minimum(np.maximum(x, low, out=new), high, out=new)
            np.add(low, high, out=low)
            if half:
                np.subtract(low, new, out=new)
            else:
                np.add(np.subtract(new, low, out=new), both, out=new)

    def _blur(self, out: NDArray[np.uint8], sigma: float) -> None:
        """Gaussian blur of uint8 (3, size, size) in place: columns, then rows.

        Weights are in 256ths; levels are rounded after each.
        """
        size, weights = self.size, blur_weights(sigma, self.reach)
        reach = len(weights) - 1
        if reach == 0:
            return
        if reach not in self.windows:
            self.windows[reach] = (_Windows(self.memory, size, reach, dim=1), _Windows(self.memory, size, reach, dim=2))
        columns, rows = self.windows[reach]
        np.copyto(columns.inner, out)
        weighed = columns.weigh(weights)
        np.right_shift(weighed, 8, out=rows.inner)
        weighed = rows.weigh(weights)
        np.copyto(out, np.right_shift(weighed, 8, out=weighed), casting="unsafe")


class _Windows:
    """A view in 16 bits with a rim along one dimension, its shifts by 0 to 2 * `reach` and their sums, in given memory.

    Kept, because making the shifts takes as long as adding one of them.
    """

    def __init__(self, memory: Tensor, size: int, reach: int, *, dim: int) -> None:
        numbers, shape, pixels = memory.view(torch.int16), [3, size, size], 3 * size * size
        shape[dim] += 2 * reach
        padded = numbers[: math.prod(shape)].view(shape)
        self.sums = numbers[math.prod(shape) : math.prod(shape) + pixels].view(3, size, size)
        self.shifted = [padded.narrow(dim, shift, size) for shift in range(2 * reach + 1)]
        whole = padded.numpy().view(np.uint16)
        self.inner = self.shifted[reach].numpy().view(np.uint16)
        along, self.reach = whole.swapaxes(1, dim), reach
        self.rims = [
            (along[:, :reach], along[:, 2 * reach : reach : -1]),
            (along[:, reach + size :], along[:, reach + size - 2 : size - 2 : -1]),
        ]

    def weigh(self, weights: list[int]) -> NDArray[np.uint16]:
        """256 times the weighted mean and a half: below 2^16.

        By torch, which multiplies and adds in one pass, modulo 2^16.
        """
        for rim, reflected in self.rims:
            np.copyto(rim, reflected)
        self.sums.fill_(128)
        for shift, plane in enumerate(self.shifted):
            self.sums.add_(plane, alpha=weights[abs(shift - self.reach)])
        return self.sums.numpy().view(np.uint16)


def _rounded_shares(share: float) -> bytes:
    """`share` of each level."""
    return (np.arange(256) * share + 0.5).astype(np.uint8).tobytes()


def blur_weights(sigma: float, reach: int) -> list[int]:
    """Weights of the pixel itself and of those 1, 2, ... away, in 256ths; they sum to 256.

    Ends before the first zero.
    """
    weights = [math.exp(-(distance**2) / (2 * sigma**2)) for distance in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    side = [weight for weight in (round(256 * weight / total) for weight in weights[1:]) if weight]
    return [256 - 2 * sum(side), *side]
