from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Facts, Recipe
from bench.errors import BenchError, Stopped
from bench.networks.encoders import build
from bench.networks.vit import Block
from bench.planning.refusals import check_pretrain
from bench.planning.scales import SCALES, scale_of
from bench.planning.translate import encoder
from bench.runs.folder import RunFolder
from bench.settings.site import Site
from bench.spec import Augment, Backbone, Pretrain
from bench.training import loop
from bench.training.ranks import Ranks
from methods.dino import RECIPES, VARIANTS, Config, LastLayer, Method, clip_each, dino_loss, projector, temperature_of
from tests.conftest import TINY


def spec_of(scale: str = "embedded", variant: str = "") -> Pretrain:
    network = variant or "resnet50"
    made = encoder(
        scale_of(scale), "dino", variant=variant, network=network, width=1, epochs=None, dataset="imagenet", seed=0
    )
    assert isinstance(made, Pretrain)
    return made


def logits(rows: int, classes: int, *, seed: int) -> Tensor:
    return torch.rand(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def softmaxed(row: list[Tensor], temperature: float) -> list[Tensor]:
    powers = [torch.exp(value / temperature) for value in row]
    return [power / torch.stack(powers).sum() for power in powers]


def naive(
    teacher: list[Tensor], student: list[Tensor], center: Tensor, teacher_temperature: float, student_temperature: float
) -> Tensor:
    """Equations 1 to 3 with the centre of section 3.1: for each teacher's view and each other view -P_t log P_s."""
    terms = []
    for own, targets in enumerate(teacher):
        for other, view in enumerate(student):
            if other == own:
                continue
            for image in range(len(view)):
                q = softmaxed([targets[image, k].detach() - center[k] for k in range(len(center))], teacher_temperature)
                p = softmaxed(list(view[image]), student_temperature)
                terms.append(-torch.stack([a * torch.log(b) for a, b in zip(q, p, strict=True)]).sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("views", [2, 4])
def test_loss_equals_naive_loops_with_its_gradient(views: int) -> None:
    teacher = [logits(3, 4, seed=seed).requires_grad_() for seed in (1, 2)]
    student = [logits(3, 4, seed=10 + seed).requires_grad_() for seed in range(views)]
    center = logits(1, 4, seed=20)[0] / 10
    rows, _ = dino_loss(teacher, student, center, teacher_temperature=0.05, student_temperature=0.1)
    ours, theirs = rows.mean(), naive(teacher, student, center, 0.05, 0.1)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    for found, expected in zip(
        *(torch.autograd.grad(loss, student, retain_graph=True) for loss in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert all(gradient is None for gradient in torch.autograd.grad(ours, teacher, allow_unused=True))


def test_one_value_an_image_and_the_entropy_of_the_teacher() -> None:
    teacher, student = ([logits(3, 4, seed=seed) for seed in seeds] for seeds in ((1, 2), (3, 4, 5)))
    center = torch.zeros(4, dtype=torch.float64)
    rows, entropy = dino_loss(teacher, student, center, teacher_temperature=0.5, student_temperature=0.1)
    for image in range(3):
        targets, views = ([view[image : image + 1] for view in both] for both in (teacher, student))
        assert float(rows[image]) == pytest.approx(float(naive(targets, views, center, 0.5, 0.1)))
        q = [(view[image] / 0.5).softmax(dim=0) for view in teacher]
        assert float(entropy[image]) == pytest.approx(sum(float(-(p * p.log()).sum()) for p in q) / 2)


def test_known_answers() -> None:
    rows, entropy = dino_loss(
        [torch.zeros(2, 8)] * 2,
        [torch.zeros(2, 8)] * 2,
        torch.zeros(8),
        teacher_temperature=0.04,
        student_temperature=0.1,
    )
    torch.testing.assert_close(rows, torch.full((2,), math.log(8)))
    torch.testing.assert_close(entropy, rows)
    one = torch.eye(3)[:1]
    rows, entropy = dino_loss([one] * 2, [one] * 2, torch.zeros(3), teacher_temperature=0.04, student_temperature=0.1)
    assert float(entropy) < 1e-6
    assert float(rows) == pytest.approx(math.log1p(2 * math.exp(-10)), rel=1e-3)
    # The centre takes away what all images have in common.
    rows, _ = dino_loss([one] * 2, [torch.zeros(1, 3)] * 2, one[0], teacher_temperature=0.04, student_temperature=0.1)
    assert float(rows) == pytest.approx(math.log(3))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 or more views"):
        dino_loss(
            [torch.zeros(2, 3)], [torch.zeros(2, 3)], torch.zeros(3), teacher_temperature=1, student_temperature=1
        )
    with pytest.raises(ValueError, match=r"a \(K,\) center, got \[\(2, 3\)\] and \(4,\)"):
        dino_loss(
            [torch.zeros(2, 3)] * 2,
            [torch.zeros(2, 3)] * 2,
            torch.zeros(4),
            teacher_temperature=1,
            student_temperature=1,
        )


def test_the_teachers_temperature_rises_in_equal_steps_one_an_epoch() -> None:
    found = [temperature_of(epoch, 0.04, 0.07, 4) for epoch in range(6)]
    assert found == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07, 0.07])
    assert temperature_of(0, 0.04, 0.07, 0) == 0.07
    assert temperature_of(0, 0.04, 0.07, 1) == 0.04


def test_gradients_are_clipped_one_tensor_at_a_time() -> None:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.03, 0.04])
    clip_each(parameters, 0.3)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.18, 0.24]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.03, 0.04]))
    assert parameters[2].grad is None


