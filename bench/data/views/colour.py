"""The colours of views: jitter in any order, hue, gray, blur, solarize, a batch at a time.

A jitter is that of `Augment.colour`, x in [0, 1] and clipped to it after each operation:

                        brightness     contrast                       saturation                        hue
torchvision             f x            around the mean of the gray    away from the gray of a pixel     turn of HSV
tensorflow              x + f          around each channel's mean     s of HSV times f, at most 1       turn of HSV
tensorflow_multiplied   f x            around each channel's mean     s of HSV times f, at most 1       turn of HSV

The second is tf.image's (SimCLR's first release and BYOL's jax code, which repeats it), the third that of SimCLR v2 and
FNC. Both work on floats; torchvision's PyTorch codes work on Pillow's 8-bit images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.views import policies
from bench.data.views.draws import Draw, OneDraw
from bench.data.views.to_device import sent
from bench.spec import Augment


def colour(views_BCHW: Tensor, spec: Augment, drawn: Draw, *, eight_bit: bool = False) -> Tensor:
    """The policy, jitter, gray, blur and solarize on float views in [0, 1].

    `eight_bit`: the jitter as of 8-bit images.
    """
    return colour_in_place(views_BCHW.clone(), spec, drawn, eight_bit=eight_bit)


def colour_in_place(views: Tensor, spec: Augment, drawn: Draw, *, eight_bit: bool) -> Tensor:
    """The same, but the memory of `views` is used."""
    if spec.policy != "none":
        views = policies.apply(views, drawn.policy_BP4)
    if jitters(spec):
        _jitter(views, spec, drawn, eight_bit=eight_bit and spec.colour == "torchvision")
    if spec.gray:
        _repaint(views, drawn.gray_B, lambda some, _: _luma(some).expand(-1, 3, -1, -1))
    if spec.blur:
        _repaint(views, drawn.blur_B, lambda some, image_N: gaussian_blur(some, drawn.sigma_B[image_N]))
    if spec.solarize:
        _repaint(views, drawn.solarize_B, lambda some, _: _solarize(some, spec.solarize_threshold))
    return views


def jitters(spec: Augment) -> bool:
    """Whether the view has a colour jitter that can do something."""
    return bool(spec.jitter and (spec.brightness or spec.contrast or spec.saturation or spec.hue))


def _repaint(views: Tensor, mask_B: Tensor, paint: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Paint, in place, the images of the mask and no other: of BYOL's second views one in ten is blurred.

    `paint` gets these images and their numbers, a tensor on the CPU.
    """
    image_N = mask_B.nonzero().squeeze(1)  # found on the CPU: no sync
    if len(image_N):
        index = sent(image_N, views.device)
        views.index_copy_(0, index, paint(views.index_select(0, index), image_N))


