"""Gradient caching: the gradient of the large batch from sub-batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.bench_toml import find_site
from bench.contracts import Batch
from bench.errors import BenchError
from bench.runs.folder import RunFolder
from bench.training import loop
from bench.training.chunks import cached_backward, split
from bench.training.ranks import Ranks
from methods.barlow_twins import barlow_twins_loss
from methods.simclr import nt_xent
from tests.conftest import tiny_pretrain


class Network(nn.Module):
    """Embeds two views; `norm` decides whether images see each other."""

    def __init__(self, *, norm: bool, dropout: float = 0.0) -> None:
        super().__init__()
        middle: nn.Module = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.body = nn.Sequential(nn.Linear(12, 16), middle, nn.Dropout(dropout), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {
            "za": self.body(batch.views[0]),
            "zb": self.body(batch.views[1]),
            "slow": self.body(batch.views[0]).detach(),
        }


def batch_of(images: int) -> Batch:
    rng = torch.Generator().manual_seed(0)
    views = [torch.randn(images, 12, dtype=torch.float64, generator=rng) for _ in range(2)]
    return Batch(views=views, labels=torch.arange(images), indices=torch.arange(images))


def contrastive(z: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    return {"loss": nt_xent(z["za"], z["zb"], temperature=0.2)}


def redundancy(z: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    return barlow_twins_loss(z["za"], z["zb"], lambda_=0.01)


def gradients(network: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("chunks", [1, 2, 4, 8])
@pytest.mark.parametrize("loss", [contrastive, redundancy])
def test_the_gradient_is_that_of_the_plain_large_batch(
    loss: object, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(loss)
    torch.manual_seed(0)
    network, batch = Network(norm=False).double(), batch_of(16)
    plain = loss(network(batch), batch.labels)["loss"]
    plain.backward()
    expected = gradients(network)
    network.zero_grad()
    monkeypatch.setattr(Tensor, "float", lambda self: self)  # stay in float64 throughout
    losses, embeddings = cached_backward(network, network, loss, batch, chunks=chunks, seed=1)
    assert torch.allclose(losses["loss"], plain, atol=1e-12)
    assert embeddings["za"].shape == (16, 8)
    for found, wanted in zip(gradients(network), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-12)


def test_batch_norm_sees_one_sub_batch_and_moves_its_statistics_once() -> None:
    torch.manual_seed(0)
    network, batch = Network(norm=True), batch_of(16)
    batch = Batch(views=[v.float() for v in batch.views], labels=batch.labels, indices=batch.indices)
    twin = Network(norm=True)
    twin.load_state_dict(network.state_dict())
    cached_backward(network, network, contrastive, batch, chunks=4, seed=1)
    parts = [twin(part) for part in split(batch, 4)]
    contrastive({name: torch.cat([p[name] for p in parts]) for name in ("za", "zb")}, batch.labels)["loss"].backward()  # type: ignore[no-untyped-call]
    for found, wanted in zip(gradients(network), gradients(twin), strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(network.body[1].running_mean, twin.body[1].running_mean)  # type: ignore[arg-type]
    assert torch.allclose(network.body[1].running_var, twin.body[1].running_var)  # type: ignore[arg-type]


def test_both_passes_draw_the_same_random_numbers() -> None:
    torch.manual_seed(0)
    network, batch = Network(norm=False, dropout=0.5), batch_of(8)
    batch = Batch(views=[v.float() for v in batch.views], labels=batch.labels, indices=batch.indices)
    seen: list[Tensor] = []

    def embed(part: Batch) -> dict[str, Tensor]:
        seen.append(network(part)["za"])
        return network_of(part, seen[-1])

    def network_of(part: Batch, za: Tensor) -> dict[str, Tensor]:
        return {"za": za, "zb": za * 2}

    cached_backward(network, embed, contrastive, batch, chunks=2, seed=5)
    first, second = seen[:2], seen[2:]
    assert all(torch.equal(a, b.detach()) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])


def test_a_pretraining_in_chunks_trains_and_is_another_job(tmp_path: Path) -> None:
    spec = replace(tiny_pretrain(epochs=0.3), chunks=5)
    place = loop.Place(RunFolder(tmp_path / "run"), find_site(tmp_path), Ranks(), torch.device("cpu"))
    place.run.path.mkdir()
    trained = loop.pretrain(spec, place)
    assert trained.metrics["loss"] < 7
    with pytest.raises(BenchError, match="batch_size 250 does not divide into 3 chunks"):
        replace(spec, chunks=3)
