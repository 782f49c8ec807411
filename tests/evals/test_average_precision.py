from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve
from torch import Tensor

from evals.parts.average_precision import eleven_point, interpolated_area, of_each_class, presence


def curve(scores: list[float], relevant: list[bool]) -> list[tuple[Fraction, Fraction]]:
    """(recall, precision) after everything with at least a score is taken, for each score, highest first."""
    points = []
    for threshold in sorted(set(scores), reverse=True):
        taken = [right for score, right in zip(scores, relevant, strict=True) if score >= threshold]
        points.append((Fraction(sum(taken), sum(relevant)), Fraction(sum(taken), len(taken))))
    return points


def naive_area(scores: list[float], relevant: list[bool]) -> float:
    points, area, before = curve(scores, relevant), Fraction(0), Fraction(0)
    for recall, _ in points:
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return 100 * float(area)


def naive_eleven_point(scores: list[float], relevant: list[bool]) -> float:
    points = curve(scores, relevant)
    return 100 * float(sum(max(p for r, p in points if r >= Fraction(i, 10)) for i in range(11)) / 11)


def drawn(seed: int, images: int, positives: int, *, distinct: int) -> tuple[Tensor, Tensor]:
    """Scores with so many distinct values, and which images are relevant."""
    rng = torch.Generator().manual_seed(seed)
    scores = (
        torch.randint(distinct, (images,), generator=rng) / distinct
        if distinct < images
        else torch.randn(images, generator=rng)
    )
    relevant = torch.zeros(images, dtype=torch.bool)
    relevant[torch.randperm(images, generator=rng)[:positives]] = True
    return scores, relevant


@pytest.mark.parametrize("distinct", [3, 20, 60])
@pytest.mark.parametrize("positives", [1, 2, 7, 10, 30, 60])
def test_both_definitions_equal_naive_loops(positives: int, distinct: int) -> None:
    for seed in range(5):
        scores, relevant = drawn(seed, 60, positives, distinct=distinct)
        assert interpolated_area(scores, relevant) == pytest.approx(
            naive_area(scores.tolist(), relevant.tolist()), abs=1e-9
        )
        assert eleven_point(scores, relevant) == pytest.approx(
            naive_eleven_point(scores.tolist(), relevant.tolist()), abs=1e-9
        )


@pytest.mark.parametrize("distinct", [15, 200])
def test_the_area_is_that_under_scikit_learns_curve_once_it_is_interpolated(distinct: int) -> None:
    for seed in range(5):
        scores, relevant = drawn(seed, 200, 40, distinct=distinct)
        precision, recall, _ = precision_recall_curve(relevant.numpy(), scores.numpy())  # from all images to none
        expected = -np.sum(np.diff(recall) * np.maximum.accumulate(precision[:-1]))
        assert interpolated_area(scores, relevant) == pytest.approx(100 * expected, abs=1e-9)


def test_scikit_learn_does_not_interpolate_and_is_never_higher() -> None:
    gaps = []
    for seed in range(10):
        scores, relevant = drawn(seed, 200, 40, distinct=200)
        gaps.append(
            interpolated_area(scores, relevant) - 100 * average_precision_score(relevant.numpy(), scores.numpy())
        )
    assert min(gaps) > 0
    # Where every precision is less than the one before, there is nothing to interpolate.
    for hits in ([1], [1, 2, 3], [1, 3, 7], [2, 5, 9]):
        falling = torch.tensor([rank + 1 in hits for rank in range(12)])
        scores = -torch.arange(12.0)
        assert interpolated_area(scores, falling) == pytest.approx(
            100 * average_precision_score(falling.numpy(), scores.numpy())
        )


@pytest.mark.parametrize("measure", [interpolated_area, eleven_point])
def test_known_answers(measure: object) -> None:
    assert callable(measure)
    scores = -torch.arange(20.0)
    first = torch.arange(20) < 6
    assert measure(scores, first) == pytest.approx(100)  # every relevant image before all others
    assert measure(torch.zeros(20), first) == pytest.approx(100 * 6 / 20)  # all ties: the share of relevant ones
    for rank in (1, 2, 7, 20):
        # one relevant image at a rank
        assert measure(scores, torch.arange(20) == rank - 1) == pytest.approx(100 / rank)
    assert measure(scores, torch.ones(20, dtype=torch.bool)) == pytest.approx(100)


@pytest.mark.parametrize(("a", "b"), [(1, 2), (1, 9), (3, 4), (5, 20)])
def test_two_relevant_images_have_a_closed_form(a: int, b: int) -> None:
    scores, relevant = -torch.arange(20.0), torch.zeros(20, dtype=torch.bool)
    relevant[[a - 1, b - 1]] = True
    first, second = max(1 / a, 2 / b), 2 / b
    assert interpolated_area(scores, relevant) == pytest.approx(100 * (first + second) / 2)
    # recall 0.5 counts for the first
    assert eleven_point(scores, relevant) == pytest.approx(100 * (6 * first + 5 * second) / 11)


def test_a_recall_of_three_tenths_counts_as_three_tenths() -> None:
    # Three of ten relevant images lead, seven come last: precision is 1 at the recalls 0, 0.1, 0.2 and 0.3.
    scores, relevant = -torch.arange(100.0), torch.zeros(100, dtype=torch.bool)
    relevant[:3] = True
    relevant[93:] = True
    assert eleven_point(scores, relevant) == pytest.approx(100 * (4 + 7 * 0.1) / 11)


@pytest.mark.parametrize("measure", [interpolated_area, eleven_point])
def test_the_order_of_equal_scores_does_not_matter(measure: object) -> None:
    assert callable(measure)
    scores, relevant = drawn(0, 100, 20, distinct=10)
    for seed in range(3):
        order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
        assert measure(scores[order], relevant[order]) == measure(scores, relevant)


def test_what_is_not_counted_is_left_out_of_its_class_alone() -> None:
    scores = torch.tensor([[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]])
    labels = torch.tensor([[-1, 1], [1, 0], [0, 0], [0, 1]], dtype=torch.int8)
    areas = of_each_class(interpolated_area, scores, presence(labels, 2))
    assert areas == pytest.approx([100, 100 * (0.5 + 0.5 * 0.5)])
    labels[0, 0] = 0
    assert of_each_class(interpolated_area, scores, labels)[0] == pytest.approx(50)


def test_class_numbers_become_one_against_the_rest() -> None:
    found = presence(torch.tensor([2, 0]), 3)
    assert found.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert found.dtype == torch.int8


@pytest.mark.parametrize("measure", [interpolated_area, eleven_point])
def test_nothing_relevant_and_scores_that_are_no_numbers_are_refused(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="no image is relevant"):
        measure(torch.zeros(3), torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="NaN"):
        measure(torch.tensor([0.0, float("nan")]), torch.tensor([True, False]))
