"""Whatever lies in a checkpoint: the right network, or one line; no traceback, no other network, no silent choice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.errors import BenchError
from bench.networks import encoders
from bench.spec import Backbone
from bench.weights import layouts
from bench.weights.candidates import NO_NETWORK, SEQUENTIAL

SMALL = Backbone(name="resnet10", base_channels=1)
EXAMPLES = int(os.environ.get("BENCH_EXAMPLES", "200"))  # 2,000 where somebody asks for it
STATES = [dict(encoders.build(SMALL, seed).state_dict()) for seed in range(3)]
DAMAGES = ("", "", "", "missing", "shape", "meta", "nan", "integers", "complex", "larger", "bare")
FORMATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
PREFIXES = (
    "",
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "backbone.",
    "module.base_encoder.",
    "encoder_k.",
    "teacher.",
)
CONTAINERS = ("model", "state_dict", "state_dict_ema", "student", "teacher", "encoder", "optimizer", "callbacks")
BOUNDED = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)


@dataclass(frozen=True)
class Planted:
    """A network that the file is given."""

    containers: tuple[str, ...]
    prefix: str
    seed: int
    dtype: torch.dtype
    damage: str
    numbered: bool

    @property
    def whole(self) -> bool:
        """Whether it can be found and taken."""
        return not self.damage and not any(NO_NETWORK.search(name) for name in self.containers)

    def values(self) -> Mapping[str, Tensor]:
        """What the network has to hold then."""
        return {name: v.to(self.dtype).to(v.dtype) for name, v in STATES[self.seed].items() if v.is_floating_point()}

    def state(self) -> dict[str, Tensor]:
        """As it lies in the file."""
        made = {name: v.to(self.dtype) if v.is_floating_point() else v for name, v in STATES[self.seed].items()}
        first = made["layer1.0.conv1.weight"]
        damaged: Mapping[str, dict[str, Tensor]] = {
            "shape": {"layer1.0.conv1.weight": first.new_ones(3)},
            "meta": {"layer1.0.conv1.weight": first.to("meta")},
            "nan": {"layer1.0.conv1.weight": first * torch.nan},
            "integers": {"layer1.0.conv1.weight": first.to(torch.int8)},
            "complex": {"layer1.0.conv1.weight": first.float().to(torch.complex64)},
            "larger": {"layer4.1.conv1.weight": first},
        }
        made |= damaged.get(self.damage, {})
        if self.damage == "missing":
            del made["layer1.0.conv1.weight"]
        if self.damage == "bare":
            made = {"fc.weight": first}
        if self.numbered:
            split = {name: name.partition(".") for name in made}
            made = {f"{SEQUENTIAL.get(split[n][0], split[n][0])}.{split[n][2]}": v for n, v in made.items()}
        return {self.prefix + name: values for name, values in made.items()}


words = st.text("abcdexyz_", min_size=1, max_size=4)
planted = st.builds(
    Planted,
    containers=st.lists(st.sampled_from(CONTAINERS) | words, max_size=3).map(tuple),
    prefix=st.sampled_from(PREFIXES) | words.map(lambda word: f"{word}."),
    seed=st.integers(0, 2),
    dtype=st.sampled_from(FORMATS),
    damage=st.sampled_from(DAMAGES),
    numbered=st.booleans(),
)
junk = st.recursive(
    st.none()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        [np.float64(0.5), np.int64(3), Path("x"), torch.ones(2), torch.ones(2, device="meta"), nn.ReLU()]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=4,
)


def built(networks: list[Planted], extras: Mapping[str | int, object]) -> dict[str | int, object]:
    """The content of the file."""
    content: dict[str | int, object] = {**extras}
    for one in networks:
        place = content
        for name in one.containers:
            inside = place.setdefault(name, {})
            assume(isinstance(inside, dict))
            assert isinstance(inside, dict)
            place = inside
        state = one.state()
        assume(not place.keys() & state.keys())
        place.update(state)
    return content


def holds(network: nn.Module, one: Planted) -> bool:
    found = network.state_dict()
    return all(torch.equal(found[name], values) for name, values in one.values().items())


@BOUNDED
@given(
    networks=st.lists(
        planted, max_size=3, unique_by=lambda one: (one.containers, one.prefix.replace("_orig_mod.", ""))
    ),
    extras=st.dictionaries(st.text(max_size=5) | st.integers(), junk, max_size=3),
)
@example(networks=[], extras={"a\nb": torch.ones(2)})
def test_every_checkpoint_gives_its_network_or_one_line(
    networks: list[Planted], extras: dict[str | int, object], tmp_path: Path
) -> None:
    torch.save(built(networks, extras), tmp_path / "file.pth")
    whole = [one for one in networks if one.whole]
    # What was single precision says the same in double.
    different = {(one.seed, torch.float32 if one.dtype == torch.float64 else one.dtype) for one in whole}
    try:
        network, report = layouts.load(SMALL, tmp_path / "file.pth")
    except BenchError as error:
        said = str(error)
        assert said.isprintable(), said
        # One whole network is always taken, unless nothing of the file can be read safely or another one is a rival.
        rivals = "give --part" in said or "not finite" in said
        assert "are not rebuilt here" in said or not whole or (rivals and len(networks) > 1), said
        return
    assert any(holds(network, one) for one in whole)
    assert report.missing == ()
    if len(different) > 1:
        assert report.others
        assert "--part takes another network" in report.line()


@BOUNDED
@given(cut=st.floats(0, 1), place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), old=st.booleans())
@example(cut=1.0, place=0.9434965618639858, byte=64, old=False)  # a version of zip that is none
@example(cut=1.0, place=0.953125, byte=1, old=False)  # a name of a member that is no UTF-8
def test_every_damaged_file_gives_a_network_or_one_line(
    cut: float, place: float, byte: int, old: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file.pth"
    torch.save({"model": STATES[0]}, path, _use_new_zipfile_serialization=not old)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] = byte
    path.write_bytes(content[: len(content) if cut > 0.5 else int(2 * cut * len(content))])
    try:
        network, _ = layouts.load(SMALL, path)
    except BenchError as error:
        said = str(error)
        assert said.isprintable(), said
        return
    assert all(values.isfinite().all() for values in network.state_dict().values())


def test_a_checkpoint_may_go_round_in_a_circle(tmp_path: Path) -> None:
    content: dict[str, object] = {"model": dict(STATES[0])}
    content["again"] = content
    torch.save(content, tmp_path / "file.pth")
    network, report = layouts.load(SMALL, tmp_path / "file.pth")
    assert all(torch.equal(values, STATES[0][name]) for name, values in network.state_dict().items())
    assert not report.others
