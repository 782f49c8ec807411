from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from bench.errors import BenchError
from bench.networks import encoders
from bench.spec import Backbone

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def built(**choices: object) -> encoders.ResNet:
    network = encoders.build(Backbone(**{"name": "resnet10", "base_channels": 4, **choices}), seed=0)  # type: ignore[arg-type]
    assert isinstance(network, encoders.ResNet)
    return network


@pytest.mark.parametrize(("width", "millions"), [(1, 24), (2, 94), (4, 375)])
def test_resnet50_has_the_published_number_of_parameters(width: int, millions: int) -> None:
    with torch.device("meta"):  # shapes only: no time for 375 million draws
        network = encoders.build(Backbone(name="resnet50", width=width), seed=0)
    assert round(encoders.parameters(network) / 1e6) == millions
    assert network.feature_dim == 2048 * width


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_torchvision_weights_load_by_name_and_give_torchvisions_features(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = torchvision.models.get_model(name, weights=None)
        theirs.fc = nn.Identity()
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):  # fresh statistics would hide a norm in the wrong place
                for values in (module.weight, module.bias, module.running_mean, module.running_var):
                    assert isinstance(values, Tensor)
                    values.data.uniform_(0.5, 1.5)
    with torch.device("meta"):
        ours = encoders.build(Backbone(name=name), seed=0)
    ours = ours.to_empty(device="cpu")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    with torch.inference_mode():
        found, expected = ours.eval()(IMAGES), theirs.eval()(IMAGES)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        found, expected = ours.train()(IMAGES), theirs.train()(IMAGES)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_width_multiplies_every_layer(name: str) -> None:
    one, three = built(name=name).state_dict(), built(name=name, width=3).state_dict()
    assert list(one) == list(three)
    for key, value in one.items():
        if value.ndim == 0:
            continue
        inputs = [] if value.ndim == 1 else [3] if key == "conv1.weight" else [3 * value.shape[1]]
        assert list(three[key].shape) == [3 * value.shape[0], *inputs, *value.shape[2:]], key


def test_normalisation_inside_equals_normalisation_outside() -> None:
    from torchvision.transforms.functional import normalize

    plain, normed = built().eval(), built(normalize="imagenet").eval()
    assert list(plain.state_dict()) == list(normed.state_dict())  # statistics are no weights
    outside = normalize(IMAGES, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(normed(IMAGES), plain(outside))
    assert not torch.allclose(normed(IMAGES), plain(IMAGES))


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    spec = Backbone(name="resnet10", base_channels=4)
    first = encoders.build(spec, seed=0)
    torch.rand(5)  # whatever is drawn between two builds must not matter
    second, other = encoders.build(spec, seed=0), encoders.build(spec, seed=1)
    torch.random.set_rng_state(before)
    encoders.build(spec, seed=0)
    assert torch.equal(before, torch.random.get_rng_state())
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
        assert torch.equal(value, other.state_dict()[key]) == (value.ndim < 2), key


def test_convolutions_start_with_he_initialisation() -> None:
    weight = built(base_channels=64).state_dict()["layer4.0.conv2.weight"]
    assert float(weight.std()) == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_zero_init_makes_every_residual_branch_silent(name: str) -> None:
    for zero in (True, False):
        network = built(name=name, zero_init_residual=zero)
        blocks = [block for block in network.modules() if isinstance(block, encoders.Block)]
        last = [
            key
            for key, value in network.state_dict().items()
            if key.endswith(("bn2.weight", "bn3.weight")) and not value.any()
        ]
        assert len(last) == (len(blocks) if zero else 0)
    block = built(name=name).layer1[1]
    features = torch.rand(2, 16 if name == "resnet50" else 4, 8, 8)
    torch.testing.assert_close(block(features), features)


@pytest.mark.parametrize(
    ("stem", "size", "side"), [("imagenet", 224, 7), ("imagenet", 64, 2), ("cifar", 32, 4), ("small", 32, 2)]
)
@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_every_stem_gives_one_feature_vector_an_image(name: str, stem: str, size: int, side: int) -> None:
    network = built(name=name, stem=stem).eval()
    seen: list[tuple[int, ...]] = []
    network.layer4.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    features = network(torch.rand(2, 3, size, size))
    assert network.feature_dim == (128 if name == "resnet50" else 32)
    assert features.shape == (2, network.feature_dim)
    assert seen == [(2, network.feature_dim, side, side)]


def test_an_unknown_architecture_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        BenchError, match=r"unknown architecture 'resnet5'\. Did you mean 'resnet50'\?.*resnet101, resnet18"
    ):
        encoders.build(Backbone(name="resnet5"), seed=0)


@pytest.mark.parametrize("choice", [{"width": 0}, {"base_channels": 0}])
def test_a_network_without_channels_is_refused(choice: dict[str, int]) -> None:
    with pytest.raises(BenchError, match="must be at least 1"):
        built(**choice)


def test_pixels_are_the_image_itself() -> None:
    network = encoders.PixelEncoder(64)
    assert network.feature_dim == 3 * 64 * 64
    torch.testing.assert_close(network(IMAGES), IMAGES.reshape(3, -1))
    torch.testing.assert_close(network(IMAGES.contiguous(memory_format=torch.channels_last)), IMAGES.reshape(3, -1))
