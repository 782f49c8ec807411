"""Singular values of a covariance, and what is read off them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.contracts import Metric

METRICS = {
    "effective_rank": Metric("", higher_is_better=True),
    "above_1e-2": Metric("", higher_is_better=True),
    "above_1e-6": Metric("", higher_is_better=True),
}


def covariance_spectrum(z_ND: Tensor, *, normalize: bool) -> Tensor:
    """Singular values of the covariance (1 / N, as in the paper's equation), largest first, in float64.

    With `normalize` each row is divided by its length first.
    """
    z = z_ND.double()
    if normalize:
        z = F.normalize(z, dim=1)
    z = z - z.mean(dim=0)
    values: Tensor = torch.linalg.svdvals(z.T @ z / len(z))
    return values


def measures(values_D: Tensor) -> dict[str, float]:
    """The METRICS of singular values; all 0 for a completely collapsed embedding, whose singular values are 0."""
    largest, total = float(values_D.max()), float(values_D.sum())
    if largest <= 0:
        return dict.fromkeys(METRICS, 0.0)
    share = values_D / total
    entropy = -float(torch.special.xlogy(share, share).sum())
    return {
        "effective_rank": math.exp(entropy),
        "above_1e-2": float((values_D > 1e-2 * largest).sum()),
        "above_1e-6": float((values_D > 1e-6 * largest).sum()),
    }
