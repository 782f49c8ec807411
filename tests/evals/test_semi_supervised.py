from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bench.contracts import Attempt, Context, Subject
from bench.data import datasets, shared_memory
from bench.data.loader import Plan, train_batches
from bench.data.splits import Arrays, Files, labelled_subset
from bench.errors import BenchError, Stopped
from bench.networks import encoders
from bench.runs.folder import RunFolder
from bench.seeding import generator, seed_of
from bench.spec import Backbone
from bench.training.checkpoint import spent_before
from bench.training.health import TrainingFailedError
from evals import semi_supervised
from evals.parts import finetune
from evals.parts.classifier import start
from evals.parts.finetune import FineTuning, Tuned, fine_tune
from evals.semi_supervised import RECIPES, VARIANTS, Config, evaluate, labelled

SHORT = Config(label_fraction=0.1, batch_size=16, epochs=4, lr_backbone=0.05, lr_head=0.2, flip=0.0)
CPU = torch.device("cpu")


@pytest.fixture
def tiny() -> Subject:
    """A random network of 32 features with a projector of three layers."""
    network = encoders.build(Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False), seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [
            nn.Linear(32, 24, bias=False),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Linear(24, 16, bias=False),
            nn.BatchNorm1d(16),
            nn.ReLU(),
        ]
        projector = nn.Sequential(*layers, nn.Linear(16, 8))
    return Subject(
        key="tiny",
        network=network.eval().requires_grad_(False),
        feature_dim=network.feature_dim,
        projector=projector.eval().requires_grad_(False),
    )


def colours(count: int, seed: int, classes: int = 3, noise: float = 40.0) -> Arrays:
    """Flat 32 px images whose colour tells the class."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    shade = F.one_hot(labels, 3).float()[:, :, None, None] * 150 + 50
    return Arrays((shade + noise * torch.rand(count, 3, 32, 32, generator=rng)).to(torch.uint8), labels, classes)


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> dict[str, Arrays]:
    """The context's data set is replaced by flat colours."""
    splits = {"train": colours(210, 0), "val": colours(90, 1), "test": colours(60, 2)}
    monkeypatch.setitem(datasets.LOADERS, "mnist5k", lambda site, size: splits)
    return splits


def tuned(config: Config, subject: Subject, context: Context) -> Tuned:
    return fine_tune(config, subject, context, labelled(context, config)[0])


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_separable_images_give_100_percent(flat: dict[str, Arrays], tiny: Subject, context: Context) -> None:
    found = evaluate(replace(SHORT, epochs=10), tiny, context)
    assert dict(found.metrics) == dict.fromkeys(("top1", "top5", "best_top1", "best_top5"), 100.0)
    assert found.details["labels"] == "seeded class-balanced share, 30 of 300 images, seed 0"
    assert (found.details["train_images"], found.details["steps"]) == (30, 19)  # 10 epochs of 30 / 16 batches


