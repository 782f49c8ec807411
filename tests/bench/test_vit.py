from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn

from bench.costs import estimates
from bench.costs.devices import DEVICES
from bench.errors import BenchError
from bench.networks import encoders
from bench.networks.size import feature_dim, parameters
from bench.networks.vit import VITS, Block, VisionTransformer
from bench.planning.graph import plan
from bench.planning.scales import SCALES
from bench.planning.translate import encoder
from bench.runs.folder import Runs
from bench.spec import Backbone, Pretrain
from tests.conftest import knn_of, tiny_pretrain

DIGITS = Backbone(name="vit_digits")


def built(spec: Backbone = DIGITS, seed: int = 0) -> VisionTransformer:
    network = encoders.build(spec, seed)
    assert isinstance(network, VisionTransformer)
    return network


def images(size: int, count: int = 3) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "parameters", "dim"), [("vit_small16", 21_665_664, 384), ("vit_base16", 85_798_656, 768)]
)
def test_paper_networks_have_the_published_number_of_parameters(name: str, parameters: int, dim: int) -> None:
    with torch.device("meta"):
        network = encoders.build(Backbone(name=name), seed=0)
    assert encoders.parameters(network) == parameters
    assert network.feature_dim == dim
    assert {module.eps for module in network.modules() if isinstance(module, nn.LayerNorm)} == {1e-6}


def test_parameter_names_and_shapes_are_deits() -> None:
    with torch.device("meta"):
        state = encoders.build(Backbone(name="vit_small16"), seed=0).state_dict()
    block = {
        "norm1.weight": (384,),
        "norm1.bias": (384,),
        "attn.qkv.weight": (1152, 384),
        "attn.qkv.bias": (1152,),
        "attn.proj.weight": (384, 384),
        "attn.proj.bias": (384,),
        "norm2.weight": (384,),
        "norm2.bias": (384,),
        "mlp.fc1.weight": (1536, 384),
        "mlp.fc1.bias": (1536,),
        "mlp.fc2.weight": (384, 1536),
        "mlp.fc2.bias": (384,),
    }
    expected = {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, 197, 384),
        "patch_embed.proj.weight": (384, 3, 16, 16),
        "patch_embed.proj.bias": (384,),
        **{f"blocks.{number}.{key}": shape for number in range(12) for key, shape in block.items()},
        "norm.weight": (384,),
        "norm.bias": (384,),
    }
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


NAMES = {  # torchvision's -> DeiT's
    r"class_token": "cls_token",
    r"conv_proj": "patch_embed.proj",
    r"encoder\.pos_embedding": "pos_embed",
    r"encoder\.ln\b": "norm",
    r"encoder\.layers\.encoder_layer_(\d+)": r"blocks.\1",
    r"ln_(\d)": r"norm\1",
    r"self_attention\.in_proj_": "attn.qkv.",
    r"self_attention\.out_proj": "attn.proj",
    r"mlp\.0": "mlp.fc1",
    r"mlp\.3": "mlp.fc2",
}


def _renamed(key: str) -> str:
    for theirs, ours in NAMES.items():
        key = re.sub(theirs, ours, key)
    return key


