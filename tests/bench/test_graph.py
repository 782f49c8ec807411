from __future__ import annotations

from bench.planning.graph import plan
from bench.spec import Random
from tests.conftest import TINY, knn_of, linear_of, tiny_pretrain


def test_the_same_content_is_one_job_whoever_asks() -> None:
    graph = plan(
        [("a | kNN", knn_of(tiny_pretrain())), ("b | linear", linear_of(tiny_pretrain())), ("c", tiny_pretrain())]
    )
    assert [job.kind for job in graph] == ["pretrain", "evaluate", "evaluate"]
    assert graph.asked == 5  # two evaluations, their two pretrainings, and the pretraining itself
    assert next(iter(graph)).label == "a"  # the first that asked names it


def test_parents_come_before_children() -> None:
    graph = plan([(f"{seed} | kNN", knn_of(tiny_pretrain(seed))) for seed in range(3)])
    seen: set[str] = set()
    for job in graph:
        assert seen.issuperset(job.needs)
        seen.add(job.id)


def test_dependents_are_found_and_others_are_left_alone() -> None:
    graph = plan(
        [
            ("a | kNN", knn_of(tiny_pretrain(0))),
            ("b | kNN", knn_of(tiny_pretrain(1))),
            ("r | kNN", knn_of(Random(backbone=TINY))),
        ]
    )
    first, evaluation = (job.id for job in list(graph)[:2])
    assert graph.dependents(first) == [evaluation]
    assert graph.dependents(evaluation) == []