def test_images_without_information_give_chance(flat: dict[str, Arrays], tiny: Subject, context: Context) -> None:
    for name, split in flat.items():
        order = torch.randperm(len(split), generator=generator(5, name))
        flat[name] = Arrays(split.images, split.labels[order], split.classes)
    flat["test"] = Arrays(flat["test"].images.repeat(3, 1, 1, 1), torch.arange(180) // 60, 3)
    # each image once with every label
    assert evaluate(SHORT, tiny, context).metrics["top1"] == pytest.approx(100 / 3, abs=1e-9)


def test_the_subject_is_left_as_it_was(flat: dict[str, Arrays], tiny: Subject, context: Context) -> None:
    assert tiny.projector is not None
    before = {key: value.clone() for key, value in tiny.network.state_dict().items()}
    kept = {key: value.clone() for key, value in tiny.projector.state_dict().items()}
    drawn = torch.get_rng_state()
    found = tuned(replace(SHORT, projector_layers=1), tiny, context)
    assert torch.equal(torch.get_rng_state(), drawn)
    for module, saved in ((tiny.network, before), (tiny.projector, kept)):
        assert all(torch.equal(value, saved[key]) for key, value in module.state_dict().items())
        assert not any(p.requires_grad for p in module.parameters())
        assert not any(m.training for m in module.modules())
    for name, value in found.model.backbone.state_dict().items():  # every weight and statistic of the copy has moved
        source = {f"0.{key}": v for key, v in before.items()} | {
            f"{int(key[0]) + 1}{key[1:]}": v for key, v in kept.items()
        }
        assert not torch.equal(value, source[name]), name


def head_alone(config: Config, subject: Subject, context: Context, rates: list[float]) -> tuple[Tensor, Tensor]:
    """A linear classifier trained with torch's SGD on features of the frozen network, of the same crops."""
    images, _ = labelled(context, config)
    seed = seed_of(context.seed, "fine-tuning")
    plan = Plan(images=len(images), batch_size=config.batch_size, seed=seed)
    weight = (
        0.01 * torch.randn(images.classes, subject.feature_dim, generator=generator(seed, "head"))
    ).requires_grad_()
    bias = torch.zeros(images.classes, requires_grad=True)
    groups = [{"params": [weight], "weight_decay": config.weight_decay}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=config.momentum, nesterov=config.nesterov)
    views = (config.view(context.data.size),)
    for rate, batch in zip(rates, train_batches(images, views, plan, range(len(rates)), CPU, workers=0), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.no_grad():
            features = subject.network(batch.views[0])
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), batch.labels, reduction="sum") / len(batch.labels)
        torch.autograd.backward(loss)
        optimizer.step()
    return weight.detach(), bias.detach()


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_a_rate_for_a_frozen_network_it_is_the_head_trained_alone(
    nesterov: bool, flat: dict[str, Arrays], tiny: Subject, context: Context
) -> None:
    config = replace(
        SHORT, lr_backbone=0.0, norm="frozen", nesterov=nesterov, weight_decay=1e-2, batch_size=15, epochs=4
    )
    rates = [0.2 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    weight, bias = head_alone(config, tiny, context, rates)
    found = tuned(config, tiny, context).model
    assert torch.equal(found.head.weight, weight)
    assert torch.equal(found.head.bias, bias)
    assert same(found.backbone, tiny.network)


@pytest.mark.parametrize("chunks", [1, 3])
def test_the_whole_network_learns_as_in_a_plain_loop_with_two_rates(
    chunks: int, flat: dict[str, Arrays], tiny: Subject, context: Context
) -> None:
    config = replace(SHORT, nesterov=True, weight_decay=1e-2, norm="frozen", epochs=2, chunks=chunks, head="zero")
    images, _ = labelled(context, config)
    plan = Plan(images=len(images), batch_size=16, seed=seed_of(0, "fine-tuning"))
    model = start(config, tiny, 3, 0)
    named = list(model.named_parameters())
    groups = [
        {
            "params": [p for n, p in named if n.startswith(part) and (p.ndim == 1) is vector],
            "weight_decay": 0.0 if vector else 1e-2,
            "peak": rate,
        }
        for part, rate in (("backbone", 0.05), ("head", 0.2))
        for vector in (False, True)
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True)
    model.eval()
    for step, batch in enumerate(train_batches(images, (config.view(32),), plan, range(4), CPU, workers=0)):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * 0.5 * (1 + math.cos(math.pi * step / 4))
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(batch.views[0]), batch.labels))
        optimizer.step()
    found = tuned(config, tiny, context).model.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found["head.weight"], torch.zeros(()))


def test_batch_norm_in_training_sees_one_chunk(flat: dict[str, Arrays], tiny: Subject, context: Context) -> None:
    whole, parts = (tuned(replace(SHORT, epochs=1, chunks=chunks), tiny, context).model for chunks in (1, 4))
    tracked = {key: int(value) for key, value in parts.state_dict().items() if key.endswith("num_batches_tracked")}
    assert set(tracked.values()) == {8}  # 2 steps of 4 chunks
    assert not torch.allclose(whole.head.weight, parts.head.weight)


