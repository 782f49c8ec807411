"""From an encoder's weights to Detectron2's: in memory, into a built model, or as a file for Detectron2's own tools.

Names change, values do not. Four mistakes are made here again and again, and each has a test: the stride of a
bottleneck in the 1x1 instead of the 3x3 convolution, pixel statistics in [0, 1] instead of [0, 255] (or ImageNet's for
an encoder that was trained without), BGR instead of RGB, and weights that silently stay random because a name did not
match.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from bench.contracts import Subject
from bench.errors import BenchError
from bench.files import atomic_path
from bench.networks import encoders
from bench.networks.network import IMAGENET_MEAN, IMAGENET_STD
from bench.spec import Backbone


def spec_of(subject: Subject) -> Backbone:
    """The architecture of a subject, read off its layers.

    Raises BenchError for what is no ResNet: detectors need its stages.
    """
    network = subject.network
    if not isinstance(network, encoders.ResNet):
        raise BenchError(
            f"detection needs a ResNet with its four stages, found {type(network).__name__}: leave this row out of "
            "the column."
        )
    stages = [getattr(network, f"layer{number}") for number in range(1, 5)]
    depths = tuple(len(stage) for stage in stages)
    shape = encoders.Layers(depths, bottleneck=stages[0][0].bottleneck)  # type: ignore[arg-type]
    name = next(name for name, layers in encoders.RESNETS.items() if layers == shape)
    kernel, stride = network.conv1.kernel_size[0], network.conv1.stride[0]
    stem: Literal["imagenet", "cifar", "small"] = "imagenet" if kernel == 7 else "small" if stride == 2 else "cifar"
    return Backbone(
        name=name,
        base_channels=network.conv1.out_channels,
        stem=stem,
        normalize="imagenet" if network.normalize else "none",
    )


def is_standard(backbone: Backbone) -> bool:
    """Whether Detectron2's own ResNet is this network: ImageNet's stem and bottlenecks."""
    return backbone.stem == "imagenet" and encoders.RESNETS[backbone.name].bottleneck


def pixel_statistics(backbone: Backbone) -> tuple[list[float], list[float]]:
    """PIXEL_MEAN and PIXEL_STD for RGB images in [0, 255], so that the first layer sees what it was trained on."""
    if backbone.normalize == "imagenet":
        return [255 * v for v in IMAGENET_MEAN], [255 * v for v in IMAGENET_STD]
    return [0.0] * 3, [255.0] * 3


def to_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's state by Detectron2's names, which are torchvision's renamed.

    For instance stem.conv1.weight and res2.0.conv1.norm.weight.
    """
    return {_renamed(key): value for key, value in state.items()}


def _renamed(key: str) -> str:
    parts = key.split(".")
    if not parts[0].startswith("layer"):
        return f"stem.conv1.norm.{parts[1]}" if parts[0] == "bn1" else f"stem.{key}"
    stage, block, layer, *rest = parts
    if layer == "downsample":
        place, leaf = rest
        name = f"shortcut.{leaf}" if place == "0" else f"shortcut.norm.{leaf}"
    else:
        name = f"{layer.replace('bn', 'conv')}.norm.{rest[0]}" if layer.startswith("bn") else f"{layer}.{rest[0]}"
    return f"res{int(stage[-1]) + 1}.{block}.{name}"


def write_weights(network: nn.Module, path: Path) -> None:
    """A file for MODEL.WEIGHTS of Detectron2: a .pkl, which is what its checkpointer wants.

    Only ever written here, never read.
    """
    if path.suffix != ".pkl":
        raise BenchError(f"Detectron2 takes converted weights from a .pkl file, found {path.name}.")
    arrays = {
        key: value.detach().cpu().numpy()
        for key, value in to_detectron2(network.state_dict()).items()
        if "num_batches" not in key
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(pickle.dumps({"model": arrays, "__author__": "ssl-tables", "matching_heuristics": True}))


def load_encoder(model: nn.Module, network: nn.Module, backbone: Backbone, architecture: str) -> int:
    """Put the encoder into a detector: trunk into the backbone and, in C4, the last stage into the head.

    Returns the values copied.

    Raises BenchError unless every weight of the encoder goes to exactly one place of the same shape and leaves no
    weight of those parts random.
    """
    standard = is_standard(backbone)
    source = to_detectron2(network.state_dict()) if standard else dict(network.state_dict())
    trunk = "backbone." if architecture == "C4" else "backbone.bottom_up."
    last, head = ("res5." if standard else "layer4."), "roi_heads.res5."
    target = model.state_dict()
    wanted = {}
    for key, value in source.items():
        name = head + key.removeprefix(last) if architecture == "C4" and key.startswith(last) else trunk + key
        if name not in target or target[name].shape != value.shape:
            raise BenchError(f"the encoder's {key} {tuple(value.shape)} has no place in the detector ({name}).")
        wanted[name] = value
    parts = {name for name in target if name.startswith(trunk) or (architecture == "C4" and name.startswith(head))}
    random = {name for name in parts - set(wanted) if not name.startswith(head + "norm.")}
    if random:
        raise BenchError(
            f"{len(random)} weights of the detector's backbone would stay random, e.g. {sorted(random)[0]}."
        )
    with torch.no_grad():
        for name, value in wanted.items():
            target[name].copy_(value)
    return sum(value.numel() for value in wanted.values())