def test_torchvisions_weights_give_torchvisions_features() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.vit_b_16(weights=None)
        ours = encoders.build(Backbone(name="vit_base16"), seed=0)
    theirs.heads = nn.Identity()
    theirs, ours = theirs.to_empty(device="cpu").eval(), ours.to_empty(device="cpu").eval()
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, value in theirs.state_dict().items():  # norms and biases too: fresh ones would hide a misplaced norm
            value.normal_(1.0 if re.search(r"ln.*weight", key) else 0.0, 0.05, generator=rng)
    found = ours.load_state_dict({_renamed(key): value for key, value in theirs.state_dict().items()}, strict=True)
    assert not found.missing_keys
    with torch.inference_mode():
        torch.testing.assert_close(ours(images(224, 2)), theirs(images(224, 2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "size"), [("vit_digits", 32), ("vit_cifar", 32), ("vit_small16", 224)])
def test_every_transformer_gives_one_feature_vector_an_image_with_gradient_everywhere(name: str, size: int) -> None:
    network = built(Backbone(name=name))
    features = network(images(size, 2))
    assert features.shape == (2, network.feature_dim)
    features.square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert float(parameter.grad.abs().max()) > 0, key


@pytest.mark.parametrize("name", VITS)
def test_width_multiplies_dimension_and_heads(name: str) -> None:
    with torch.device("meta"):
        one, three = built(Backbone(name=name)), built(Backbone(name=name, width=3))
    assert three.feature_dim == 3 * one.feature_dim
    blocks = [(block.attn.heads, block.attn.proj.in_features) for block in three.blocks if isinstance(block, Block)]
    assert blocks == [(3 * VITS[name].heads, 3 * VITS[name].dim)] * VITS[name].depth
    assert list(one.state_dict()) == list(three.state_dict())


def test_weights_start_as_deits() -> None:
    state = built(Backbone(name="vit_cifar", width=2)).state_dict()
    for key in ("pos_embed", "blocks.3.attn.qkv.weight", "blocks.8.mlp.fc2.weight"):
        assert float(state[key].std()) == pytest.approx(0.02, rel=0.02), key
    assert float(state["cls_token"].std()) == pytest.approx(0.02, rel=0.15)
    assert not any(
        value.any() for key, value in state.items() if key.endswith("bias") and not key.startswith("patch_embed")
    )
    assert all(bool((value == 1).all()) for key, value in state.items() if "norm" in key and key.endswith("weight"))
    bound = (3 * 4 * 4) ** -0.5  # PyTorch's start of a convolution
    assert float(state["patch_embed.proj.weight"].abs().max()) == pytest.approx(bound, rel=0.01)


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = built().state_dict(), built().state_dict(), built(seed=1).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    assert not torch.equal(first["pos_embed"], other["pos_embed"])


def test_normalisation_inside_equals_normalisation_outside() -> None:
    from torchvision.transforms.functional import normalize

    plain, normed = built(), built(replace(DIGITS, normalize="imagenet"))
    assert list(plain.state_dict()) == list(normed.state_dict())
    outside = normalize(images(32), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(normed(images(32)), plain(outside))
    assert not torch.allclose(normed(images(32)), plain(images(32)))


def test_memory_layout_does_not_change_the_feature() -> None:
    network, pixels = built(), images(32)
    expected = network(pixels)
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(pixels.contiguous(memory_format=torch.channels_last)), expected)


def test_positions_of_the_size_at_build_time_are_the_stored_ones() -> None:
    network = built()
    assert network.positions(4, 4) is network.pos_embed


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (6, 6), (3, 5), (4, 2)])
def test_positions_of_other_sizes_equal_bicubic_interpolation(rows: int, columns: int) -> None:
    network = built()
    stored = network.pos_embed[:, 1:].reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(stored, size=(rows, columns), mode="bicubic").flatten(2).transpose(1, 2)
    found = network.positions(rows, columns)
    torch.testing.assert_close(found[:, 1:], expected)
    assert torch.equal(found[:, :1], network.pos_embed[:, :1])
    (gradient,) = torch.autograd.grad(found.sum(), network.pos_embed)
    # every row of the matrix sums to 1
    assert float(gradient.sum()) == pytest.approx((1 + rows * columns) * 48, rel=1e-4)


def cubic_row(centre: float, side: int) -> Tensor:
    """Weights of `side` cells at a place between them: the cubic kernel with a = -0.75, the rim repeated."""
    row, first = torch.zeros(side, dtype=torch.float64), math.floor(centre) - 1
    for cell in range(first, first + 4):
        x = abs(centre - cell)
        weight = 1.25 * x**3 - 2.25 * x**2 + 1 if x <= 1 else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
        row[min(max(cell, 0), side - 1)] += weight
    return row


