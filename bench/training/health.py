"""Whether a training is well: figures of the embedding, and failure with the right word instead of a number."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bench.errors import BenchError

COLLAPSED_BELOW = 1e-3  # normalised standard deviation of the embedding; an isotropic one has 1


class TrainingFailedError(BenchError):
    """The run itself went wrong and would do so again: `kind` is "diverged" or "collapsed"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def embedding_std(z_BD: Tensor) -> float:
    """Mean standard deviation per dimension of the l2-normalised embedding, times sqrt(D).

    1 for an isotropic embedding, 0 for a collapsed one; the quantity of SimSiam's figure 2 (arXiv:2011.10566), scaled.
    """
    z = nn.functional.normalize(z_BD.detach().float(), dim=1)
    return float(z.std(dim=0).mean()) * math.sqrt(z.shape[1])


def effective_rank(z_BD: Tensor) -> float:
    """Exponential of the entropy of the normalised singular values of the centred embedding (Roy and Vetterli, 2007).

    At most the first 512 rows count: the spectrum of a bigger batch costs more than it tells.
    """
    z = z_BD.detach().float()[:512]
    if not z.isfinite().all():  # the decomposition would raise; the health check has the word for it
        return math.nan
    singular = torch.linalg.svdvals(z - z.mean(dim=0))
    share = singular / singular.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))


def check_health(terms: dict[str, float], step: int, total: int) -> None:
    """Fail with the word instead of going on to print a number."""
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if bad:
        raise TrainingFailedError("diverged", f"diverged: {', '.join(bad)} not finite at step {step + 1} of {total}.")
    if step + 1 > total // 4 and terms.get("embedding_std", 1.0) < COLLAPSED_BELOW:
        raise TrainingFailedError(
            "collapsed",
            f"collapsed: the embedding's standard deviation is {terms['embedding_std']:.1e} at step {step + 1} of "
            f"{total}.",
        )
