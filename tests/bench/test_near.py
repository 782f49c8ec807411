"""A job whose data were copied to its node trains as any other, and the ranks of all nodes go on together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import ROOT
from bench.bench_toml import find_site
from bench.data.fingerprint import DataHere
from bench.data.packing_as_is import pack_as_is
from bench.data.sets import folders
from bench.errors import Stopped
from bench.execution import environment, exits, near, worker
from bench.planning.graph import plan
from bench.runs.folder import RunFolder
from bench.settings.site import Site
from bench.spec import Augment, Data, Pretrain, Resources
from bench.training.ranks import Ranks
from tests.bench import data_trees as trees


@pytest.fixture
def pack(workplace: Path) -> Path:
    """A pack beside the folder that it was made of."""
    root = trees.class_folders(workplace / "imagenet", (("train", 40), ("val", 2)), ("auk", "kea"))
    folders._image_folder.cache_clear()
    (workplace / "bench.toml").write_text(f'[data]\nimagenet = "{root}"\n')
    return pack_as_is("imagenet", find_site(), out=workplace / "pack", say=lambda line: None).root


def test_a_job_is_the_same_job_from_a_folder_a_pack_and_a_staged_copy(
    small: Pretrain, pack: Path, workplace: Path, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    view = Augment(size=24, crop_scale=(0.25, 1.0))
    spec = replace(small, data=Data(name="imagenet", size=24), views=(view, view), batch_size=16, epochs=0.5)
    places = {
        "folder": f'[data]\nimagenet = "{workplace}/imagenet"\n',
        "pack": f'[data]\nimagenet = "{pack}"\n',
        "staged": f'[data]\nimagenet = "{pack}"\n[local]\nstaging = "$TMPDIR/disk"\nworkers = 1\n',
    }
    (job,) = plan([("small", spec)])
    request.addfinalizer(lambda: torch.set_flush_denormal(False))
    seen = []
    for name, text in places.items():
        (workplace / "bench.toml").write_text(text)
        run = RunFolder(workplace / name / job.id)
        run.create(job, Resources())
        with environment.worn_here(1):
            assert worker.main(str(run.path)) == exits.DONE, capfd.readouterr().out
        result = run.result()
        now = DataHere(find_site()).known("imagenet")
        assert result.provenance.inputs.data == {"imagenet": now}  # so nothing is said to have changed
        method = torch.load(run.weights, weights_only=True)["method"]
        seen.append((result.job, now, {key: value.tolist() for key, value in method.items()}))
    assert seen[1] == seen[0]
    assert seen[2] == seen[0]
    said = capfd.readouterr().out
    assert "staging: copied in" in said
    assert f"staging: imagenet is read from {workplace}/tmp/disk/imagenet-" in said


RANK = """
import os, sys, time
import torch, torch.distributed as dist
from bench.bench_toml import find_site
from bench.data import staging
from bench.errors import Stopped
from bench.execution import near
from bench.networks import encoders
from bench.spec import Augment, Backbone, Data, Optim, Pretrain
from bench.training.ranks import Ranks
from methods.simclr import Config
rank, world, each, stop = map(int, sys.argv[1:5])
near.SECONDS = staging.POLL = 0.05
copied = staging._copy_all
def counted(copy, should_stop):
    print("copies", flush=True)
    time.sleep(0.5)
    copied(copy, should_stop)
staging._copy_all = counted
spec = Pretrain(
    method=Config(temperature=0.5, hidden=8, output=8),
    backbone=Backbone(name="resnet10", base_channels=4, stem="small"),
    data=Data(name="imagenet", size=24), views=(Augment(size=24), Augment(size=24)),
    optim=Optim(name="adamw", lr=1e-3, weight_decay=0.0, warmup_epochs=0.0), batch_size=8, epochs=1,
)
dist.init_process_group("gloo", rank=rank, world_size=world)
ranks = Ranks(rank, world, rank % each)
try:
    site = near.near(spec, find_site(), ranks, torch.device("cpu"), lambda: bool(stop) and rank == world - 1)
    print("reads", site.data["imagenet"], flush=True)
except Stopped as error:
    print("stopped", flush=True)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("stop", [False, True])
def test_one_rank_of_a_node_copies_and_all_stop_together(pack: Path, workplace: Path, stop: bool) -> None:
    """Two nodes of two ranks, each with a disk of its own; the last rank, which does not copy, is asked to stop."""
    (workplace / "bench.toml").write_text(f'[data]\nimagenet = "{pack}"\n[local]\nstaging = "$DISK"\n')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = []
    world = 3 if stop else 4  # of three, the last is the first of its node
    for rank in range(world):
        own = {"DISK": str(workplace / f"node{rank // 2}"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks.append(
            subprocess.Popen(
                [sys.executable, "-c", RANK, str(rank), str(world), "2", str(int(stop))],
                env={**os.environ, **own, **meeting},
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
        )
    try:
        said = [process.communicate(timeout=300)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    if stop:
        assert [text.splitlines()[-1] for text in said] == ["stopped"] * world
        return
    assert [text.splitlines().count("copies") for text in said] == [1, 0, 1, 0]
    for rank, text in enumerate(said):
        assert text.splitlines()[-1].startswith(f"reads {workplace}/node{rank // 2}/imagenet-")


def test_a_copy_ends_when_another_rank_is_lost(
    small: Pretrain, here: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended, asked = [], threading.Event()

    def copies(name: str, site: Site, *, copies: bool, should_stop: Callable[[], bool]) -> Site:
        for _ in range(3000):
            asked.set()
            time.sleep(0.01)
            if should_stop():
                ended.append(name)
                raise Stopped("stopped while the data were copied to this node")
        raise AssertionError("not asked to stop")

    def lost(*_: object) -> bool:
        assert asked.wait(60)
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(near, "staged", copies)
    monkeypatch.setattr(near, "any_rank", lost)
    site = replace(here, staging=str(tmp_path))
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        near.near(small, site, Ranks(0, 2, 0), torch.device("cpu"), bool)
    assert ended == [small.data.name]
