from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from bench.contracts import Batch
from bench.data.datasets import open_split
from bench.data.loader import Plan, decode, eval_batches, train_batches
from bench.data.packing_as_is import pack_as_is
from bench.data.splits import Files
from bench.data.unreadable import Unreadable
from bench.errors import BenchError, Stopped
from bench.execution.local.slots import LocalExecutor
from bench.planning.graph import plan as plan_jobs
from bench.runs.folder import Runs
from bench.seeding import seed_of
from bench.settings.site import Site
from bench.spec import Augment, Data, Pretrain, Resources
from bench.training.loop import Place, Trained, pretrain
from tests.bench.data_trees import class_folders, site_with

CPU = torch.device("cpu")
VIEWS = (Augment(size=16, crop_scale=(0.3, 1.0)), Augment(size=12, crop_scale=(0.1, 0.5)))
DATA = Data(name="imagenet", size=32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(
        tmp_path_factory.mktemp("unreadable") / "imagenet", (("train", 41), ("val", 2)), ("n01", "n02")
    )


@pytest.fixture
def site(here: Site, whole: Path, tmp_path: Path) -> Site:
    return site_with(here, "imagenet", Path(shutil.copytree(whole, tmp_path / "imagenet")))


@pytest.fixture
def split(site: Site) -> Files:
    return cast(Files, open_split(DATA, "train", site))


def damage(split: Files, positions: Sequence[int]) -> list[Path]:
    """Cut JPEGs short, in ways that Pillow complains about differently."""
    for number, position in enumerate(positions):
        path = split.paths[position]
        content = path.read_bytes()
        path.write_bytes((content[: len(content) // 2], b"", b"not an image", content[:30])[number % 4])
    return [split.paths[position] for position in positions]


def read(split: Files, plan: Plan, steps: range, workers: int = 0) -> list[Batch]:
    return list(train_batches(split, VIEWS, plan, steps, CPU, workers=workers, replace_unreadable=True))


def same(a: Batch, b: Batch) -> bool:
    parts = [
        torch.equal(x, y) for x, y in zip((*a.views, a.labels, a.indices), (*b.views, b.labels, b.indices), strict=True)
    ]
    return all(parts) and a.unreadable == b.unreadable


# -- batches ---------------------------------------------------------------------------------------------------------


def test_a_damaged_image_is_replaced_by_the_next_readable_one_of_its_batch(split: Files) -> None:
    plan = Plan(images=len(split), batch_size=8, seed=3)
    before = read(split, plan, range(4))
    order = plan.indices(1).tolist()
    damage(split, [order[2], order[3], order[7]])  # two in a row, and the last one
    after = read(split, plan, range(4))
    assert [batch.unreadable for batch in after] == [(), (order[2], order[3], order[7]), (), ()]
    assert all(same(after[step], before[step]) for step in (0, 2, 3))
    expected = [order[i] for i in (0, 1, 4, 4, 4, 5, 6, 0)]
    assert after[1].indices.tolist() == expected
    assert torch.equal(after[1].labels, split.labels[expected])
    for view, old in zip(after[1].views, before[1].views, strict=True):
        assert torch.equal(view[[0, 1, 4, 5, 6]], old[[0, 1, 4, 5, 6]])
        assert not torch.equal(view[2], view[4])  # the same image under the parameters of the row that it fills
        assert not torch.equal(view[2], old[2])


@pytest.mark.parametrize(("workers", "world"), [(0, 2), (2, 1), (2, 4)])
def test_ranks_and_workers_agree_about_replacements(split: Files, workers: int, world: int) -> None:
    plan = Plan(images=len(split), batch_size=8, seed=3)
    order = plan.indices(1).tolist()
    damage(split, [order[1], order[3], order[4], order[7]])  # what stands in for the second lies on another rank
    alone = read(split, plan, range(3))
    parts = [read(split, replace(plan, rank=rank, world=world), range(3), workers) for rank in range(world)]
    for step, batch in enumerate(alone):
        ranks = [part[step] for part in parts]
        joined = Batch(
            views=[torch.cat(view) for view in zip(*(rank.views for rank in ranks), strict=True)],
            labels=torch.cat([rank.labels for rank in ranks]),
            indices=torch.cat([rank.indices for rank in ranks]),
            unreadable=tuple(index for rank in ranks for index in rank.unreadable),
        )
        assert same(joined, batch)


def test_a_batch_without_a_readable_image_is_an_error(split: Files) -> None:
    plan = Plan(images=len(split), batch_size=8, seed=3)
    damage(split, plan.indices(1).tolist())
    with pytest.raises(BenchError, match=r"none of the 8 images of step 2 can be decoded, .*JPEG among them"):
        read(split, plan, range(3))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_file_system_cannot_give_is_never_replaced(split: Files, workers: int) -> None:
    plan = Plan(images=len(split), batch_size=8, seed=3)
    gone = split.paths[int(plan.indices(0)[2])]
    gone.unlink()
    with pytest.raises(BenchError, match=f"^{gone} cannot be read \\(No such file or directory\\)"):
        read(split, plan, range(1), workers)


def test_evaluations_do_without_replacement(split: Files) -> None:
    (broken,) = damage(split, [5])
    plan = Plan(images=len(split), batch_size=len(split), seed=3)
    for batches in (train_batches(split, VIEWS, plan, range(1), CPU, workers=0), eval_batches(split, 32, 10, CPU, 0)):
        with pytest.raises(BenchError, match=f"^{broken} cannot be decoded"):
            list(batches)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 0.99])
def test_wherever_a_jpeg_is_cut_it_is_unreadable(split: Files, share: float) -> None:
    path = split.paths[0]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BenchError, match=f"{path} cannot be decoded"):
        decode(split, 0)


# -- the record ------------------------------------------------------------------------------------------------------


def record(folder: Path, *, rank: int = 0, done: int = 0, images: int = 10_000, batch_size: int = 100) -> Unreadable:
    root = Path("/data")
    return Unreadable(folder, rank, data="imagenet", root=root, images=images, batch_size=batch_size, done=done)


def paths(*numbers: int) -> list[Path]:
    return [Path(f"/data/{number}.JPEG") for number in numbers]


def test_each_file_is_named_once_and_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = record(tmp_path)
    known.add(0, paths(1, 2))
    known.add(5, paths(2, 3))
    known.add(9, ())
    assert known.count == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"unreadable image, replaced by another of its batch: /data/{number}.JPEG" for number in (1, 2, 3)]


