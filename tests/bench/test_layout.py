from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.execution.device import autotunes, layout_word, prepare_device
from bench.networks import encoders
from bench.networks.layout import lay_out, layout_of
from bench.spec import Backbone, Data, Evaluate, Pixels, Random, Resources
from bench.training.ranks import Ranks
from evals.knn import Config as Knn
from methods.simclr import Config
from tests.bench.two_ranks import spec_of

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
V100, A100, H100 = (7, 0), (8, 0), (9, 0)


def on(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


@pytest.mark.parametrize("capability", [V100, A100, H100])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_only_float32_before_ampere_has_the_plain_layout(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    on(monkeypatch, capability)
    plain = capability == V100 and precision != "bf16"
    assert layout_of(GPU, precision) == (torch.contiguous_format if plain else torch.channels_last)
    assert layout_of(CPU, precision) == torch.channels_last


def test_in_the_plain_layout_every_convolution_is_plain_whatever_the_images_layout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on(monkeypatch, V100)
    images = torch.rand(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    network = encoders.build(Backbone(name="resnet10", base_channels=4, stem="small"), 0).eval()
    names, expected = list(network.state_dict()), network(images)
    lay_out(network, GPU, "fp32")
    seen = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, images, made: seen.append((images[0], made)))
    torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-6)
    assert len(seen) > 10
    assert all(tensor.is_contiguous() for pair in seen for tensor in pair)
    assert list(network.state_dict()) == names


def test_a_device_is_deterministic_unless_told_and_tries_kernels_for_float32_pretrainings_alone() -> None:
    cudnn, spec, resources = torch.backends.cudnn, spec_of(Config()), Resources(threads=torch.get_num_threads())
    before = cudnn.deterministic, cudnn.benchmark
    try:
        prepare_device(resources, Ranks(), autotune=autotunes(spec))
        assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
        prepare_device(resources, Ranks(), deterministic=False, autotune=autotunes(spec))
        assert (cudnn.deterministic, cudnn.benchmark) == (False, True)
        prepare_device(resources, Ranks(), deterministic=False, autotune=autotunes(replace(spec, precision="bf16")))
        assert (cudnn.deterministic, cudnn.benchmark) == (False, False)
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def test_a_result_names_the_layout_of_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, V100)
    training = spec_of(Config())
    frozen = Evaluate(encoder=Random(backbone=training.backbone), protocol=Knn(), data=training.data)
    assert layout_word(training, CPU) == layout_word(frozen, CPU) == "channels_last"
    assert layout_word(training, GPU) == layout_word(frozen, GPU) == "contiguous"
    assert layout_word(replace(training, precision="fp16"), GPU) == "channels_last"
    assert layout_word(replace(frozen, encoder=Pixels()), GPU) == ""
    assert layout_word(replace(frozen, data=Data(name="voc0712", size=224)), GPU) == ""  # Detectron2's network
