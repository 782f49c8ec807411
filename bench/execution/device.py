"""The device of a worker: threads as given, one GPU a rank, deterministic kernels."""

from __future__ import annotations

import torch

from bench.spec import Resources
from bench.training.ranks import Ranks, device_of


def prepare_device(resources: Resources, ranks: Ranks) -> torch.device:
    """Threads as given, one GPU a rank, deterministic kernels."""
    torch.set_num_threads(resources.threads)
    torch.set_flush_denormal(True)  # softmax gradients underflow: 7 times the speed of the linear sweep on pixels
    device = device_of(ranks) if resources.gpu else torch.device("cpu")
    # Float32 is float32: TF32 would change digits unseen. bench/training/precision.py has it on where a spec asks.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return device
