"""What a method and an evaluation look like to the engine. Protocols, no base classes: a plug-in is one file.

A file methods/<name>.py exports
    Config    frozen dataclass, hashed into the job id; optionally with check(pretrain), raising BenchError at plan time
    Method    the class `Method` below
    RECIPES   {scale: Recipe}
    VARIANTS  {variant name: {scale: Recipe}}, optional: other published runs of the method, which a table's row names
    DIFFERENCES  (Difference, ...), optional: where the paper recipes differ from the authors' released code
Beside it may lie methods/<name>.toml: the authors' released weights and published hours (bench/authors.py).

A file evals/<name>.py exports
    Config, METRICS, RECIPES, evaluate, and what it wants to say of VARIANTS, NEEDS_PROJECTOR, USES_RANKS, ON_CPU,
    RESUMES, RECOMPUTES, FEATURES, MISSING, DIFFERENCES and evaluate_in_steps: the class `Evaluation` below has a field
    for each.

bench/plugins.py reads a file once into `MethodFile` or `Evaluation`; nothing else asks a module for its names. Public
names in capitals are this contract's: one that stands in no list is refused, a constant of one's own begins with an
underscore.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bench.files import Json
from bench.spec import Augment, Backbone, Crop, Data, Optim, Precision, Pretrain

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from bench.settings.site import Site


@dataclass(frozen=True)
class Difference:
    """Where a file's recipes of the scale `paper` differ from the authors' released code, in short plain sentences."""

    what: str  # it is about
    there: str  # in the released code
    here: str
    why: str  # it is not made equal
    effect: str  # expected on the printed numbers


# -- Methods -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a method trains at one scale. `epochs` is the length of the paper's headline run, scaled."""

    method: object  # the method's Config
    views: tuple[Augment, ...]
    optim: Optim
    batch_size: int
    epochs: float
    precision: Precision
    normalize: Literal["none", "imagenet"] = "none"
    zero_init_residual: bool | None = None  # of the network; None: as the scale has it
    positions: Literal["size", "factor"] | None = None  # of a transformer; None: as the scale has it
    norm_group: int | None = None  # images that share the statistics of batch norm; None: the global batch
    first: Recipe | None = None  # of the stage before: a pretraining of its own, from whose weights this one goes on


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a method may know of its run."""

    backbone: Backbone  # of the encoder, for methods that build a second one
    feature_dim: int  # of the encoder
    classes: int
    images: int  # in the training split
    batch_size: int  # images over all ranks
    steps: int
    seed: int


@dataclass(frozen=True)
class Batch:
    """One rank's part of a batch: float views (b, 3, size, size) in [0, 1], labels (b,), positions in the split (b,).

    `unreadable` are positions of damaged images that were replaced; `indices` has what stands in their place.
    """

    views: list[Tensor]
    labels: Tensor
    indices: Tensor
    unreadable: tuple[int, ...] = ()


class Method(Protocol):
    """An nn.Module made by `Method(config, encoder, facts)`, which keeps the encoder as `self.encoder`.

    Optional: `before_step(progress)` is called between backward and the optimizer's step, for gradients that must not
    act (prototypes that are frozen at first). A projector between representation and embedding, if there is one, is
    kept as `self.projector`.

    The engine calls `embed` on each rank's images, gathers every tensor of the result over the ranks with gradient,
    and hands the global batch to `loss`. So a loss knows nothing of ranks: every rank computes the same. A product of
    two (B, D) embeddings over the batch that is dear may be shared by them: bench.training.ranks.product_over_batch.
    """

    encoder: nn.Module

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Tensors with one row an image of this rank. The first is checked for collapse."""

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Scalars by name, "loss" among them, from the global batch in float32."""

    def after_step(self, progress: float) -> None:
        """Called after each optimizer step with the share of the run that is done: momentum encoders, queues."""


@dataclass(frozen=True, kw_only=True)
class MethodFile:
    """A file of methods/. `config` is an object of its Config."""

    name: str  # of the file
    config: type
    build: Callable[[Any, nn.Module, Facts], nn.Module]  # the file's Method
    recipes: Mapping[str, Recipe]  # RECIPES, by scale
    variants: Mapping[str, Mapping[str, Recipe]]  # VARIANTS, by name and scale
    differences: tuple[Difference, ...]  # DIFFERENCES = (): from the authors' released code
    check: Callable[[Any, Pretrain], None]  # (config, pretrain): Config.check, which raises BenchError; else nothing
    before_step: Callable[[Any, float], None]  # (method, progress): Method.before_step; else nothing
    projector: Callable[[Any], nn.Module | None]  # (method): its `projector`; else None


# -- Evaluations -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """What a number is, so that a table's columns can be checked when a plan is made."""

    unit: str  # "%" or ""
    higher_is_better: bool


