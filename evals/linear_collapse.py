"""Dimensional collapse of linear networks, to be watched: DirectCLR's toy settings (arXiv:2110.09348, sections 4, 5).

One layer (figure 3): z = W x, x ~ N(0, I) of 16 coordinates; the augmentation adds noise of variance k to the last 8.
Two layers (figures 5, 6): z = W2 W1 x, weak noise on all coordinates, initial singular values exp(-0.35 i).
The encoder and the data of the spec are not used: this evaluation trains its own 16 x 16 layers; tables give it
`pixels`.
Loss "code" is the released toy_task's: cross entropy of z_i . z'_j / 0.1 from one view to the other, embeddings not
normalised. Loss "paper" is that of the theory, with squared distances and negatives from the own view: there
dW/dt = W X exactly, X = S0 - S1 the weighted covariances of data and augmentation (section 4.2), and W shrinks along
the directions in which X is negative (theorem 1).
For "code" the solution in the limit of large batches is known (ours, by completing the square; not in the paper):
singular values 0.1 on clean coordinates, 0.1 / (1 + k)^2 on augmented ones. They shrink with k and never vanish.
Against the released code: no bias, as in the paper's text; batches from a fresh order per epoch; the embedding's
covariance W W^T exactly, instead of from 1000 samples. The paper prints neither its k nor its learning rates: these
k are ours, around the README's 2.25 (standard deviation 1.5); the rates are the code's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from bench.contracts import Amount, Context, Difference, Given, Metric, Outcome, Subject, Work
from bench.errors import BenchError
from bench.files import Json
from bench.seeding import generator
from evals.parts import linear_networks as linear
from evals.parts.spectrum import measures

_WIDTH, _AUGMENTED = 16, 8
_STRENGTHS = (0.0, 0.25, 1.0, 2.25, 4.0, 16.0)  # k, variances
_WEAK = 1e-6  # variance of the noise with two layers
_SNAPSHOTS = 60
_FLOOR = 1e-16  # below this share of the largest a singular value is rounding

FEATURES = ()
METRICS: dict[str, Metric] = {
    **{f"smallest_over_largest_k{k:g}": Metric("", higher_is_better=True) for k in _STRENGTHS},
    **{f"effective_rank_k{k:g}": Metric("", higher_is_better=True) for k in _STRENGTHS},
    "two_layers_log10_smallest_over_largest": Metric("", higher_is_better=True),
    "two_layers_effective_rank": Metric("", higher_is_better=True),
    "two_layers_above_1e-2": Metric("", higher_is_better=True),
    "two_layers_alignment": Metric("", higher_is_better=True),  # mean of the diagonal of |V2^T U1|
    # its share within the kept and within the collapsed directions
    "two_layers_block_alignment": Metric("", higher_is_better=True),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """SGD without momentum or decay, as in the released toy_task."""

    loss: Literal["code", "paper"] = "code"
    temperature: float = 0.1  # "code" only
    one_layer_rate: float = 0.001
    two_layers_rate: float = 0.01
    steps: int = 10_000
    batch_size: int = 128
    images: int = 10_000
    VERSION: int = field(default=1, init=False)

    def work(self, given: Given) -> Work:
        """For the cost of a job: steps of small kernels, for each strength and for two layers."""
        return Work(heads=Amount(kernels=self.steps * (len(_STRENGTHS) + 1) * 8.0))

    def __post_init__(self) -> None:
        if not 2 <= self.batch_size <= self.images:
            raise BenchError(f"linear_collapse: batch_size is {self.batch_size}, expected 2 to {self.images}.")

    def describe(self) -> str:
        """The protocol in one sentence, for column headings."""
        loss = "as in the released code" if self.loss == "code" else "as in the paper's theory"
        return (
            f"neither encoder nor data: linear layers of {_WIDTH} x {_WIDTH} on Gaussian vectors, InfoNCE {loss}, "
            f"{self.steps} steps"
        )


RECIPES = {"embedded": Config(), "cifar": Config(), "paper": Config()}


def evaluate(config: Config, subject: Subject, context: Context) -> Outcome:
    """Train the linear networks and look at their singular values."""
    metrics: dict[str, float] = {}
    spectra: list[Json] = []
    for k in _STRENGTHS:
        weights = train(config, context.seed, layers=1, augmented=_AUGMENTED, variance=k)[-1][1]
        values = linear.embedding_spectrum(weights)
        metrics[f"smallest_over_largest_k{k:g}"] = float(values[-1] / values[0])
        metrics[f"effective_rank_k{k:g}"] = measures(values)["effective_rank"]
        spectra.append({"label": f"k = {k:g}", "values": values.tolist()})
    history = train(config, context.seed, layers=2, augmented=_WIDTH, variance=_WEAK)
    weights = history[-1][1]
    values, matrix = linear.embedding_spectrum(weights), linear.alignment_matrix(*weights)
    found = measures(values)
    metrics |= {
        "two_layers_log10_smallest_over_largest": math.log10(max(float(values[-1] / values[0]), _FLOOR)),
        "two_layers_effective_rank": found["effective_rank"],
        "two_layers_above_1e-2": found["above_1e-2"],
        "two_layers_alignment": float(matrix.diagonal().mean()),
        "two_layers_block_alignment": linear.block_alignment(matrix, int(found["above_1e-2"])),
    }
    return Outcome(metrics=metrics, details={"spectra": spectra, "dynamics": dynamics(history)})


def train(config: Config, seed: int, *, layers: int, augmented: int, variance: float) -> list[tuple[int, list[Tensor]]]:
    """(step, layers first to last) from the start to the end, at steps a constant ratio apart."""
    draw = generator(seed, "linear_collapse")  # the same data and start for every variance
    data = torch.randn(config.images, _WIDTH, generator=draw)
    weights = [linear.initial(layers, _WIDTH, draw) for _ in range(layers)]
    rate = config.one_layer_rate if layers == 1 else config.two_layers_rate
    deviation = torch.zeros(_WIDTH)
    deviation[_WIDTH - augmented :] = variance**0.5
    shown = {round(config.steps ** (place / _SNAPSHOTS)) for place in range(_SNAPSHOTS + 1)}
    history = [(0, weights)]
    per_epoch, order = config.images // config.batch_size, torch.arange(0)
    for step in range(config.steps):
        place = step % per_epoch * config.batch_size
        if place == 0:
            order = torch.randperm(config.images, generator=draw)
        x = data[order[place : place + config.batch_size]]
        noise = torch.randn(2, config.batch_size, _WIDTH, generator=draw) * deviation
        product = weights[0] if layers == 1 else weights[1] @ weights[0]
        if config.loss == "paper":
            gradient = linear.paper_gradient(product, x + noise[0], x + noise[1])
        else:
            gradient = linear.code_gradient(product, x + noise[0], x + noise[1], temperature=config.temperature)
        weights = [
            weight - rate * part
            for weight, part in zip(weights, linear.layer_gradients(weights, gradient), strict=True)
        ]
        if step + 1 in shown:
            history.append((step + 1, weights))
    return history


def dynamics(history: list[tuple[int, list[Tensor]]]) -> dict[str, Json]:
    """Singular values of both layers and of the embedding's covariance over steps, their alignment, its last matrix."""
    alignments = [linear.alignment_matrix(*weights) for _, weights in history]
    return {
        "steps": [step for step, _ in history],
        "singular_values": {
            "first layer": [torch.linalg.svdvals(weights[0].double()).tolist() for _, weights in history],
            "last layer": [torch.linalg.svdvals(weights[1].double()).tolist() for _, weights in history],
            "embedding": [linear.embedding_spectrum(weights).tolist() for _, weights in history],
        },
        "alignment": [float(matrix.diagonal().mean()) for matrix in alignments],
        "alignment_matrix": alignments[-1].tolist(),
    }


DIFFERENCES = (
    Difference(
        "Bias of the layers",
        "Trained.",
        "None.",
        "The paper's text and theory have none.",
        "None expected.",
    ),
    Difference(
        "Order of the samples",
        "The code's own.",
        "A fresh order for each epoch.",
        "Draws here depend on the seed alone.",
        "None expected.",
    ),
    Difference(
        "Covariance of the embedding",
        "From 1000 samples.",
        "W W^T exactly.",
        "The data's covariance is known.",
        "Less noise in small singular values.",
    ),
    Difference(
        "Variances of the noise",
        "2.25 in the README.",
        "0 to 16, around 2.25.",
        "The paper does not print its own.",
        "None for 2.25.",
    ),
)