def test_a_resumed_run_knows_what_was_met_before_its_checkpoint(tmp_path: Path) -> None:
    first, second = record(tmp_path), record(tmp_path, rank=1)
    for step in range(6):
        first.add(step, paths(step))
        second.add(step, paths(100 + step))
    with (tmp_path / "unreadable-0.jsonl").open("a") as file:
        file.write('{"step": 3, "fi')  # killed while writing
    for rank in (0, 1):
        assert record(tmp_path, rank=rank, done=4).known == {
            path.name for path in paths(0, 1, 2, 3, 100, 101, 102, 103)
        }
    assert [json.loads(line)["step"] for line in (tmp_path / "unreadable-0.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
    ]
    assert record(tmp_path).count == 0  # from nothing: nothing is known


def test_a_rank_that_removes_its_file_meanwhile_has_met_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (0, 1):
        record(tmp_path, rank=rank).add(7, paths(rank))
    seen = Path.glob

    def and_then_gone(folder: Path, pattern: str) -> list[Path]:
        found = list(seen(folder, pattern))
        (tmp_path / "unreadable-1.jsonl").unlink()
        return found

    monkeypatch.setattr(Path, "glob", and_then_gone)
    assert record(tmp_path, done=8).known == {"0.JPEG"}


@pytest.mark.parametrize(
    ("step", "files", "refused"),
    [(0, 9, False), (0, 10, True), (9, 10, False), (9, 11, True), (199, 100, False), (199, 101, True)],
)
def test_more_than_one_percent_and_at_least_ten_are_too_many(
    tmp_path: Path, step: int, files: int, refused: bool
) -> None:
    known = record(tmp_path)
    if not refused:
        known.add(step, paths(*range(files)))
        return
    read = min(10_000, 100 * (step + 1))
    with pytest.raises(
        BenchError,
        match=rf"{files} of {read:,} images read so far cannot be decoded, more than 1%.*`bench data check imagenet`",
    ):
        known.add(step, paths(*range(files)))


def test_what_other_ranks_met_counts_too(tmp_path: Path) -> None:
    known = record(tmp_path)
    known.add(0, paths(1))
    known.merge([{"1.JPEG"}, {"1.JPEG", "7.JPEG"}])
    assert known.count == 2


def test_a_file_is_the_same_in_a_folder_a_pack_and_a_copy(tmp_path: Path) -> None:
    place = "images-0000.pack/120-45-0a1b2c3d/n01/a\udce9.JPEG"
    homes = {"/data": "/data/n01/a\udce9.JPEG", "/pack": f"/pack/{place}", "/disk/copy-1": f"/disk/copy-1/{place}"}
    for rank, (root, path) in enumerate(homes.items()):
        known = Unreadable(
            tmp_path, rank, data="imagenet", root=Path(root), images=10_000, batch_size=100, done=rank + 1
        )
        known.add(rank, [Path(path)])
        assert known.known == {r"n01/a\xe9.JPEG"}
        assert known.count == 1
    ((rank_0),) = (tmp_path / "unreadable-0.jsonl").read_text().splitlines()
    assert json.loads(rank_0) == {"step": 1, "file": r"n01/a\xe9.JPEG"}
    assert not (tmp_path / "unreadable-1.jsonl").exists()
    # as it stood in a run folder before
    (tmp_path / "unreadable-0.jsonl").write_text(json.dumps({"step": 1, "file": r"/data/n01/a\xe9.JPEG"}) + "\n")
    known = record(tmp_path, done=1)
    known.add(1, [Path(homes["/data"])])
    assert known.count == 1


# -- pretraining -----------------------------------------------------------------------------------------------------


@pytest.fixture
def spec(small: Pretrain) -> Pretrain:
    view = Augment(size=32, crop_scale=(0.25, 1.0), flip=0.0, brightness=0.4)
    return replace(small, data=DATA, views=(view, view), batch_size=16, epochs=2.0)


def lines(place: Place) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.run.metrics.read_text().splitlines()]


