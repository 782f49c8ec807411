"""Scales: budgets in which every table can run. Tables speak the paper's language; a scale translates it.

embedded   real digits, a small ResNet, two CPU cores, minutes, no download: the default
smoke      the same chain cut to seconds: shows that everything works here; its numbers mean nothing
cifar      CIFAR-10, ResNets with the CIFAR stem, one GPU, hours
paper      as published
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from bench.errors import unknown_name
from bench.settings.overrides import AS_PUBLISHED, Overrides
from bench.spec import Backbone, Data


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How the paper's words are translated."""

    name: str
    summary: str
    recipe: str  # which of a plug-in's RECIPES
    networks: Mapping[str, Backbone]  # the paper's architecture -> the one here, at width 1
    data: Mapping[str, Data]  # the paper's data set -> the one here
    shrink: float = 1.0  # further factor on the recipe's epochs
    published: bool = False  # whether numbers may be held against the printed ones
    ordered: bool = True  # whether the order of rows may be held against the printed one
    overrides: Overrides = AS_PUBLISHED  # section [recipe] of bench.toml
    # What the stand-in of a data set needs otherwise in every view, where the paper's view has it at all (is not 0).
    views: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def stand_in(self, dataset: str) -> str:
        """What is read here where the paper has a data set; "" at the published scale, but for what was chosen."""
        if dataset not in self.data or (
            self.published and self.data[dataset].name not in dict(self.overrides.data).values()
        ):
            return ""
        here = self.data[dataset]
        return f"{here.name} at {here.size} px" if here.name == dataset else here.name

    def caveat(self, datasets: Iterable[str]) -> str:
        """What a reader of a table on these data sets must know at this scale, "" at the published one."""
        if self.published:
            return ""
        names = [name for name in self.data if name in set(datasets)]
        here = " and ".join(f"{self.stand_in(name)} stands in for {NAMES.get(name, name)}" for name in names)
        return (
            f"This is not {' or '.join(dict.fromkeys(NAMES.get(name, name) for name in names))}. At the scale "
            f"{self.name!r} ({self.summary}) {here}, "
            f"so the printed numbers are no target: {self.reading}"
        )

    @property
    def reading(self) -> str:
        """What a reader may do with numbers that are not held against the printed ones."""
        if self.ordered:
            return "compare the order of the rows, not the values."
        return "the numbers show that everything works here, and neither values nor the order of rows mean anything."


def _digits_networks(base: int) -> Mapping[str, Backbone]:
    # Without zero-initialised residuals: with them an untrained network is nearly blind (39 % instead of 81 % linear
    # top-1 on the digits), which would make every method look good, and 150 steps are too few to recover (SimCLR: -2
    # points).
    return {
        "resnet50": Backbone(name="resnet10", base_channels=base, stem="small", zero_init_residual=False),
        "resnet101": Backbone(name="resnet18", base_channels=base, stem="small", zero_init_residual=False),
        "deit_small": Backbone(name="vit_digits"),
        "vit_base": Backbone(name="vit_digits"),
    }


