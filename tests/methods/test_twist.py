from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Batch, Facts, Recipe
from bench.errors import BenchError
from bench.identity import job_id
from bench.planning.refusals import check_pretrain
from bench.planning.scales import SCALES, scale_of
from bench.planning.translate import encoder
from bench.runs.folder import RunFolder
from bench.settings.site import Site
from bench.spec import Augment, Backbone, Data, Optim, Pretrain
from bench.training import loop, methods
from bench.training.ranks import Ranks
from methods.parts.heads import BunchNorm
from methods.twist import (
    RECIPES,
    VARIANTS,
    Config,
    Method,
    keep_share,
    projector,
    self_label_loss,
    teacher_loss,
    twin_loss,
)

CONSTANTS = {"alpha": 0.4, "beta": 1.3, "temperature": 0.7, "epsilon": 1e-5}
PLAIN = {"alpha": 1.0, "beta": 1.0, "temperature": 1.0, "epsilon": 1e-300}  # the paper's: nothing inside the logarithms


def logits(views: int, images: int, classes: int, *, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(views, images, classes, generator=rng, dtype=torch.float64) * 2).requires_grad_()


# The paper's formula, loop by loop, on nested lists p[image][class].


def softmaxed(z_BC: Tensor, temperature: float = 1.0) -> list[list[Tensor]]:
    rows = []
    for row in z_BC:
        powers = [torch.exp(value / temperature) for value in row]
        rows.append([power / torch.stack(powers).sum() for power in powers])
    return rows