@pytest.mark.parametrize("norm", ["train", "frozen"])
def test_activations_computed_twice_change_no_digit(
    norm: Literal["train", "frozen"], flat: dict[str, Arrays], tiny: Subject, context: Context
) -> None:
    config = replace(SHORT, chunks=2, norm=norm)
    twice = replace(context, site=replace(context.site, checkpoint_activations=True))
    kept, again = (tuned(config, tiny, each).model.state_dict() for each in (context, twice))
    assert list(kept) == list(again)
    for name, value in kept.items():
        assert torch.equal(value, again[name]), name


def test_lars_adapts_the_network_and_leaves_the_new_classifier_to_plain_momentum(
    flat: dict[str, Arrays], tiny: Subject, context: Context
) -> None:
    config = replace(SHORT, optimizer="lars", norm="frozen", epochs=1, batch_size=30, lr_backbone=2.0)
    images, _ = labelled(context, config)
    before = start(config, tiny, 3, seed_of(0, "fine-tuning"))
    batch = next(
        train_batches(
            images,
            (config.view(32),),
            Plan(images=30, batch_size=30, seed=seed_of(0, "fine-tuning")),
            range(1),
            CPU,
            workers=0,
        )
    )
    torch.autograd.backward(F.cross_entropy(before.eval()(batch.views[0]), batch.labels))
    after = dict(tuned(config, tiny, context).model.named_parameters())
    for name, p in before.named_parameters():
        assert p.grad is not None
        step = after[name].detach() - p.detach()
        if name.startswith("backbone") and p.ndim > 1:
            assert float(step.norm()) == pytest.approx(2.0 * 0.001 * float(p.detach().norm()), rel=1e-3)  # trust 0.001
        else:
            torch.testing.assert_close(step, -(0.2 if name.startswith("head") else 2.0) * p.grad, rtol=1e-3, atol=1e-5)


def test_schedules_are_those_of_torch() -> None:
    def rates(scheduler: str, epochs: int, **options: Any) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        made = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **options)
        found = []
        for _ in range(epochs):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            made.step()
        return found

    by_epoch = replace(SHORT, schedule="cosine_epoch", epochs=20)
    assert [by_epoch.lr_factor(step, 60) for step in range(1, 60, 3)] == pytest.approx(
        rates("CosineAnnealingLR", 20, T_max=20)
    )
    assert len({by_epoch.lr_factor(step, 60) for step in range(60)}) == 20
    steps = replace(SHORT, schedule="milestones", milestones=(12, 16), factor=0.2, epochs=20)
    assert [steps.lr_factor(step, 60) for step in range(0, 60, 3)] == pytest.approx(
        rates("MultiStepLR", 20, milestones=[12, 16], gamma=0.2)
    )
    assert [SHORT.lr_factor(step, 30) for step in range(30)] == pytest.approx(rates("CosineAnnealingLR", 30, T_max=30))
    warm = replace(steps, warmup_epochs=2)
    assert [warm.lr_factor(step, 60) for step in (0, 3, 6, 36)] == pytest.approx([0, 0.5, 1, 0.2])


def test_steps_are_those_of_the_epochs_and_no_fewer_than_the_minimum() -> None:
    # SimCLR: 12,811 x 60 // 4096 + 1
    papers = {
        "simclr_1pct": 188,
        "barlow_twins_1pct": 1001,
        "fnc_1pct": 751,
        "simclr_10pct": 938,
    }
    for name, steps in papers.items():
        assert VARIANTS[name]["paper"].steps(128_116 if "10" in name else 12_811) == steps
    assert replace(SHORT, batch_size=64, epochs=20).steps(40) == 20  # one batch an epoch
    assert replace(SHORT, batch_size=64, epochs=20, minimum_steps=300).steps(40) == 300
    assert replace(SHORT, batch_size=64, epochs=20, minimum_steps=300).steps(4000) == 1250


