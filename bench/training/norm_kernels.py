"""What torch's CUDA kernels of a synchronised batch norm compute, in plain operations for every other device.

Names, arguments and results are those of torch.batch_norm_stats and so on, which exist on CUDA only. Statistics are in
float32 where the images are in half precision. C: channels; W: ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) of each channel, (C,)."""
    variance_C, mean_C = torch.var_mean(_wide(x), _others(x), correction=0)
    return mean_C, (variance_C + eps).rsqrt()


def batch_norm_gather_stats_with_counts(
    x: Tensor,
    mean_WC: Tensor,
    inverse_WC: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    count_W: Tensor,
) -> tuple[Tensor, Tensor]:
    """The ranks' statistics as one (Chan's combination), which move the running ones, in place."""
    total = count_W.sum()
    share_W1 = (count_W / total)[:, None]
    mean_C = (share_W1 * mean_WC).sum(0)
    within_WC = inverse_WC.pow(-2) - eps
    variance_C = (share_W1 * (within_WC + (mean_WC - mean_C).square())).sum(0)
    running_mean.lerp_(mean_C, momentum)
    running_var.lerp_(variance_C * (total / (total - 1)), momentum)
    return mean_C, (variance_C + eps).rsqrt()


def batch_norm_elemt(x: Tensor, weight: Tensor, bias: Tensor, mean_C: Tensor, inverse_C: Tensor, eps: float) -> Tensor:
    """The normalised images."""
    y = (_wide(x) - _along(mean_C, x)) * _along(inverse_C * weight, x) + _along(bias, x)
    return y.to(x.dtype)


def batch_norm_backward_reduce(
    dy: Tensor,
    x: Tensor,
    mean_C: Tensor,
    inverse_C: Tensor,
    weight: Tensor,
    for_input: bool,
    for_weight: bool,
    for_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """This rank's sums of dy and of dy (x - mean), and its gradients of weight and bias, (C,)."""
    dy = _wide(dy)
    sum_C = dy.sum(_others(x))
    product_C = (dy * (_wide(x) - _along(mean_C, x))).sum(_others(x))
    return sum_C, product_C, product_C * inverse_C, sum_C


def batch_norm_backward_elemt(
    dy: Tensor,
    x: Tensor,
    mean_C: Tensor,
    inverse_C: Tensor,
    weight: Tensor,
    sum_C: Tensor,
    product_C: Tensor,
    count_W: Tensor,
) -> Tensor:
    """The gradient of the images, from the sums of all ranks."""
    total = count_W.sum()
    slope_C = inverse_C.square() * product_C / total
    centred = _wide(x) - _along(mean_C, x)
    dx = (_wide(dy) - _along(sum_C / total, x) - centred * _along(slope_C, x)) * _along(inverse_C * weight, x)
    return dx.to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _others(x: Tensor) -> list[int]:
    """All axes but the channels'."""
    return [0, *range(2, x.ndim)]


def _along(values_C: Tensor, x: Tensor) -> Tensor:
    return values_C.view(1, -1, *(1,) * (x.ndim - 2))