# SimCLR's transfer to twelve data sets (arXiv:2002.05709, table 8) besides VOC2007: few classes of another source, or
# many fine ones.
_FEW_CLASSES = {"food101": "Food-101", "cifar10": "CIFAR-10", "dtd": "DTD", "pets": "Pets"}
_MANY_CLASSES = {
    "cifar100": "CIFAR-100",
    "birdsnap": "Birdsnap",
    "sun397": "SUN397",
    "cars": "Cars",
    "aircraft": "Aircraft",
    "caltech101": "Caltech-101",
    "flowers102": "Flowers",
}
# Data sets as papers write them. "imagenet-colour" is ImageNet in tables about colour: gray digits cannot stand in
# there.
NAMES = {
    "imagenet": "ImageNet",
    "imagenet-colour": "ImageNet",
    "places205": "Places205",
    "voc2007": "VOC07",
    "inat18": "iNat18",
    "coco": "COCO",
    "voc0712": "VOC07+12",
    **_FEW_CLASSES,
    **_MANY_CLASSES,
}
_DIGITS = {
    "imagenet": Data(name="mnist5k", size=32),
    "imagenet-colour": Data(name="tflat", size=32),
    "places205": Data(name="digits1797", size=32),
    "voc2007": Data(name="digit_scenes", size=64),
    "inat18": Data(name="digit_pairs", size=32),
    "coco": Data(name="scenes_coco", size=96),
    "voc0712": Data(name="scenes_voc", size=96),
    **dict.fromkeys(_FEW_CLASSES, Data(name="digits1797", size=32)),
    **dict.fromkeys(_MANY_CLASSES, Data(name="digit_pairs", size=32)),
}
# With the paper's fifth of gray views SimCLR tells flat colours apart and nothing else: it ends below an untrained
# network.
_DIGIT_VIEWS = {"imagenet-colour": {"gray": 0.5}}

SCALES: Mapping[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(
            name="embedded",
            summary="5,000 real digits, a ResNet-10, minutes on two CPU cores",
            recipe="embedded",
            networks=_digits_networks(8),
            data=_DIGITS,
            views=_DIGIT_VIEWS,
        ),
        Scale(
            name="smoke",
            summary="the embedded scale cut to one epoch and half the channels, to see that the chain works",
            recipe="embedded",
            networks=_digits_networks(4),
            data=_DIGITS,
            views=_DIGIT_VIEWS,
            shrink=1 / 36,
            ordered=False,
        ),
        Scale(
            name="cifar",
            summary="CIFAR-10 and a ResNet-18 with the CIFAR stem, hours on one GPU",
            recipe="cifar",
            networks={
                "resnet50": Backbone(name="resnet18", stem="cifar"),
                "resnet101": Backbone(name="resnet50", stem="cifar"),
                "deit_small": Backbone(name="vit_cifar"),
                "vit_base": Backbone(name="vit_cifar"),
            },
            # VOC07 is small enough to be itself. CIFAR-100 has iNat18's many fine classes, but not its long tail.
            data=dict.fromkeys(NAMES, Data(name="cifar100", size=32))
            | dict.fromkeys(("imagenet", "imagenet-colour"), Data(name="cifar10", size=32))
            | {
                "voc2007": Data(name="voc2007", size=64),
                "coco": Data(name="coco", size=224),
                "voc0712": Data(name="voc0712", size=224),
            },
        ),
        Scale(
            name="paper",
            summary="as published",
            recipe="paper",
            networks={
                "resnet50": Backbone(name="resnet50"),
                "resnet101": Backbone(name="resnet101"),
                "deit_small": Backbone(name="vit_small16"),
                "vit_base": Backbone(name="vit_base16"),
            },
            # Every data set is itself, at 224 px but for detection, whose recipes have sizes of their own.
            data={name: Data(name=name, size=800 if name in ("coco", "voc0712") else 224) for name in NAMES}
            | {"imagenet-colour": Data(name="imagenet", size=224)},
            published=True,
        ),
    )
}


def scale_of(name: str, overrides: Overrides = AS_PUBLISHED) -> Scale:
    """The scale with what bench.toml chose, as far as it concerns this scale.

    Raises BenchError with the valid names.
    """
    if name not in SCALES:
        raise unknown_name("scale", name, SCALES)
    scale = SCALES[name]
    if overrides == AS_PUBLISHED:
        return scale
    read = {here.name for here in scale.data.values()}
    instead = {paper: other for paper, other in overrides.data if paper in read}
    data = {paper: replace(here, name=instead.get(here.name, here.name)) for paper, here in scale.data.items()}
    # The other scales have images in memory, whose views are made in one way only.
    exact = overrides.exact_views and scale.published
    return replace(scale, overrides=replace(overrides, data=tuple(instead.items()), exact_views=exact), data=data)
