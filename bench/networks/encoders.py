"""Networks: ResNets of any width, the pixels themselves, and the one place that builds any network by its name.

Parameter names are torchvision's, so that released ResNet weights load by name. Widening follows SimCLR
(arXiv:2002.05709, section 4.1 and figure 7): 2x and 4x multiply the channels of every layer, unlike torchvision's
`wide_resnet`, which widens only the inside of the bottlenecks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError, unknown_name
from bench.networks import vit
from bench.networks.network import Network
from bench.seeding import seed_of
from bench.spec import Backbone


@dataclass(frozen=True)
class Layers:
    """Blocks per stage and whether they are bottlenecks (three convolutions, output 4 times as wide)."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool


RESNETS: Mapping[str, Layers] = {
    "resnet10": Layers((1, 1, 1, 1), bottleneck=False),
    "resnet18": Layers((2, 2, 2, 2), bottleneck=False),
    "resnet50": Layers((3, 4, 6, 3), bottleneck=True),
    "resnet101": Layers((3, 4, 23, 3), bottleneck=True),
    "resnet200": Layers((3, 24, 36, 3), bottleneck=True),
}


class Block(nn.Module):
    """Residual block: basic (3x3, 3x3) or bottleneck (1x1, 3x3 with the stride, 1x1)."""

    def __init__(self, inputs: int, channels: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        outputs = channels * 4 if bottleneck else channels
        self.conv1 = nn.Conv2d(
            inputs, channels, 1 if bottleneck else 3, 1 if bottleneck else stride, 0 if bottleneck else 1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride if bottleneck else 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        if bottleneck:
            self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else None
        )
        self.bottleneck = bottleneck

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the addition."""
        return self.bn3 if self.bottleneck else self.bn2

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        shortcut: Tensor = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x_BCHW)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(self.relu(y)))
        out: Tensor = self.relu(y + shortcut)
        return out


class SamePool(nn.Module):
    """3x3/2 max-pool with TensorFlow's "SAME" padding: what the windows lack, the odd pixel of it right and below.

    Sides of even length get (0, 1), odd ones (1, 1). The released SimCLR and FNC networks (google-research/simclr,
    resnet.py) have this pool; their strided convolutions pad explicitly by (k - 1) / 2 on both sides, as torchvision's.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
        height, width = x_BCHW.shape[2:]
        padded = F.pad(x_BCHW, (width % 2, 1, height % 2, 1), value=-torch.inf)
        return F.max_pool2d(padded, 3, 2)


class ResNet(Network):
    """Images (B, 3, H, W) in [0, 1] -> pooled features (B, feature_dim)."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, spec: Backbone) -> None:
        super().__init__(spec.normalize)
        layers = RESNETS[spec.name]
        channels = spec.base_channels * spec.width
        kernel, stride = {"imagenet": (7, 2), "cifar": (3, 1), "small": (3, 2)}[spec.stem]
        self.conv1 = nn.Conv2d(3, channels, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        pool = SamePool() if spec.padding == "tensorflow" else nn.MaxPool2d(3, 2, 1)
        self.maxpool = pool if spec.stem == "imagenet" else nn.Identity()
        inputs = channels
        for stage, count in enumerate(layers.blocks):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(inputs, channels, stride, bottleneck=layers.bottleneck))
                inputs = channels * 4 if layers.bottleneck else channels
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            channels *= 2
        self.feature_dim = inputs
        _initialise(self, zero_init_residual=spec.zero_init_residual)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, feature_dim)."""
        x: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(self.standardise(x_BCHW)))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x.mean(dim=(2, 3))


class PixelEncoder(nn.Module):
    """Flattens the image: (B, 3, H, W) -> (B, 3HW)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.feature_dim = 3 * size * size

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3HW)."""
        return x_BCHW.flatten(1)


def build(spec: Backbone, seed: int) -> Network:
    """The network with the initial weights of a seed; the global generator is left as it was.

    Raises BenchError for an unknown architecture or a width below 1.
    """
    check_backbone(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "weights"))
        return ResNet(spec) if spec.name in RESNETS else vit.VisionTransformer(spec)


def check_backbone(spec: Backbone, sizes: Iterable[int] = ()) -> None:
    """Raises BenchError for an unknown architecture, a width below 1, or image sizes it cannot take.

    Cheap enough for plan time.
    """
    known = (*RESNETS, *vit.VITS)
    if spec.name not in known:
        raise unknown_name("architecture", spec.name, known)
    if spec.width < 1 or spec.base_channels < 1:
        raise BenchError(f"{spec.name}: width {spec.width} and base_channels {spec.base_channels} must be at least 1.")
    if spec.name in RESNETS and spec.positions != "size":
        raise BenchError(f"{spec.name}: positions is {spec.positions!r}, a choice of transformers; leave it at 'size'.")
    if spec.name in vit.VITS:
        vit.check_transformer(spec, sizes)


def assumptions(spec: Backbone) -> str:
    """What a network is beyond the names and shapes of its weights: no checkpoint says it."""
    if spec.name in vit.VITS:
        return vit.assumptions(spec)
    pool = "TensorFlow" if spec.padding == "tensorflow" else "PyTorch"
    stem = {
        "imagenet": f"7x7/2 stem, max-pool padded as {pool} does",
        "cifar": "3x3/1 stem, no pool",
        "small": "3x3/2 stem, no pool",
    }[spec.stem]
    return f"{stem}, strides in the 3x3 convolutions"


def parameters(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in network.parameters())


def _initialise(network: nn.Module, *, zero_init_residual: bool) -> None:
    """He initialisation of the convolutions as in torchvision.

    Last norm of each block 0 on request (arXiv:1706.02677).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in network.modules():
        if zero_init_residual and isinstance(module, Block):
            nn.init.zeros_(module.last_norm.weight)
