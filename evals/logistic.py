"""Logistic regression on frozen features with L-BFGS: SimCLR's linear transfer to 12 data sets (tables 8 and B.5).

arXiv:2002.05709, appendix B.8.1: multinomial logistic regression without augmentation, images resized to 224 on the
shorter side and cropped in the centre, the l2 penalty chosen among 45 values, evenly spaced in the logarithm between
1e-6 and 1e5, on the validation split, then trained again on training and validation data. _METRIC_OF holds which metric
each data set is reported and chosen with; others take top-1 or, where an image has several labels, the 11-point mAP.
The objective is the SUM of the cross entropies over the images plus penalty / 2 times the squared weights, biases free,
which is scikit-learn's with C = 1 / penalty; the paper does not say whether it sums or averages. Where an image has
several labels (VOC2007) there is one binary regression for each class, all with the same penalty, and entries that are
not counted (-1) are left out of training and scoring; the paper does not say how it treats them.
The minimum does not depend on how it is reached: here each fit starts from the next stronger penalty's, on centred
features in their principal axes, scaled by the curvature along each. On raw features L-BFGS needs hundreds of steps for
weak penalties. Fits that stop at `max_iterations` are counted.
DIFFERENCES is empty: no code was released for this protocol; it is held against the formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.contracts import Amount, Context, Given, Metric, Outcome, Subject, Work
from bench.errors import BenchError
from bench.files import Json
from bench.spec import CENTRE, Crop
from bench.training.optim import untraced
from evals.parts.accuracy import mean_class_top1, top_k
from evals.parts.average_precision import eleven_point, of_each_class, presence
from evals.parts.features import classes_of, features_of

FEATURES = ("train", "val", "test")
METRICS = {
    "top1": Metric("%", higher_is_better=True),
    "mean_class_top1": Metric("%", higher_is_better=True),
    "top5": Metric("%", higher_is_better=True),
    "map_11_point": Metric("%", higher_is_better=True),  # the only one where an image has several labels
}
# arXiv:2002.05709, appendix B.8.1.
_METRIC_OF: Mapping[str, str] = {
    **dict.fromkeys(("food101", "cifar10", "cifar100", "birdsnap", "sun397", "cars", "dtd"), "top1"),
    **dict.fromkeys(("aircraft", "pets", "caltech101", "flowers102"), "mean_class_top1"),
    "voc2007": "map_11_point",
}

_STEPS = 50  # of L-BFGS that a fit takes with 10 classes: 46 on digits, 148 with 100 classes
_NOISE = 1e-13  # of the largest energy: an axis with less is rounding of float32 features, its weights are taken as 0
_WHOLE = Crop(resize=1.0)  # the shorter side becomes that of the square


@dataclass(frozen=True, kw_only=True)
class Config:
    """The grid of penalties and the solver's limits."""

    penalties: int = 45
    weakest: float = 1e-6
    strongest: float = 1e5
    max_iterations: int = 300  # a fit
    tolerance: float = 1e-5  # largest entry of the gradient of the mean objective, in the solver's coordinates
    crop: Crop = _WHOLE
    VERSION: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.weakest <= self.strongest or self.penalties < 1:
            raise BenchError(
                f"logistic: expected 0 < weakest <= strongest and at least 1 penalty, found {self.weakest}, "
                f"{self.strongest}, {self.penalties}."
            )

    def work(self, given: Given) -> Work:
        """For the cost of a job: L-BFGS in float64, which counts as twice the work in float32."""
        images, steps = given.train + given.val, self.penalties * _STEPS * math.sqrt(given.classes / 10)
        products, history = images * given.width * given.classes, 40 * given.width * given.classes
        return Work(heads=Amount(2 * 4 * products, 2 * (12 * images * given.classes + history), 50) * steps)

    def describe(self) -> str:
        """The protocol in one sentence, for column headings."""
        return (
            f"logistic regression (L-BFGS) on frozen features, no augmentation, best of {self.penalties} l2 "
            "penalties on the held-out split, "
            "trained again on train + val"
        )


# Small images are taken as they are, so they share the features of the other evaluations.
_SMALL = Config(crop=CENTRE)
RECIPES = {"embedded": _SMALL, "cifar": _SMALL, "paper": Config()}


def evaluate(config: Config, subject: Subject, context: Context) -> Outcome:
    """Metrics on the test split, in percent; the whole path of penalties in the details."""
    features = features_of(subject, context, splits=("train", "val", "trainval", "test"), crop=config.crop)
    splits = {name: (x.to(context.device, torch.float64), y.to(context.device)) for name, (x, y) in features.items()}
    classes = classes_of(context)
    several = splits["test"][1].ndim == 2
    metric = "map_11_point" if several else _METRIC_OF.get(context.data.name, "top1")
    heads = list(fits(config, splits["train"], classes, _penalties(config)))
    scores = [_MEASURES[metric](head.scores(splits["val"][0]), splits["val"][1]) for head in heads]
    best = max(range(len(heads)), key=scores.__getitem__)  # ties go to the first, the strongest penalty
    final = next(fits(config, splits["trainval"], classes, [heads[best].penalty], start=heads[best]))
    path: list[Json] = [
        {
            "penalty": head.penalty,
            metric: score,
            "iterations": head.iterations,
            "converged": head.gradient <= config.tolerance,
        }
        for head, score in zip(heads, scores, strict=True)
    ]
    details: dict[str, Json] = {
        "chosen_by": metric,
        "chosen": path[best],
        "path": path,
        "fits_not_converged": sum(head.gradient > config.tolerance for head in heads),
        "final": {
            "penalty": final.penalty,
            "iterations": final.iterations,
            "converged": final.gradient <= config.tolerance,
        },
        **{f"{name}_images": len(splits[name][1]) for name in ("train", "val", "test")},
    }
    x, y = splits["test"]
    wanted = ("map_11_point",) if several else tuple(METRICS)
    return Outcome(metrics={name: _MEASURES[name](final.scores(x), y) for name in wanted}, details=details)