def test_pretraining_goes_on_over_damaged_images_and_counts_them(
    spec: Pretrain, site: Site, split: Files, place: Callable[..., Place], capsys: pytest.CaptureFixture[str]
) -> None:
    here = replace(place("clean"), site=site)
    assert "unreadable_images" not in pretrain(spec, here).metrics
    assert [line["unreadable_images"] for line in lines(here)] == [0] * 10
    plan = Plan(images=len(split), batch_size=16, seed=seed_of(spec.seed, "data"))
    broken = damage(split, [int(plan.indices(0)[3]), int(plan.indices(2)[5])])
    capsys.readouterr()
    here = replace(place("damaged"), site=site)
    trained = pretrain(spec, here)
    assert trained.metrics["unreadable_images"] == 2.0
    assert [line["unreadable_images"] for line in lines(here)] == [1, 1, *[2] * 8]
    printed = capsys.readouterr().out
    assert [printed.count(str(path)) for path in broken] == [1, 1]


def test_a_resumed_pretraining_ends_the_same_and_with_the_same_count(
    spec: Pretrain, site: Site, split: Files, place: Callable[..., Place]
) -> None:
    plan = Plan(images=len(split), batch_size=16, seed=seed_of(spec.seed, "data"))
    damage(split, [int(plan.indices(0)[3]), int(plan.indices(4)[5])])

    def run(name: str, stop_after: int) -> tuple[Place, Trained]:
        asked = iter(range(1, 100))
        here = replace(place(name, lambda: next(asked) == stop_after), site=site)
        try:
            return here, pretrain(spec, here)
        except Stopped:
            assert here.run.checkpoint.exists()
            return here, pretrain(spec, replace(here, should_stop=bool))

    through, whole_run = run("through", 0)
    resumed, again = run("resumed", 2)
    assert again.resumed == 1
    assert again.weights_sha256 == whole_run.weights_sha256
    assert again.metrics == whole_run.metrics
    assert again.metrics["unreadable_images"] == 2.0
    assert [line["unreadable_images"] for line in lines(resumed)] == [
        line["unreadable_images"] for line in lines(through)
    ]


def test_a_pretraining_that_goes_on_from_a_pack_counts_a_damaged_image_once(
    spec: Pretrain, site: Site, split: Files, place: Callable[..., Place], tmp_path: Path
) -> None:
    plan = Plan(images=len(split), batch_size=16, seed=seed_of(spec.seed, "data"))
    damage(split, [int(plan.indices(0)[3])])  # met again in the second epoch
    pack_as_is("imagenet", site, out=tmp_path / "pack", say=lambda line: None)
    asked = iter(range(1, 100))
    here = replace(place("moved", lambda: next(asked) == 2), site=site)
    with pytest.raises(Stopped):
        pretrain(spec, here)
    there = replace(site, data={**site.data, "imagenet": tmp_path / "pack"})
    again = pretrain(spec, replace(here, site=there, should_stop=bool))
    assert again.resumed == 1
    assert again.metrics["unreadable_images"] == 1.0


def test_too_many_damaged_images_stop_a_pretraining(
    spec: Pretrain, site: Site, split: Files, place: Callable[..., Place]
) -> None:
    damage(split, range(30))
    with pytest.raises(BenchError, match=r"of \d+ images read so far cannot be decoded, more than 1%"):
        pretrain(spec, replace(place("bad"), site=site))


@pytest.mark.slow
def test_two_ranks_count_the_damaged_images_of_both(spec: Pretrain, site: Site, split: Files, workplace: Path) -> None:
    plan = Plan(images=len(split), batch_size=16, seed=seed_of(spec.seed, "data"))
    # on the first rank, on the second, on the second
    broken = damage(split, [int(plan.indices(0)[3]), int(plan.indices(0)[12]), int(plan.indices(2)[15])])
    (workplace / "bench.toml").write_text(f'[data]\nimagenet = "{site.data["imagenet"]}"\n')
    job = next(iter(plan_jobs([("damaged", spec)])))
    run = Runs(workplace / "runs")[job.id]
    run.create(job, Resources(ranks=2))
    executor = LocalExecutor(replace(site, slots=1))
    executor.submit(run)
    deadline = time.monotonic() + 120
    while not (ended := list(executor.ended())):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ended[0].code == 0, run.log_tail()
    assert run.result().metrics["unreadable_images"] == 3.0
    assert [json.loads(line)["unreadable_images"] for line in run.metrics.read_text().splitlines()][-1] == 3
    log = run.log.read_text()
    assert [log.count(str(path)) for path in broken] == [1, 1, 1]
