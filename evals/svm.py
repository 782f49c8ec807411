"""Linear SVMs on frozen features, one for each class: the VOC07 column of Barlow Twins and VICReg (VISSL's protocol).

Barlow Twins (arXiv:2103.03230, appendix C.1) and VICReg (arXiv:2105.04906, appendix C.3) train them with VISSL:
features divided by their length, scikit-learn's LinearSVC (squared hinge, l2, twice the weight on positives), the cost
chosen for each class by average precision in 3-fold cross-validation, trained again on all of `trainval`, mean average
precision over the classes of `test`. A label -1 ("difficult") is a negative in training; its image is left out of the
test of that class. Labels that are class numbers are taken one against the rest, so any data set can be used. `map` is
the area under the interpolated precision-recall curve, which VISSL reports; `map_11_point` is VOC2007's own. Variants:
"vissl" squashes the image to a square as VISSL's configuration does; "centre_crop" is what VICReg's text says. Against
VISSL: the folds are shuffled with the job's seed (VISSL cuts them in the order of the images, which for data sorted by
class leaves whole classes out of the negatives of a fold); equal scores share a point of the curve; a squashed image is
resized once, not first to 256. `dual=False` reaches the minimum of the same objective with a few Newton steps; the dual
solver of the paper's recipe stops at its limit of 2000 sweeps when the cost is large, which is counted.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts import Context, Difference, Given, Metric, Outcome, Subject, Work
from bench.errors import BenchError
from bench.files import Json
from bench.seeding import seed_of
from bench.spec import CENTRE, Crop
from bench.training.checkpoint import Keeper
from evals.parts.average_precision import eleven_point, interpolated_area, of_each_class, presence
from evals.parts.features import classes_of, features_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

ON_CPU = True  # scikit-learn has no other: a GPU would wait for an hour
RESUMES = True  # with the paper's recipe an hour on one core
FEATURES = ("train", "val", "test")
METRICS = {"map": Metric("%", higher_is_better=True), "map_11_point": Metric("%", higher_is_better=True)}
# of a fit, and of an entry of its features; VOC07's 680 fits of 5,011 x 2,048 take about an hour
_FIT_SECONDS, _PRIMAL_SECONDS, _DUAL_SECONDS = 6e-3, 2e-8, 5e-7
_POSITIVE_WEIGHT = 2  # VISSL's class_weight
_EPSILON = 1e-5  # VISSL adds it to the length
_SQUASHED = Crop(squash=True)


@dataclass(frozen=True, kw_only=True)
class Config:
    """VISSL's eval_resnet_8gpu_transfer_voc07_svm, and the transformation of the images."""

    costs: tuple[float, ...] = (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000)
    folds: int = 3
    dual: bool = True
    max_iterations: int = 2000
    tolerance: float = 1e-4
    crop: Crop = _SQUASHED
    VERSION: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        if not self.costs or min(self.costs) <= 0 or self.folds < 2:
            raise BenchError(f"svm: expected costs above 0 and at least 2 folds, found {self.costs} and {self.folds}.")

    def work(self, given: Given) -> Work:
        """For the cost of a job: a fit of each class, cost and fold, on one core."""
        fits = given.classes * (len(self.costs) * self.folds + 1)
        entries = (given.train + given.val) * given.width
        return Work(core_seconds=fits * (_FIT_SECONDS + entries * (_DUAL_SECONDS if self.dual else _PRIMAL_SECONDS)))

    def describe(self) -> str:
        """The protocol in one sentence, for column headings."""
        image = "images squashed to a square" if self.crop.squash else "centre crop"
        return (
            f"linear SVM per class on frozen l2-normalised features, {image}, best of {len(self.costs)} costs by "
            f"{self.folds}-fold "
            "cross-validation on train + val, mean average precision"
        )


# Small images are taken as they are, so they share the features of the other evaluations.
_SMALL = Config(dual=False, crop=CENTRE)
RECIPES = {"embedded": _SMALL, "cifar": _SMALL, "paper": Config()}
VARIANTS = {"vissl": RECIPES, "centre_crop": {**RECIPES, "paper": Config(crop=CENTRE)}}


def evaluate(config: Config, subject: Subject, context: Context) -> Outcome:
    """Mean average precision on the test split, in percent; per class and chosen cost in the details.

    Raises BenchError when a class has too few images to be cross-validated or none to be tested on.
    """
    splits = features_of(subject, context, splits=("trainval", "test"), crop=config.crop)
    classes = classes_of(context)
    train, test = ((normalised(x), presence(y, classes)) for x, y in (splits["trainval"], splits["test"]))
    _check_counts(train[1], test[1], config.folds)
    fitted = fit(config, train, context)
    scores = torch.from_numpy(test[0] @ fitted.weights + fitted.biases)
    areas, points = (of_each_class(measure, scores, test[1]) for measure in (interpolated_area, eleven_point))
    rows: list[Json] = [
        {
            "class": number,
            "cost": config.costs[fitted.chosen[number]],
            "average_precision": areas[number],
            "average_precision_11_point": points[number],
            "cross_validation": list(fitted.cross_validation[number]),
            "test_positives": int((test[1][:, number] == 1).sum()),
            "test_left_out": int((test[1][:, number] < 0).sum()),
        }
        for number in range(classes)
    ]
    details: dict[str, Json] = {
        "costs": list(config.costs),
        "classes": rows,
        "fits": classes * (len(config.costs) * config.folds + 1),
        "fits_not_converged": fitted.not_converged,  # stopped at max_iterations; of these, final classifiers:
        "final_fits_not_converged": fitted.final_not_converged,
        "train_images": len(train[0]),
        "test_images": len(test[0]),
    }
    return Outcome(metrics={"map": sum(areas) / classes, "map_11_point": sum(points) / classes}, details=details)


