"""Weighted k-nearest-neighbour classification on frozen, l2-normalised features.

Votes weigh exp(cosine / temperature), as in instance discrimination (arXiv:1805.01978, section 3.4). Nothing is
trained and nothing is chosen; the training split is the memory, the test split is reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from bench.contracts import Amount, Context, Difference, Given, Metric, Outcome, Sizes, Subject, Work
from evals.parts.accuracy import single_label, top_k
from evals.parts.features import classes_of, features_of
from evals.parts.pieces import in_pieces

FEATURES = ("train", "val", "test")
METRICS = {"top1": Metric("%", higher_is_better=True), "top5": Metric("%", higher_is_better=True)}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Neighbours and temperature."""

    neighbours: int = 200
    temperature: float = 0.07
    VERSION: int = field(default=1, init=False)

    def work(self, given: Given) -> Work:
        """For the cost of a job: all cosines, of which to take the nearest is many reads; a moment on any core."""
        pairs = given.test * given.train
        return Work(heads=Amount(2 * pairs * given.width, 40 * pairs, 0.02 * given.test), core_seconds=0.06)

    def memory(self, sizes: Sizes) -> float:
        """For a plan: all training features, and the cosines of 1,000 images to them, which topk sorts in a copy."""
        return 4.0 * sizes.train_images * (sizes.feature_dim + 2 * 1000) + sizes.weights

    def describe(self) -> str:
        """The protocol in one sentence, for column headings."""
        return (
            f"{self.neighbours} nearest neighbours by cosine, votes weighted with temperature "
            f"{self.temperature:g}, nothing trained or chosen"
        )


RECIPES = {"embedded": Config(neighbours=20), "cifar": Config(), "paper": Config()}


def evaluate(config: Config, subject: Subject, context: Context) -> Outcome:
    """Top-1 and top-5 on the test split, in percent. Raises BenchError for data with several labels an image."""
    splits = features_of(subject, context)
    memory_x, memory_y = splits["train"]
    single_label(memory_y, context)
    memory = in_pieces(memory_x, lambda rows: F.normalize(rows.to(context.device), dim=1), context.device)
    targets, classes = memory_y.to(context.device), classes_of(context)
    neighbours = min(config.neighbours, len(memory))
    test_x, test_y = splits["test"]
    votes = []
    for start in range(0, len(test_x), 1000):
        chunk = test_x[start : start + 1000]
        near = (F.normalize(chunk.to(context.device), dim=1) @ memory.T).topk(neighbours, dim=1)
        weight = torch.exp((near.values - 1) / config.temperature)  # minus 1: the same order, no overflow
        votes.append(
            torch.zeros(len(weight), classes, device=weight.device).scatter_add_(1, targets[near.indices], weight).cpu()
        )
    scores = torch.cat(votes)
    return Outcome(metrics={"top1": top_k(scores, test_y, 1), "top5": top_k(scores, test_y, 5)})


DIFFERENCES = (
    Difference(
        "Weight of a neighbour",
        "exp(cosine / temperature).",
        "exp((cosine - 1) / temperature).",
        "It cannot overflow.",
        "None: all votes are multiplied by one constant.",
    ),
    Difference(
        "Comparison",
        "Codes of several papers.",
        "Held against the formula alone; no released program was run beside it.",
        "Nothing is trained or drawn in it.",
        "None expected.",
    ),
)
