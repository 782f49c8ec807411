from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bench.contracts import Subject
from bench.networks import encoders
from bench.planning.scales import scale_of
from evals.parts.slices import features_in_slices, slice_of
from tests.live_storage import peak_bytes

GB = 10**9


def of_the_paper(width: int, device: str = "meta") -> Subject:
    backbone = replace(scale_of("paper").networks["resnet50"], width=width)
    with torch.device(device):
        network = encoders.build(backbone, 0).eval()
    return Subject(key="", network=network, feature_dim=2048 * width)


def frozen_pass(subject: Subject, images: int) -> Callable[[], Tensor]:
    batch = torch.empty(images, 3, 224, 224, device="meta")

    def work() -> Tensor:
        with torch.no_grad():
            return features_in_slices(subject, batch)

    return work


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_probe_with_a_batch_of_4096_takes_6_gb_at_most(width: int) -> None:
    """In float32, beside weights and images; in one pass it was 46, 92 and 184 GB."""
    subject = of_the_paper(width)
    peak = peak_bytes(frozen_pass(subject, 4096))
    assert peak < 6 * GB
    assert peak - peak_bytes(frozen_pass(subject, 512)) < 1 * GB, "memory must not depend on the batch"


def test_one_pass_takes_what_was_measured_on_a_gpu() -> None:
    """One H100: 42.9 GiB above weights and images for 4096 images in one pass. This holds the meter."""
    subject = of_the_paper(1)
    batch = torch.empty(4096, 3, 224, 224, device="meta")
    with torch.no_grad():
        assert peak_bytes(lambda: subject.network(batch)) == pytest.approx(42.9 * 2**30, rel=0.1)


def test_features_do_not_depend_on_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network[1].running_mean.normal_()  # type: ignore[operator]
    subject = Subject(key="", network=network.double().eval(), feature_dim=8)
    images = torch.rand(37, 3, 12, 12, dtype=torch.float64)
    monkeypatch.setattr("evals.parts.slices._IMAGES", 16)
    passes: list[int] = []
    network.register_forward_hook(lambda module, inputs, out: passes.append(len(out)))
    with torch.no_grad():
        torch.testing.assert_close(features_in_slices(subject, images), network(images), rtol=1e-12, atol=1e-12)
    assert passes == [16, 16, 5, 37]


def test_slices_shrink_with_the_width_of_the_network() -> None:
    assert [slice_of(width) for width in (64, 384, 2048, 4096, 8192, 150_528)] == [256, 256, 256, 128, 64, 16]
