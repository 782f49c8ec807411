"""Top-k and mean per-class accuracy, of data with one label an image."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.contracts import Context
from bench.errors import BenchError


def top_k(scores_NC: Tensor, labels_N: Tensor, k: int) -> float:
    """Percent of rows whose label is among the k highest scores; k is cut to the number of classes.

    Raises ValueError when a score is not a number: topk would still return some class.
    """
    if scores_NC.isnan().any():
        raise ValueError("scores hold NaN")
    best = scores_NC.topk(min(k, scores_NC.shape[1]), dim=1).indices
    return float((best == labels_N[:, None]).any(dim=1).double().mean()) * 100


def single_label(labels: Tensor, context: Context) -> None:
    """Raises BenchError when the labels are not class numbers (N,) but several classes an image, (N, classes)."""
    if labels.ndim != 1:
        raise BenchError(
            f"{context.data.name} has several labels an image; this evaluation expects one: choose one for several "
            "labels, svm or logistic."
        )


def mean_class_top1(scores_NC: Tensor, labels_N: Tensor) -> float:
    """Percent of each class's rows with the highest score at their label, averaged over the classes that have rows.

    Raises ValueError when a score is not a number.
    """
    if scores_NC.isnan().any():
        raise ValueError("scores hold NaN")
    right_N = scores_NC.argmax(dim=1) == labels_N
    counts_C, hits_C = (
        torch.bincount(labels, minlength=scores_NC.shape[1]) for labels in (labels_N, labels_N[right_N])
    )
    present_C = counts_C > 0
    return float((hits_C[present_C].double() / counts_C[present_C]).mean()) * 100
