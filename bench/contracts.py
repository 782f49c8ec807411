"""What a method and an evaluation look like to the engine. Protocols, no base classes: a plug-in is one file.

A file methods/<name>.py exports
    Config    frozen dataclass, hashed into the job id; optionally with check(pretrain), raising BenchError at plan time
    Method    see below
    RECIPES   {scale: Recipe}
    VARIANTS  {variant name: {scale: Recipe}}, optional: other published runs of the method, which a table's row names
A file evals/<name>.py exports
    Config    frozen dataclass, hashed into the job id
    METRICS   {metric name: Metric}
    RECIPES   {scale: Config}
    evaluate  (config, Subject, Context) -> Outcome
    VARIANTS    {variant name: {scale: Config}}, optional: other published settings of the protocol, which a table's
                column or row names (the paper's own protocol, say); every variant has the scales that RECIPES has
    NEEDS_PROJECTOR = True, optional: the subject comes with the method's projector where it has one
    MISSING     () -> str, optional: why it cannot run here (a package that is not installed), in one line; "" when it can
    USES_RANKS = True, optional: it trains over all ranks and so gets the resources of a pretraining
    RESUMES = True, optional: a long evaluation that keeps its state through bench/resume.py and stops when asked to
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from bench.identity import Json
from bench.spec import Augment, Backbone, Data, Optim, Pretrain

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from bench.data.loader import Batch
    from bench.site import Site


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a method trains at one scale. `epochs` is the length of the paper's headline run, scaled."""

    method: object  # the method's Config
    views: tuple[Augment, ...]
    optim: Optim
    batch_size: int
    epochs: float
    precision: Literal["fp32", "bf16"]
    normalize: Literal["none", "imagenet"] = "none"
    zero_init_residual: bool | None = None  # of the network; None: as the scale has it
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


class Method(Protocol):
    """An nn.Module made by `Method(config, encoder, facts)`, which keeps the encoder as `self.encoder`.

    Optional: `before_step(progress)` is called between backward and the optimizer's step, for gradients that must not act
    (prototypes that are frozen at first). A projector between representation and embedding, if there is one, is kept as `self.projector`.

    The engine calls `embed` on each rank's images, gathers every tensor of the result over the ranks with gradient,
    and hands the global batch to `loss`. So a loss knows nothing of ranks.
    """

    encoder: nn.Module

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Tensors with one row an image of this rank. The first is checked for collapse."""

    def loss(self, embeddings: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Scalars by name, "loss" among them, from the global batch in float32."""

    def after_step(self, progress: float) -> None:
        """Called after each optimizer step with the share of the run that is done: momentum encoders, queues."""


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
    projector: nn.Module | None = None  # from representation to embedding; only for evaluations with NEEDS_PROJECTOR = True
    origin: Mapping[str, Json] = field(default_factory=dict)  # of weights that were not trained here: file, hash, keys; goes into the result


@dataclass(frozen=True)
class Context:
    """What an evaluation may use."""

    site: Site
    data: Data
    seed: int
    device: torch.device
    features: Path  # folder of the feature cache
    folder: Path | None = None  # run folder of the job, for bench/resume.py; None: nothing is kept
    should_stop: Callable[[], bool] = bool  # bool() is False: never


@dataclass(frozen=True)
class Outcome:
    """Metrics by the names in METRICS, and what the job page shows beside them."""

    metrics: Mapping[str, float]
    details: Mapping[str, Json] = field(default_factory=dict)


class MethodModule(Protocol):
    """A file of methods/."""

    RECIPES: Mapping[str, Recipe]


class Checked(Protocol):
    """A Config that can refuse a pretraining at plan time."""

    def check(self, pretrain: Pretrain) -> None:
        """Raises BenchError."""
