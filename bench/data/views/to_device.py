"""Small tensors on their way to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The CPU tensor on the device.

    To a GPU from pinned memory: a copy from any other can make the host wait for the GPU's work.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
