"""Assignment and loss of SwAV (arXiv:2006.09882). B: global batch, K: prototypes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sinkhorn(scores_BK: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Soft assignments of rows to prototypes: each row sums to 1, each prototype gets about B / K (equations 3 to 5, listing 1).

    exp(scores / epsilon), scaled in turn so that prototypes and rows have equal shares; the rows last. In logarithms, so
    that no epsilon overflows and no prototype that is far from everything divides by 0. Raises ValueError for other shapes.
    """
    if scores_BK.ndim != 2 or iterations < 1:
        raise ValueError(f"expected (B, K) scores and at least 1 iteration, got {tuple(scores_BK.shape)} and {iterations}")
    log_q_BK = scores_BK / epsilon
    for _ in range(iterations):
        log_q_BK = log_q_BK - log_q_BK.logsumexp(dim=0, keepdim=True)
        log_q_BK = log_q_BK - log_q_BK.logsumexp(dim=1, keepdim=True)
    return log_q_BK.exp()


def swapped_prediction(scores: Sequence[Tensor], assignments: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Mean of -sum_k q_k log p_k over images, assigned views and the other views (equations 1 and 2, section 3.2).

    scores: (B, K) of every view; p is their softmax at the temperature. assignments: (B, K) of the first views; each is
    predicted by all views but its own. Raises ValueError for shapes that do not fit.
    """
    shapes = {tuple(rows.shape) for rows in (*scores, *assignments)}
    if len(shapes) != 1 or len(scores) < 2 or not 1 <= len(assignments) <= len(scores):
        raise ValueError(f"expected equal (B, K) scores of 2 or more views and assignments of some, got {sorted(shapes)}")
    log_p = [(view / temperature).log_softmax(dim=1) for view in scores]
    terms = [-(q * view).sum(dim=1).mean() for own, q in enumerate(assignments) for other, view in enumerate(log_p) if other != own]
    return torch.stack(terms).mean()
