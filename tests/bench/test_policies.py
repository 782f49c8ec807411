from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import AutoAugment, AutoAugmentPolicy, InterpolationMode, RandAugment
from torchvision.transforms.v2 import functional as T

from bench.data import loader
from bench.data.datasets import open_split
from bench.data.splits import Arrays, SplitData
from bench.data.views import augment, draws, policies
from bench.errors import BenchError
from bench.identity import canonical
from bench.planning.scales import SCALES
from bench.planning.translate import Change, recipe_of
from bench.seeding import generator
from bench.settings.site import Site
from bench.spec import Augment, Data

CPU = torch.device("cpu")
NAMES = policies.OPERATIONS
POLICIES = ("autoaugment", "randaugment", "randaugment_released")
THEIRS = AutoAugment(fill=128)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(count: int = 6, side: int = 24) -> Tensor:
    """uint8 noise on a smooth ground: no image is symmetric, every one has its own range of values."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    waves = torch.stack([0.5 + 0.3 * torch.sin(3 * x + 5 * y * y + phase) for phase in torch.arange(3.0 * count)]).view(
        count, 3, side, side
    )
    return ((waves + 0.15 * torch.rand(waves.shape, generator=rng(9))).clamp(0.05, 0.95) * 255).to(torch.uint8)


def torchvisions(image: Tensor, operation: str, magnitude: float) -> Tensor:
    """torchvision's own building block, with nearest-neighbour resampling and gray where nothing is."""
    changed: Tensor = THEIRS._apply_image_or_video_transform(
        image, operation, magnitude, InterpolationMode.NEAREST, THEIRS._fill
    )
    return changed


def magnitude_of(operation: str, amount: float, side: int) -> float:
    """Our amount as torchvision counts it."""
    if operation in ("Brightness", "Color", "Contrast", "Sharpness"):
        return amount - 1
    if operation.startswith("Translate"):
        return amount * side
    return amount / 255 if operation == "Solarize" else amount


OWN = ("SolarizeAdd", "Cutout", "PixelContrast")  # torchvision has none of these
SHARED = [name for name in NAMES if name not in ("Identity", *OWN)]
SHEARS, SHARES, FACTORS = (0.3, -0.21, 0.1), (0.3, -0.2, 0.45), (1.9, 0.1, 1.36, 1.0)
AMOUNTS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("ShearX", "ShearY"), SHEARS),
    **dict.fromkeys(("TranslateX", "TranslateY"), SHARES),
    "Rotate": (30.0, -21.0, 7.0),
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), FACTORS),
    "Posterize": (2.0, 4.0, 7.0),
    "Solarize": (0.0, 179.0, 255.0),
}


@pytest.mark.parametrize("operation", SHARED)
def test_an_operation_equals_torchvisions(operation: str) -> None:
    images = photos()
    for amount in AMOUNTS.get(operation, (0.0,)):
        found = policies.apply_one(images, operation, amount, torch.zeros(len(images), 2))
        expected = torch.stack(
            [torchvisions(image, operation, magnitude_of(operation, amount, 24)) for image in images]
        )
        assert torch.equal(found, expected), amount
    assert not torch.equal(
        policies.apply_one(images, operation, AMOUNTS.get(operation, (0.0,))[0], torch.zeros(len(images), 2)), images
    )


def test_solarize_add_lightens_what_is_dark_and_stops_at_white() -> None:
    image = torch.tensor([0, 50, 127, 128, 255], dtype=torch.uint8).expand(1, 3, 2, 5)
    found = policies.apply_one(image, "SolarizeAdd", 77.0, torch.zeros(1, 2))
    assert found[0, 1, 1].tolist() == [77, 127, 204, 128, 255]
    assert policies.apply_one(image, "SolarizeAdd", 200.0, torch.zeros(1, 2))[0, 0, 0].tolist() == [
        200,
        250,
        255,
        128,
        255,
    ]


def test_cutout_grays_a_square_around_its_centre_and_loses_what_lies_outside() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    found = policies.apply_one(images, "Cutout", 0.5, torch.tensor([[0.5, 0.6], [0.0, 0.999]]))
    assert set(found.flatten().tolist()) == {0, 128}
    for view, rows, columns in ((found[0], slice(2, 6), slice(2, 6)), (found[1], slice(0, 2), slice(5, 8))):
        expected = torch.zeros(3, 8, 8, dtype=torch.uint8)
        expected[:, rows, columns] = 128
        assert torch.equal(view, expected)


