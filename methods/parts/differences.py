"""Differences from released code that several papers share, and the lists that are too long for a method's own file."""

from __future__ import annotations

from bench.contracts import Difference

# -- What several methods share ----------------------------------------------------------------------------------------

APEX = Difference(
    "Precision",
    "fp16 with a scaled loss, by apex.",
    "fp16 with a scaled loss, by torch's autocast and gradient scaler.",
    "apex's mixed precision is no longer developed.",
    "None expected: both compute products in fp16 and losses in float32.",
)
FP16_LOSS = Difference(
    "Precision",
    "Mixed precision in fp16 with a scaled loss, the loss within autocast.",
    "fp16 with a scaled loss, which is computed in float32.",
    "A loss over the global batch should not be rounded.",
    "None expected.",
)
TPU = Difference(
    "Precision",
    "Matrix products of a TPU, which round their factors to bf16.",
    "TF32, which rounds them to 11 bits of mantissa instead of 8. On a CPU float32.",
    "GPUs have it for float32 tensors; their bf16 would also store results in 8 bits. No paper names a precision.",
    "None expected.",
)
FLOAT32 = Difference(
    "Precision",
    "Float32 on V100s, which have no TF32; on later GPUs torch's default, TF32 in convolutions, as the code leaves it.",
    "TF32 in convolutions and products: their factors are rounded to 11 bits of mantissa.",
    "A third of the hours: printed values are to be had on GPUs of today. `[recipe] precision` has fp32.",
    "None expected; docs/gpus.md has what it does to gradients.",
)
PILLOW_BLUR = Difference(
    "Blur",
    "Pillow's: three box filters, with the outermost pixels repeated beyond the rim.",
    "A Gaussian, mirrored at the rim; for small radii it blurs less, at sigma 0.3 by 11 %.",
    "It runs on the device for a whole batch; views with exact=True are Pillow's.",
    "None expected.",
)
PILLOW_BLUR_SMALL = Difference(
    "Blur",
    "Pillow's: three box filters, with the outermost pixels repeated beyond the rim.",
    "A Gaussian, mirrored at the rim; at 96 px cut at 4 pixels: sigma 2.0 acts as 1.85, edges are 5 % stronger.",
    "It runs on the device for a whole batch; views with exact=True are Pillow's, and at 224 px nothing is cut.",
    "None expected.",
)
SAME_BLUR = Difference(
    "Rim of blurred views",
    'Zeros beyond the image ("SAME").',
    "A reflection of the image.",
    "All methods here share one blur, and a dark rim is an accident of the padding.",
    "None expected.",
)
ONE_SIGMA = Difference(
    "Strength of the blur",
    "One sigma for the batch of a core.",
    "One sigma for each image.",
    "A draw here does not depend on how many devices share the batch.",
    "None expected.",
)
BILINEAR = Difference(
    "Resizing of crops",
    "Bilinear, the default of torchvision's RandomResizedCrop.",
    "Bicubic.",
    "The loader has one way to resize training images, which is that of the other methods.",
    "None expected.",
)
PARTIAL_BATCH = Difference(
    "End of an epoch",
    "Trains on the last partial batch too.",
    "Drops it.",
    "Every step has the same number of images on every rank.",
    "None expected: below one step an epoch.",
)
TF_STEPS = Difference(
    "Number of steps",
    "Images x epochs / batch + 1.",
    "Whole batches of each epoch: 0.25 % fewer steps.",
    "An epoch here begins with a new order of the images.",
    "None expected.",
)
ZERO_WEIGHTS = Difference(
    "LARS on a weight whose norm is 0",
    "Leaves it where it is.",
    "Moves it by the unadapted gradient, as most LARS do.",
    "All methods with LARS share one rule.",
    "None: no such weight occurs in the paper's recipe.",
)

# -- Lists of methods --------------------------------------------------------------------------------------------------

FNC = (
    TPU,
    SAME_BLUR,
    ONE_SIGMA,
    TF_STEPS,
    Difference(
        "Place of RandAugment",
        "Between the jitter and the grayscale.",
        "Before the jitter.",
        "Policies act on whole levels, as images come from disk; colours are computed later on the device.",
        "None expected: both orders draw the same operations.",
    ),
    Difference(
        "Start of the slow encoder",
        "Weights of its own.",
        "A copy of the trained encoder.",
        "The paper does not say, and a copy is what momentum encoders begin with elsewhere.",
        "None expected: forgotten after a few thousand steps.",
    ),
    Difference(
        "Slots of the memory that are not filled yet",
        "Never false negatives because of the threshold.",
        "Never false negatives by rule.",
        "The rule also holds without a threshold.",
        "None.",
    ),
    Difference(
        "Length",
        "100 epochs in the README's command.",
        "1000 epochs.",
        "The headline numbers of the paper are those of 1000 epochs; the studies have 100.",
        "None: each printed number has its own length.",
    ),
    Difference(
        "What the studies vary",
        "Attraction and the search with all views only.",
        "Elimination and the searches with the support views or the anchor, too.",
        "The paper prints rows for them that its code cannot make; they follow its text.",
        "Not known for these rows.",
    ),
)

DINO = (
    PILLOW_BLUR_SMALL,
    Difference(
        "Source of the arguments",
        "args.txt beside the weights; main_dino.py and its defaults are other values.",
        "The values of args.txt as this file has them; they were not compared again with the published files.",
        "The files are not in the repository and could not be reached for a comparison by machine.",
        "None if they were copied without a mistake; else not known.",
    ),
    Difference(
        "Decay of a ViT's class token and positions",
        "Decayed.",
        "Not decayed.",
        "The optimizer here has matrices and vectors; the tokens count as vectors.",
        "None expected.",
    ),
    Difference(
        "First step of the schedules",
        "Tables of values by step, whose warm-up reaches its peak one step earlier.",
        "Formulas that begin at exactly 0; the rates differ by up to 0.27 %.",
        "All methods share one schedule.",
        "None expected.",
    ),
)

TWIST = (
    PILLOW_BLUR_SMALL,
    ZERO_WEIGHTS,
    Difference(
        "Self-labelling stage",
        "Goes on within one run.",
        "A second pretraining from the weights of the first: momentum buffers start anew.",
        "The first stage has rows of its own in the tables, so that it runs once for both.",
        "None expected.",
    ),
    Difference(
        "Logged terms of the loss",
        "Sums over ranks.",
        "Means, as in the paper.",
        "A curve should not depend on the number of devices.",
        "None: the gradients are the same.",
    ),
)
