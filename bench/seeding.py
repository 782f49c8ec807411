"""Every random draw comes from a generator made of (seed, purpose, step): nothing depends on what was drawn before.

So a resumed run draws what an uninterrupted one would, and two ranks draw what one process would.
"""

from __future__ import annotations

from hashlib import sha256

import torch


def seed_of(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose."""
    return int.from_bytes(sha256(repr((seed, *purpose)).encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose; parameters are drawn on the CPU so that every device sees the same."""
    return torch.Generator().manual_seed(seed_of(seed, *purpose))