@dataclass(frozen=True)
class Fitted:
    """One SVM for each class."""

    weights: NDArray[np.float64]  # (D, C)
    biases: NDArray[np.float64]  # (C,)
    chosen: list[int]  # which cost, for each class
    cross_validation: list[list[float]]  # average precision in percent, (C, costs)
    not_converged: int  # of all fits
    final_not_converged: int


def fit(config: Config, train: tuple[NDArray[np.float64], Tensor], context: Context) -> Fitted:
    """Choose each class's cost and train with it: normalised features (N, D), presence (N, C).

    The cross-validation goes on where an earlier attempt was stopped; the final fits are made anew.
    """
    x, present = train[0], train[1].numpy() == 1  # absent and not counted: negative
    classes = present.shape[1]
    tasks = [(number, cost) for number in range(classes) for cost in config.costs]
    keeper = Keeper(context.folder, len(tasks), attempt=context.attempt)
    before = keeper.load(restore=lambda state: (state["scores"], state["not_converged"]))
    state = before or {"scores": [], "not_converged": 0}
    scores: list[float] = list(state["scores"])
    missed = int(state["not_converged"])

    def keep() -> None:
        keeper.keep(len(scores), lambda: {"scores": scores, "not_converged": missed}, stop=context.should_stop())

    for number, cost in tasks[len(scores) :]:
        found, failures = cross_validated(config, x, present[:, number], cost, context.seed)
        scores, missed = [*scores, found], missed + failures
        keep()
    table = [scores[number * len(config.costs) :][: len(config.costs)] for number in range(classes)]
    chosen = [max(range(len(row)), key=row.__getitem__) for row in table]  # ties go to the first, the least cost
    models = []
    for number in range(classes):
        models.append(_trained(config, x, present[:, number], config.costs[chosen[number]], context.seed))
        keep()
    final = sum(_hit_the_limit(config, model) for model in models)
    return Fitted(
        weights=np.stack([model.coef_[0] for model in models], axis=1),
        biases=np.array([float(model.intercept_[0]) for model in models]),
        chosen=chosen,
        cross_validation=table,
        not_converged=missed + final,
        final_not_converged=final,
    )


def cross_validated(
    config: Config, x: NDArray[np.float64], positive: NDArray[np.bool_], cost: float, seed: int
) -> tuple[float, int]:
    """Mean over the folds of scikit-learn's average precision, as VISSL chooses, in percent.

    And how many fits hit the limit.
    """
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(config.folds, shuffle=True, random_state=_state(seed, "folds"))
    found, missed = [], 0
    for fitted, held in folds.split(x, positive):
        model = _trained(config, x[fitted], positive[fitted], cost, seed)
        missed += _hit_the_limit(config, model)
        found.append(float(average_precision_score(positive[held], model.decision_function(x[held]))))
    return 100 * sum(found) / len(found), missed


def normalised(features: Tensor) -> NDArray[np.float64]:
    """Rows divided by their length, in float64 as VISSL computes."""
    x = features.double()
    rows: NDArray[np.float64] = (x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + _EPSILON)).numpy()
    return rows


def _trained(config: Config, x: NDArray[np.float64], positive: NDArray[np.bool_], cost: float, seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    model = LinearSVC(
        C=cost,
        class_weight={1: _POSITIVE_WEIGHT, -1: 1},
        dual=config.dual,
        tol=config.tolerance,
        max_iter=config.max_iterations,
        random_state=_state(seed, "solver"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted by the callers, see _hit_the_limit
        return model.fit(x, np.where(positive, 1, -1))


def _hit_the_limit(config: Config, model: Any) -> bool:
    return int(model.n_iter_) >= config.max_iterations


def _state(seed: int, purpose: str) -> int:
    return seed_of(seed, "svm", purpose) % 2**31  # scikit-learn takes 32 bits


def _check_counts(train: Tensor, test: Tensor, folds: int) -> None:
    positives = (train == 1).sum(dim=0)
    for number, count in enumerate(positives.tolist()):
        least = min(count, len(train) - count)
        if least < folds:
            needed = f"{folds}-fold cross-validation needs {folds} with and {folds} without"
            raise BenchError(f"svm: class {number} is on {count} of {len(train)} training images; {needed}.")
    for number, count in enumerate((test == 1).sum(dim=0).tolist()):
        if count == 0:
            raise BenchError(f"svm: no test image shows class {number}: its average precision is not defined.")


DIFFERENCES = (
    Difference(
        "Features",
        "VISSL's VOC07 configuration pools to 2 x 2 cells: 8192 features.",
        "The average over the image: 2048 features.",
        "Barlow Twins and VICReg do not say which they took.",
        "Possible tenths of mAP.",
    ),
    Difference(
        "Folds of the cross-validation",
        "In the order of the images.",
        "Shuffled with the job's seed.",
        "Data that is sorted by class would leave classes out of a fold.",
        "None expected on VOC2007.",
    ),
    Difference(
        "Equal scores",
        "Ordered somehow.",
        "Share a point of the precision-recall curve.",
        "The answer should not depend on the order of the images.",
        "None expected.",
    ),
    Difference(
        "Squashed images",
        "Resized first to 256, then to a square.",
        "Resized once.",
        "Two resizings blur.",
        "None expected.",
    ),
    Difference(
        "Start of the dual solver",
        "Its own random order.",
        "The job's seed; weights differ by 5e-6.",
        "A job gives the same digits twice.",
        "None.",
    ),
)
