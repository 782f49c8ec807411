"""Top-k accuracy."""

from __future__ import annotations

from torch import Tensor


def top_k(scores_NC: Tensor, labels_N: Tensor, k: int) -> float:
    """Percent of rows whose label is among the k highest scores; k is cut to the number of classes.

    Raises ValueError when a score is not a number: topk would still return some class.
    """
    if scores_NC.isnan().any():
        raise ValueError("scores hold NaN")
    best = scores_NC.topk(min(k, scores_NC.shape[1]), dim=1).indices
    return float((best == labels_N[:, None]).any(dim=1).double().mean()) * 100
