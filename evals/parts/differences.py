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
TENSORFLOW_CROPS = Difference(
    "Crops of training images in the settings of SimCLR and FNC",
    "tf.image.sample_distorted_bounding_box: 0.42 of a square image on average.",
    "torchvision's area and ratio: 0.48 with the same limits.",
    "Protocols share one sampler of crops; the choice is an option of pretraining views alone.",
    "Not known; tenths at most.",
)