def test_the_head_is_the_released_one() -> None:
    made = projector(300, 200, 100, norm=True)
    assert [type(layer) for layer in made] == [nn.Linear, nn.BatchNorm1d, nn.GELU] * 2 + [nn.Linear]
    assert [type(layer) for layer in projector(300, 200, 100, norm=False)] == [nn.Linear, nn.GELU] * 2 + [nn.Linear]
    for layer in made:
        if isinstance(layer, nn.Linear):
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
            assert not layer.bias.any()


def test_the_last_layer_has_rows_of_length_one_that_learn_where_asked() -> None:
    fixed, free = (LastLayer(5, 7, learn_gain=learn) for learn in (False, True))
    assert fixed.gain is None
    assert free.gain is not None
    assert free.gain.requires_grad
    assert free.gain.ndim == 2  # so that it is decayed
    free.load_state_dict(fixed.state_dict(), strict=False)
    z = torch.randn(3, 5)
    torch.testing.assert_close(fixed(z), z @ F.normalize(fixed.direction, dim=1).T)
    torch.testing.assert_close(free(z), fixed(z))
    with torch.no_grad():
        free.gain.mul_(2)
    torch.testing.assert_close(free(z), 2 * fixed(z))
    with torch.autocast("cpu", torch.bfloat16):
        assert fixed(fixed.unit(z.bfloat16())).dtype == torch.float32


SMALL = Config(classes=6, hidden=16, bottleneck=5, temperature_epochs=3, momentum=0.9)
FACTS = Facts(backbone=TINY, feature_dim=12, classes=10, images=64, batch_size=8, steps=80, seed=0)  # 8 steps an epoch


