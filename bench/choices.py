"""Section [recipe] of bench.toml: what a user changes in all recipes. It can change numbers, so it is part of the job ids it touches.

[recipe]
chunks = 4                          # sub-batches of a gradient-cached step, to fit a large batch into few GPUs: the loss
# stays that of the whole batch, but batch norm sees one sub-batch at a time
compile = true                      # torch.compile for the encoder in pretraining: other roundings
exact_views = true                  # views of images on disk by Pillow through torchvision, digit for digit, but slow
data = { imagenet = "imagenet-256" }   # read another data set in the place of a paper's, e.g. a packed one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import BenchError, unknown_name

KEYS: Mapping[str, type] = {"chunks": int, "compile": bool, "exact_views": bool, "data": dict}
WORDS: Mapping[type, str] = {int: "a whole number of at least 1", bool: "true or false", dict: 'a table such as { imagenet = "imagenet-256" }'}


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is changed in all recipes; nothing by default."""

    chunks: int = 1
    compile: bool = False
    exact_views: bool = False
    data: tuple[tuple[str, str], ...] = ()  # (data set of the paper, the one that is read in its place)

    def sentence(self) -> str:
        """For the notes of a table, "" without a choice."""
        said = [f"{other} in the place of {name}" for name, other in self.data]
        said += [f"{self.chunks} chunks a pretraining step"] if self.chunks > 1 else []
        said += ["compiled encoders"] if self.compile else []
        said += ["views by Pillow"] if self.exact_views else []
        return f"Chosen in bench.toml: {', '.join(said)}." if said else ""


AS_PUBLISHED = Choices()


def read_choices(file: str, body: Mapping[str, Any]) -> Choices:
    """Raises BenchError for an unknown key, a wrong type, or a data set that cannot stand in for another."""
    for key, value in body.items():
        if key not in KEYS:
            raise unknown_name(f"key in [recipe] of {file}", key, KEYS)
        wrong = type(value) is not KEYS[key]  # a bool is an int for isinstance
        if wrong or (key == "chunks" and value < 1):
            raise BenchError(f"{file}: recipe.{key} is {value!r}, expected {WORDS[KEYS[key]]}.")
    for name, other in body.get("data", {}).items():
        _check_stand_in(file, name, other)
    return Choices(**{**body, "data": tuple(sorted(body.get("data", {}).items()))})


def _check_stand_in(file: str, name: str, other: object) -> None:
    from bench.data.catalogue import CATALOGUE  # knows Site, which knows this module

    if not isinstance(other, str):
        raise BenchError(f"{file}: recipe.data.{name} is {other!r}, expected the name of a data set.")
    for found in (name, other):
        if found not in CATALOGUE:
            raise unknown_name(f"data set in recipe.data of {file}", found, CATALOGUE)
    here, there = CATALOGUE[name], CATALOGUE[other]
    if (here.classes, here.boxes) != (there.classes, there.boxes):
        raise BenchError(
            f"{file}: recipe.data puts {other} in the place of {name}, but it has {there.classes} classes instead of {here.classes}: "
            "the numbers of one say nothing about the other."
        )
