"""Average precision of a ranking, in the two definitions that PASCAL VOC has had.

Both rest on the interpolated precision p(r): the highest precision at any recall of at least r.
    interpolated_area   the area under p(r), VOC's definition since 2010 and what VISSL reports for VOC07
    eleven_point        the mean of p(r) at the recalls 0, 0.1, ..., 1, VOC2007's own (section 4.2 of Everingham et al.,
                        IJCV 2010)
scikit-learn's average_precision_score does not interpolate: it sums precision times gain in recall, which is never more
than the area here, and equal to it where precision falls with every gain in recall. Images with equal scores form one
point of the curve, so the order in which they are stored does not matter; VISSL breaks such ties in the order of its
sort. Recalls are compared as whole numbers: as floats 0.1 * 3 is more than 3 / 10, and a point would be lost.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def interpolated_area(scores_N: Tensor, relevant_N: Tensor) -> float:
    """Percent: area under the interpolated precision over recall. Raises ValueError for NaN or nothing relevant."""
    precision_T, found_T = _curve(scores_N, relevant_N)
    gained_T = found_T.diff(prepend=found_T.new_zeros(1))
    return float((gained_T * precision_T).sum() / found_T[-1]) * 100


def eleven_point(scores_N: Tensor, relevant_N: Tensor) -> float:
    """Percent: mean interpolated precision at the recalls 0, 0.1, ..., 1.

    Raises ValueError for NaN or nothing relevant.
    """
    precision_T, found_T = _curve(scores_N, relevant_N)
    # The first point whose recall is at least tenths / 10, in whole numbers.
    first = torch.searchsorted(10 * found_T, torch.arange(11, device=found_T.device) * found_T[-1])
    return float(precision_T[first].mean()) * 100


def presence(labels: Tensor, classes: int) -> Tensor:
    """Labels as int8 (N, classes): 1 present, 0 absent, -1 not counted.

    Class numbers (N,) become one against the rest.
    """
    return labels if labels.ndim == 2 else F.one_hot(labels, classes).to(torch.int8)


def of_each_class(measure: Callable[[Tensor, Tensor], float], scores_NC: Tensor, presence_NC: Tensor) -> list[float]:
    """The measure of each class over the images that count for it. Raises ValueError as the measure does."""
    columns = zip(scores_NC.unbind(dim=1), presence_NC.unbind(dim=1), strict=True)
    return [measure(scores[labels >= 0], labels[labels >= 0] == 1) for scores, labels in columns]


def _curve(scores_N: Tensor, relevant_N: Tensor) -> tuple[Tensor, Tensor]:
    """At each distinct score, highest first: interpolated precision (float64) and how many relevant ones were found."""
    if scores_N.isnan().any():
        raise ValueError("scores hold NaN")
    if not relevant_N.any():
        raise ValueError("no image is relevant: average precision is not defined")
    scores, order = scores_N.sort(descending=True)
    last = torch.ones_like(scores, dtype=torch.bool)
    last[:-1] = scores[1:] != scores[:-1]  # the last image of each group of equal scores
    rank_T = last.nonzero().squeeze(1) + 1
    found_T = relevant_N[order].cumsum(dim=0)[last]
    precision_T = (found_T.double() / rank_T).flip(0).cummax(dim=0).values.flip(0)
    return precision_T, found_T