@dataclass(frozen=True)
class Subject:
    """The encoder that an evaluation gets: frozen, in evaluation mode, inputs in [0, 1]."""

    key: str  # identifies the weights; features are cached under it
    network: nn.Module
    feature_dim: int
    projector: nn.Module | None = None  # from representation to embedding; only for evaluations with NEEDS_PROJECTOR
    # Of weights that were not trained here: file, hash, keys; goes into the result.
    origin: Mapping[str, Json] = field(default_factory=dict)


@dataclass
class Elsewhere:
    """What a process that works on several jobs together spent on the others."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    ended: int = 0  # of the others, by now


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job: since when it runs, for the seconds that its checkpoints carry to the next attempt."""

    began: float = field(default_factory=time.monotonic)
    cpu_began: float = field(default_factory=time.process_time)
    features_cached: bool | None = None  # whether all were there when it began; None: it reads none
    together: int = 1  # jobs that its process works on: bench/execution/together.py
    elsewhere: Elsewhere = field(default_factory=Elsewhere)

    @property
    def seconds(self) -> float:
        """Since it began; of several jobs together this one's share."""
        return time.monotonic() - self.began - self.elsewhere.seconds

    @property
    def cpu_seconds(self) -> float:
        """The same of processor time."""
        return time.process_time() - self.cpu_began - self.elsewhere.cpu_seconds

    @property
    def share(self) -> float:
        """Of its process's time since it began: 1 where it is alone."""
        whole = time.monotonic() - self.began
        return 1.0 - self.elsewhere.seconds / whole if self.elsewhere.seconds else 1.0


@dataclass(frozen=True)
class Context:
    """What an evaluation may use."""

    site: Site
    data: Data
    seed: int
    device: torch.device
    features: Path  # folder of the feature cache
    folder: Path | None = None  # run folder of the job, for bench/training/checkpoint.py; None: nothing is kept
    should_stop: Callable[[], bool] = bool  # bool() is False: never
    attempt: Attempt = field(default_factory=Attempt)
    fingerprint: str = ""  # of the data, in the names of cached features; "": not known


