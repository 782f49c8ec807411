"""Files with several networks, wrappers and numbers for names: read and said, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.bench_toml import find_site
from bench.commands import evaluate
from bench.errors import BenchError
from bench.identity import canonical, from_json, job_id, to_json
from bench.networks import encoders
from bench.networks.vit import VITS
from bench.spec import Backbone, Data, Evaluate, Released
from bench.weights import layouts
from bench.weights.released import OWN
from evals.knn import Config as Knn

SMALL = Backbone(name="resnet10", base_channels=4)
State = dict[str, Tensor]


def state_of(seed: int, backbone: Backbone = SMALL) -> State:
    return dict(encoders.build(backbone, seed).state_dict())


ONE, TWO = state_of(1), state_of(2)


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: values for name, values in state.items()}


def by_number(state: Mapping[str, Tensor]) -> State:
    """As nn.Sequential(*list(resnet.children())[:-1]) of torchvision names them."""
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    split = {name: name.partition(".") for name in state}
    return {f"{numbers[split[name][0]]}.{split[name][2]}": values for name, values in state.items()}


def saved(content: object, folder: Path) -> Path:
    torch.save(content, folder / "file.pth")
    return folder / "file.pth"


def same(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(values, state[name]) for name, values in network.state_dict().items())


ALONE: Mapping[str, Callable[[State], object]] = {
    "compiled": lambda s: under("_orig_mod.", s),
    "compiled, then DDP": lambda s: {"state_dict": under("module._orig_mod.", s)},
    "a compiled part": lambda s: {"state_dict": under("model._orig_mod.", s)},
    "compiled blocks": lambda s: {name.replace("layer3.0.", "layer3.0._orig_mod."): v for name, v in s.items()},
    "lightly": lambda s: {"state_dict": under("backbone.", by_number(s))},
    "the Sequential alone": by_number,
    "lightly's head beside it": lambda s: {
        **under("backbone.", by_number(s)),
        "projection_head.layers.0.weight": torch.ones(2, 2),
        "projection_head.layers.1.running_mean": torch.ones(2),
    },
    "a prefix that nobody listed": lambda s: {"params": under("towers.image.trunk.", s)},
    "an optimizer that names its state": lambda s: {
        "model": s,
        "optimizer": {"exp_avg": {name: values + 1 for name, values in s.items()}},
    },
    "the same tensors again": lambda s: {"model": s, "state_dict": under("backbone.", s)},
    "double precision": lambda s: {name: v.double() if v.is_floating_point() else v for name, v in s.items()},
    "counters of another kind": lambda s: {
        name: v.float().view(1) if name.endswith("num_batches_tracked") else v for name, v in s.items()
    },
}


@pytest.mark.parametrize("layout", ALONE)
def test_a_network_is_found_wherever_it_lies(layout: str, tmp_path: Path) -> None:
    network, report = layouts.load(SMALL, saved(ALONE[layout](ONE), tmp_path))
    assert same(network, {name: v for name, v in ONE.items() if not name.endswith("num_batches_tracked")} | _counters())
    assert (report.missing, report.others) == ((), ())


def _counters() -> State:
    return {name: values for name, values in ONE.items() if name.endswith("num_batches_tracked")}


# What is in the file, the part that is taken, the one that is left out.
PAIRS: Mapping[str, tuple[object, str, str]] = {
    "timm": ({"state_dict": ONE, "state_dict_ema": TWO}, "state_dict", "state_dict_ema"),
    "EMA first": ({"model_ema": TWO, "model": ONE}, "model", "model_ema"),
    "DINO": (
        {
            "student": {**under("module.backbone.", TWO), "module.head.mlp.0.weight": torch.ones(2, 2)},
            "teacher": {**under("backbone.", ONE), "head.mlp.0.weight": torch.ones(2, 2)},
            "optimizer": {"state": {}},
            "epoch": 100,
        },
        "teacher.backbone",
        "student.module.backbone",
    ),
    "MoCo v3": (
        {"state_dict": {**under("module.base_encoder.", ONE), **under("module.momentum_encoder.", TWO)}},
        "state_dict.module.base_encoder",
        "state_dict.module.momentum_encoder",
    ),
    "MoCo": (
        {"state_dict": {**under("module.encoder_k.", TWO), **under("module.encoder_q.", ONE)}},
        "state_dict.module.encoder_q",
        "state_dict.module.encoder_k",
    ),
    "lightly with a momentum network": (
        {**under("backbone.", by_number(ONE)), **under("backbone_momentum.", by_number(TWO))},
        "backbone",
        "backbone_momentum",
    ),
    "TWIST": ({"backbone": ONE, "teacher_backbone": TWO}, "backbone", "teacher_backbone"),
    "weights.pt of this project": (
        {"encoder": ONE, "method": under("twin.", TWO)},
        "encoder",
        "method.twin",
    ),
    "a callback's average": (
        {"state_dict": under("net.", ONE), "callbacks": {"ema": {"weights": TWO}}},
        "state_dict.net",
        "callbacks.ema.weights",
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_of_two_networks_the_report_says_which_is_taken_and_part_takes_the_other(pair: str, tmp_path: Path) -> None:
    content, taken, other = PAIRS[pair]
    path = saved(content, tmp_path)
    network, report = layouts.load(SMALL, path)
    assert same(network, ONE)
    assert (report.part, report.others) == (taken, (other,))
    assert f"; {taken} is taken, --part takes another network of the file: {other}" in report.line()
    assert report.details()["other_networks"] == [other]
    assert len([*report.unexpected, *report.outside]) >= len(TWO)  # not "0 left out"
    network, report = layouts.load(SMALL, path, other)
    assert same(network, TWO)
    assert report.part == other


def test_nobody_chooses_between_two_networks_whose_names_say_nothing(tmp_path: Path) -> None:
    path = saved({"a": ONE, "b": under("module.", TWO)}, tmp_path)
    with pytest.raises(BenchError, match=r"holds 2 networks that fit and differ: give --part a or b\.module\."):
        layouts.load(SMALL, path)
    assert same(layouts.load(SMALL, path, "b")[0], TWO)  # the beginning is enough
    with pytest.raises(BenchError, match=r"unknown --part of .*file\.pth 'c'\..* Allowed: a, b\.module\."):
        layouts.load(SMALL, path, "c")


def test_a_network_that_only_fits_in_part_does_not_stand_before_one_that_fits(tmp_path: Path) -> None:
    deeper = {**ONE, "layer4.1.conv1.weight": torch.ones(1)}
    network, report = layouts.load(SMALL, saved({"model": deeper, "other": TWO}, tmp_path))
    assert same(network, TWO)
    assert report.part == "other"


REFUSED: Mapping[str, tuple[object, str]] = {
    "no values": (
        {name: values.to("meta") for name, values in ONE.items()},
        r"conv1\.weight has a shape but no values \(a meta tensor\)",
    ),
    "quantised": (
        {name: values.to(torch.int8) for name, values in ONE.items()},
        r"conv1\.weight is strided int8, expected float16 to float64",
    ),
    "eight bits": (
        {name: v.to(torch.float8_e4m3fn) if v.is_floating_point() else v for name, v in ONE.items()},
        r"conv1\.weight is strided float8_e4m3fn, expected float16 to float64",
    ),
    "sparse": ({**ONE, "conv1.weight": ONE["conv1.weight"].to_sparse()}, r"conv1\.weight is sparse_coo float32"),
    "too large for single precision": (
        {**ONE, "bn1.bias": torch.full((4,), 1e300, dtype=torch.float64)},
        r"bn1\.bias holds values that are not finite",
    ),
    "a key with a line break": ({"model\nof\tmine": torch.ones(3)}, r"but model\?of\?mine"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_tensors_that_are_no_weights_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    content, message = REFUSED[kind]
    with pytest.raises(BenchError, match=message) as caught:
        layouts.load(SMALL, saved(content, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("extra", ["norm_pre.weight", "reg_token", "dist_token", "blocks.0.ls1.gamma"])
def test_a_transformer_with_parts_that_ours_lacks_is_refused(extra: str, tmp_path: Path) -> None:
    digits = Backbone(name="vit_digits")
    path = saved({**state_of(0, digits), extra: torch.ones(48), "head.weight": torch.ones(10, 48)}, tmp_path)
    with pytest.raises(BenchError, match=rf"holds another network than vit_digits 1x: 1 keys too many, {extra}"):
        layouts.load(digits, path)


def test_what_a_checkpoint_does_not_say_is_said_with_the_network() -> None:
    said = encoders.assumptions
    assert said(Backbone(name="vit_small16")).startswith(
        "6 heads of 64 (vit_small16_12heads has 12 at the same shapes), the class token"
    )
    assert said(Backbone(name="vit_small16_12heads")).startswith("12 heads of 32 (vit_small16 has 6 at")
    assert said(Backbone(name="vit_base16", width=2)).startswith("24 heads of 64, the class token")
    assert said(Backbone(name="resnet50")) == (
        "7x7/2 stem, max-pool padded as PyTorch does, strides in the 3x3 convolutions"
    )
    assert "as TensorFlow does" in said(Backbone(name="resnet50", padding="tensorflow"))
    assert said(Backbone(name="resnet10", stem="small")).startswith("3x3/2 stem, no pool")


def test_twelve_heads_have_the_weights_of_six_and_other_features() -> None:
    six, twelve = Backbone(name="vit_small16"), Backbone(name="vit_small16_12heads")
    assert replace(VITS[twelve.name], heads=6) == VITS[six.name]
    one, two = encoders.build(six, 0).eval(), encoders.build(twelve, 0).eval()
    assert same(one, two.state_dict())
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert not torch.allclose(one(images), two(images), atol=1e-3)


def test_a_part_is_another_job_and_none_is_the_old_one() -> None:
    plain = Released(name=OWN, backbone=SMALL, sha256="a")
    assert "part" not in to_json(plain)
    specs = [
        Evaluate(encoder=encoder, protocol=Knn(), data=Data(name="mnist5k", size=32))
        for encoder in (plain, replace(plain, part="ema"))
    ]
    assert job_id(specs[0]) != job_id(specs[1])
    assert from_json(canonical(specs[1])) == specs[1]


@pytest.mark.slow
def test_a_chosen_part_is_what_is_evaluated(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network = Backbone(name="resnet10", base_channels=8, stem="small", zero_init_residual=False)
    path = saved({"state_dict": state_of(0, network), "state_dict_ema": state_of(1, network)}, workplace)
    asked = evaluate.CheckpointRequest(find_site(), path, ("knn",), "embedded")
    assert evaluate.run(asked, "inline") == 0
    raw = capfd.readouterr().out
    assert "; state_dict is taken, --part takes another network of the file: state_dict_ema" in raw
    assert "inputs from 0 to 1; assumed, as no checkpoint says it: 3x3/2 stem, no pool" in raw
    assert evaluate.run(replace(asked, part="state_dict_ema"), "inline") == 0
    averaged = capfd.readouterr().out
    assert "layout [state_dict_ema] plain names" in averaged
    numbers = [next(line for line in said.splitlines() if line.startswith("knn on")) for said in (raw, averaged)]
    assert numbers[0] != numbers[1]
