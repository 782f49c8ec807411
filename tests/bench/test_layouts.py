"""One network under every layout of the authors' files, and every file that must be refused."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from bench.errors import BenchError
from bench.networks import encoders
from bench.spec import Backbone
from bench.weights import layouts
from bench.weights.tensorflow import Bundle
from tests.bench import tensor_bundle

SMALL = Backbone(name="resnet50", base_channels=4)
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
State = dict[str, Tensor]


def shaken(network: nn.Module) -> nn.Module:
    """With norms that differ everywhere, so that none can stand in for another."""
    rng = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                assert isinstance(values, Tensor)
                values.data.copy_(torch.rand(values.shape, generator=rng) + 0.5)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return shaken(encoders.build(SMALL, seed=7))


@pytest.fixture
def state(network: nn.Module) -> State:
    return {name: values.clone() for name, values in network.state_dict().items()}


def features(network: nn.Module) -> Tensor:
    with torch.inference_mode():
        made: Tensor = network.eval()(IMAGES)
    return made


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: values for name, values in state.items()}


def other(state: Mapping[str, Tensor]) -> State:
    """A second network of the same shape: a target, a key encoder."""
    return {name: values + 1 for name, values in state.items()}


HEAD = {
    "module.projector.0.weight": torch.ones(8, 128),
    "module.projector.1.running_mean": torch.ones(8),
    "module.bn.running_var": torch.ones(8),
}
LAYOUTS: Mapping[str, Callable[[State], object]] = {
    "backbone alone (Barlow Twins, VICReg, TWIST)": lambda s: s,
    "with a classifier (torchvision)": lambda s: {**s, "fc.weight": torch.ones(10, 128), "fc.bias": torch.ones(10)},
    "full checkpoint (Barlow Twins, VICReg)": lambda s: {
        "epoch": 999,
        "model": {**under("module.backbone.", s), **HEAD},
        "optimizer": {"state": {}},
    },
    "DirectCLR": lambda s: {
        "epoch": 100,
        "model": {**under("module.backbone.", s), "module.online_head.weight": torch.ones(10, 128)},
    },
    "TWIST full": lambda s: {
        "model": {**under("backbone.", s), "projection_heads.last_linear.weight": torch.ones(8, 8)},
        "backbone": s,
        "teacher_backbone": other(s),
        "optimizer": {"param_groups": []},
        "epoch": 850,
        "args": argparse.Namespace(lr=0.5, backbone="resnet50"),
    },
    "TWIST full without the key backbone": lambda s: {"model": under("backbone.", s), "epoch": 850},
    "extracted by OpenSelfSup": lambda s: {"state_dict": s, "author": "OpenSelfSup"},
    "OpenSelfSup training": lambda s: {
        "meta": {"epoch": 940},
        "state_dict": {
            **under("online_net.0.", s),
            **under("target_net.0.", other(s)),
            "head.predictor.fc0.weight": torch.ones(8, 8),
        },
    },
    "MoCo": lambda s: {
        "arch": "resnet50",
        "state_dict": {
            **under("module.encoder_q.", s),
            **under("module.encoder_k.", other(s)),
            "module.queue": torch.ones(8, 8),
        },
    },
    "supervised under DDP": lambda s: {"state_dict": {**under("module.", s), "module.fc.weight": torch.ones(10, 128)}},
    "weights.pt of this project": lambda s: {
        "encoder": s,
        "method": {**under("encoder.", s), "projector.0.weight": torch.ones(8, 8)},
    },
    "half precision": lambda s: {name: values.half().float().to(values.dtype) for name, values in s.items()},
    "old files without counters": lambda s: {
        name: values for name, values in s.items() if not name.endswith("num_batches_tracked")
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_encoder_gives_identical_features_whatever_layout_it_came_in(
    layout: str, network: nn.Module, state: State, tmp_path: Path
) -> None:
    if layout == "half precision":  # the values themselves are rounded, so the network they are held against must be
        state = {
            name: values.half().float() if values.is_floating_point() else values for name, values in state.items()
        }
        network = encoders.build(SMALL, seed=0)
        network.load_state_dict(state)
    torch.save(LAYOUTS[layout](state), tmp_path / "file.pth")
    found, report = layouts.load(SMALL, tmp_path / "file.pth")
    assert torch.equal(features(found), features(network))
    assert not report.missing
    assert report.matched == len(state) - (53 if layout == "old files without counters" else 0)


def test_a_file_in_the_format_before_2020_loads_too(network: nn.Module, state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(features(layouts.load(SMALL, tmp_path / "old.pth")[0]), features(network))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("blocks", [1, 7])
def test_a_tensorflow_checkpoint_gives_identical_features(
    packed: bool, blocks: int, network: nn.Module, state: State, tmp_path: Path
) -> None:
    path = tensor_bundle.write(
        tmp_path / "ResNet50_1x" / "model.ckpt-225206", tensor_bundle.simclr_names(state), blocks
    )
    if packed:
        archive = tmp_path / "ResNet50_1x.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("ResNet50_1x/hub/variables/variables.index", b"of a hub module")
            for part in path.parent.iterdir():
                file.write(part, f"ResNet50_1x/{part.name}")
        path = archive
    found, report = layouts.load(SMALL, path)
    assert torch.equal(features(found), features(network))
    assert report.matched == 53 * 5
    assert set(report.unexpected) == {
        "base_model/conv2d/kernel/Momentum",
        "ema_model/base_model/conv2d/kernel",
        "head_supervised/linear_layer/dense/kernel",
    }
    by_prefix, _ = layouts.load(SMALL, tmp_path / "ResNet50_1x" / "model.ckpt-225206")  # as TensorFlow itself names it
    assert torch.equal(features(by_prefix), features(network))


def test_torchvisions_own_resnet50_gives_its_own_features(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        theirs = shaken(torchvision.models.resnet50(weights=None))
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    found, report = layouts.load(Backbone(name="resnet50"), tmp_path / "resnet50.pth")
    assert report.unexpected == ("fc.weight", "fc.bias")
    assert report.matched == 318
    theirs.fc = nn.Identity()
    expected = features(theirs)
    torch.testing.assert_close(features(found), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_a_vision_transformer_loads_under_deits_names(tmp_path: Path) -> None:
    small = Backbone(name="vit_digits")
    network = encoders.build(small, seed=2).eval()
    state = {**network.state_dict(), "head.weight": torch.ones(10, 48)}
    torch.save({"backbone": state}, tmp_path / "vit.pth")
    found, report = layouts.load(small, tmp_path / "vit.pth")
    assert torch.equal(features(found), features(network))
    assert report.unexpected == ("head.weight",)


def test_the_report_says_what_was_left_out(state: State, tmp_path: Path) -> None:
    torch.save(LAYOUTS["DirectCLR"](state), tmp_path / "file.pth")
    _, report = layouts.load(SMALL, tmp_path / "file.pth")
    assert (
        report.line()
        == "layout [model] module.backbone.*: 318 keys matched, 0 missing, 1 left out (module.online_head.weight)"
    )
    assert report.details()["unexpected"] == ["module.online_head.weight"]


def without(state: State, *names: str) -> State:
    return {name: values for name, values in state.items() if name not in names}


WRONG: Mapping[str, tuple[Callable[[State], Any], str]] = {
    "a missing key": (
        lambda s: without(s, "layer4.2.conv3.weight"),
        r"holds no whole resnet50 1x: 1 keys are missing, layer4\.2\.conv3\.weight",
    ),
    "a missing norm": (lambda s: without(s, "bn1.running_var"), r"1 keys are missing, bn1\.running_var"),
    "half of it": (
        lambda s: {k: v for k, v in s.items() if not k.startswith("layer4")},
        r"50 keys are missing, layer4\.0\.conv1\.weight, .* and 47 more",
    ),
    "another width": (
        lambda s: dict(encoders.build(Backbone(name="resnet50", base_channels=8), seed=0).state_dict()),
        r"is not a resnet50 1x: conv1\.weight is \(8, 3, 7, 7\), expected \(4, 3, 7, 7\)",
    ),
    "a deeper network": (
        lambda s: {"state_dict": {**under("module.", s), "module.layer3.6.conv1.weight": torch.ones(1)}},
        r"holds another network than resnet50 1x: 1 keys too many, module\.layer3\.6\.conv1\.weight",
    ),
    "a head alone": (
        lambda s: {"model": {"fc.weight": torch.ones(3, 3)}},
        r"holds no resnet50 1x: not one of its 318 keys .*, but fc\.weight",
    ),
    "no tensors": (lambda s: {"epoch": 3, "model": "resnet50"}, r"holds no tensors by name; its keys are epoch, model"),
    "a list": (lambda s: [1, 2], r"holds a list, expected a dictionary"),
    "NaN": (lambda s: {**s, "bn1.bias": torch.full((4,), torch.nan)}, r"bn1\.bias holds values that are not finite"),
    "foreign objects": (
        lambda s: {"model": s, "where": Path("x")},
        r"holds objects of pathlib\.(_local\.)?\w*Path, which are not rebuilt here",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_file_that_does_not_fit_is_refused_in_one_line(mistake: str, state: State, tmp_path: Path) -> None:
    make, message = WRONG[mistake]
    torch.save(make(state), tmp_path / "file.pth")
    with pytest.raises(BenchError, match=message) as caught:
        layouts.load(SMALL, tmp_path / "file.pth")
    assert "\n" not in str(caught.value)


def test_code_in_a_file_never_runs(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return eval, (f"open({str(tmp_path / 'sprung')!r}, 'w')",)

    torch.save({"model": {"conv1.weight": torch.ones(1)}, "args": Trap()}, tmp_path / "file.pth")
    with pytest.raises(BenchError, match="could run foreign code"):
        layouts.load(SMALL, tmp_path / "file.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kept", [0.5, 0.99, 0.0])
@pytest.mark.parametrize("old", [False, True])
def test_a_file_that_is_cut_off_is_refused(kept: float, old: bool, state: State, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(BenchError, match="cannot be read as a checkpoint, it is cut off or another kind of file"):
        layouts.load(SMALL, path)


def test_a_web_page_instead_of_a_checkpoint_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_text("\n<!DOCTYPE html><html>Google Drive can't scan this file</html>")
    with pytest.raises(BenchError, match=r"file\.pth is a web page, not a checkpoint"):
        layouts.load(SMALL, tmp_path / "file.pth")


def test_a_tensorflow_checkpoint_of_another_network_is_refused(state: State, tmp_path: Path) -> None:
    arrays = tensor_bundle.simclr_names(state)
    deeper = tensor_bundle.write(
        tmp_path / "deeper", {**arrays, "base_model/conv2d_53/kernel": arrays["base_model/conv2d_52/kernel"]}
    )
    with pytest.raises(BenchError, match="1 keys too many, base_model/conv2d_53/kernel"):
        layouts.load(SMALL, deeper)
    with pytest.raises(BenchError, match=r"conv1\.weight is \(4, 3, 7, 7\), expected \(8, 3, 7, 7\)"):
        layouts.load(Backbone(name="resnet50", base_channels=8), deeper)
    with pytest.raises(BenchError, match="of which only ResNets are read"):
        layouts.load(Backbone(name="vit_digits"), deeper)


def test_a_damaged_tensorflow_checkpoint_is_named(state: State, tmp_path: Path) -> None:
    path = tensor_bundle.write(tmp_path / "model.ckpt-1", tensor_bundle.simclr_names(state))
    index, data = path.read_bytes(), tmp_path / "model.ckpt-1.data-00000-of-00001"
    for damaged, message in (
        (index[:-100], "cut off, or another kind"),
        (index[:50] + b"?" + index[51:], "another checksum"),
        (b"", "cut off"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(BenchError, match=message):
            Bundle(path)
    path.write_bytes(index)
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(BenchError, match="the data file is cut off"):
        Bundle(path).read("head_supervised/linear_layer/dense/kernel")
    data.unlink()
    with pytest.raises(BenchError, match=r"model\.ckpt-1\.data-00000-of-00001 is missing beside the index"):
        layouts.load(SMALL, path)


def padded(x_CHW: Tensor, before: int, after: int, value: float) -> Tensor:
    channels, height, width = x_CHW.shape
    made = torch.full((channels, height + before + after, width + before + after), value)
    made[:, before : before + height, before : before + width] = x_CHW
    return made


@pytest.mark.parametrize("size", [6, 7, 8, 9])
def test_the_tensorflow_pool_equals_naive_loops(size: int) -> None:
    x = torch.randn(2, size, size, generator=torch.Generator().manual_seed(size))
    out = -(-size // 2)
    total = max((out - 1) * 2 + 3 - size, 0)  # tf.nn, "SAME": what the last window lacks; the odd one right and below
    around = padded(x, total // 2, total - total // 2, -torch.inf)
    expected = torch.empty(2, out, out)
    for row in range(out):
        for column in range(out):
            expected[:, row, column] = around[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3].amax(dim=(1, 2))
    assert torch.equal(encoders.SamePool()(x[None])[0], expected)
    same_as_torch = torch.equal(nn.MaxPool2d(3, 2, 1)(x[None])[0], expected)
    assert same_as_torch == bool(size % 2)  # for even sizes the two differ: features would be wrong unseen


@pytest.mark.parametrize(("kernel", "size"), [(7, 12), (7, 11), (3, 8), (3, 7), (1, 8)])
def test_strided_convolutions_pad_as_simclrs_fixed_padding_does(kernel: int, size: int) -> None:
    # resnet.py of google-research/simclr: (k - 1) / 2 zeros on both sides, then VALID, whatever the size.
    network = encoders.build(Backbone(name="resnet50", base_channels=2, padding="tensorflow"), seed=0)
    assert isinstance(network, encoders.ResNet)
    convolution = network.get_submodule({7: "conv1", 3: "layer2.0.conv2", 1: "layer2.0.downsample.0"}[kernel])
    assert isinstance(convolution, nn.Conv2d)
    x = torch.randn(convolution.in_channels, size, size, generator=torch.Generator().manual_seed(size))
    around = padded(x, (kernel - 1) // 2, (kernel - 1) // 2, 0.0)
    out = (around.shape[1] - kernel) // 2 + 1
    expected = torch.empty(convolution.out_channels, out, out)
    for row in range(out):
        for column in range(out):
            window = around[:, 2 * row : 2 * row + kernel, 2 * column : 2 * column + kernel]
            expected[:, row, column] = (convolution.weight * window).sum(dim=(1, 2, 3))
    torch.testing.assert_close(convolution(x[None])[0], expected)
    # BATCH_NORM_EPSILON there
    assert {norm.eps for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)} == {1e-5}


def test_padding_changes_no_old_job_and_no_weights() -> None:
    from bench.identity import to_json

    assert "padding" not in to_json(SMALL)
    assert "padding" in to_json(Backbone(name="resnet50", padding="tensorflow"))
    with_pool = encoders.build(Backbone(name="resnet50", base_channels=4, padding="tensorflow"), seed=7)
    assert list(with_pool.state_dict()) == list(encoders.build(SMALL, seed=7).state_dict())