@dataclass(frozen=True)
class Outcome:
    """Metrics by the names in METRICS, and what the job page shows beside them."""

    metrics: Mapping[str, float]
    details: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a protocol that trains a network of its own takes."""

    seconds: float  # of one device; of a GPU: a V100
    device: str  # "GPU" or "core"
    source: str  # of the rate


@dataclass(frozen=True)
class Amount:
    """Work as a device sees it."""

    flops: float = 0.0  # of products and convolutions; a product of two numbers and its addition are two
    values: float = 0.0  # numbers that kernels read and write
    kernels: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.flops + other.flops, self.values + other.values, self.kernels + other.kernels)

    def __mul__(self, times: float) -> Amount:
        return Amount(self.flops * times, self.values * times, self.kernels * times)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a protocol may know of a job when its cost is asked for: images of the splits, and what it reads of them."""

    train: float
    val: float
    test: float
    width: int  # of the features
    classes: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an evaluation computes, beside reading its features once."""

    frozen: float = 0.0  # images through the frozen encoder, in steps that no cache shortens
    trained: float = 0.0  # images through the encoder, forward and backward
    steps: float = 1.0  # batches that those come in
    precision: Precision = "fp32"  # of both
    heads: Amount = Amount()  # in float32, on the device
    core_seconds: float = 0.0  # on one core, whatever the device


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What an evaluation's memory is made of: bytes where nothing else is said, of its network and of the data set."""

    weights: float
    feature_dim: int
    forward: float  # at the peak of a pass without gradients, an image more, itself among it
    training: float  # at the peak of a training step in the protocol's precision, an image more, itself among it
    image: float  # in float32
    train_images: int
    test_images: int
    classes: int
    ranks: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A file of evals/. `config` is an object of its Config; every callable below `missing` takes one."""

    name: str  # of the file
    config: type
    metrics: Mapping[str, Metric]  # METRICS, by name
    recipes: Mapping[str, Any]  # RECIPES, by scale
    evaluate: Callable[[Any, Subject, Context], Outcome]
    # evaluate_in_steps = None: the same as a generator that yields a Wanted (bench/data/stream.py) and is sent the
    # Batch. Several encoders then see one decoding of the images. It must have RESUMES.
    evaluate_in_steps: Callable[[Any, Subject, Context], Generator[Any, Batch, Outcome]] | None
    # Other published settings of the protocol, which a table's column or row names; each has the scales of RECIPES.
    variants: Mapping[str, Mapping[str, Any]]  # VARIANTS = {}, by name and scale
    differences: tuple[Difference, ...]  # DIFFERENCES = (): from the authors' released code
    needs_projector: bool  # NEEDS_PROJECTOR = False: the subject comes with the method's projector where it has one
    uses_ranks: bool  # USES_RANKS = False: it trains over all ranks and so gets the resources of a pretraining
    on_cpu: bool  # ON_CPU = False: what it trains runs on CPUs alone, so it is given cores and no GPU
    resumes: (
        bool  # RESUMES = False: a long one that keeps its state (bench/training/checkpoint.py) and stops when asked to
    )
    recomputes: bool  # RECOMPUTES = False: in training its network computes activations twice where the site says so
    # FEATURES = None: nothing is known. Splits whose cached features it reads: with them there it needs no pass over
    # the backbone.
    features: tuple[str, ...] | None
    missing: Callable[[], str]  # MISSING: why it cannot run here (a package), in one line; "" when it can
    describe: Callable[[Any], str]  # Config.describe(): the protocol in a sentence; else the file's first line
    summary: Callable[[Any], str]  # Config.summary(): settings of a network that it trains, for a plan; else ""
    # Config.cost(backbone), where it trains a network of its own; else None
    cost: Callable[[Any, Backbone], Cost | None]
    # Config.work(given): what it computes, for the cost of a job; else what `passes` says
    work: Callable[[Any, Given], Work | None]
    # Config.passes(): what it does to the training images besides reading their features once, as shares of a forward
    # pass and of a training epoch; else None.
    passes: Callable[[Any], tuple[float, float] | None]
    # Config.memory(sizes): bytes of a GPU at its peak, the weights among them; else None: one of frozen features
    memory: Callable[[Any, Sizes], float | None]
    trains_network: Callable[[Any], bool]  # it has a cost of its own, or training epochs among its passes
    label_fraction: Callable[[Any], float]  # Config.label_fraction: share of the labels that it trains on; else 1
    crop: Callable[[Any], Crop]  # Config.crop: how the images are cut whose features are cached; else the usual centre
    batch_size: Callable[[Any], int]  # Config.batch_size: images over all ranks of one that trains over them; else 0
    most_ranks: Callable[
        [Any], int
    ]  # Config.most_ranks(): that such a one can use; else 0, as many as divide its batch
    version: Callable[[Any], int]  # Config.VERSION, raised when the protocol changes its numbers; else 1