def test_labels_are_exactly_the_share(context: Context) -> None:
    for fraction, each in ((0.01, 4), (0.1, 40), (1.0, 400)):
        images, source = labelled(context, Config(label_fraction=fraction))
        assert images.labels.bincount().tolist() == [each] * 10
        assert f"{10 * each:,}" in source
    config = Config(label_fraction=0.01)
    first, again, other = (labelled(replace(context, seed=seed), config)[0] for seed in (0, 0, 1))
    assert isinstance(first, Arrays)
    assert isinstance(again, Arrays)
    assert isinstance(other, Arrays)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_nothing_but_the_share_is_trained_on(flat: dict[str, Arrays], tiny: Subject, context: Context) -> None:
    config = replace(SHORT, epochs=2)
    expected = tuned(config, tiny, context).model
    chosen = labelled_subset(torch.cat([flat["train"].labels, flat["val"].labels]), 3, 0.1, 0)
    assert (chosen >= 210).any()  # `val` belongs to it: nothing is chosen there
    for name, first in (("train", 0), ("val", 210)):
        images = torch.full_like(flat[name].images, 255)
        rows = chosen[(chosen >= first) & (chosen < first + len(images))] - first
        images[rows] = flat[name].images[rows]
        flat[name] = Arrays(images, flat[name].labels, 3)
    assert same(tuned(config, tiny, context).model, expected)
    assert not same(tuned(config, tiny, replace(context, seed=1)).model, expected)


def test_few_labels_are_clearly_worse_than_all_of_them(tiny: Subject, context: Context) -> None:
    # Weaker crops than the recipe's: there the difference needs more steps than a test should take.
    weak = replace(VARIANTS["scratch_1pct"]["embedded"], crop_scale=(0.8, 1.0), lr_backbone=0.1, lr_head=0.1, tests=1)
    scratch = replace(weak, epochs=1, minimum_steps=100)
    few, many = (
        evaluate(replace(scratch, label_fraction=fraction), tiny, context).metrics["top1"] for fraction in (0.01, 1.0)
    )
    assert many > few + 10
    assert few > 20  # of ten classes


def kept_lines(context: Context) -> list[dict[str, float]]:
    assert context.folder is not None
    lines: list[dict[str, float]] = [
        json.loads(line) for line in (context.folder / "metrics.jsonl").read_text().splitlines()
    ]
    return [
        {key: value for key, value in line.items() if key not in ("img_s", "seconds") and not key.endswith("_ms")}
        for line in lines
    ]