def gaussian_blur(views_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Separable Gaussian blur with one sigma (pixels) per image; the kernel spans a tenth of the side, as SimCLR's."""
    batch, channels, height, width = views_BCHW.shape
    radius = max(1, (height // 10) // 2)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel_BK = torch.exp(-offsets.square() / (2 * sigma_B[:, None].square()))
    kernel_BK = sent(kernel_BK / kernel_BK.sum(dim=1, keepdim=True), views_BCHW.device)
    kernel = kernel_BK.repeat_interleave(channels, dim=0)  # one row per image and channel
    x = F.pad(views_BCHW.reshape(1, batch * channels, height, width), (radius,) * 4, mode="reflect")
    x = F.conv2d(x, kernel[:, None, :, None], groups=batch * channels)
    return F.conv2d(x, kernel[:, None, None, :], groups=batch * channels).view(batch, channels, height, width)


def adjust_hue(views_BCHW: Tensor, turn_B: Tensor, out: Tensor | None = None) -> Tensor:
    """Turn the hue by a share of the colour circle per image, through HSV as PIL and torchvision do.

    `out` may be the views themselves.
    """
    red, green, blue = views_BCHW.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    safe = chroma.clamp_min(1e-12)
    # The sixth of the circle is counted from the largest channel, the first of them in a tie. On a CPU `where` takes
    # twenty times as long as `lerp`, which selects exactly where its weight is 0 or 1.
    chosen = torch.empty_like(value)
    hue = (red - green).div_(safe).add_(4)
    hue.lerp_((blue - red).div_(safe).add_(2), torch.eq(value, green, out=chosen))
    hue.lerp_((green - blue).div_(safe), torch.eq(value, red, out=chosen))
    hue.div_(6).add_(turn_B.to(views_BCHW.device)[:, None, None])
    hue.sub_(hue.floor()).mul_(6)
    # Each channel is value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6 and n = 5, 3, 1. The share is
    # 1 around n + hue = 8 for red and 0 around 5 for the others; taken as distances from there, the remainder is not
    # needed.
    out = torch.empty_like(views_BCHW) if out is None else out
    for channel, n in enumerate((5, 3, 1)):
        share = hue + n
        share = 2 - share.sub_(8).abs_() if channel == 0 else share.sub_(5).abs_().sub_(1)
        torch.sub(value, share.clamp_(0, 1).mul_(chroma), out=out[:, channel])
    return out


def _jitter(views: Tensor, spec: Augment, drawn: Draw, *, eight_bit: bool) -> None:
    """The operations that are asked for, in place and in each image's own order: four an image in sixteen calls.

    In every turn the images change places, so that those with the same operation lie side by side.
    """
    image_N = drawn.jitter_B.nonzero().squeeze(1)  # as all that decides on calls, on the CPU: no sync
    active = torch.tensor([spec.brightness, spec.contrast, spec.saturation, spec.hue]).bool()
    order_N4 = drawn.order_B4[image_N]
    turn_TN = order_N4[active[order_N4]].view(len(image_N), int(active.sum())).T
    from_TN = turn_TN.argsort(dim=1)  # which of the images lies where
    place_TN = from_TN.argsort(dim=1)  # where an image lies
    image_TN = image_N[from_TN]
    move_TN = sent(torch.cat([image_TN[:1], place_TN[:-1].gather(1, from_TN[1:]), image_TN[-1:]]), views.device)
    factor_TN4 = sent(drawn.factor_B4[image_TN], views.device)

    jittered = views * 255 if eight_bit else views
    for turn_N, move_N, factor_N4 in zip(turn_TN, move_TN, factor_TN4, strict=False):
        jittered = jittered.index_select(0, move_N)
        counts = turn_N.bincount(minlength=4).tolist()
        for operation, (part, factor_B4) in enumerate(
            zip(torch.split(jittered, counts), torch.split(factor_N4, counts), strict=True)
        ):
            if len(part):
                if spec.colour == "torchvision":
                    _adjust(part, operation, factor_B4[:, operation], eight_bit=eight_bit)
                else:
                    adjust_as_tensorflow(part, operation, factor_B4[:, operation], spec.colour)
    views.index_copy_(0, move_TN[-1], jittered.div_(255) if eight_bit else jittered)


def _adjust(views: Tensor, operation: int, factor_B: Tensor, *, eight_bit: bool) -> None:
    """One operation in place.

    `eight_bit`: on levels from 0 to 255, as Pillow: whole numbers, cut off after a blend and rounded after hue.
    """
    factor = factor_B[:, None, None, None]
    if operation == 0:
        views.mul_(factor)
    elif operation == 3:
        adjust_hue(views, factor_B, out=views)
    else:
        gray = _luma(views)
        if operation == 1:
            # a plane, because a lerp from one number an image takes five times as long
            gray.copy_(gray.mean(dim=(2, 3), keepdim=True))
        if eight_bit:
            gray.add_(0.5).floor_()
        torch.lerp(gray.expand_as(views), views, factor, out=views)
    if eight_bit:
        views.add_(0.5 if operation == 3 else NUDGE).clamp_(0, 255).floor_()
    else:
        views.clamp_(0, 1)


def adjust_as_tensorflow(views: Tensor, operation: int, factor_B: Tensor, kind: str) -> None:
    """One operation of tf.image in place, on float views in [0, 1]."""
    factor = factor_B[:, None, None, None]
    if operation == 0:
        if kind == "tensorflow":
            views.add_(factor)
        else:
            views.mul_(factor)
    elif operation == 1:
        mean = views.mean(dim=(2, 3), keepdim=True)
        views.sub_(mean).mul_(factor).add_(mean)
    elif operation == 2:  # value v and saturation s = chroma / v: v - x grows by the factor, at most by 1 / s
        value = views.amax(dim=1, keepdim=True)
        chroma = value - views.amin(dim=1, keepdim=True)
        growth = torch.minimum(factor, value / chroma.clamp_min(1e-12))
        torch.sub(value, (value - views).mul_(growth), out=views)
    else:
        adjust_hue(views, factor_B, out=views)
    views.clamp_(0, 1)


def jitter_as_tensorflow(image_CHW: Tensor, spec: Augment, row: OneDraw) -> None:
    """tf.image's operations on one uint8 image in place: floats from the first to the last, then rounded once."""
    view = image_CHW[None].float().div_(255)
    active = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
    for operation in row.order:
        if active[operation]:
            adjust_as_tensorflow(view, operation, torch.tensor([row.factors[operation]]), spec.colour)
    image_CHW.copy_(view[0].mul_(255).round_())


def _solarize(views: Tensor, threshold: float) -> Tensor:
    """Inverted where a channel reaches the threshold."""
    return torch.where(views >= threshold, 1 - views, views)


def _luma(views: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    red, green, blue = views.chunk(3, dim=1)
    gray, share = red * GRAY_WEIGHTS[0], green * GRAY_WEIGHTS[1]
    return gray.add_(share).add_(torch.mul(blue, GRAY_WEIGHTS[2], out=share))


def where(mask_B: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Images of `yes` where the mask says so, else of `no`."""
    return torch.where(sent(mask_B, no.device)[:, None, None, None], yes, no)


GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's "L"
NUDGE = 2e-3  # of a level, before a fraction is cut off: what is whole but for float32's rounding stays
