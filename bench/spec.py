"""What a job is, as frozen plain data. Everything here takes part in the job id unless marked otherwise.

Nesting is the edge: an `Evaluate` holds the spec of its encoder, and a `Pretrain` in it is the job it waits for.
Nothing in this module imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from bench.errors import BenchError

# Of products and convolutions, forward and backward; weights and losses are float32 in all. tf32: factors rounded to 11
# bits of mantissa, sums in float32. fp16, bf16: torch's autocast, fp16 with a scaled loss. bench/training/precision.py.
Precision: TypeAlias = Literal["fp32", "tf32", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set by its catalogue name (`bench list datasets`), at one image size in pixels."""

    name: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network that maps images in [0, 1] to one feature vector each."""

    name: str  # an architecture of bench/networks/encoders.py, e.g. "resnet50"
    width: int = 1  # multiplies the channels of EVERY layer, as SimCLR's 1x, 2x, 4x do
    base_channels: int = 64  # channels of the stem and the first stage at width 1
    stem: Literal["imagenet", "cifar", "small"] = "imagenet"  # 7x7/2 + max-pool, 3x3/1, 3x3/2
    zero_init_residual: bool = True
    normalize: Literal["none", "imagenet"] = (
        "none"  # input statistics; part of the encoder, so no evaluation can forget it
    )
    # Of the imagenet stem's max-pool: one pixel on every side ("torch"), or TensorFlow's "SAME", which for even sizes
    # pads only the right and the lower side: weights trained there expect it. Their strided convolutions pad as here
    # (bench/networks/encoders.py).
    padding: Literal["torch", "tensorflow"] = field(default="torch", metadata={"omit_when": "torch"})
    # Of a transformer, for images of other sizes than its own: the stored grid is resampled to the new one exactly
    # ("size"), or by the factor (cells + 0.1) / (cells stored), as DINO's and TWIST's codes do.
    positions: Literal["size", "factor"] = field(default="size", metadata={"omit_when": "size"})


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The random transformation that makes one view; applied in the order of the fields."""

    size: int  # pixels of the square view
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    rotation: float = 0.0  # degrees, uniform in +-rotation
    flip: float = 0.5  # probability, as for every field without a unit below
    jitter: float = 0.8
    brightness: float = 0.0  # factor uniform in [max(0, 1 - x), 1 + x]; tf.image's: what is added, in +-x of 1.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # turn of the colour circle, uniform in +-hue
    gray: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    solarize: float = 0.0
    solarize_threshold: float = 0.5  # of 1.0
    # Learned or random policies of whole operations, between flip and jitter; see bench/data/views/policies.py.
    policy: Literal["none", "autoaugment", "randaugment", "randaugment_released"] = field(
        default="none", metadata={"omit_when": "none"}
    )
    # Whose jitter: torchvision's, tf.image's (brightness added, saturation of HSV, contrast around each channel's
    # mean), or that with brightness multiplied. See bench/data/views/colour.py.
    colour: Literal["torchvision", "tensorflow", "tensorflow_multiplied"] = field(
        default="torchvision", metadata={"omit_when": "torchvision"}
    )
    # How a crop is drawn: area and log ratio evenly (RandomResizedCrop), or height and ratio evenly
    # (tf.image.sample_distorted_bounding_box): 0.48 and 0.42 of a square image on average. See
    # bench/data/views/crops.py.
    crop: Literal["torchvision", "tensorflow"] = field(default="torchvision", metadata={"omit_when": "torchvision"})
    # Images on disk: every operation by Pillow through torchvision, digit for digit, at a fifth of the speed
    # (bench/data/views/exact.py).
    exact: bool = field(default=False, metadata={"omit_when": False})


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The deterministic transformation at test time: the central square of `Data.size` pixels of the resized image.

    Images in memory already have that size and are taken as they are.
    """

    resize: float = 256 / 224  # shorter side before the crop, as a multiple of the square's side
    squash: bool = False  # no crop: both sides are resized to the square's (VISSL's VOC07 transformation)


CENTRE = Crop()  # what all seven papers do but where their protocol says otherwise


@dataclass(frozen=True, kw_only=True)
class Optim:
    """Optimizer and schedule: linear warm-up from 0, then cosine to `final_lr_ratio`, both per step unless `steps`."""

    name: Literal["lars", "sgd", "adamw"]
    lr: float  # peak, after any scaling with the batch
    weight_decay: float
    warmup_epochs: float
    momentum: float = 0.9  # lars, sgd
    betas: tuple[float, float] = (0.9, 0.999)  # adamw
    trust: float = 0.001  # lars: eta
    lars_momentum: Literal["classic", "popular"] = "classic"  # learning rate inside (SimCLR) or outside the buffer
    vector_lr: float | None = None  # peak rate of biases and norms; None: the same as `lr`
    vector_weight_decay: bool = False  # whether biases and norms are decayed (and, in LARS, adapted)
    final_lr_ratio: float = 0.0
    # lars: |w| / |g + d w| ("update"), or |w| / (|g| + d |w|) ("separate", the form of OpenSelfSup and TWIST)
    lars_norm: Literal["update", "separate"] = field(default="update", metadata={"omit_when": "update"})
    # None: constant; else a cosine to it
    final_weight_decay: float | None = field(default=None, metadata={"omit_when": None})
    clip_norm: float | None = field(default=None, metadata={"omit_when": None})  # largest global gradient norm
    # Shares of the run at which the rate falls to a tenth, instead of the cosine (MoCo v1: 120 and 160 of 200 epochs).
    milestones: tuple[float, ...] = field(default=(), metadata={"omit_when": ()})
    # module whose rate stays at its peak (SimSiam's predictor)
    constant: str = field(default="", metadata={"omit_when": ""})
    # lars: vectors whose names end so are decayed and adapted as matrices are. OpenSelfSup's patterns for what is not
    # (bn and bias) miss the norms of a ResNet's shortcuts, "downsample.1.weight".
    adapted_vectors: str = field(default="", metadata={"omit_when": ""})
    # How often the cosine moves; warm-up is per step in both (MoCo v2, SimSiam, triplet: their codes set it by epoch).
    steps: Literal["step", "epoch"] = field(default="step", metadata={"omit_when": "step"})
    # None: a line from 0, then the cosine. A share: the line from there to 1 multiplies a cosine that began at step 0
    # (mmcv's warm-up, of truncated triplet).
    warmup_from: float | None = field(default=None, metadata={"omit_when": None})


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train an encoder: one method, one network, one data set, one seed."""

    method: object  # a Config of methods/<name>.py
    backbone: Backbone
    data: Data
    views: tuple[Augment, ...]
    optim: Optim
    batch_size: int  # images over all ranks
    epochs: float
    precision: Precision = "fp32"
    seed: int = 0
    # go on from the weights of another pretraining
    start: Pretrain | None = field(default=None, metadata={"omit_when": None})
    # Sub-batches of a gradient-cached step: the loss stays that of the whole batch, memory is that of one sub-batch.
    # Not a resource: batch norm sees one sub-batch at a time.
    chunks: int = field(default=1, metadata={"omit_when": 1})
    # Consecutive images of the global batch that share the statistics of batch norm, as those of a GPU did in the
    # authors' code; None: all. Chunks share no statistics either.
    norm_group: int | None = field(default=None, metadata={"omit_when": None})
    # the encoder, by torch.compile: other roundings
    compile: bool = field(default=False, metadata={"omit_when": False})
    VERSION: int = field(default=1, init=False)  # raised when the training loop changes numbers

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise BenchError(f"batch_size is {self.batch_size}; a batch needs at least 2 images.")
        if not self.views:
            raise BenchError("a pretraining needs at least one view.")
        if self.chunks < 1 or self.batch_size % self.chunks:
            raise BenchError(f"batch_size {self.batch_size} does not divide into {self.chunks} chunks.")
        if self.norm_group is not None and (self.norm_group < 2 or self.batch_size % self.norm_group):
            raise BenchError(
                f"norm_group is {self.norm_group}, expected None or 2 and more images that divide the batch of "
                f"{self.batch_size}."
            )


@dataclass(frozen=True, kw_only=True)
class Random:
    """The same network, never trained."""

    backbone: Backbone
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """No network: the pixels themselves, flattened. The bar that a small encoder must clear first."""

    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Released:
    """Weights in a file that was not trained here.

    Another file is another encoder: its hash is identity, its place is not.
    """

    name: str  # weights of methods/*.toml, or "file" for a checkpoint of one's own
    backbone: Backbone
    sha256: str = ""  # of the file; "" only in plans that are made before it is here
    part: str = field(default="", metadata={"omit_when": ""})  # which of several networks in the file, if not the first


Encoder: TypeAlias = Pretrain | Random | Pixels | Released


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Run one protocol on one encoder."""

    encoder: Encoder
    protocol: object  # a Config of evals/<name>.py
    data: Data
    seed: int = 0


Spec: TypeAlias = Pretrain | Evaluate


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a job occupies while it runs. Never hashed: it cannot change which number is asked for."""

    ranks: int = 1  # processes; on a GPU machine one GPU each
    threads: int = 1  # OpenMP threads per process
    gpu: bool = True  # whether it computes on a GPU where there is one
    checkpoint_activations: bool = False  # of a pretraining's blocks: memory for time, the same digits