@pytest.mark.parametrize(("size", "cells"), [(96, 6), (32, 2), (256, 16)])
def test_positions_by_factor_are_read_where_dinos_code_reads_them(size: int, cells: int) -> None:
    """vision_transformer.py: scale_factor = (w0 + 0.1) / sqrt(N), so cell i lies at (i + 0.5) / factor - 0.5."""
    side = 14
    network = built(Backbone(name="vit_small16", positions="factor"))
    network.pos_embed.data = torch.randn(1, 1 + side**2, 3, generator=torch.Generator().manual_seed(2)).double()
    factor = (cells + 0.1) / side
    rows = torch.stack([cubic_row((i + 0.5) / factor - 0.5, side) for i in range(cells)])
    grid = network.pos_embed[0, 1:].view(side, side, 3)
    expected = torch.einsum("ai,bj,ijd->abd", rows, rows, grid).reshape(-1, 3)
    found = network.positions(size // 16, size // 16)[0, 1:]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # the weights are float32's
    assert network.positions(side, side) is network.pos_embed


@pytest.mark.parametrize(("method", "variant"), [("dino", "deit_small"), ("dino", "vit_base"), ("twist", "deit_small")])
def test_papers_with_local_crops_read_positions_by_factor_and_nothing_else_does(method: str, variant: str) -> None:
    for scale in ("paper", "embedded"):
        network = "vit_base" if variant == "vit_base" else "deit_small"
        spec = encoder(
            SCALES[scale], method, network=network, width=1, epochs=None, dataset="imagenet", seed=0, variant=variant
        )
        assert isinstance(spec, Pretrain)
        assert spec.backbone.positions == ("factor" if scale == "paper" else "size")


def test_a_resnet_has_no_positions() -> None:
    with pytest.raises(BenchError, match="resnet50: positions is 'factor', a choice of transformers"):
        encoders.check_backbone(Backbone(name="resnet50", positions="factor"))


def test_smaller_and_larger_crops_give_features_also_in_half_precision() -> None:
    network = built().train()
    for size in (16, 48):
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(images(size))
        torch.testing.assert_close(rough.float(), network(images(size)), rtol=0.1, atol=0.1)
    assert network.positions(2, 2).dtype == torch.float32


def test_position_tells_equal_patches_apart() -> None:
    network, pixels = built().eval(), torch.zeros(2, 3, 32, 32)
    pixels[0, :, :8, :8] = 1
    pixels[1, :, 16:24, 8:16] = 1
    first, second = network(pixels)
    assert not torch.allclose(first, second, atol=1e-4)
    with torch.no_grad():
        network.pos_embed.zero_()
    first, second = network(pixels)
    torch.testing.assert_close(first, second)


def test_drop_path_silences_branches_of_single_images_in_training_only() -> None:
    block = Block(8, 2, drop_path=0.25).double()
    x = torch.rand(400, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = block.eval()(x)
    torch.testing.assert_close(block.eval()(x), whole)
    with torch.no_grad():
        block.mlp.get_parameter("fc2.weight").zero_()
        block.mlp.get_parameter("fc2.bias").zero_()
        branch = block.eval()(x) - x  # of the attention alone
        torch.manual_seed(0)
        ratio = (block.train()(x) - x) / branch
    kept = ratio.mean(dim=(1, 2)) > 0.5
    torch.testing.assert_close(ratio[kept], torch.full_like(ratio[kept], 1 / 0.75), rtol=1e-6, atol=0)
    torch.testing.assert_close(ratio[~kept], torch.zeros_like(ratio[~kept]), rtol=0, atol=1e-6)
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.07)


def test_drop_path_rises_to_the_published_rate() -> None:
    with torch.device("meta"):
        rates = {
            name: [block.drop_path for block in built(Backbone(name=name)).blocks if isinstance(block, Block)]
            for name in VITS
        }
    assert rates["vit_base16"] == pytest.approx([0.1 * i / 11 for i in range(12)])
    assert not any(rates["vit_small16"] + rates["vit_digits"] + rates["vit_cifar"])


def test_a_size_that_the_patch_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8, got 30 x 30"):
        built()(images(30))
    with pytest.raises(BenchError, match="vit_digits: an image size of 30 is not a multiple of its patch, 8"):
        encoders.check_backbone(DIGITS, [32, 30])
    encoders.check_backbone(DIGITS, [32, 16])
    encoders.check_backbone(Backbone(name="resnet10"), [30])


@pytest.mark.parametrize("choice", [{"base_channels": 8}, {"stem": "small"}, {"zero_init_residual": False}])
def test_choices_of_resnets_are_refused(choice: dict[str, int | str]) -> None:
    with pytest.raises(BenchError, match="are choices of ResNets"):
        encoders.check_backbone(replace(DIGITS, **choice))  # type: ignore[arg-type]


def test_unknown_and_empty_transformers_are_refused() -> None:
    with pytest.raises(BenchError, match=r"unknown architecture 'vit_smal16'.*Did you mean 'vit_small16'"):
        encoders.build(Backbone(name="vit_smal16"), seed=0)
    with pytest.raises(BenchError, match="must be at least 1"):
        encoders.check_backbone(replace(DIGITS, width=0))


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_has_the_papers_networks(scale: str) -> None:
    names = {paper: spec.name for paper, spec in SCALES[scale].networks.items()}
    assert set(names) == {"resnet50", "resnet101", "deit_small", "vit_base"}
    assert ("vit" in names["deit_small"], "vit" in names["vit_base"]) == (True, True)
    with torch.device("meta"):
        counts = {
            paper: encoders.parameters(encoders.build(spec, seed=0)) for paper, spec in SCALES[scale].networks.items()
        }
    assert counts["resnet101"] > counts["resnet50"]


def test_the_paper_scale_translates_nothing() -> None:
    names = {paper: spec.name for paper, spec in SCALES["paper"].networks.items()}
    assert names == {
        "resnet50": "resnet50",
        "resnet101": "resnet101",
        "deit_small": "vit_small16",
        "vit_base": "vit_base16",
    }
    assert SCALES["paper"].networks["vit_base"] == Backbone(name="vit_base16")
    assert {spec.base_channels for name, spec in SCALES["embedded"].networks.items() if "resnet" in name} == {8}


@pytest.mark.parametrize("scale", SCALES)
def test_jobs_with_every_network_have_a_cost(scale: str, runs: Runs) -> None:
    seconds = {}
    for paper in SCALES[scale].networks:
        spec = encoder(SCALES[scale], "simclr", network=paper, width=1, epochs=None, dataset="imagenet", seed=0)
        graph = plan([(paper, knn_of(spec))])  # type: ignore[arg-type]
        costs = estimates.Costs(runs, graph, where=estimates.Where(DEVICES["h100"]))
        estimated = [costs.estimate(job) for job in graph]
        assert {found.device for found in estimated} == {"GPU"}, paper
        seconds[paper] = max(found.seconds for found in estimated)
        assert all(estimates.disk_total([job]) > 0 for job in graph)
    assert seconds["resnet101"] >= seconds["resnet50"]
    assert seconds["vit_base"] >= seconds["deit_small"]


def test_features_on_disk_are_as_wide_as_the_network() -> None:
    assert feature_dim(Backbone(name="vit_base16")) == 768
    assert feature_dim(tiny_pretrain().backbone) == 32
    assert parameters(Backbone(name="vit_small16", width=2)) > 3.9 * parameters(Backbone(name="vit_small16"))
