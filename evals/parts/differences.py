"""Differences from released code that several protocols share."""

from __future__ import annotations

from bench.contracts import Difference

BICUBIC = Difference(
    "Resizing of training images",
    "Bilinear in the PyTorch codes.",
    "Bicubic and antialiased.",
    "The loader has one way to resize training images.",
    "None expected.",
)
PARTIAL_BATCH = Difference(
    "End of an epoch",
    "Trains on the last partial batch too.",
    "Drops it.",
    "Every step has the same number of images.",
    "None expected: below one step an epoch.",
)
