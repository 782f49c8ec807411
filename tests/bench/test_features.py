"""How a plan counts what is in the feature cache."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.commands.plan import _cached
from bench.contracts import Context, Subject
from bench.identity import digest
from bench.planning.graph import plan
from bench.runs.features import counted
from bench.runs.folder import Runs
from bench.settings.site import Site
from bench.spec import Data, Evaluate, Random
from evals import linear_augmented, spectrum, svm
from evals.parts.features import features_of
from tests.conftest import TINY, knn_of, linear_of

ENCODER = Random(backbone=TINY)
KNN, LINEAR = knn_of(ENCODER), linear_of(ENCODER)


def _nobody_looked(name: str) -> str:
    return ""


def made(folder: Path, *names: str, encoder: Random = ENCODER) -> Path:
    """Entries of the cache, empty ones."""
    for name in names:
        (folder / f"{digest(encoder)}-0a1b2c-{name}").mkdir(parents=True)
    return folder


def test_the_names_are_those_under_which_evaluations_write(here: Site, tmp_path: Path) -> None:
    network = torch.nn.Flatten()
    context = Context(site=here, data=KNN.data, seed=0, device=torch.device("cpu"), features=tmp_path / "features")
    features_of(Subject(key=f"{digest(ENCODER)}-0a1b2c", network=network, feature_dim=3072), context)
    assert counted([KNN], tmp_path / "features", _nobody_looked) == (1, 1)
    assert counted([knn_of(Random(backbone=TINY, seed=1))], tmp_path / "features", _nobody_looked) == (0, 1)


def test_all_splits_that_are_read_must_be_there(tmp_path: Path) -> None:
    folder = made(tmp_path, "mnist5k-32-train-v2", "mnist5k-32-test-v2")
    assert counted([KNN, LINEAR], folder, _nobody_looked) == (0, 2)
    made(tmp_path, "mnist5k-32-val-v1")
    assert counted([KNN], folder, _nobody_looked) == (0, 1)
    made(tmp_path, "mnist5k-32-val-v2")
    assert counted([KNN, LINEAR, replace(KNN, data=Data(name="mnist5k", size=64))], folder, _nobody_looked) == (2, 3)


def test_another_crop_is_another_entry(tmp_path: Path) -> None:
    folder = made(tmp_path, *(f"mnist5k-32-{split}-v2" for split in ("train", "val", "test")))
    squashed, central = (
        replace(KNN, protocol=config) for config in (svm.Config(), svm.VARIANTS["centre_crop"]["paper"])
    )
    assert counted([squashed, central], folder, _nobody_looked) == (1, 2)


def test_a_data_set_may_have_a_dash_in_its_name(tmp_path: Path) -> None:
    unlabelled, labelled = (replace(KNN, data=Data(name=name, size=96)) for name in ("stl10-unlabelled", "stl10"))
    folder = made(tmp_path, *(f"stl10-unlabelled-96-{split}-v2" for split in ("train", "val", "test")))
    assert counted([unlabelled], folder, _nobody_looked) == (1, 1)
    assert counted([labelled], folder, _nobody_looked) == (0, 1)


def test_a_plan_speaks_of_the_evaluations_that_read_the_cache_alone(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    made(runs.features, *(f"mnist5k-32-{split}-v2" for split in ("train", "val", "test")))
    augmented = replace(KNN, protocol=linear_augmented.RECIPES["embedded"])
    specs: list[Evaluate] = [
        KNN,
        replace(KNN, protocol=spectrum.Config()),
        knn_of(Random(backbone=TINY, seed=1)),
        augmented,
    ]
    assert list(_cached(list(plan([("", spec) for spec in specs])), runs, _nobody_looked)) == [
        "\nfeatures are cached for 2 of the 3 evaluations to run that read them"
    ]
    assert list(_cached(list(plan([("", augmented)])), runs, _nobody_looked)) == []


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert counted([KNN], tmp_path / "features", _nobody_looked) == (0, 1)


def test_no_torch_is_imported() -> None:
    code = "import sys, bench.runs.features; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("text", ["[data]\n", '[data]\nimagenet = "x"\n'])
def test_reading_the_names_under_data_imports_no_torch(workplace: Path, text: str) -> None:
    (workplace / "bench.toml").write_text(text)
    code = "import sys; from bench.bench_toml import find_site; find_site(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