def added(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()


def divergence(p: list[Tensor], q: list[Tensor], epsilon: float) -> Tensor:
    return added([a * (torch.log(a + epsilon) - torch.log(b + epsilon)) for a, b in zip(p, q, strict=True)])


def entropy(p: list[Tensor], epsilon: float) -> Tensor:
    return -added([a * torch.log(a + epsilon) for a in p])


def mean_of(p: list[list[Tensor]]) -> list[Tensor]:
    return [added([row[c] for row in p]) / len(p) for c in range(len(p[0]))]


def naive_twin(za: Tensor, zb: Tensor, *, alpha: float, beta: float, temperature: float, epsilon: float) -> Tensor:
    """1/(2B) sum_i [KL(P1_i||P2_i) + KL(P2_i||P1_i)] + alpha/2 sum_k mean_i H(P_i^k) - beta/2 sum_k H(mean_i P_i^k)."""
    p1, p2 = softmaxed(za), softmaxed(zb)
    both = [divergence(a, b, epsilon) + divergence(b, a, epsilon) for a, b in zip(p1, p2, strict=True)]
    loss = added(both) / (2 * len(p1))
    for sharp in (softmaxed(za, temperature), softmaxed(zb, temperature)):
        loss = loss + alpha / 2 * added([entropy(row, epsilon) for row in sharp]) / len(sharp)
        loss = loss - beta / 2 * entropy(mean_of(sharp), epsilon)
    return loss


def naive_multicrop(z: Tensor, **constants: float) -> Tensor:
    """The loops of the released engine.py: i1 in {0, 1}, every later i2, averaged."""
    terms = [naive_twin(z[i1], z[i2], **constants) for i1 in range(2) for i2 in range(i1 + 1, len(z))]
    return added(terms) / len(terms)


def naive_teacher(t: Tensor, z: Tensor, *, alpha: float, beta: float, temperature: float, epsilon: float) -> Tensor:
    teachers, students = ([softmaxed(view, temperature) for view in views] for views in (t, z))
    pulls = []
    for i, teacher in enumerate(teachers):
        for j, student in enumerate(students):
            if i != j:
                pulls.append(
                    added([divergence(a, b, epsilon) for a, b in zip(teacher, student, strict=True)]) / len(teacher)
                )
    sharpness = added([added([entropy(row, epsilon) for row in student]) / len(student) for student in students]) / len(
        students
    )
    diversity = added([entropy(mean_of(student), epsilon) for student in students]) / len(students)
    return added(pulls) / len(pulls) + alpha * sharpness - beta * diversity


def naive_self_label(z: Tensor, keep: float, among: int) -> Tensor:
    views, images, _ = z.shape
    total = torch.zeros((), dtype=z.dtype)
    for start in range(0, images, among):
        group = range(start, start + among)
        p = {(v, b): [float(x) for x in softmaxed(z[v, b : b + 1].detach())[0]] for v in (0, 1) for b in group}
        confidence = {b: max(*p[0, b], *p[1, b]) for b in group}
        threshold = sorted(confidence.values(), reverse=True)[min(int(keep * among), among - 1)]
        chosen = [b for b in group if confidence[b] > threshold]
        for b in chosen:
            source = 0 if max(p[0, b]) > max(p[1, b]) else 1
            label = p[source, b].index(max(p[source, b]))
            for v in range(views):
                if v != source:
                    total = total - torch.log(softmaxed(z[v, b : b + 1])[0][label]) / (len(chosen) * (views - 1))
    return total / (images // among)


def naive_bunch_norm(z: Tensor, bunch: int) -> Tensor:
    views, images, classes = z.shape
    out: list[list[list[Tensor]]] = [[[] for _ in range(images)] for _ in range(views)]
    for start in range(0, images, bunch):
        members = [(v, b) for v in range(views) for b in range(start, start + bunch)]
        for c in range(classes):
            mean = added([z[v, b, c] for v, b in members]) / len(members)
            variance = added([(z[v, b, c] - mean) ** 2 for v, b in members]) / len(members)
            for v, b in members:
                out[v][b].append((z[v, b, c] - mean) / torch.sqrt(variance + 1e-5))
    return torch.stack([torch.stack([torch.stack(row) for row in view]) for view in out])


def assert_same(found: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("constants", [CONSTANTS, PLAIN, PLAIN | {"epsilon": 1e-5}])
@pytest.mark.parametrize("images", [2, 5])
def test_loss_and_gradient_of_two_views_equal_the_papers_formula(images: int, constants: dict[str, float]) -> None:
    z = logits(2, images, 3)
    assert_same(twin_loss(z, **constants)["loss"], naive_twin(z[0], z[1], **constants), z)


@pytest.mark.parametrize("views", [3, 5])
def test_multicrop_pairs_each_global_crop_with_every_later_view(views: int) -> None:
    z = logits(views, 4, 3)
    assert_same(twin_loss(z, **CONSTANTS)["loss"], naive_multicrop(z, **CONSTANTS), z)


@pytest.mark.parametrize("views", [2, 4])
def test_loss_with_a_teacher_equals_the_loops_of_the_released_code(views: int) -> None:
    t, z = logits(2, 4, 3, seed=1), logits(views, 4, 3)
    assert_same(teacher_loss(t, z, **CONSTANTS)["loss"], naive_teacher(t, z, **CONSTANTS), t, z)


@pytest.mark.parametrize(("keep", "among"), [(0.5, 8), (0.5, 4), (0.6, 4), (0.3, 8), (1.0, 4), (0.9, 2)])
@pytest.mark.parametrize("views", [2, 4])
def test_self_labelling_equals_loops(views: int, keep: float, among: int) -> None:
    z = logits(views, 8, 3, seed=views)
    assert_same(self_label_loss(z, keep=keep, among=among)["loss"], naive_self_label(z, keep, among), z)


@pytest.mark.parametrize("bunch", [2, 3, 6])
def test_norm_before_the_softmax_equals_loops_over_bunches(bunch: int) -> None:
    z = logits(3, 6, 2)
    weight = torch.arange(z.numel(), dtype=z.dtype).view_as(z).sin()
    found, expected = BunchNorm(2, bunch).double()(z), naive_bunch_norm(z, bunch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert_same((found * weight).sum(), (expected * weight).sum(), z)


def test_one_bunch_is_the_whole_batch() -> None:
    z = logits(2, 6, 4)
    torch.testing.assert_close(BunchNorm(4, None).double()(z), BunchNorm(4, 6).double()(z))


def test_a_bunch_does_not_see_the_other_bunches() -> None:
    z = logits(2, 6, 4).detach()
    other = z.clone()
    other[:, 3:] *= 5
    norm = BunchNorm(4, 3).double()
    torch.testing.assert_close(norm(z)[:, :3], norm(other)[:, :3], rtol=0, atol=0)


def test_running_statistics_are_those_of_a_batch_norm_on_the_first_bunch() -> None:
    norm, reference = BunchNorm(3, 4).double(), nn.BatchNorm1d(3, affine=False).double()
    for seed in range(3):
        z = logits(2, 8, 3, seed=seed).detach() + 1
        norm(z)
        reference(z[:, :4].flatten(0, 1))
    assert dict(norm.named_buffers()).keys() == {"running_mean", "running_var"}
    torch.testing.assert_close(norm.running_mean, reference.running_mean)
    torch.testing.assert_close(norm.running_var, reference.running_var)
    images = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(norm.eval()(images), reference.eval()(images))


def test_a_batch_that_does_not_divide_is_refused_by_the_norm() -> None:
    with pytest.raises(BenchError, match="a batch of 6 does not divide into bunches of 4"):
        BunchNorm(3, 4)(torch.zeros(2, 6, 3))


def test_the_best_loss_is_reached_by_equal_sharp_and_balanced_views() -> None:
    sharp = torch.eye(4, dtype=torch.float64).repeat(2, 1) * 100
    found = twin_loss(torch.stack([sharp, sharp]), alpha=1, beta=2, temperature=1, epsilon=1e-12)
    assert float(found["consistency"]) == pytest.approx(0, abs=1e-9)
    assert float(found["sharpness"]) == pytest.approx(0, abs=1e-9)
    assert float(found["diversity"]) == pytest.approx(math.log(4))
    assert float(found["loss"]) == pytest.approx(-2 * math.log(4))


def test_a_constant_distribution_has_no_diversity_and_a_flat_one_no_sharpness() -> None:
    constant = torch.tensor([100.0, 0.0, 0.0], dtype=torch.float64).expand(2, 5, 3)
    assert float(twin_loss(constant, **PLAIN)["diversity"]) == pytest.approx(0, abs=1e-9)
    flat = twin_loss(torch.zeros(2, 5, 3, dtype=torch.float64), alpha=0.4, beta=1, temperature=1, epsilon=1e-12)
    assert float(flat["sharpness"]) == pytest.approx(math.log(3))
    assert float(flat["loss"]) == pytest.approx(-0.6 * math.log(3))


def test_consistency_and_sharpness_of_weight_one_are_the_symmetric_cross_entropy() -> None:
    z = logits(2, 5, 3)
    p, log_p = z.softmax(dim=-1), z.log_softmax(dim=-1)
    found = twin_loss(z, **PLAIN)
    expected = -(p[0] * log_p[1] + p[1] * log_p[0]).sum(dim=1).mean() / 2
    torch.testing.assert_close(found["consistency"] + found["sharpness"], expected)


def test_temperature_leaves_the_consistency_of_twins_alone_and_changes_that_with_a_teacher() -> None:
    z = logits(3, 5, 3).detach()
    warm, cold = (CONSTANTS | {"temperature": value} for value in (1.0, 0.5))
    assert float(twin_loss(z, **warm)["consistency"]) == float(twin_loss(z, **cold)["consistency"])
    assert float(twin_loss(z, **warm)["sharpness"]) > float(twin_loss(z, **cold)["sharpness"])
    assert float(teacher_loss(z[:2], z, **warm)["consistency"]) != float(teacher_loss(z[:2], z, **cold)["consistency"])


def test_labels_of_the_self_labelling_stage_come_from_the_more_confident_global_crop() -> None:
    confident, doubtful, local = [8.0, 0.0], [0.0, 1.0], [0.0, 0.0]
    weakest = [0.1, 0.0]  # the image at the threshold, which gets no label
    z = torch.tensor([[confident, weakest], [doubtful, weakest], [local, weakest]], dtype=torch.float64)
    found = self_label_loss(z, keep=0.5, among=None)
    expected = (F.cross_entropy(z[1, :1], torch.tensor([0])) + F.cross_entropy(z[2, :1], torch.tensor([0]))) / 2
    torch.testing.assert_close(found["loss"], expected)
    assert float(found["kept"]) == 0.5


def test_no_gradient_flows_into_the_view_that_gives_the_label() -> None:
    z = logits(3, 8, 4)
    (gradient,) = torch.autograd.grad(self_label_loss(z, keep=0.5, among=None)["loss"], z)
    confidence = z.softmax(dim=-1).amax(dim=-1)
    source = (confidence[0] <= confidence[1]).long()
    touched = gradient.abs().sum(dim=-1) > 0
    for image, view in enumerate(source.tolist()):
        assert not touched[view, image]
        assert touched[2, image] == touched[1 - view, image]
    assert int(touched[2].sum()) == 4


def test_equally_confident_images_get_no_label_and_a_loss_of_zero() -> None:
    z = torch.ones(2, 4, 3, dtype=torch.float64, requires_grad=True)
    found = self_label_loss(z, keep=0.5, among=None)
    assert float(found["loss"].detach()) == 0
    assert float(found["kept"]) == 0
    (gradient,) = torch.autograd.grad(found["loss"], z)
    assert not gradient.any()


def test_threshold_over_the_batch_and_over_groups_choose_different_images() -> None:
    strength = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    z = torch.stack([torch.stack([strength, torch.zeros(4)], dim=1)] * 2).double()
    whole, halves = (float(self_label_loss(z, keep=0.5, among=among)["loss"]) for among in (None, 2))
    cost = [math.log1p(math.exp(-value)) for value in strength.tolist()]
    assert whole == pytest.approx((cost[0] + cost[1]) / 2)
    assert halves == pytest.approx((cost[0] + cost[2]) / 2)


def test_keep_share_is_half_a_cosine() -> None:
    assert keep_share(0.5, 0.6, 0.0) == pytest.approx(0.5)
    assert keep_share(0.5, 0.6, 0.5) == pytest.approx(0.55)
    assert keep_share(0.5, 0.6, 0.25) == pytest.approx(0.6 - 0.05 * (1 + math.sqrt(0.5)))
    assert keep_share(0.5, 0.6, 1.0) == pytest.approx(0.6)


@pytest.mark.parametrize("shape", [(4, 3), (1, 4, 3), (2, 4, 3, 1)])
def test_anything_but_two_or_more_views_is_refused_by_name(shape: tuple[int, ...]) -> None:
    z = torch.zeros(shape)
    calls: list[Callable[[], Any]] = [
        lambda: twin_loss(z, **CONSTANTS),
        lambda: teacher_loss(z, z, **CONSTANTS),
        lambda: self_label_loss(z, keep=0.5, among=None),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"expected \(V, B, C\) logits of 2 or more views") as caught:
            call()
        assert str(shape) in str(caught.value)


def test_projector_has_the_three_linear_layers_of_the_released_code() -> None:
    made = projector(12, 20, 5, gelu=False, small_init=False)
    shapes = {name: tuple(p.shape) for name, p in made.named_parameters()}
    assert shapes == {
        "0.weight": (20, 12),
        "0.bias": (20,),
        "1.weight": (20,),
        "1.bias": (20,),
        "3.weight": (20, 20),
        "3.bias": (20,),
        "4.weight": (20,),
        "4.bias": (20,),
        "6.weight": (5, 20),
        "6.bias": (5,),
    }
    assert all(p.requires_grad for p in made.parameters())
    assert isinstance(made[2], nn.ReLU)
    assert isinstance(made[5], nn.ReLU)


def test_projector_of_a_vit_has_gelu_and_small_weights() -> None:
    made = projector(300, 200, 100, gelu=True, small_init=True)
    assert isinstance(made[2], nn.GELU)
    assert isinstance(made[5], nn.GELU)
    for index in (0, 3, 6):
        layer = cast(nn.Linear, made[index])
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        assert not layer.bias.any()


class Flat(nn.Module):
    """An encoder with one layer, for squares of any size; counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 12)
        self.norm = nn.BatchNorm1d(12)
        self.passes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        out: Tensor = self.norm(self.layer(F.adaptive_avg_pool2d(x, 8).flatten(1)))
        return out


SMALL = Config(classes=6, hidden=20, bunch=None)


def cropped(images: Batch, local: int) -> Batch:
    """Two global crops and `local` small ones."""
    return replace(images, views=[*images.views[:2], *(view[:, :, :16, :16] for view in images.views[2 : 2 + local])])


def test_embed_names_one_tensor_a_view_and_the_two_of_the_teacher(
    facts: Facts, batch: Callable[[int, int], Batch]
) -> None:
    images = cropped(batch(8, 5), 3)
    plain = Method(SMALL, Flat(), facts).embed(images)
    assert list(plain) == ["z0", "z1", "z2", "z3", "z4"]
    taught = Method(replace(SMALL, teacher=0.996), Flat(), facts).embed(images)
    assert list(taught) == ["z0", "z1", "z2", "z3", "z4", "t0", "t1"]
    assert all(rows.shape == (8, 6) for rows in taught.values())
    assert not taught["t0"].requires_grad


def test_equally_large_crops_share_one_encoder_pass(facts: Facts, batch: Callable[[int, int], Batch]) -> None:
    network = Flat()
    Method(SMALL, network, facts).embed(cropped(batch(8, 5), 3))
    assert network.passes == [16, 24]


def test_the_method_takes_the_threshold_among_as_many_images_as_asked(facts: Facts) -> None:
    # the first images are the most confident of the batch
    fading = torch.tensor([9.0, 8, 7, 6, 1, 0.5, 0.3, 0.1])[:, None]
    rows = {f"z{v}": z * fading for v, z in enumerate(logits(3, 8, 6).detach().float())}
    z = BunchNorm(6, None)(torch.stack(list(rows.values())))
    found = [self_label_loss(z, keep=0.5, among=among) for among in (None, 4)]
    assert float(found[0]["loss"]) != float(found[1]["loss"])
    for among, expected in zip((None, 4), found, strict=True):
        made = Method(replace(SMALL, stage="self_label", keep_among=among), Flat(), facts)
        torch.testing.assert_close(made.loss(rows, torch.zeros(8)), expected)


def test_the_method_builds_the_projector_of_its_config(facts: Facts) -> None:
    plain, vit = (
        Method(config, Flat(), facts).projector
        for config in (SMALL, replace(SMALL, activation="gelu", small_init=True))
    )
    assert [type(layer) for layer in plain] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    assert [type(layer) for layer in vit] == [nn.Linear, nn.BatchNorm1d, nn.GELU] * 2 + [nn.Linear]
    assert cast(nn.Linear, plain[0]).bias.any()
    assert not cast(nn.Linear, vit[0]).bias.any()


def test_embeddings_keep_the_views_in_order(facts: Facts, batch: Callable[[int, int], Batch]) -> None:
    made = Method(SMALL, Flat(), facts).eval()
    images = cropped(batch(8, 4), 2)
    for number, view in enumerate(images.views):
        torch.testing.assert_close(made.embed(images)[f"z{number}"], made.projector(made.encoder(view)))


def test_the_method_puts_norm_and_loss_together(facts: Facts, batch: Callable[[int, int], Batch]) -> None:
    config = replace(SMALL, bunch=4, alpha=0.7, beta=1.2, temperature=0.5)
    made = Method(config, Flat(), facts)
    images = batch(8, 3)
    found = made.embed(images)
    z = BunchNorm(6, 4)(torch.stack(list(found.values())))
    expected = twin_loss(z, alpha=0.7, beta=1.2, temperature=0.5, epsilon=1e-5)
    torch.testing.assert_close(made.loss(found, images.labels), expected)
    taught = Method(replace(config, teacher=0.9), Flat(), facts)
    found = taught.embed(images)
    t = BunchNorm(6, 4)(torch.stack([found["t0"], found["t1"]]))
    z = BunchNorm(6, 4)(torch.stack([found["z0"], found["z1"], found["z2"]]))
    torch.testing.assert_close(
        taught.loss(found, images.labels), teacher_loss(t, z, alpha=0.7, beta=1.2, temperature=0.5, epsilon=1e-5)
    )


@pytest.mark.parametrize("teacher", [None, 0.996])
def test_gradient_reaches_encoder_and_projector_and_never_the_teacher(
    teacher: float | None, facts: Facts, batch: Callable[[int, int], Batch]
) -> None:
    made = Method(replace(SMALL, teacher=teacher), Flat(), facts)
    images = batch(8, 2)
    made.loss(made.embed(images), images.labels)["loss"].backward()  # type: ignore[no-untyped-call]
    for name, parameter in made.named_parameters():
        if name.startswith("teacher"):
            assert parameter.grad is None
            assert not parameter.requires_grad
        elif name not in (
            "encoder.layer.bias",
            "projector.0.bias",
            "projector.3.bias",
            "projector.6.bias",
        ):  # undone by the norm after it
            assert parameter.grad is not None
            assert float(parameter.grad.abs().max()) > 0, name


def test_teacher_starts_equal_and_follows_with_the_momentum_before_the_step(facts: Facts) -> None:
    made = Method(replace(SMALL, teacher=0.9), Flat(), facts)
    assert made.teacher is not None
    before = {name: value.clone() for name, value in made.teacher[0].named_parameters()}
    for name, value in made.encoder.named_parameters():
        assert torch.equal(before[name], value)
    with torch.no_grad():
        for value in made.encoder.parameters():
            value.add_(1)
    made.after_step(1 / facts.steps)
    for name, value in made.teacher[0].named_parameters():
        torch.testing.assert_close(value, before[name] + 0.1)
    middle = {name: value.clone() for name, value in made.teacher[0].named_parameters()}
    made.after_step(0.5 + 1 / facts.steps)
    for name, value in made.teacher[0].named_parameters():
        torch.testing.assert_close(value, middle[name] + 0.05 * (before[name] + 1 - middle[name]))


def test_share_of_labels_grows_over_the_self_labelling_stage_only(facts: Facts) -> None:
    made = Method(replace(SMALL, stage="self_label", keep=(0.25, 0.75)), Flat(), facts)
    rows = {f"z{v}": z for v, z in enumerate(logits(2, 8, 6).detach().float())}
    kept = []
    for progress in (0.0, 0.5, 1.0):
        made.after_step(progress)
        kept.append(float(made.loss(rows, torch.zeros(8))["kept"]))
    assert kept == [0.25, 0.5, 0.75]
    first = Method(SMALL, Flat(), facts)
    first.after_step(1.0)
    made.load_state_dict(first.state_dict())  # the stages have the same names, and the second begins at its beginning
    assert float(made.loss(rows, torch.zeros(8))["kept"]) == 0.25


TINY = Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False)
VIEW = Augment(size=32, crop_scale=(0.4, 1.0), flip=0.0)
LOCAL = replace(VIEW, size=16)


def tiny(config: Config, *, start: Pretrain | None = None) -> Pretrain:
    """Three steps."""
    return Pretrain(
        method=config,
        backbone=TINY,
        data=Data(name="mnist5k", size=32),
        views=(VIEW, VIEW, LOCAL),
        optim=Optim(name="adamw", lr=1e-3, weight_decay=0.0, warmup_epochs=0.0),
        batch_size=64,
        epochs=3 / (3500 // 64),
        start=start,
    )


def trained(spec: Pretrain, site: Site) -> tuple[loop.Trained, dict[str, Tensor]]:
    run = RunFolder(site.runs / job_id(spec))
    run.path.mkdir(parents=True)
    found = loop.pretrain(spec, loop.Place(run, site, Ranks(), torch.device("cpu")))
    return found, torch.load(run.weights, weights_only=True)["method"]


def test_self_labelling_goes_on_from_the_first_stage(site: Site) -> None:
    first = tiny(replace(SMALL, classes=8))
    second = tiny(replace(SMALL, classes=8, stage="self_label", keep=(0.5, 1.0), keep_among=32), start=first)
    # so small that the weights show where the stage began
    second = replace(second, optim=replace(second.optim, lr=1e-7))
    check_pretrain(second)
    _, before = trained(first, site)
    found, after = trained(second, site)
    assert set(before) == set(after)
    assert {"kept", "threshold"} <= set(found.metrics)
    fresh = methods.build_method(second, 3).state_dict()
    for name in ("encoder.conv1.weight", "projector.6.weight"):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-5)
        assert not torch.equal(after[name], before[name])
        assert float((before[name] - fresh[name]).abs().max()) > 1e-4
    assert float(before["progress"]) == 0
    assert float(after["progress"]) == 1


def test_a_short_training_with_a_teacher_moves_it(site: Site) -> None:
    spec = tiny(replace(SMALL, classes=8, teacher=0.5))
    check_pretrain(spec)
    found, after = trained(spec, site)
    assert {"consistency", "sharpness", "diversity"} <= set(found.metrics)
    fresh = methods.build_method(spec, 3).state_dict()
    slow, fast = "teacher.0.conv1.weight", "encoder.conv1.weight"
    assert torch.equal(fresh[slow], fresh[fast])
    assert 0 < float((after[slow] - fresh[slow]).norm()) < float((after[fast] - fresh[fast]).norm())


def paper_spec() -> Pretrain:
    spec = encoder(scale_of("paper"), "twist", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0)
    assert isinstance(spec, Pretrain)
    return spec


def test_wrong_settings_are_refused_when_a_plan_is_made() -> None:
    spec = paper_spec()
    Config().check(spec)
    with pytest.raises(BenchError, match="needs at least 2 views, the first two of them global crops, found 1"):
        Config().check(replace(spec, views=spec.views[:1]))
    wrong: list[tuple[Config, str]] = [
        (Config(classes=1), "classes is 1"),
        (Config(temperature=0), "temperature is 0"),
        (Config(epsilon=0), "epsilon 0, expected more than 0"),
        (Config(bunch=300), "bunch is 300, expected None or 2 and more images that divide the batch of 2048"),
        (Config(bunch=1), "bunch is 1"),
        (Config(keep_among=60), "keep_among is 60"),
        (Config(teacher=1.5), "teacher is 1.5"),
        (Config(keep=(0.0, 0.5)), r"keep is \(0.0, 0.5\)"),
    ]
    for config, message in wrong:
        with pytest.raises(BenchError, match=message):
            config.check(spec)


def test_self_labelling_is_refused_without_a_first_stage_that_fits() -> None:
    stage, spec = Config(stage="self_label"), paper_spec()
    first = replace(spec, method=Config())
    stage.check(replace(spec, start=first))
    for start in (
        None,
        replace(spec, method=stage),
        encoder(scale_of("paper"), "simclr", network="resnet50", width=1, epochs=None, dataset="imagenet", seed=0),
    ):
        with pytest.raises(BenchError, match="needs a start: a twist pretraining with stage 'cluster'"):
            stage.check(replace(spec, start=cast("Pretrain | None", start)))
    for other in (Config(classes=8), Config(hidden=8), Config(teacher=0.9)):
        with pytest.raises(BenchError, match="needs the classes and hidden of its start, which must have no teacher"):
            stage.check(replace(spec, start=replace(first, method=other)))
    with pytest.raises(BenchError, match="the self-labelling stage has no teacher"):
        replace(stage, teacher=0.9).check(replace(spec, start=first))


FIRST = Augment(
    size=224,
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    gray=0.2,
    blur=1.0,
    blur_sigma=(0.1, 2.0),
    solarize=0.0,
)


def crops(local: int, large: tuple[float, float], small: tuple[float, float]) -> tuple[Augment, ...]:
    one = replace(FIRST, crop_scale=large)
    return (one, replace(one, blur=0.1, solarize=0.2), *(replace(FIRST, size=96, crop_scale=small, blur=0.5),) * local)


def assert_lars(recipe: Recipe, lr: float, warmup: float) -> None:
    o = recipe.optim
    assert (o.name, o.lr, o.weight_decay, o.momentum, o.trust) == ("lars", lr, 1.5e-6, 0.9, 0.001)
    assert (o.lars_momentum, o.lars_norm, o.vector_lr, o.vector_weight_decay) == ("classic", "separate", None, False)
    assert (o.warmup_epochs, o.final_lr_ratio, o.clip_norm, o.final_weight_decay) == (warmup, 0.001, None, None)
    assert recipe.normalize == "imagenet"


def test_paper_recipe_is_the_published_one() -> None:
    recipe = RECIPES["paper"]
    assert recipe.method == Config(
        classes=32768,
        hidden=4096,
        alpha=1.0,
        beta=1.0,
        temperature=1.0,
        epsilon=1e-5,
        bunch=256,
        activation="relu",
        small_init=False,
        teacher=None,
        stage="cluster",
    )
    assert (recipe.batch_size, recipe.epochs) == (2048, 800)
    assert_lars(recipe, lr=4.0, warmup=10)
    assert recipe.views == (FIRST, replace(FIRST, blur=0.1, solarize=0.2))
    assert paper_spec().backbone.normalize == "imagenet"


@pytest.mark.parametrize(
    ("name", "bunch", "batch_size", "epochs", "lr"),
    [("resnet50_multicrop", 256, 2048, 800, 4.0), ("resnet50w2_multicrop", 240, 1920, 200, 3.75)],
)
def test_multicrop_recipes_are_the_published_ones(
    name: str, bunch: int, batch_size: int, epochs: int, lr: float
) -> None:
    recipe = VARIANTS[name]["paper"]
    assert recipe.method == Config(classes=4096, hidden=4096, alpha=1.0, beta=1.0, bunch=bunch)
    assert (recipe.batch_size, recipe.epochs) == (batch_size, epochs)
    assert_lars(recipe, lr=lr, warmup=10)
    assert recipe.views == crops(12, (0.4, 1.0), (0.05, 0.4))


@pytest.mark.parametrize(
    ("name", "bunch", "batch_size", "keep_among", "lr"),
    [("resnet50_self_label", 256, 2048, 128, 0.4), ("resnet50w2_self_label", 240, 1920, 60, 0.375)],
)
def test_self_labelling_recipes_are_the_published_ones(
    name: str, bunch: int, batch_size: int, keep_among: int, lr: float
) -> None:
    recipe = VARIANTS[name]["paper"]
    assert recipe.method == Config(
        classes=4096, hidden=4096, bunch=bunch, stage="self_label", keep=(0.5, 0.6), keep_among=keep_among
    )
    assert (recipe.batch_size, recipe.epochs) == (batch_size, 50)
    assert_lars(recipe, lr=lr, warmup=5)
    assert recipe.views == crops(12, (0.14, 1.0), (0.05, 0.14))


@pytest.mark.parametrize(
    ("name", "lr", "final_decay", "local"), [("deit_small", 0.0012, 0.12, 6), ("vit_base", 0.003, None, 10)]
)
def test_vit_recipes_are_the_published_ones(name: str, lr: float, final_decay: float | None, local: int) -> None:
    recipe, o = VARIANTS[name]["paper"], VARIANTS[name]["paper"].optim
    assert recipe.method == Config(
        classes=4096,
        hidden=4096,
        alpha=0.4,
        beta=1.0,
        temperature=1.0,
        bunch=256,
        activation="gelu",
        small_init=True,
        teacher=0.996,
    )
    assert (recipe.batch_size, recipe.epochs, recipe.normalize) == (1024, 300, "imagenet")
    assert (o.name, o.betas, o.weight_decay, o.final_weight_decay, o.vector_weight_decay) == (
        "adamw",
        (0.9, 0.999),
        0.06,
        final_decay,
        False,
    )
    assert o.lr == pytest.approx(lr)
    assert (o.warmup_epochs, o.final_lr_ratio, o.clip_norm) == (10, 0.001, 3.0)
    assert recipe.views == crops(local, (0.4, 1.0), (0.05, 0.4))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_can_be_planned_by_a_table_row(name: str, scale: str) -> None:
    network = name if name in SCALES[scale].networks else "resnet50"
    assert network != "resnet50" or name.startswith("resnet50")
    spec = encoder(
        SCALES[scale],
        "twist",
        variant=name,
        network=network,
        width=2 if "w2" in name else 1,
        epochs=None,
        dataset="imagenet",
        seed=0,
    )
    assert isinstance(spec, Pretrain)
    check_pretrain(spec)
    if not name.endswith("self_label"):
        assert spec.start is None
        return
    assert spec.start is not None
    assert spec.start == encoder(
        SCALES[scale],
        "twist",
        variant=name.replace("self_label", "multicrop"),
        network=network,
        width=2 if "w2" in name else 1,
        epochs=None,
        dataset="imagenet",
        seed=0,
    )
    if scale == "paper":
        assert (spec.start.epochs, spec.epochs) == ({1: 800, 2: 200}[spec.backbone.width], 50)


def test_an_unknown_variant_is_named_with_the_allowed_ones() -> None:
    with pytest.raises(BenchError, match="resnet50_multicrop"):
        encoder(
            SCALES["paper"],
            "twist",
            variant="resnet50_multicrp",
            network="resnet50",
            width=1,
            epochs=None,
            dataset="imagenet",
            seed=0,
        )
