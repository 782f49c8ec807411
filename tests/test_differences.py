"""Every method and protocol of this project says where it differs from its authors' released code."""

from __future__ import annotations

import re
from dataclasses import astuple
from importlib import import_module

import pytest

from bench import plugins
from bench.contracts import Difference
from tests.conftest import ROOT

FOLDERS = {"method": "methods", "evaluation": "evals"}
FILES = [(kind, path.stem) for kind, folder in FOLDERS.items() for path in sorted((ROOT / folder).glob("[a-z]*.py"))]


def refusal(names: dict[str, object], docstring: str) -> str:
    """Why a file of this project does not stand, "" when it does."""
    if "DIFFERENCES" not in names:
        return "lists no DIFFERENCES from the authors' released code"
    if not names["DIFFERENCES"] and not re.search(r"DIFFERENCES is empty: .*no released code|no code was", docstring):
        return "has an empty DIFFERENCES, and no sentence of its docstring says that no code was released"
    return ""


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_file_of_this_project_lists_its_differences(kind: str, name: str) -> None:
    module = import_module(f"{FOLDERS[kind]}.{name}")
    assert refusal(vars(module), module.__doc__ or "") == ""
    found = plugins.method(name).differences if kind == "method" else plugins.evaluation(name).differences
    assert found is vars(module)["DIFFERENCES"]
    assert len({difference.what for difference in found}) == len(found), "each is about something else"
    for difference in found:
        assert len(" ".join(astuple(difference))) <= 480, "short"
        for text in astuple(difference)[1:]:
            assert text[-1] in ".", f"a sentence ends with a full stop: {text}"
        assert not difference.what.endswith(".")


def test_a_file_without_the_list_or_a_reason_is_refused() -> None:
    some = (Difference("what", "there", "here", "why", "effect"),)
    assert refusal({}, "").startswith("lists no DIFFERENCES")
    assert refusal({"DIFFERENCES": ()}, "A method.").startswith("has an empty DIFFERENCES")
    assert refusal({"DIFFERENCES": ()}, "A method.\nDIFFERENCES is empty: no code was released.") == ""
    assert refusal({"DIFFERENCES": some}, "A method.") == ""


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("method", "moco", "bilinear"),
        ("method", "simsiam", "bilinear"),
        ("method", "swav", "0.228"),
        ("method", "swav", "1e-8"),
        ("method", "twist", "1.85"),
        ("method", "dino", "1.85"),
        ("method", "simclr", "Zeros beyond"),
        ("method", "byol", "Zeros beyond"),
        ("method", "simclr", "One sigma"),
        ("method", "truncated_triplet", "norm is 0"),
        ("method", "vicreg", "loss within autocast"),
        ("method", "fnc", "TPU"),
        ("method", "barlow_twins", "partial batch"),
        ("method", "fnc", r"\+ 1"),
        ("method", "simsiam", "torch's uniform"),
        ("method", "dino", "args.txt"),
        ("evaluation", "svm", "8192"),
        ("evaluation", "detection_voc", "180,000"),
        ("evaluation", "semi_supervised", "0.005"),
    ],
)
def test_what_was_found_by_running_the_released_code_is_listed(kind: str, name: str, said: str) -> None:
    found = plugins.method(name).differences if kind == "method" else plugins.evaluation(name).differences
    assert re.search(said, " ".join(text for difference in found for text in astuple(difference)), re.IGNORECASE)
