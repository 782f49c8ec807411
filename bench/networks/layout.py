"""The memory layout in which a network's convolutions are fast, by device and precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FROZEN = "fp32"  # the precision that the layout of an evaluation's encoder goes by
_TENSOR_CORES_FOR_FLOAT32 = (8, 0)  # compute capability of Ampere


def layout_of(device: torch.device, precision: str) -> torch.memory_format:
    """channels_last, but for float32 on GPUs before Ampere, where tf32 is float32 too.

    A V100's float32 is 1.6 times slower in it (pytorch issue 44943). On an H100 it makes no difference in float32, and
    TF32 is 1.4 times, bf16 1.8 times as fast as in the plain layout (docs/gpus.md); a CPU's step is 1.4 times as fast.
    """
    if (
        device.type == "cuda"
        and precision in ("fp32", "tf32")
        and torch.cuda.get_device_capability(device) < _TENSOR_CORES_FOR_FLOAT32
    ):
        return torch.contiguous_format
    return torch.channels_last


def lay_out(network: nn.Module, device: torch.device, precision: str) -> None:
    """Give the network that layout, in place; the images that come take it too."""
    layout = layout_of(device, precision)
    network.to(memory_format=layout)
    if layout is torch.contiguous_format:  # a convolution goes by its images' layout as much as by its weights'
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(_plain)


def _plain(module: nn.Module, images: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(image.contiguous() for image in images)
