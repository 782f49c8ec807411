"""Where in a torch file a network may lie: every dictionary of tensors, every prefix, and the order of preference.

A file may hold several networks of one shape: raw and averaged weights, student and teacher, query and key encoder. The
words of their names say which one the authors evaluate; where they do not, nobody chooses but the user, with `--part`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

CONTAINERS = (
    "",
    "backbone",
    "encoder",
    "state_dict",
    "model",
    "model_state_dict",
    "network",
)  # looked at in this order
DEPTH = 4  # of dictionaries in dictionaries: a Lightning callback's average lies at 3
NO_NETWORK = re.compile(
    r"(?i)optim|grad|scheduler|scaler|exp_avg|momentum_buffer"
)  # they hold tensors by weights' names
WRAPPERS = (
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
)  # anywhere: single blocks are compiled
# nn.Sequential(*resnet.children()), as lightly and VICReg's users keep a ResNet: relu is 2, the pools are 3 and 8
SEQUENTIAL = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
# Words of the network that is not evaluated. The student is behind the teacher, of which DINO and iBOT print numbers.
SECOND = frozenset(
    {"ema", "averaged", "average", "avg", "shadow", "swa", "momentum", "target", "teacher", "key", "k", "m", "offline"}
)
THIRD = frozenset({"student"})
OWN_FILE = {"encoder", "method"}  # weights.pt of this project: "encoder" is the encoder, whatever the method keeps


@dataclass(frozen=True)
class Candidate:
    """Tensors under one prefix of one dictionary."""

    containers: tuple[str, ...]  # keys on the way to the dictionary; (): the file's top level
    prefix: str
    state: Mapping[str, Tensor]  # the dictionary's tensors
    sequential: bool = False  # a ResNet's children by their numbers
    rank: int = 0  # of several that fit, those of the lowest are preferred
    elsewhere: tuple[str, ...] = ()  # names of the tensors in all other dictionaries of the file
    title: str = ""  # of a layout that is none of names

    @property
    def part(self) -> str:
        """What `--part` calls it: "." is the file's top level."""
        return ".".join(filter(None, (*self.containers, self.prefix.rstrip(".")))) or "."

    @property
    def layout(self) -> str:
        """In words."""
        if self.title:
            return self.title
        place = "[" + "][".join(self.containers) + "]" if self.containers else ""
        names = f"{self.prefix}*" if self.prefix else "plain names"
        return " ".join(filter(None, (place, names, "by number" if self.sequential else "")))

    @property
    def outside(self) -> tuple[str, ...]:
        """Names of all tensors of the file that are not under the prefix."""
        return (*(name for name in self.state if not name.startswith(self.prefix)), *self.elsewhere)

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """What lies under the prefix, by torchvision's or timm's names where it has one, else by its own."""
        under = {
            name.removeprefix(self.prefix): values
            for name, values in self.state.items()
            if name.startswith(self.prefix)
        }
        if not self.sequential:
            return under
        names = {number: name for name, number in SEQUENTIAL.items()}
        return {_renamed(name, names): values for name, values in under.items()}


def candidates(content: Mapping[Any, Any], own: Iterable[str]) -> list[Candidate]:
    """Every place in a file's content that may hold a network with the keys `own`, in the order of preference.

    A dictionary of tensors without any of these keys is there too, for the report. Empty where there are no tensors.
    """
    plain = frozenset(own)
    numbered = frozenset(_renamed(name, SEQUENTIAL) for name in plain if name.partition(".")[0] in SEQUENTIAL)
    dictionaries = list(_dictionaries(content, ()))
    found: list[Candidate] = []
    for containers, state in dictionaries:
        elsewhere = tuple(".".join((*at, name)) for at, part in dictionaries if at != containers for name in part)
        hits = {False: _prefixes(state, plain), True: _prefixes(state, numbered)}
        most = max((count for counted in hits.values() for count in counted.values()), default=0)
        places = [(prefix, kind) for kind in hits for prefix, count in hits[kind].items() if 2 * count >= most]
        for prefix, kind in places or [("", False)]:
            found.append(Candidate(containers, prefix, state, kind, _rank(content, containers, prefix), elsewhere))
    return sorted(found, key=lambda one: (one.rank, _place(one.containers), one.sequential))


def _dictionaries(
    part: Mapping[Any, Any], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every dictionary of tensors by name, the outer ones first."""
    state = {name: value for name, value in part.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if state:
        yield above, _unwrapped(state)
    for name, value in part.items():
        inside = isinstance(name, str) and isinstance(value, Mapping) and len(above) < DEPTH
        if inside and not NO_NETWORK.search(name):
            yield from _dictionaries(value, (*above, name))


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the names that wrappers put between; as it is where two tensors would then have one name."""
    clean = {}
    for name, value in state.items():
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")  # noqa: PLW2901
        clean[name] = value
    return clean if len(clean) == len(state) else state


def _prefixes(state: Iterable[str], own: frozenset[str]) -> Counter[str]:
    """How many keys of a network stand behind each prefix."""
    counted: Counter[str] = Counter()
    for name in state:
        start = 0
        while start >= 0:
            if name[start:] in own:
                counted[name[:start]] += 1
            start = name.find(".", start) + 1 or -1
    return counted


def _rank(content: Mapping[Any, Any], containers: tuple[str, ...], prefix: str) -> int:
    if containers == ("encoder",) and not prefix and content.keys() >= OWN_FILE:
        return -1
    words = set(re.split(r"[._\W]+", ".".join((*containers, prefix)).lower()))
    return 2 if words & THIRD else int(bool(words & SECOND))


def _place(containers: tuple[str, ...]) -> int:
    first = containers[0] if containers else ""
    return CONTAINERS.index(first) if first in CONTAINERS else len(CONTAINERS)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    head, dot, rest = name.partition(".")
    return names.get(head, head) + dot + rest
