"""BYOL, MoCo v2 and SimSiam step by step in numpy's float64, typed from the papers' formulas and the codes' layouts.

BYOL: arXiv:2006.07733, section 3 and appendix J. MoCo: arXiv:1911.05722, equations 1 and 2, algorithm 1, with the head
of arXiv:2003.04297. SimSiam: arXiv:2011.10566, equations 1 to 4, algorithm 1 and section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.contracts import Batch, Facts
from methods import byol, moco, simsiam

Array = NDArray[np.float64]
IMAGES, PIXELS, FEATURES = 7, 3 * 2 * 2, 6
SEED = 1


class Features(nn.Module):
    """A linear encoder, so that what is tested is everything behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(PIXELS, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.flatten(1))
        return out


@pytest.fixture
def small(facts: Facts) -> Facts:
    torch.manual_seed(SEED)  # of first weights: with some, a hidden unit lies on the edge of its ReLU
    return replace(facts, feature_dim=FEATURES, batch_size=IMAGES)


def images(seed: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    views = [torch.rand(IMAGES, 3, 2, 2, generator=rng, dtype=torch.float64) for _ in range(2)]
    return Batch(views=views, labels=torch.zeros(IMAGES), indices=torch.arange(IMAGES))


def flat(view: Tensor) -> Array:
    return np.asarray(view.numpy().reshape(len(view), -1), dtype=np.float64)


def weights(network: nn.Module) -> dict[str, Array]:
    return {name: value.detach().numpy().copy() for name, value in network.named_parameters()}


def linear(x: Array, w: dict[str, Array], name: str) -> Array:
    out: Array = x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", np.zeros(()))
    return out


def normed(x: Array, w: dict[str, Array], name: str) -> Array:
    """Batch norm with the batch's own statistics: biased variance, 1e-5 under the root."""
    out: Array = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
    return out * w[f"{name}.weight"] + w[f"{name}.bias"]


def cosines(a: Array, b: Array) -> Array:
    out: Array = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return out


def spread(network: nn.Module) -> None:
    """Scales and shifts of batch norms as after some training, so that a missing one shows."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1 and parameter.requires_grad:
                parameter.add_(torch.rand(parameter.shape, generator=rng, dtype=parameter.dtype) - 0.5)


def moved(network: nn.Module, seed: int, prefixes: tuple[str, ...]) -> None:
    """In place of an optimizer's step: every weight of these parts moves somewhere."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(prefixes):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype))


def slopes(loss: Tensor, parameters: Mapping[str, Tensor], value: Callable[[], float]) -> None:
    """The gradient is the slope of `value`, which reads the network's weights, along three entries of each tensor."""
    found = torch.autograd.grad(loss, list(parameters.values()))
    step = 1e-6
    for (name, parameter), gradient in zip(parameters.items(), found, strict=True):
        for place in {0, parameter.numel() // 2, parameter.numel() - 1}:
            entry = parameter.data.view(-1)
            before = float(entry[place])
            sides = []
            for sign in (1, -1):
                entry[place] = before + sign * step
                sides.append(value())
            entry[place] = before
            expected = (sides[0] - sides[1]) / (2 * step)
            assert float(gradient.flatten()[place]) == pytest.approx(expected, abs=1e-7), (name, place)


# -- BYOL ------------------------------------------------------------------------------------------------------------


def byol_head(x: Array, w: dict[str, Array], head: str) -> Array:
    """Linear, batch norm, ReLU, linear without bias."""
    hidden = np.maximum(normed(linear(x, w, f"{head}.0"), w, f"{head}.1"), 0)
    return linear(hidden, w, f"{head}.3")


def byol_value(online: dict[str, Array], target: list[Array], batch: Batch) -> float:
    """2 - 2 cos of the prediction of each view and the target's projection of the other, summed; mean over images."""
    pa, pb = (
        byol_head(byol_head(linear(flat(view), online, "encoder.layer"), online, "projector"), online, "predictor")
        for view in batch.views
    )
    return float((2 - 2 * cosines(pa, target[1]) + 2 - 2 * cosines(pb, target[0])).mean())


def test_byols_steps_are_those_of_the_paper(small: Facts) -> None:
    config = byol.Config(projector=(10, 4), predictor=(9, 4), momentum=0.9)
    network = byol.Method(config, Features(), small).double().train()
    spread(network)
    target = weights(nn.Sequential(network.encoder, network.projector))
    network.target.load_state_dict(nn.Sequential(network.encoder, network.projector).state_dict())
    for k in range(3):
        batch, online = images(k), weights(network)
        projections = [byol_head(linear(flat(view), target, "0.layer"), target, "1") for view in batch.views]
        loss = network.loss(network.embed(batch), batch.labels)["loss"]
        assert float(loss.detach()) == pytest.approx(byol_value(online, projections, batch), abs=1e-12)
        learned = {name: value for name, value in network.named_parameters() if not name.startswith("target.")}
        slopes(loss, learned, lambda: byol_value(weights(network), projections, batch))  # noqa: B023
        moved(network, k, ("encoder.", "projector.", "predictor."))
        network.after_step((k + 1) / small.steps)
        tau = 1 - (1 - 0.9) * (math.cos(math.pi * k / small.steps) + 1) / 2
        fast = weights(nn.Sequential(network.encoder, network.projector))
        target = {name: tau * old + (1 - tau) * fast[name] for name, old in target.items()}
        for name, value in weights(network.target).items():
            np.testing.assert_allclose(value, target[name], rtol=0, atol=1e-14)


def test_byols_heads_have_the_papers_sizes(facts: Facts) -> None:
    """4096 hidden units and 256 outputs in both. The code's hidden layers have a bias, which batch norm takes away."""
    with torch.device("meta"):
        network = byol.Method(byol.Config(), nn.Identity(), replace(facts, feature_dim=2048))
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters() if not name.startswith("target")}
    expected: dict[str, tuple[int, ...]] = {}
    for head, inputs in (("projector", 2048), ("predictor", 256)):
        expected |= {f"{head}.0.weight": (4096, inputs), f"{head}.1.weight": (4096,), f"{head}.1.bias": (4096,)}
        expected |= {f"{head}.3.weight": (256, 4096)}
    assert shapes == expected


def test_a_bias_before_a_batch_norm_changes_nothing(small: Facts) -> None:
    network = byol.Method(byol.Config(projector=(10, 4), predictor=(9, 4)), Features(), small).double().train()
    batch = images(0)
    before = network.embed(batch)["pa"]
    for head in (network.projector, network.predictor):
        assert isinstance(head[0], nn.Linear)
        head[0].bias = nn.Parameter(torch.linspace(-3, 3, head[0].out_features, dtype=torch.float64))
    torch.testing.assert_close(network.embed(batch)["pa"], before, rtol=0, atol=1e-12)


# -- MoCo ------------------------------------------------------------------------------------------------------------


def test_mocos_steps_are_those_of_algorithm_1(small: Facts) -> None:
    config = moco.Config(queue=3 * IMAGES, momentum=0.9, hidden=8, output=4, temperature=0.2)
    network = moco.Method(config, Features(), small).double().train()
    parts = ("encoder.", "projector.")
    slow = weights(network.slow)  # a copy of the first weights
    queue: list[Array] = list(network.queue.numpy()[::-1].copy())  # oldest first, as they leave

    def embedded(view: Tensor, w: dict[str, Array], encoder: str, head: str) -> Array:
        """Encoder, then linear, ReLU, linear, with biases and without batch norm; l2-normalised."""
        hidden = np.maximum(linear(linear(flat(view), w, encoder), w, f"{head}.0"), 0)
        out = linear(hidden, w, f"{head}.2")
        unit: Array = out / np.linalg.norm(out, axis=1, keepdims=True)
        return unit

    def value(w: dict[str, Array], keys: Array, batch: Batch) -> float:
        terms = []
        for query, key in zip(embedded(batch.views[0], w, "encoder.layer", "projector"), keys, strict=True):
            logits = np.array([query @ key, *(query @ old for old in queue)]) / 0.2
            terms.append(np.log(np.exp(logits).sum()) - logits[0])
        return float(np.mean(terms))

    for k in range(5):  # the queue is filled anew once and a half
        batch = images(k)
        fast = weights(nn.Sequential(network.encoder, network.projector))
        # the released code moves the slow encoder before it makes the keys
        slow = {name: 0.9 * old + 0.1 * fast[name] for name, old in slow.items()} if k else slow
        keys = embedded(batch.views[1], slow, "0.layer", "1")
        found = network.embed(batch)
        assert not found["keys"].requires_grad
        loss = network.loss(found, batch.labels)["loss"]
        assert float(loss.detach()) == pytest.approx(value(weights(network), keys, batch), abs=1e-12)
        learned = {name: p for name, p in network.named_parameters() if name.startswith(parts)}
        slopes(loss, learned, lambda: value(weights(network), keys, batch))  # noqa: B023
        queue = [*queue, *keys[::-1]][IMAGES:]  # the oldest leave
        np.testing.assert_allclose(network.queue.numpy(), np.array(queue)[::-1], rtol=0, atol=1e-14)
        moved(network, k, parts)
        network.after_step((k + 1) / small.steps)


def test_mocos_queue_starts_with_directions_of_length_1(small: Facts) -> None:
    network = moco.Method(moco.Config(queue=140, hidden=8, output=4), Features(), small)
    np.testing.assert_allclose(network.queue.norm(dim=1).numpy(), 1, rtol=1e-6)


def test_moco_v2s_head_has_the_papers_sizes(facts: Facts) -> None:
    with torch.device("meta"):
        network = moco.Method(moco.Config(), nn.Identity(), replace(facts, feature_dim=2048))
    assert {name: tuple(value.shape) for name, value in network.projector.named_parameters()} == {
        "0.weight": (2048, 2048),
        "0.bias": (2048,),
        "2.weight": (128, 2048),
        "2.bias": (128,),
    }
    assert network.queue.shape == (65536, 128)


# -- SimSiam ---------------------------------------------------------------------------------------------------------


def simsiam_projection(view: Tensor, w: dict[str, Array]) -> Array:
    """Three linear layers, each with batch norm, ReLU on the first two, the last norm without scale and shift."""
    x = linear(flat(view), w, "encoder.layer")
    for layer in (0, 3):
        x = np.maximum(normed(linear(x, w, f"projector.{layer}"), w, f"projector.{layer + 1}"), 0)
    x = linear(x, w, "projector.6")
    out: Array = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
    return out


def simsiam_value(w: dict[str, Array], constant: list[Array], batch: Batch) -> float:
    """Half of -cos in both directions, the projections taken as constants."""
    halves = []
    for view, other in zip(batch.views, reversed(constant), strict=True):
        hidden = linear(simsiam_projection(view, w), w, "predictor.0")
        prediction = linear(np.maximum(normed(hidden, w, "predictor.1"), 0), w, "predictor.3")
        halves.append(-cosines(prediction, other).mean() / 2)
    return float(sum(halves))


def test_simsiams_loss_and_gradient_are_those_of_algorithm_1(small: Facts) -> None:
    network = simsiam.Method(simsiam.Config(hidden=8, bottleneck=3), Features(), small).double().train()
    spread(network)
    batch = images(0)
    constant = [simsiam_projection(view, weights(network)) for view in batch.views]
    found = network.embed(batch)
    np.testing.assert_allclose(found["za"].detach().numpy(), constant[0], atol=1e-12)
    loss = network.loss(found, batch.labels)["loss"]
    assert float(loss.detach()) == pytest.approx(simsiam_value(weights(network), constant, batch), abs=1e-12)
    learned = {name: value for name, value in network.named_parameters() if value.requires_grad}
    # With the projections held: a gradient through them would show.
    slopes(loss, learned, lambda: simsiam_value(weights(network), constant, batch))


def test_simsiams_heads_have_the_papers_sizes_and_the_codes_biases(facts: Facts) -> None:
    with torch.device("meta"):
        network = simsiam.Method(simsiam.Config(), nn.Identity(), replace(facts, feature_dim=2048))
    learned = {name: tuple(value.shape) for name, value in network.named_parameters() if value.requires_grad}
    expected: dict[str, tuple[int, ...]] = {f"projector.{n}.weight": (2048, 2048) for n in (0, 3, 6)}
    expected |= {f"projector.{n}.{kind}": (2048,) for n in (1, 4) for kind in ("weight", "bias")}
    expected |= {"predictor.0.weight": (512, 2048), "predictor.1.weight": (512,), "predictor.1.bias": (512,)}
    expected |= {"predictor.3.weight": (2048, 512), "predictor.3.bias": (2048,)}
    assert learned == expected
