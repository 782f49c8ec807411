"""An encoder inside Detectron2 gives its own features, bit for bit, and each classic mistake is seen to break that."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.contracts import Subject
from bench.errors import BenchError
from bench.networks import encoders
from bench.spec import Backbone
from evals.detection import compat, weights
from evals.detection.config import build_cfg
from evals.detection.recipes import EMBEDDED_C4, EMBEDDED_FPN, VOC_MOCO, VOC_TWIST, Detector

pytestmark = pytest.mark.skipif(bool(compat.missing()), reason=compat.missing())
# Detectron2's own ResNet, narrow to be fast
STANDARD = Backbone(name="resnet50", base_channels=8, normalize="imagenet")
SMALL = Backbone(name="resnet10", base_channels=4, stem="small")
CIFAR = Backbone(name="resnet18", base_channels=4, stem="cifar")
CASES = {
    "standard C4": (STANDARD, VOC_MOCO),
    "standard FPN": (STANDARD, VOC_TWIST),
    "small C4": (SMALL, EMBEDDED_C4),
    "small FPN": (SMALL, EMBEDDED_FPN),
    "cifar FPN": (CIFAR, EMBEDDED_FPN),
}


def subject_of(backbone: Backbone) -> Subject:
    """An encoder with statistics and norms that are not the initial ones."""
    network = encoders.build(backbone, seed=1)
    rng = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in (
                (module.weight, 0.5),
                (module.bias, -0.2),
                (module.running_mean, -0.2),
                (module.running_var, 0.5),
            ):
                assert values is not None
                values.data.copy_(low + torch.rand(values.shape, generator=rng))
    return Subject(key="k", network=network.eval().requires_grad_(False), feature_dim=network.feature_dim)


def detector_of(subject: Subject, detector: Detector, **changes: Any) -> Any:
    compat.require()
    with compat.quiet():
        from detectron2.modeling import build_model

        from evals.detection import networks  # noqa: F401

        backbone = weights.spec_of(subject)
        cfg = build_cfg(detector, backbone, classes=3, masks=False, bitmasks=False, device=torch.device("cpu"))
        cfg.defrost()
        for key, value in changes.items():
            cfg.merge_from_list([key.replace("__", "."), value])
        model = build_model(cfg)
        weights.load_encoder(model, subject.network, backbone, detector.architecture)
    return model.eval()


def own_features(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """res2 to res5 of the encoder for an image in [0, 255]."""
    assert isinstance(network, encoders.ResNet)
    x = network.maxpool(network.relu(network.bn1(network.conv1(network.standardise(image[None] / 255)))))
    found = {}
    for number in range(1, 5):
        x = getattr(network, f"layer{number}")(x)
        found[f"res{number + 1}"] = x
    return found


def their_features(model: Any, image: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        images = model.preprocess_image([{"image": image}])
        trunk = getattr(model.backbone, "bottom_up", model.backbone)
        found: dict[str, Tensor] = dict(trunk(images.tensor))
        if hasattr(model.roi_heads, "res5"):
            stage = model.roi_heads.res5
            x = found["res4"]
            for name, block in stage.named_children():
                x = block(x) if name != "norm" else x
            found["res5"] = x
    return found


IMAGE = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(3)).float()


@pytest.mark.parametrize("case", CASES)
def test_features_are_the_encoders_own(case: str) -> None:
    subject = subject_of(CASES[case][0])
    model = detector_of(subject, CASES[case][1])
    theirs = their_features(model, IMAGE)
    with torch.inference_mode():
        ours = own_features(subject.network, IMAGE)
    assert "res5" in theirs
    assert len(theirs) >= 2
    for name, feature in theirs.items():
        if subject.network.normalize:  # a mean in [0, 255] rounds otherwise than one in [0, 1]: bit for bit just below
            torch.testing.assert_close(feature, ours[name], rtol=1e-3, atol=1e-3)
        else:
            assert torch.equal(feature, ours[name])


@pytest.mark.parametrize("case", CASES)
def test_features_are_bit_identical_on_the_same_normalised_input(case: str) -> None:
    subject = subject_of(CASES[case][0])
    model = detector_of(subject, CASES[case][1])
    network = subject.network
    assert isinstance(network, encoders.ResNet)
    x = model.preprocess_image([{"image": IMAGE}]).tensor
    theirs = their_features(model, IMAGE)
    with torch.inference_mode():
        x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        for number in range(1, 5):
            x = getattr(network, f"layer{number}")(x)
            if f"res{number + 1}" in theirs:
                assert torch.equal(x, theirs[f"res{number + 1}"])


def differs(subject: Subject, model: Any, image: Tensor = IMAGE) -> bool:
    with torch.inference_mode():
        ours = own_features(subject.network, IMAGE)
    return any(
        not torch.allclose(feature, ours[name], rtol=1e-2, atol=1e-2)
        for name, feature in their_features(model, image).items()
    )


def test_the_stride_in_the_wrong_convolution_would_be_seen() -> None:
    subject = subject_of(STANDARD)
    assert not differs(subject, detector_of(subject, VOC_MOCO))
    assert differs(subject, detector_of(subject, VOC_MOCO, MODEL__RESNETS__STRIDE_IN_1X1=True))


@pytest.mark.parametrize("backbone", [STANDARD, SMALL])
def test_wrong_pixel_statistics_would_be_seen(backbone: Backbone) -> None:
    subject = subject_of(backbone)
    detector = VOC_MOCO if backbone is STANDARD else EMBEDDED_C4
    other = Backbone(name="resnet10", normalize="none" if backbone.normalize == "imagenet" else "imagenet")
    mean, std = weights.pixel_statistics(other)
    assert differs(subject, detector_of(subject, detector, MODEL__PIXEL_MEAN=mean, MODEL__PIXEL_STD=std))
    assert differs(subject, detector_of(subject, detector, MODEL__PIXEL_STD=[1.0, 1.0, 1.0]))


def test_bgr_input_would_be_seen_and_the_reader_gives_rgb(tmp_path: Path) -> None:
    from PIL import Image

    subject = subject_of(STANDARD)
    model = detector_of(subject, VOC_MOCO)
    assert differs(subject, model, IMAGE.flip(0))
    Image.new("RGB", (64, 48), (200, 10, 30)).save(tmp_path / "red.png")
    cfg = build_cfg(VOC_MOCO, STANDARD, classes=3, masks=False, bitmasks=False, device=torch.device("cpu"))
    with compat.quiet():
        from detectron2.data import DatasetMapper

        read = DatasetMapper(cfg, is_train=False)({"file_name": str(tmp_path / "red.png"), "height": 48, "width": 64})
    assert read["image"][:, 0, 0].tolist() == [200, 10, 30]


def test_weights_that_do_not_fit_are_refused() -> None:
    compat.require()
    subject = subject_of(SMALL)
    model = detector_of(subject, EMBEDDED_C4)
    with pytest.raises(BenchError, match="has no place"):
        weights.load_encoder(model, subject_of(CIFAR).network, CIFAR, "C4")
    half = nn.Module()
    half.conv1 = subject.network.conv1
    with pytest.raises(BenchError, match="would stay random"):
        weights.load_encoder(model, half, SMALL, "C4")


def test_every_value_of_the_encoder_is_copied() -> None:
    for backbone, detector in CASES.values():
        subject = subject_of(backbone)
        compat.require()
        with compat.quiet():
            model = detector_of(subject, detector)
            copied = weights.load_encoder(model, subject.network, weights.spec_of(subject), detector.architecture)
        assert copied == sum(value.numel() for value in subject.network.state_dict().values())


def test_the_file_is_read_by_detectron2s_own_checkpointer(tmp_path: Path) -> None:
    subject = subject_of(STANDARD)
    path = tmp_path / "encoder.pkl"
    weights.write_weights(subject.network, path)
    fresh = detector_of(subject_of(Backbone(name="resnet50", base_channels=8, normalize="imagenet")), VOC_MOCO)
    with torch.no_grad():
        for value in fresh.state_dict().values():
            value.zero_()
    with compat.quiet():
        from detectron2.checkpoint import DetectionCheckpointer

        DetectionCheckpointer(fresh).load(str(path))
    wanted = detector_of(subject, VOC_MOCO).state_dict()
    loaded = fresh.state_dict()
    parts = [
        key
        for key in wanted
        if key.startswith(("backbone.", "roi_heads.res5.")) and "num_batches" not in key and ".res5.norm" not in key
    ]
    assert len(parts) > 200
    assert all(torch.equal(loaded[key], wanted[key]) for key in parts)
    assert set(pickle.loads(path.read_bytes())) == {"model", "__author__", "matching_heuristics"}
    with pytest.raises(BenchError, match=r"\.pkl"):
        weights.write_weights(subject.network, tmp_path / "encoder.pth")


def test_an_encoder_without_stages_is_refused() -> None:
    vit = encoders.build(Backbone(name="vit_digits"), seed=0)
    with pytest.raises(BenchError, match="needs a ResNet"):
        weights.spec_of(Subject(key="k", network=vit, feature_dim=vit.feature_dim))


@pytest.mark.parametrize("backbone", [STANDARD, SMALL, CIFAR, Backbone(name="resnet101", width=2, base_channels=4)])
def test_the_architecture_is_read_off_the_layers(backbone: Backbone) -> None:
    network = encoders.build(backbone, seed=0)
    found = weights.spec_of(Subject(key="k", network=network, feature_dim=network.feature_dim))
    assert found.base_channels == backbone.base_channels * backbone.width
    assert (found.name, found.stem, found.normalize) == (backbone.name, backbone.stem, backbone.normalize)
