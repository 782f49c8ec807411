"""No table's job has another id than before: who changes one on purpose raises a VERSION and writes the digest anew."""

from __future__ import annotations

import pytest

from tests.planned_ids import digest, planned

DIGEST = "fb26a83d62682a0277af4bd1fa6e8575e58be8934c9f5abbeb32d4d164f6f283"
# Some of every kind, so that a changed digest says what changed: "table scale seed row | column id".
PINNED = (
    "barlow_table4 paper 0 MoCo-v2 | AP all evaluate-189b21d22f89aa56",
    "barlow_table4 paper 0 MoCo-v2 | AP bb evaluate-5886ebbc9d63dc5c",
    "barlow_table4 embedded 0 MoCo-v2 | AP all evaluate-2c17d2cb3ab00c92",
    "barlow_table4 embedded 0 MoCo-v2 | AP bb evaluate-ec7696db6c2d10cd",
    "twist_table3 embedded 0 MoCo v2, RN50 | Params pretrain-fc82e1c2031d76d3",
    "vicreg_table5 paper 0 BYOL | SW R50 evaluate-d0a9e3fb3b9dc337",
    "simclr_table6 released 0 SimCLR (ours), ResNet-50 (4x) | Top-1 evaluate-7c35f40a08e4f4bd",
    "directclr_table1 cifar 0 SimCLR, 2-layer nonlinear projector | Top-1 evaluate-632ceb2489b3ea02",
)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return list(planned())


def test_ids_of_every_kind_are_pinned(lines: list[str]) -> None:
    assert [pin for pin in PINNED if pin not in lines] == []


def test_every_planned_job_has_the_id_that_it_had(lines: list[str]) -> None:
    assert len(lines) == 9387
    assert digest(lines) == DIGEST, "python -m tests.planned_ids --list, before and after, shows which"