@pytest.mark.parametrize(("side", "level"), [(224, 196), (64, 16), (300, 255)])
def test_the_released_contrast_blends_with_the_number_of_pixels_over_256(side: int, level: int) -> None:
    """autoaugment.py: mean = sum of a histogram / 256, clipped and cut to 8 bits; blend cuts off the fraction."""
    images = photos(2, side)
    found = policies.apply_one(images, "PixelContrast", 1.36, torch.zeros(2, 2))
    expected = (level + 1.36 * (images.double() - level)).clamp(0, 255)
    assert float((expected - 0.5 - found).abs().max()) <= 0.5 + 1e-4  # float32 may lie just below a whole level


def test_autoaugment_is_the_published_policy() -> None:
    theirs = THEIRS._get_policies(AutoAugmentPolicy.IMAGENET)
    ours = [[(name, chance, level) for name, chance, level in pair] for pair in policies.AUTOAUGMENT]
    assert ours == [[(name, chance, level or 0) for name, chance, level in pair] for pair in theirs]
    for name, (levels, signed) in THEIRS._AUGMENTATION_SPACE.items():
        magnitudes = levels(10, 24, 24)
        for level in range(10) if magnitudes is not None else ():
            ours_here = magnitude_of(name, policies.amount_of(name, level), 24)
            assert ours_here == pytest.approx(float(magnitudes[level]), abs=1e-5), (name, level)
        assert signed == (
            name
            in (
                "ShearX",
                "ShearY",
                "TranslateX",
                "TranslateY",
                "Rotate",
                "Brightness",
                "Color",
                "Contrast",
                "Sharpness",
            )
        )