class Flat(nn.Module):
    """An encoder with one layer and a norm, for squares of any size; counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 12)
        self.norm = nn.BatchNorm1d(12)
        self.passes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        out: Tensor = self.norm(self.layer(F.adaptive_avg_pool2d(x, 8).flatten(1)))
        return out


def batch(seed: int = 0, *, local: int = 0, images: int = 8) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    sizes = (16, 16, *(8,) * local)
    views = [torch.rand(images, 3, size, size, generator=rng) for size in sizes]
    return Batch(views=views, labels=torch.zeros(images), indices=torch.arange(images))


def made(config: Config = SMALL) -> Method:
    torch.manual_seed(0)
    return Method(config, Flat(), FACTS)


def stepped(network: Method, step: int, images: Batch) -> Tensor:
    """One step of the training loop; returns the loss."""
    found = network.embed(images)
    loss = network.loss(found, images.labels)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    network.before_step(step / FACTS.steps)
    network.after_step((step + 1) / FACTS.steps)
    return loss


def test_the_teacher_sees_the_global_crops_only_and_equally_large_crops_share_a_pass() -> None:
    network = made()
    found = network.embed(batch(local=3))
    assert network.encoder.passes == [16, 24]
    assert network.teacher[0].passes == [16]
    assert all(len(rows) == 8 for rows in found.values())
    assert next(iter(found)) == "z"
    torch.testing.assert_close(found["z"].norm(dim=1), torch.ones(8))


def test_loss_center_and_temperature_put_together_step_by_step() -> None:
    """Logits of all images and views at once, as in the paper, against one loss an image and a mean of bottlenecks."""
    network, center = made(), torch.zeros(6)
    for step in range(26):
        images = batch(step, local=2)
        features = torch.cat(
            [network.encoder(torch.cat(images.views[:2])), network.encoder(torch.cat(images.views[2:]))]
        )
        student = network.last(F.normalize(network.projector(features), dim=1)).chunk(4)
        backbone, head, last = network.teacher
        teacher = last(F.normalize(head(backbone(torch.cat(images.views[:2]))), dim=1)).chunk(2)
        warm = [0.04, 0.055, 0.07, 0.07][step // 8]
        expected, _ = dino_loss(teacher, student, center, teacher_temperature=warm, student_temperature=0.1)
        torch.testing.assert_close(network.center, center)
        torch.testing.assert_close(stepped(network, step, images), expected.mean())
        center = 0.9 * center + 0.1 * torch.cat(teacher).mean(dim=0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
    assert float(network.center.abs().max()) > 0.01


def test_the_center_waits_for_the_end_of_the_step() -> None:
    """Gradient caching embeds a batch again after its loss: both passes must see the same center."""
    network = made()
    network.loss(network.embed(batch()), torch.zeros(8))
    assert not network.center.any()
    network.after_step(1 / FACTS.steps)
    assert network.center.any()


def test_gradient_reaches_student_and_never_the_teacher_and_the_last_layer_learns_after_its_epochs() -> None:
    for step, learns in ((0, False), (7, False), (8, True)):
        network = made(replace(SMALL, learn_gain=True))
        stepped(network, step, batch())
        for name, parameter in network.named_parameters():
            if name.startswith("teacher"):
                assert not parameter.requires_grad
                assert parameter.grad is None
            elif name.startswith("last"):
                assert (parameter.grad is not None) is learns, name
            elif name != "encoder.layer.bias":  # undone by the norm after it
                assert parameter.grad is not None
                assert float(parameter.grad.abs().max()) > 0, name


def test_clipping_acts_before_the_step() -> None:
    free, clipped = made(), made(replace(SMALL, clip=1e-3))
    for network in (free, clipped):
        stepped(network, 9, batch())
    assert all(float(p.grad.norm()) <= 1e-3 * 1.001 for p in clipped.parameters() if p.grad is not None)
    assert any(float(p.grad.norm()) > 1e-2 for p in free.parameters() if p.grad is not None)


def test_teacher_starts_equal_and_follows_with_the_momentum_before_the_step() -> None:
    network = made(replace(SMALL, learn_gain=True))
    pairs = list(zip(network.teacher, (network.encoder, network.projector, network.last), strict=True))
    slow = [p for part, _ in pairs for p in part.parameters()]
    fast = [p for _, part in pairs for p in part.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(slow, fast, strict=True))
    before = [p.clone() for p in slow]
    with torch.no_grad():
        for p in fast:
            p.add_(1)
    network.after_step(1 / FACTS.steps)
    for p, old in zip(slow, before, strict=True):
        torch.testing.assert_close(p, old + 0.1)
    middle = [p.clone() for p in slow]
    network.after_step(0.5 + 1 / FACTS.steps)
    for p, old, start in zip(slow, middle, before, strict=True):
        torch.testing.assert_close(p, old + 0.05 * (start + 1 - old))


def test_after_the_last_step_the_encoder_is_the_teacher() -> None:
    network = made()
    with torch.no_grad():
        network.encoder.get_parameter("layer.weight").add_(1)
    stepped(network, 78, batch())
    assert not torch.equal(
        network.encoder.get_parameter("layer.weight"), network.get_parameter("teacher.0.layer.weight")
    )
    stepped(network, 79, batch())
    for name, value in network.teacher[0].state_dict().items():
        assert torch.equal(network.encoder.state_dict()[name], value), name


def test_stochastic_depth_is_the_students() -> None:
    spec = Backbone(name="vit_digits")
    network = Method(replace(SMALL, drop_path=0.2), build(spec, 0), replace(FACTS, feature_dim=48))
    rates = [
        [block.drop_path for block in part.modules() if isinstance(block, Block)]
        for part in (network.encoder, network.teacher)
    ]
    assert rates == [pytest.approx([0, 0.1, 0.2]), [0, 0, 0]]


def run_of(site: Site, name: str) -> RunFolder:
    run = RunFolder(site.runs / name)
    run.path.mkdir(parents=True)
    return run


@pytest.mark.parametrize("variant", ["", "deit_small"])
def test_a_resumed_run_ends_bit_identical(variant: str, site: Site) -> None:
    """With a center, and a temperature that is that of the step."""
    steps = 4
    spec = spec_of(variant=variant)
    method = replace(SMALL, frozen_epochs=0, norm=not variant, learn_gain=bool(variant))
    views = (*spec.views[:2], replace(spec.views[0], size=16))
    # the second epoch begins with the last step
    spec = replace(spec, method=method, views=views, batch_size=1000, epochs=steps / 3)
    spec = spec if variant else replace(spec, backbone=TINY)
    whole, parts = run_of(site, "whole"), run_of(site, "parts")
    metrics = loop.pretrain(spec, loop.Place(whole, site, Ranks(), torch.device("cpu"))).metrics
    assert 0 < metrics["teacher_entropy"] <= math.log(6) + 1e-6
    asked = iter([False, True])
    with pytest.raises(Stopped, match="after step 2 of 4"):
        loop.pretrain(spec, loop.Place(parts, site, Ranks(), torch.device("cpu"), should_stop=lambda: next(asked)))
    assert loop.pretrain(spec, loop.Place(parts, site, Ranks(), torch.device("cpu"))).resumed == 1
    a, b = (torch.load(run.weights, weights_only=True) for run in (whole, parts))
    assert a["method"]["center"].any()
    assert set(a["method"]) == set(b["method"])
    for name, value in a["method"].items():
        assert torch.equal(value, b["method"][name]), name
    for name, value in a["encoder"].items():
        assert torch.equal(value, a["method"][f"teacher.0.{name}"]), name


def test_wrong_settings_are_one_line_at_plan_time() -> None:
    spec = spec_of()
    for config, message in (
        (Config(classes=1), "classes is 1, expected at least 2"),
        (Config(student_temperature=0), "temperatures are 0"),
        (Config(teacher_temperature=(0.04, 0)), r"\(0.04, 0\) \(teacher\), expected more than 0"),
        (Config(momentum=1.1), "momentum is 1.1"),
        (Config(center_momentum=1), "center_momentum 1, expected"),
        (Config(temperature_epochs=-1), "temperature_epochs is -1"),
        (Config(frozen_epochs=-1), "frozen_epochs -1"),
        (Config(clip=0), "clip is 0, expected None or more than 0"),
        (Config(drop_path=0.1), r"drop_path is 0.1, .* 0 for a ResNet \(resnet10\)"),
    ):
        with pytest.raises(BenchError, match=message):
            check_pretrain(replace(spec, method=config))
    with pytest.raises(BenchError, match="needs at least 2 views, the first two of them global crops, found 1"):
        check_pretrain(replace(spec, views=spec.views[:1]))


def crops(local: int, large: tuple[float, float], small: tuple[float, float]) -> tuple[Augment, ...]:
    first = Augment(
        size=224,
        crop_scale=large,
        flip=0.5,
        jitter=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.2,
        hue=0.1,
        gray=0.2,
        blur=1.0,
        blur_sigma=(0.1, 2.0),
    )
    return (
        first,
        replace(first, blur=0.1, solarize=0.2),
        *(replace(first, size=96, crop_scale=small, blur=0.5),) * local,
    )


def test_resnet_recipe_is_the_published_one() -> None:
    recipe, o = RECIPES["paper"], RECIPES["paper"].optim
    assert recipe.method == Config(
        classes=60000,
        hidden=2048,
        bottleneck=256,
        norm=True,
        learn_gain=False,
        student_temperature=0.1,
        teacher_temperature=(0.04, 0.07),
        temperature_epochs=50,
        momentum=0.996,
        center_momentum=0.9,
        frozen_epochs=1,
        clip=None,
        drop_path=0.0,
    )
    assert recipe.views == crops(6, (0.14, 1.0), (0.05, 0.14))
    assert (recipe.batch_size, recipe.epochs, recipe.precision, recipe.normalize, recipe.zero_init_residual) == (
        4080,
        800,
        "fp32",
        "imagenet",
        False,
    )
    assert (o.name, o.lr, o.weight_decay, o.momentum, o.trust, o.warmup_epochs) == (
        "lars",
        0.3 * 4080 / 256,
        1e-6,
        0.9,
        0.001,
        10,
    )
    assert (o.lars_momentum, o.lars_norm, o.vector_weight_decay, o.final_weight_decay, o.clip_norm) == (
        "popular",
        "update",
        False,
        None,
        None,
    )
    assert o.lr * o.final_lr_ratio == pytest.approx(0.0048)


@pytest.mark.parametrize(
    ("name", "learn_gain", "warm", "frozen", "clip", "lr", "final", "epochs"),
    [("deit_small", True, 30, 1, None, 0.002, 1e-5, 800), ("vit_base", False, 50, 3, 0.3, 0.003, 2e-6, 400)],
)
def test_vit_recipes_are_the_published_ones(
    name: str, learn_gain: bool, warm: int, frozen: int, clip: float | None, lr: float, final: float, epochs: int
) -> None:
    recipe: Recipe = VARIANTS[name]["paper"]
    assert recipe.method == Config(
        classes=65536,
        hidden=2048,
        bottleneck=256,
        norm=False,
        learn_gain=learn_gain,
        student_temperature=0.1,
        teacher_temperature=(0.04, 0.07),
        temperature_epochs=warm,
        momentum=0.996,
        center_momentum=0.9,
        frozen_epochs=frozen,
        clip=clip,
        drop_path=0.1,
    )
    assert recipe.views == crops(10, (0.25, 1.0), (0.05, 0.25))
    assert (recipe.batch_size, recipe.epochs, recipe.precision, recipe.normalize) == (1024, epochs, "fp32", "imagenet")
    o = recipe.optim
    assert (o.name, o.betas, o.weight_decay, o.final_weight_decay, o.vector_weight_decay) == (
        "adamw",
        (0.9, 0.999),
        0.04,
        0.4,
        False,
    )
    assert [o.lr, o.lr * o.final_lr_ratio] == pytest.approx([lr, final])
    assert (o.warmup_epochs, o.clip_norm) == (10, None)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_can_be_planned_by_a_table_row(name: str, scale: str) -> None:
    check_pretrain(spec_of(scale, name))
