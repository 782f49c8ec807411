"""Spectrum of embedding and representation, as in figures 2, 7 and 9 of DirectCLR (arXiv:2110.09348).

Singular values of the covariance over the test split, largest first (section 3): a dimension whose singular value is
near zero has collapsed. The embedding is what the method's projector makes of the representation; an encoder without
a projector is measured twice, as in the released spectrum.py, whose projector is then the identity.
Paper and code differ: the code divides every row by its length first (`normalize`), and by N - 1 instead of N; the
second changes all values alike and none of the metrics. The effective rank is the exponential of the entropy of the
normalised singular values of the COVARIANCE; the one in the training curves is that of the centred embedding, whose
singular values are the square roots, and is larger.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bench.contracts import Context, Difference, Metric, Outcome, Subject
from bench.files import Json
from evals.parts import spectrum
from evals.parts.features import BATCH, features_of

NEEDS_PROJECTOR = True
FEATURES = ("train", "val", "test")
_SPACES = ("representation", "embedding")
METRICS: dict[str, Metric] = {
    f"{space}_{name}": metric for space in _SPACES for name, metric in spectrum.METRICS.items()
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Whether rows are divided by their length before the covariance is taken."""

    normalize: bool = True
    VERSION: int = field(default=1, init=False)

    def describe(self) -> str:
        """The protocol in one sentence, for column headings."""
        rows = "l2-normalised" if self.normalize else "raw"
        return (
            f"singular values of the covariance of the {rows} representation and embedding on the test split, "
            "nothing trained or chosen"
        )


RECIPES = {"embedded": Config(), "cifar": Config(), "paper": Config()}


def evaluate(config: Config, subject: Subject, context: Context) -> Outcome:
    """Effective rank and numbers of values above a share of the largest; the spectra themselves in the details."""
    representation = features_of(subject, context)["test"][0]
    embedding = (
        representation if subject.projector is None else _projected(subject.projector, representation, context.device)
    )
    metrics: dict[str, float] = {}
    spectra: list[Json] = []
    for space, z in zip(_SPACES, (representation, embedding), strict=True):
        values = spectrum.covariance_spectrum(z, normalize=config.normalize)
        metrics |= {f"{space}_{name}": value for name, value in spectrum.measures(values).items()}
        spectra.append({"label": space, "values": values.tolist()})
    details: dict[str, Json] = {
        "spectra": spectra,
        "widths": {"representation": representation.shape[1], "embedding": embedding.shape[1]},
        "projector": "none" if subject.projector is None else type(subject.projector).__name__,
        "test_images": len(representation),
    }
    return Outcome(metrics=metrics, details=details)


def _projected(projector: nn.Module, representation: Tensor, device: torch.device) -> Tensor:
    with torch.inference_mode():
        return torch.cat([projector(rows.to(device)).float().cpu() for rows in torch.split(representation, BATCH)])


DIFFERENCES = (
    Difference(
        "Divisor of the covariance",
        "N - 1.",
        "N.",
        "The paper's equation has N.",
        "None: all singular values change alike.",
    ),
)
