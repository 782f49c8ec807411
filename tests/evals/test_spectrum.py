from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.contracts import Context, Outcome, Subject
from bench.execution.subject import load_subject
from bench.identity import job_id
from bench.runs.folder import RunFolder, Runs
from bench.training import loop
from bench.training.ranks import Ranks
from evals import spectrum
from evals.parts.spectrum import covariance_spectrum, measures
from evals.spectrum import METRICS, RECIPES, Config, evaluate
from methods.directclr import Config as DirectCLR
from tests.conftest import tiny_pretrain


def cross(lengths: list[float]) -> Tensor:
    """Points at plus and minus each length on an axis of its own: covariance diag(length^2) / width."""
    axes = torch.diag(torch.tensor(lengths))
    return torch.cat([axes, -axes])


def test_singular_values_of_points_on_axes_are_known() -> None:
    found = covariance_spectrum(cross([1.0, 3.0, 2.0]), normalize=False)
    torch.testing.assert_close(found, torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64) / 3)


def test_normalised_rows_forget_their_lengths() -> None:
    found = covariance_spectrum(cross([1.0, 3.0, 2.0]), normalize=True)
    torch.testing.assert_close(found, torch.ones(3, dtype=torch.float64) / 3)


def test_the_mean_does_not_count_and_a_rotation_changes_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(40, 5, generator=rng, dtype=torch.float64) * torch.arange(1, 6)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=rng, dtype=torch.float64))[0]
    torch.testing.assert_close(
        covariance_spectrum(z @ rotation + 100, normalize=False), covariance_spectrum(z, normalize=False)
    )


@pytest.mark.parametrize("normalize", [True, False])
def test_values_are_those_of_the_released_code_up_to_its_divisor(normalize: bool) -> None:
    z = torch.randn(30, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    rows = z / z.norm(dim=1, keepdim=True) if normalize else z
    expected = np.linalg.svd(np.cov(rows.numpy().T))[1] * 29 / 30
    np.testing.assert_allclose(covariance_spectrum(z, normalize=normalize).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "rank", "hundredth", "millionth"),
    [
        ([2.0, 2.0, 2.0, 2.0], 4.0, 4, 4),
        ([5.0, 0.0, 0.0], 1.0, 1, 1),
        ([3.0, 1.0], math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), 2, 2),
        ([1.0, 0.011, 0.009, 1.1e-6, 0.9e-6], None, 2, 4),
        ([0.0, 0.0], 0.0, 0, 0),  # complete collapse
    ],
)
def test_measures_of_known_spectra(values: list[float], rank: float | None, hundredth: int, millionth: int) -> None:
    found = measures(torch.tensor(values, dtype=torch.float64))
    if rank is not None:
        assert found["effective_rank"] == pytest.approx(rank, abs=1e-12)
    assert (found["above_1e-2"], found["above_1e-6"]) == (hundredth, millionth)


def run(
    monkeypatch: pytest.MonkeyPatch, context: Context, features: Tensor, projector: nn.Module | None, config: Config
) -> Outcome:
    """The evaluation on features that are given; the other splits hold what must not be looked at."""
    splits = {
        name: (features if name == "test" else features * 0 + torch.nan, torch.zeros(len(features)))
        for name in ("train", "val", "test")
    }
    monkeypatch.setattr(spectrum, "features_of", lambda subject, context: splits)
    return evaluate(
        config, Subject(key="k", network=nn.Identity(), feature_dim=features.shape[1], projector=projector), context
    )


def values_of(outcome: Outcome) -> dict[str, list[float]]:
    spectra = outcome.details["spectra"]
    assert isinstance(spectra, list)
    return {entry["label"]: entry["values"] for entry in spectra}  # type: ignore[call-overload, index, misc]


def test_embedding_is_what_the_projector_makes_of_the_test_split(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    projector = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        projector.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 10.0, 0.0]]))
    found = run(monkeypatch, context, cross([1.0, 3.0, 2.0]), projector.requires_grad_(False), Config(normalize=False))
    assert values_of(found)["representation"] == pytest.approx([3, 4 / 3, 1 / 3])
    assert values_of(found)["embedding"] == pytest.approx([300, 1 / 3])
    assert found.details["widths"] == {"representation": 3, "embedding": 2}
    assert (
        found.metrics["representation_above_1e-2"],
        found.metrics["embedding_above_1e-2"],
        found.metrics["embedding_above_1e-6"],
    ) == (3, 1, 2)
    assert set(found.metrics) == set(METRICS)


def test_without_a_projector_the_embedding_is_the_representation(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    found = run(monkeypatch, context, cross([1.0, 3.0]), None, Config())
    assert values_of(found)["representation"] == values_of(found)["embedding"] == pytest.approx([0.5, 0.5])
    assert found.details["projector"] == "none"


def test_a_projector_of_more_images_than_a_batch_keeps_all(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    features = torch.randn(601, 4, generator=torch.Generator().manual_seed(0))
    found = run(monkeypatch, context, features, nn.Identity(), Config())
    assert values_of(found)["embedding"] == pytest.approx(values_of(found)["representation"], rel=1e-12)
    assert found.details["test_images"] == 601


def test_the_released_codes_normalisation_is_the_default() -> None:
    assert Config().normalize
    assert all(config == Config() for config in RECIPES.values())
    assert "l2-normalised" in Config().describe()
    assert "l2-normalised" not in Config(normalize=False).describe()


@pytest.mark.parametrize(
    ("projector", "width", "kept"), [("direct", 8, 8), ("low_rank", 32, 8), ("none", 32, 32), ("linear", 6, 6)]
)
def test_a_trained_projector_is_loaded_with_its_encoder(
    projector: str, width: int, kept: int, context: Context
) -> None:
    method = DirectCLR(projector=projector, d0=8, output=6, temperature=0.5)  # type: ignore[arg-type]
    spec = replace(tiny_pretrain(epochs=2 / 14), method=method)
    folder = RunFolder(context.site.runs / job_id(spec))
    folder.path.mkdir(parents=True)
    loop.pretrain(spec, loop.Place(folder, context.site, Ranks(), torch.device("cpu")))
    subject = load_subject(spec, 32, Runs(context.site.runs), torch.device("cpu"), projector=spectrum.NEEDS_PROJECTOR)
    found = evaluate(Config(), subject, context)
    assert found.details["widths"] == {"representation": 32, "embedding": width}
    assert found.metrics["embedding_above_1e-6"] <= kept
    values = values_of(found)["embedding"]
    assert values == sorted(values, reverse=True)
    assert values[kept - 1] > 1e-9 * values[0]
    assert all(value < 1e-9 * values[0] for value in values[kept:])  # the zeros of a fixed low-rank projector
