from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest

from bench import identity
from bench.errors import BenchError
from bench.identity import canonical, digest, from_json, job_id, to_json
from bench.planning import scales
from bench.spec import Backbone, Data, Evaluate, Optim, Pretrain, Random
from results.cells import load_table, plan_table
from tests.conftest import knn_of, tiny_pretrain


def test_ids_of_published_specs_are_pinned() -> None:
    # Who changes one of these changes every finished run of every user: raise VERSION and say so in the changelog.
    table = load_table("simclr_table6")
    ids = {(c.row.name, c.column.name): c.job for c in plan_table(table, scales.scale_of("paper"), 1).cells}
    assert ids["SimCLR (ours), ResNet-50", "Param (M)"] == PINNED[0]
    assert ids["SimCLR (ours), ResNet-50 (4x)", "Top-1"] == PINNED[1]
    embedded = {(c.row.name, c.column.name): c.job for c in plan_table(table, scales.scale_of("embedded"), 1).cells}
    assert embedded["SimCLR (ours), ResNet-50", "Param (M)"] == PINNED[2]
    assert embedded["Raw pixels", "kNN Top-1"] == PINNED[3]


PINNED = [
    "pretrain-385c8ded874051fd",
    "evaluate-2a548f1df8304bbb",
    "pretrain-97e5e60a499fb9d4",
    "evaluate-c3777e1a5d0fb6b6",
]


def test_every_field_of_a_spec_takes_part() -> None:
    spec = tiny_pretrain()
    changed = [
        replace(spec, seed=1),
        replace(spec, epochs=2),
        replace(spec, precision="bf16"),
        replace(spec, backbone=replace(spec.backbone, width=2)),
        replace(spec, optim=replace(spec.optim, vector_lr=0.5)),
        replace(spec, views=(replace(spec.views[0], gray=0.1), spec.views[1])),
        replace(spec, method=replace(spec.method, temperature=0.1)),  # type: ignore[type-var]
    ]
    assert len({job_id(s) for s in [spec, *changed]}) == len(changed) + 1


def test_one_is_one_point_zero() -> None:
    assert digest(Optim(name="sgd", lr=1, weight_decay=0, warmup_epochs=0)) == digest(
        Optim(name="sgd", lr=1.0, weight_decay=0.0, warmup_epochs=0.0)
    )


def test_defaults_are_written_out() -> None:
    assert '"momentum":0.9' in to_json(Optim(name="sgd", lr=1, weight_decay=0, warmup_epochs=0))


@dataclass(frozen=True)
class _Grown:
    a: int
    b: int = field(default=3, metadata={"omit_when": 3})
    workers: int = field(default=1, metadata={"identity": False})


def test_fields_outside_the_identity_and_fields_added_later() -> None:
    assert canonical(_Grown(1)) == {"is": f"{__name__}:_Grown", "a": 1}
    assert digest(_Grown(1, workers=8)) == digest(_Grown(1))
    assert digest(_Grown(1, b=4)) != digest(_Grown(1))


def test_the_text_is_that_of_the_canonical_form_again_and_again() -> None:
    pretrain = replace(tiny_pretrain(), start=tiny_pretrain(1))
    for value in (pretrain, knn_of(pretrain), (1.0, (pretrain.optim, '\u00e9"')), -0.0, True, None, 1e-7):
        for _ in range(2):  # the second time from what is remembered of the parts
            assert to_json(value) == json.dumps(canonical(value), sort_keys=True, separators=(",", ":"))


@dataclass
class _Open:
    items: object


@dataclass(frozen=True)
class _Holder:
    held: object


def test_what_can_change_is_written_anew() -> None:
    inner = _Open((1, 2))
    outer = _Holder((_Holder(inner),))
    before = digest(outer)
    inner.items = (1, 3)
    assert digest(outer) == digest(_Holder((_Holder(_Open((1, 3))),))) != before


def test_equal_values_of_other_types_keep_their_own_ids() -> None:
    assert _Holder(1) == _Holder(True)
    assert digest(_Holder(1)) != digest(_Holder(True))


def test_remembered_texts_are_bounded_and_stay_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.identity._TEXTS_KEPT", 5)
    monkeypatch.setattr("bench.identity._TEXTS", {})
    for seed in range(20):  # objects of before are gone, and others may get their places in memory
        assert digest(_Holder(_Holder(seed))) == digest(_Holder(_Holder(seed)))
    assert len({digest(_Holder(_Holder(seed))) for seed in range(20)}) == 20


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": 1}, [1], object(), Optim])
def test_what_cannot_be_hashed_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="cannot take part in a job id"):
        canonical(value)


@pytest.mark.parametrize(
    "spec", [tiny_pretrain(), knn_of(Random(backbone=Backbone(name="resnet10"))), knn_of(tiny_pretrain())]
)
def test_a_spec_survives_the_way_through_json(spec: Pretrain | Evaluate) -> None:
    again = from_json(json.loads(to_json(spec)))
    assert again == spec
    assert job_id(again) == job_id(spec)


def test_json_from_elsewhere_is_refused() -> None:
    with pytest.raises(BenchError, match="bench, methods and evals only"):
        from_json({"is": "os:system", "command": "true"})
    with pytest.raises(BenchError, match="does not exist here"):
        from_json({"is": "methods.simclr:Gone"})
    with pytest.raises(BenchError, match="written by another version"):
        from_json({"is": "bench.spec:Data", "name": "mnist5k"})


def test_a_spec_of_another_version_is_refused() -> None:
    body = json.loads(to_json(tiny_pretrain()))
    body["VERSION"] = 0
    with pytest.raises(BenchError, match="VERSION is 1 here and 0 in the spec"):
        from_json(body)


def test_a_class_that_moved_keeps_its_name_in_ids_and_is_found_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(identity.MOVED, "bench.spec:Random", "bench.gone:Untrained")
    monkeypatch.setitem(identity._FORMER, "bench.gone:Untrained", "bench.spec:Random")
    identity._class_name.cache_clear()
    try:
        body = canonical(Random(backbone=Backbone(name="resnet10")))
        assert isinstance(body, dict)
        assert body["is"] == "bench.gone:Untrained"
        assert from_json(body) == Random(backbone=Backbone(name="resnet10"))
    finally:
        identity._class_name.cache_clear()


def test_data_are_part_of_the_identity() -> None:
    assert digest(Data(name="mnist5k", size=32)) != digest(Data(name="cifar10", size=32))