def _penalties(config: Config) -> list[float]:
    """Strongest first."""
    exponents = torch.linspace(
        math.log10(config.strongest), math.log10(config.weakest), config.penalties, dtype=torch.float64
    )
    return (10**exponents).tolist()


@dataclass(frozen=True)
class Head:
    """One fitted regression."""

    weight_DC: Tensor
    bias_C: Tensor
    penalty: float
    iterations: int
    gradient: float  # its largest entry at the end, in the solver's coordinates

    def scores(self, x_ND: Tensor) -> Tensor:
        """Logits (N, C)."""
        return x_ND @ self.weight_DC + self.bias_C


def fits(
    config: Config, train: tuple[Tensor, Tensor], classes: int, penalties: Sequence[float], start: Head | None = None
) -> Iterator[Head]:
    """A head for each penalty, in this order, each started from the one before: float64 features (N, D), labels."""
    x, y = train
    images = len(x)
    centre = x.mean(dim=0)
    energy_D, axes_DD = torch.linalg.eigh((x - centre).T @ (x - centre))
    kept = energy_D > _NOISE * energy_D[-1]
    energy_D, axes_DD = energy_D[kept], axes_DD[:, kept]
    z = (x - centre) @ axes_DD  # turning the axes changes neither the logits nor the length of the weights
    weight = z.new_zeros(z.shape[1], classes) if start is None else axes_DD.T @ start.weight_DC
    bias = z.new_zeros(classes) if start is None else start.bias_C + centre @ start.weight_DC
    loss = _cross_entropy(y)
    for penalty in penalties:
        curvature = _curvature(z @ weight + bias, several=y.ndim == 2)
        scale_D1 = (images / (curvature * energy_D + penalty)).sqrt()[:, None]
        scale = 1 / math.sqrt(curvature)
        weight, bias, iterations, gradient = _minimised(config, z, loss, penalty, (weight, bias), (scale_D1, scale))
        turned = axes_DD @ weight
        yield Head(turned, bias - centre @ turned, penalty, iterations, gradient)


def _minimised(
    config: Config,
    z_ND: Tensor,
    loss: Callable[[Tensor], Tensor],
    penalty: float,
    start: tuple[Tensor, Tensor],
    scales: tuple[Tensor, float],
) -> tuple[Tensor, Tensor, int, float]:
    """L-BFGS on the mean objective, weights and biases divided by scales: weights, biases, iterations, gradient."""
    images = len(z_ND)
    free = torch.cat([start[0] / scales[0], start[1][None] / scales[1]]).requires_grad_()

    def objective() -> Tensor:
        weight = free[:-1] * scales[0]
        value = (loss(z_ND @ weight + free[-1] * scales[1]) + 0.5 * penalty * weight.square().sum()) / images
        (free.grad,) = torch.autograd.grad(value, free)
        return value

    solver = untraced(torch.optim.LBFGS)(
        [free],
        max_iter=config.max_iterations,
        max_eval=10 * config.max_iterations,
        tolerance_grad=config.tolerance,
        tolerance_change=1e-14,  # the mean objective is about 1 and known to 1e-16: no further progress
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    solver.step(objective)  # type: ignore[arg-type, no-untyped-call, unused-ignore]
    objective()  # the line search may have looked elsewhere last
    gradient = float("inf") if free.grad is None else float(free.grad.abs().max())
    found = free.detach()
    return found[:-1] * scales[0], found[-1] * scales[1], int(solver.state[free]["n_iter"]), gradient


def _cross_entropy(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Sum over the images as a function of logits (N, C): softmax for class numbers, sigmoids for several labels."""
    if labels.ndim == 1:
        return lambda logits: F.cross_entropy(logits, labels, reduction="sum")
    counted, present = (labels >= 0).double(), (labels == 1).double()
    return lambda logits: F.binary_cross_entropy_with_logits(logits, present, weight=counted, reduction="sum")


def _curvature(logits_NC: Tensor, *, several: bool) -> float:
    """Mean of p (1 - p), the second derivative of the loss along one logit."""
    p = torch.sigmoid(logits_NC) if several else torch.softmax(logits_NC, dim=1)
    return max(float((p * (1 - p)).mean()), 1e-9)  # above 0: it is divided by


def mean_eleven_point(scores_NC: Tensor, labels: Tensor) -> float:
    """Percent: mean 11-point average precision over the classes that occur, by probability, each against the rest."""
    # The sigmoid keeps the order of one class's logits, the softmax does not.
    ranked_NC = scores_NC if labels.ndim == 2 else F.log_softmax(scores_NC, dim=1)
    labels_NC = presence(labels, scores_NC.shape[1])
    occurs = (labels_NC == 1).any(dim=0)
    found = of_each_class(eleven_point, ranked_NC[:, occurs], labels_NC[:, occurs])
    return sum(found) / len(found)


_MEASURES: Mapping[str, Callable[[Tensor, Tensor], float]] = {
    "top1": lambda scores, labels: top_k(scores, labels, 1),
    "mean_class_top1": mean_class_top1,
    "top5": lambda scores, labels: top_k(scores, labels, 5),
    "map_11_point": mean_eleven_point,
}

DIFFERENCES = ()