class StopAfter:
    """Asks for a stop once so many steps have asked."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"nesterov": True, "weight_decay": 1e-3, "precision": "bf16", "schedule": "cosine_epoch"},
        {"optimizer": "lars", "projector_layers": 2, "chunks": 2},
        {"precision": "fp16", "chunks": 2},
    ],
)
def test_a_resumed_run_ends_as_an_undisturbed_one(
    changes: dict[str, Any], flat: dict[str, Arrays], tiny: Subject, context: Context, tmp_path: Path
) -> None:
    config = replace(SHORT, epochs=6, tests=3, **changes)
    folders = {name: tmp_path / name for name in ("whole", "parts")}
    for folder in folders.values():
        (folder / "state").mkdir(parents=True)
    whole = tuned(config, tiny, replace(context, folder=folders["whole"]))
    for steps in (3, 4):  # the second stop falls after the first test
        long = replace(context, folder=folders["parts"], attempt=Attempt(began=time.monotonic() - 1e6))
        with pytest.raises(Stopped):
            tuned(config, tiny, replace(long, should_stop=StopAfter(steps)))
    spent = spent_before(RunFolder(folders["parts"]))
    assert (spent.resumed, spent.seconds // 1e6) == (2, 2)  # of both attempts
    parts = tuned(config, tiny, replace(context, folder=folders["parts"]))
    assert same(whole.model, parts.model)
    assert whole.scores == parts.scores
    assert len(parts.scores) == 3
    lines = kept_lines(replace(context, folder=folders["parts"]))
    assert lines == kept_lines(replace(context, folder=folders["whole"]))
    assert [line["step"] for line in lines] == list(range(1, 12))
    assert lines[-1]["steps"] == 11


def test_best_and_last_are_separate_numbers(flat: dict[str, Arrays], tiny: Subject, context: Context) -> None:
    config = replace(
        SHORT, epochs=5, tests=5, lr_backbone=0.3, lr_head=2.0, schedule="milestones", milestones=(4,), factor=1.0
    )
    found = evaluate(config, tiny, context)
    tests: Any = found.details["tests"]
    assert len(tests) == 5
    assert tests[-1]["epoch"] == pytest.approx(5, abs=0.5)
    assert (found.metrics["top1"], found.metrics["top5"]) == (tests[-1]["top1"], tests[-1]["top5"])
    assert found.metrics["best_top1"] == max(test["top1"] for test in tests)
    once = evaluate(replace(config, tests=1), tiny, context)
    assert once.metrics["best_top1"] == once.metrics["top1"] == found.metrics["top1"]  # looking changes nothing


def test_projector_layers_are_kept_with_their_norms(tiny: Subject) -> None:
    assert isinstance(tiny.projector, nn.Sequential)
    x = torch.rand(4, 3, 32, 32)
    for count, parts, width in ((1, 3, 24), (2, 6, 16), (3, 7, 8)):
        model = start(replace(SHORT, projector_layers=count), tiny, 3, 0).eval()
        assert torch.equal(model.backbone(x), tiny.projector[:parts](tiny.network(x)))
        assert model.head.in_features == width
        assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(BenchError, match="projector_layers is 4, but this encoder comes with 3 such layers"):
        start(replace(SHORT, projector_layers=4), tiny, 3, 0)
    with pytest.raises(BenchError, match="comes with 0"):
        start(replace(SHORT, projector_layers=1), replace(tiny, projector=None), 3, 0)


def test_the_new_classifier_is_drawn_from_the_seed_or_zero(tiny: Subject) -> None:
    first, again, other = (start(replace(SHORT, head="normal"), tiny, 100, seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert not start(replace(SHORT, head="zero"), tiny, 100, 0).head.weight.any()


def test_divergence_fails_with_the_word(flat: dict[str, Arrays], tiny: Subject, context: Context) -> None:
    with pytest.raises(TrainingFailedError, match="diverged") as error:
        tuned(replace(SHORT, lr_backbone=1e20, lr_head=1e20), tiny, context)
    assert error.value.kind == "diverged"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "unknown fine-tuning optimizer 'adam'"),
        ({"schedule": "cosine"}, "Did you mean 'cosine_step'"),
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"schedule": "milestones"}, "one needs the other"),
        ({"milestones": (3,)}, "one needs the other"),
        ({"optimizer": "lars", "nesterov": True}, "nesterov is for sgd"),
        ({"flip": 2.0}, "flip is 2.0"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        replace(SHORT, **changes)


def test_what_cannot_be_fine_tuned_is_refused(tiny: Subject, context: Context) -> None:
    images = colours(30, 0)
    with pytest.raises(BenchError, match="one label an image"):
        fine_tune(SHORT, tiny, context, Arrays(images.images, torch.zeros(30, 3, dtype=torch.int8), 3))
    pixels = Subject(key="pixels", network=encoders.PixelEncoder(32), feature_dim=3072)
    with pytest.raises(BenchError, match="no weights to fine-tune"):
        fine_tune(SHORT, pixels, context, images)


def test_variants_of_one_budget_share_a_setting_away_from_the_published_scale() -> None:
    budgets = {"1pct": 0.01, "10pct": 0.1, "100pct": 1.0}
    papers = {"simclr", "barlow_twins", "vicreg", "twist", "fnc", "scratch"}
    assert {name.rpartition("_")[0] for name in VARIANTS} == papers
    for budget, fraction in budgets.items():
        named = {name: scales for name, scales in VARIANTS.items() if name.endswith(f"_{budget}")}
        assert all(config.label_fraction == fraction for scales in named.values() for config in scales.values())
        assert all(set(scales) == set(RECIPES) for scales in named.values())
        for scale in ("embedded", "cifar"):
            assert len({scales[scale] for name, scales in named.items() if not name.startswith("scratch")}) == 1
        assert len({scales["paper"] for scales in named.values()}) == len(named)
    assert semi_supervised.VARIANTS["scratch_1pct"]["embedded"] != RECIPES["embedded"]


def test_published_settings() -> None:
    # rates of network and classifier, batch, epochs
    expected = {
        "simclr_1pct": (0.8, 0.8, 4096, 60),
        "simclr_10pct": (0.8, 0.8, 4096, 30),
        "barlow_twins_1pct": (0.002, 0.5, 256, 20),
        "barlow_twins_10pct": (0.002, 0.5, 256, 20),
        "vicreg_1pct": (0.03, 0.08, 256, 20),
        "vicreg_10pct": (0.01, 0.1, 256, 20),
        "twist_1pct": (0.04, 0.2, 256, 20),
        "twist_10pct": (0.02, 0.2, 256, 20),
        "twist_100pct": (0.01, 0.2, 256, 30),
        "fnc_1pct": (0.005 * 32, 0.005 * 32, 1024, 60),
        "fnc_10pct": (0.16, 0.16, 1024, 30),
        "scratch_1pct": (0.01, 0.01, 256, 1000),
        "scratch_10pct": (0.1, 0.1, 256, 200),
    }
    found = {name: scales["paper"] for name, scales in VARIANTS.items()}
    assert {name: (c.lr_backbone, c.lr_head, c.batch_size, c.epochs) for name, c in found.items()} == expected
    assert {name for name, c in found.items() if c.projector_layers} == {"fnc_1pct", "fnc_10pct"}
    assert all(c.weight_decay == 0 for name, c in found.items() if not name.startswith("scratch"))


def test_the_description_names_labels_rates_and_length() -> None:
    text = VARIANTS["barlow_twins_10pct"]["paper"].describe()
    for part in (
        "10% of the labels",
        "0.002 (network)",
        "0.5 (classifier)",
        "20 epochs",
        "times 0.2 after epochs 12, 16",
        "crops and mirrors",
        "last epoch",
    ):
        assert part in text
    assert "LARS" in VARIANTS["fnc_1pct"]["paper"].describe()
    assert "first 1 projector layer" in VARIANTS["fnc_1pct"]["paper"].describe()
    assert isinstance(RECIPES["paper"], FineTuning)


def test_simclr_and_fnc_fine_tune_on_crops_drawn_as_tensorflow_does() -> None:
    drawn_as = {name: config["paper"].view(224).crop for name, config in VARIANTS.items()}
    assert {name for name, crop in drawn_as.items() if crop == "tensorflow"} == {
        f"{method}_{share}" for method in ("simclr", "fnc") for share in ("1pct", "10pct")
    }
    assert {config["embedded"].view(32).crop for config in VARIANTS.values()} == {"torchvision"}
    with pytest.raises(BenchError, match="unknown augmentation crop 'pillow'"):
        Config(crop_sampler="pillow")  # type: ignore[arg-type]


def test_shared_memory_is_compared_with_training_and_test_before_the_first_step(
    tiny: Subject, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, image in enumerate(colours(30, 0).images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number:02}.png")
    images = Files(sorted(tmp_path.glob("*.png")), torch.arange(30) % 3, 3)
    monkeypatch.setattr(finetune, "open_split", lambda *_: images)
    monkeypatch.setattr(finetune, "train_batches", lambda *_, **__: pytest.fail("it has begun"))
    placed = replace(context, site=replace(context.site, workers=1))
    training = 3 * (16 * 3 * 32 * 32 + 4096)  # three batches, each with its images' numbers
    test = 30 * 3 * 32 * 32 + 2048 + 4096  # one pass of one batch, in whole pages, and its labels
    monkeypatch.setattr(shared_memory, "room", lambda: shared_memory.Room(training + test - 1, training + test - 1))
    with pytest.raises(BenchError, match=r"\(3 batches of 53 kB and 1 batches of 98 kB\).*workers = 0 under"):
        fine_tune(SHORT, tiny, placed, images)
    monkeypatch.setattr(shared_memory, "room", lambda: shared_memory.Room(training + test, training + test))
    with pytest.raises(pytest.fail.Exception, match="it has begun"):
        fine_tune(SHORT, tiny, placed, images)
