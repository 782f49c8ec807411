"""The device of a worker: threads as given, one GPU a rank, kernels deterministic or not."""

from __future__ import annotations

import torch

from bench.data.catalogue import entry
from bench.networks.layout import FROZEN, layout_of
from bench.spec import Pixels, Pretrain, Resources, Spec
from bench.training.ranks import Ranks, device_of


def prepare_device(
    resources: Resources, ranks: Ranks, *, deterministic: bool = True, autotune: bool = False
) -> torch.device:
    """Threads as given, one GPU a rank, deterministic kernels or, if they need not be, also autotuned ones."""
    torch.set_num_threads(resources.threads)
    torch.set_flush_denormal(True)  # softmax gradients underflow: 7 times the speed of the linear sweep on pixels
    device = device_of(ranks) if resources.gpu else torch.device("cpu")
    # Float32 is float32: TF32 would change digits unseen. bench/training/precision.py has it on where a spec asks.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = autotune and not deterministic
    torch.backends.cudnn.deterministic = deterministic
    return device


def autotunes(spec: Spec) -> bool:
    """Whether it is worth the time that cuDNN tries kernels in, on an H100 160 s, and the memory, 8 GB.

    It is where nothing else is fast: float32 gains a quarter, bf16 nothing. Images of random sizes would be tried anew.
    """
    return isinstance(spec, Pretrain) and spec.precision == "fp32"


def layout_word(spec: Spec, device: torch.device) -> str:
    """The layout of the network's images and weights for a result.

    "" for pixels, which pass no network, and for detection, whose network is Detectron2's.
    """
    if isinstance(spec, Pretrain):
        layout = layout_of(device, spec.precision)
    elif isinstance(spec.encoder, Pixels) or entry(spec.data.name).boxes:
        return ""
    else:
        layout = layout_of(device, FROZEN)
    return "channels_last" if layout is torch.channels_last else "contiguous"