def test_randaugment_is_magnitude_seven_of_the_released_code() -> None:
    amounts = {name: amount for name, amount, _ in policies.RANDAUGMENT}
    assert len(amounts) == 16
    assert set(amounts) == set(NAMES) - {"Identity", "PixelContrast"}
    assert set(RandAugment._AUGMENTATION_SPACE) - set(amounts) == {"Identity"}  # the paper's own set has it
    signed = {name for name, _, turns in policies.RANDAUGMENT if turns}
    assert signed == {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
    assert amounts["Rotate"] == pytest.approx(0.7 * 30)
    assert amounts["ShearX"] == amounts["ShearY"] == pytest.approx(0.7 * 0.3)
    assert [amounts[name] for name in ("Color", "Contrast", "Brightness", "Sharpness")] == pytest.approx(
        [0.7 * 1.8 + 0.1] * 4
    )
    assert (amounts["Posterize"], amounts["Solarize"], amounts["SolarizeAdd"]) == (
        int(0.7 * 4),
        int(0.7 * 256),
        int(0.7 * 110),
    )
    image = torch.full((1, 3, 224, 224), 255, dtype=torch.uint8)
    moved = policies.apply_one(image, "TranslateX", amounts["TranslateX"], torch.zeros(1, 2))
    assert int((moved[0, 0, 0] == 128).sum()) == 70  # translate_const 100
    cut = policies.apply_one(image, "Cutout", amounts["Cutout"], torch.full((1, 2), 0.5))
    assert int((cut[0, 0] == 128).sum()) == 56 * 56  # cutout_const 40: 28 px to each side


# -- draws -----------------------------------------------------------------------------------------------------------


def is_share(found: int, count: int, chance: float) -> bool:
    return abs(found / count - chance) <= 5 * math.sqrt(chance * (1 - chance) / count)


def test_autoaugment_draws_pairs_with_their_probabilities_and_signs() -> None:
    count = 40_000
    drawn = policies.draw("autoaugment", count, rng())
    first = Counter(NAMES[index] for index in drawn[:, 0, 0].int().tolist())
    second = Counter(NAMES[index] for index in drawn[:, 1, 0].int().tolist())
    for place, seen in enumerate((first, second)):
        expected: Counter[str] = Counter()
        for pair in policies.AUTOAUGMENT:
            name, chance, _ = pair[place]
            expected[name] += chance / 25  # type: ignore[assignment]
        for name, chance in expected.items():
            assert is_share(seen[name], count, chance), (place, name)
        assert set(seen) == {name for name, chance in expected.items() if chance} | {"Identity"}
    # Both places follow one sub-policy: ShearX comes only before Equalize, which always acts there.
    sheared = drawn[drawn[:, 0, 0] == NAMES.index("ShearX")]
    assert set(sheared[:, 1, 0].tolist()) == {NAMES.index("Equalize")}
    amounts = sheared[:, 0, 1]
    assert sorted(set(amounts.tolist())) == pytest.approx([-0.3 * 5 / 9, 0.3 * 5 / 9])
    assert is_share(int((amounts > 0).sum()), len(amounts), 0.5)
    contrast = drawn[drawn[:, 1, 0] == NAMES.index("Contrast")][:, 1, 1]
    assert sorted(set(contrast.tolist())) == pytest.approx([1 - 0.8, 1 + 0.8])  # a factor turns around 1


def test_randaugment_draws_two_independent_operations_that_act_half_the_time() -> None:
    count = 40_000
    drawn = policies.draw("randaugment", count, rng())
    for place in range(2):
        seen = Counter(NAMES[index] for index in drawn[:, place, 0].int().tolist())
        assert is_share(seen["Identity"], count, 0.5)
        assert all(is_share(seen[name], count, 0.5 / 16) for name, *_ in policies.RANDAUGMENT)
    both = (drawn[:, 0, 0] == NAMES.index("Invert")) & (drawn[:, 1, 0] == NAMES.index("Rotate"))
    assert is_share(int(both.sum()), count, (0.5 / 16) ** 2)
    turned = drawn[drawn[:, 0, 0] == NAMES.index("Rotate")][:, 0, 1]
    assert set(turned.tolist()) == {21.0, -21.0}
    assert is_share(int((turned > 0).sum()), len(turned), 0.5)
    assert set(drawn[drawn[:, 0, 0] == NAMES.index("Color")][:, 0, 1].tolist()) == {1.36}  # never paler
    centre = drawn[:, :, 2:]
    assert float(centre.min()) >= 0
    assert float(centre.max()) < 1
    assert float(centre.mean()) == pytest.approx(0.5, abs=0.01)


def test_the_released_randaugment_acts_twice_on_every_view() -> None:
    count = 40_000
    drawn = policies.draw("randaugment_released", count, rng())
    assert float((drawn[:, :, 0] != NAMES.index("Identity")).double().sum(dim=1).mean()) == 2.0
    expected = {"PixelContrast" if name == "Contrast" else name for name, *_ in policies.RANDAUGMENT}
    for place in range(2):
        seen = Counter(NAMES[index] for index in drawn[:, place, 0].int().tolist())
        assert set(seen) == expected
        assert all(is_share(found, count, 1 / 16) for found in seen.values())
    half = policies.draw("randaugment", count, rng())
    acting = half[:, :, 0] > 0
    assert torch.equal(half[:, :, 1][acting], drawn[:, :, 1][acting])  # the amounts are the same


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_changes_nothing_else_that_is_drawn(policy: str) -> None:
    plain = Augment(size=24, rotation=20.0, brightness=0.4, hue=0.1, gray=0.2, blur=0.5, solarize=0.2)
    without, with_it = (draws.draw(spec, 32, rng(3)) for spec in (plain, replace(plain, policy=policy)))  # type: ignore[arg-type]
    for f in fields(draws.Draw):
        if f.name != "policy_BP4":
            assert torch.equal(getattr(without, f.name), getattr(with_it, f.name)), f.name
    assert (without.policy_BP4.shape, with_it.policy_BP4.shape) == ((32, 0, 4), (32, 2, 4))
    untouched = rng(5)
    policies.draw("none", 32, untouched)
    assert torch.equal(untouched.get_state(), rng(5).get_state())
    assert torch.equal(policies.draw(policy, 32, rng(1)), policies.draw(policy, 32, rng(1)))
    assert not torch.equal(policies.draw(policy, 32, rng(1)), policies.draw(policy, 32, rng(2)))


def test_a_view_without_a_policy_keeps_its_job_id() -> None:
    assert "policy" not in cast(dict[str, object], canonical(Augment(size=32)))
    assert cast(dict[str, object], canonical(Augment(size=32, policy="autoaugment")))["policy"] == "autoaugment"


# -- views -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_equals_its_images_one_by_one_through_torchvision(policy: str) -> None:
    images = photos(400)
    drawn = policies.draw(policy, len(images), rng(2))
    found = policies.apply(images / 255, drawn)
    for row, (image, places) in enumerate(zip(images, drawn.tolist(), strict=True)):
        expected = image
        for operation, amount, *centre in places:
            name = NAMES[int(operation)]
            if name in OWN:
                expected = policies.apply_one(expected[None], name, amount, torch.tensor([centre]))[0]
            elif name != "Identity":
                expected = torchvisions(expected, name, magnitude_of(name, amount, 24))
        assert torch.equal((found[row] * 255).round().to(torch.uint8), expected), (row, places)
    assert {NAMES[int(index)] for index in drawn[:, :, 0].flatten().tolist()} >= {
        "Rotate",
        "Equalize",
        "Color",
        *(["PixelContrast"] if policy == "randaugment_released" else ["Identity"]),
    }


def test_views_are_rounded_to_eight_bits() -> None:
    views = torch.rand(8, 3, 24, 24, generator=rng())
    found = policies.apply(views, torch.zeros(8, 2, 4, dtype=torch.float64))
    assert torch.equal(found, (views * 255).round() / 255)
    beyond = torch.tensor([-0.01, 1.004]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert policies.apply(beyond, torch.zeros(1, 2, 4, dtype=torch.float64))[0, 0, 0].tolist() == [0, 1]


def test_the_policy_comes_after_the_flip_and_before_the_jitter() -> None:
    images = photos(2, 24)
    yes = torch.ones(2, dtype=torch.bool)
    spec = Augment(size=24, policy="randaugment", jitter=1.0, brightness=0.5)
    sheared = torch.tensor(
        [[NAMES.index("ShearX"), 0.21, 0, 0], [NAMES.index("Solarize"), 179, 0, 0]], dtype=torch.float64
    ).expand(2, 2, 4)
    drawn = replace(
        draws.draw(spec, 2, rng()),
        area_BT=torch.ones(2, draws.TRIES),
        ratio_BT=torch.ones(2, draws.TRIES),
        flip_B=yes,
        jitter_B=yes,
        factor_B4=torch.tensor([0.5, 1, 1, 0]).expand(2, 4),
        policy_BP4=sheared,
    )
    expected = T.hflip(images)
    for name, amount in (("ShearX", 0.21), ("Solarize", 179 / 255)):
        expected = torch.stack([torchvisions(image, name, amount) for image in expected])
    torch.testing.assert_close(augment.apply(images, spec, drawn), expected / 255 * 0.5)


@pytest.fixture(params=["arrays", "files"])
def split(request: pytest.FixtureRequest, here: Site, photographs: Path) -> SplitData:
    if request.param == "files":
        return open_split(Data(name="imagenet", size=32), "train", replace(here, data={"imagenet": photographs}))
    colours = cast(Arrays, open_split(Data(name="tflat", size=32), "train", here))
    return Arrays(colours.images[::150], colours.labels[::150], 10)


@pytest.mark.parametrize("policy", POLICIES)
def test_images_in_memory_and_on_disk_take_the_same_path(policy: str, split: SplitData) -> None:
    plain = Augment(size=24, flip=0.5)
    view = replace(plain, policy=policy)  # type: ignore[arg-type]
    plan = loader.Plan(images=len(split), batch_size=16, seed=5)
    without, with_it = (
        next(loader.train_batches(split, (v,), plan, range(1), CPU, workers=0)).views[0] for v in (plain, view)
    )
    drawn = draws.draw(view, 16, generator(plan.seed, "augment", 0, 0))
    assert torch.equal(with_it, policies.apply(without, drawn.policy_BP4))
    assert not torch.equal(with_it, without)


@pytest.mark.parametrize("policy", POLICIES)
def test_ranks_together_see_exactly_the_views_of_one_process(policy: str, split: SplitData) -> None:
    view = Augment(size=24, policy=policy, hue=0.1)  # type: ignore[arg-type]
    plan = loader.Plan(images=len(split), batch_size=16, seed=5)

    def read(plan: loader.Plan) -> Tensor:
        return next(loader.train_batches(split, (view,), plan, range(1), CPU, workers=0)).views[0]

    assert torch.equal(torch.cat([read(replace(plan, rank=rank, world=2)) for rank in range(2)]), read(plan))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_gpu_makes_the_views_of_the_cpu(policy: str) -> None:
    images, drawn = photos(200) / 255, policies.draw(policy, 200, rng(2))
    found = policies.apply(images.cuda(), drawn)
    assert found.is_cuda
    differing = ((found.cpu() - policies.apply(images, drawn)).abs().amax(dim=(1, 2, 3)) > 2 / 255).float().mean()
    assert float(differing) < 0.05  # nearest-neighbour ties at the rim of turned images


# -- refusals --------------------------------------------------------------------------------------------------------


def test_an_unknown_policy_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        BenchError,
        match=r"unknown augmentation policy 'autoaugmnt'\. Did you mean 'autoaugment'\? Allowed: autoaugment, none, "
        r"randaugment",
    ):
        augment.check_view(Augment(size=32, policy="autoaugmnt"))  # type: ignore[arg-type]
    for policy in policies.POLICIES:
        augment.check_view(Augment(size=32, policy=policy))  # type: ignore[arg-type]


def test_an_unknown_transformation_is_refused_with_the_nearest_when_a_table_is_planned() -> None:
    recipe, _ = recipe_of("simclr", SCALES["embedded"])
    with pytest.raises(
        BenchError, match=r"unknown field of bench\.spec 'solarise'\. Did you mean 'solarize'\? Allowed: .*gray"
    ):
        Change(views={"solarise": 0.2}).apply(recipe, SCALES["embedded"])
