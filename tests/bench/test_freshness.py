"""What done jobs read is compared with what is here: which of them run again, which are kept, and what is said."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.commands import driver
from bench.commands.jobs import show_status
from bench.commands.plan import show_plan
from bench.commands.request import TableRequest, plan_request
from bench.data.fingerprint import DataHere, Fingerprint
from bench.errors import Stopped
from bench.execution import readiness, worker
from bench.files import write_json
from bench.identity import job_id
from bench.machine import versions
from bench.planning.graph import JobGraph, plan
from bench.runs import freshness, inputs, plans, sources
from bench.runs.folder import RunFolder, Runs, State
from bench.runs.inputs import Inputs
from bench.runs.result import Provenance, Result, read_result
from bench.settings.site import Site
from bench.spec import Random, Resources
from bench.training.checkpoint import Keeper
from tests.conftest import TINY, knn_of, linear_of, tiny_pretrain

OTHER = Fingerprint(digest="f" * 64, files=1, bytes=7)
PARENT, ALONE = tiny_pretrain(), Random(backbone=TINY)
SPECS = (("knn", knn_of(PARENT)), ("linear", linear_of(PARENT)), ("random | knn", knn_of(ALONE)))
TRAINED, KNN, LINEAR, APART = (job_id(spec) for spec in (PARENT, *(spec for _, spec in SPECS)))


@pytest.fixture
def jobs() -> JobGraph:
    return plan(SPECS)


@pytest.fixture
def same(here: Site) -> Inputs:
    """What a job of these digits reads today."""
    found = DataHere(here).fingerprint("mnist5k")
    assert found is not None
    return Inputs(data={"mnist5k": found})


OLD = Inputs(data={"mnist5k": OTHER})


def done(runs: Runs, jobs: JobGraph, read: Mapping[str, Inputs], sha: str = "abc") -> None:
    """Results of all jobs, with what each says that it read."""
    for job in jobs:
        runs[job.id].create(job, Resources())
        made = Provenance(
            started="2026-01-01T00:00:00+00:00", seconds=1.0, cpu_seconds=1.0, host="", device="cpu", ranks=1,
            threads=1, commit="", versions={}, inputs=read.get(job.id, Inputs()),
        )  # fmt: skip
        details = {"weights_sha256": sha} if job.id == TRAINED else {}
        Result(job=job.id, metrics={"top1": 50.0}, details=details, provenance=made).write(runs[job.id].result_file)
    if TRAINED in jobs.jobs:
        runs[TRAINED].weights.write_bytes(b"weights")


def test_nothing_differs(here: Site, jobs: JobGraph, same: Inputs) -> None:
    runs = Runs(here.runs)
    done(runs, jobs, dict.fromkeys(jobs.jobs, same))
    fresh = freshness.compare(list(jobs), runs, DataHere(here))
    assert (fresh.outdated, fresh.unknown, list(fresh.lines())) == ({}, 0, [])


def test_results_that_say_nothing_count_as_unchanged_and_that_is_said_once(here: Site, jobs: JobGraph) -> None:
    runs = Runs(here.runs)
    done(runs, jobs, {})
    fresh = freshness.compare(list(jobs), runs, DataHere(here))
    assert fresh.outdated == {}
    assert list(fresh.lines()) == [
        "4 results do not say which data they read (made before results did) and count as unchanged"
    ]


def test_what_stands_on_a_job_that_runs_again_runs_again_too(here: Site, jobs: JobGraph, same: Inputs) -> None:
    runs = Runs(here.runs)
    done(runs, jobs, {TRAINED: OLD, KNN: same, APART: same})  # and the linear evaluation says nothing
    fresh = freshness.compare(list(jobs), runs, DataHere(here))
    assert fresh.outdated.keys() == {TRAINED, KNN, LINEAR}
    first, second, third = fresh.lines()
    assert first.startswith(
        "data changed: mnist5k: 1 file, 7 bytes, fingerprint ffffffffffff then; 1 file, 1,106,785 bytes"
    )
    assert second == "weights changed: these stand on a pretraining that runs or ran anew, and run again: knn, linear"
    assert third.startswith("1 result does not say which data it read")


def test_a_pretraining_that_ran_anew_with_other_digits_is_noticed(here: Site, jobs: JobGraph, same: Inputs) -> None:
    runs = Runs(here.runs)
    on = {job: replace(same, encoder=sha) for job, sha in ((KNN, "abc"), (LINEAR, "of the time before"))}
    done(runs, jobs, {TRAINED: same, APART: same, **on})
    assert freshness.compare(list(jobs), runs, DataHere(here)).outdated.keys() == {LINEAR}


def test_accepted_data_are_noted_and_kept_for_good(here: Site, jobs: JobGraph, same: Inputs) -> None:
    runs, data = Runs(here.runs), DataHere(here)
    done(runs, jobs, {TRAINED: OLD, KNN: OLD, LINEAR: same, APART: same})
    fresh = freshness.compare(list(jobs), runs, data, accept=True)
    assert fresh.outdated == {}
    assert "; kept on purpose (--accept-data): " in next(fresh.lines())
    assert runs[KNN].result().provenance.inputs.accepted == {}  # a comparison writes nothing
    freshness.accept(fresh, runs, data)
    assert runs[KNN].result().provenance.inputs == replace(OLD, accepted=same.data)
    again = freshness.compare(list(jobs), runs, DataHere(here))
    assert (again.outdated, list(again.lines())) == ({}, [])
    assert runs[LINEAR].result().provenance.inputs == same


def test_what_runs_again_is_kept_below_earlier_and_only_that(here: Site, jobs: JobGraph, same: Inputs) -> None:
    runs = Runs(here.runs)
    done(runs, jobs, {TRAINED: OLD, APART: same})
    repeated = driver.again(jobs, DataHere(here), frozenset(), accept_data=False)
    driver.prepare(jobs, here, repeated)
    assert {job: runs[job].state() for job in jobs.jobs} == {
        TRAINED: State.PENDING, KNN: State.PENDING, LINEAR: State.PENDING, APART: State.DONE
    }  # fmt: skip
    earlier = runs[TRAINED].path / "earlier/ffffffffffff-1"
    assert (earlier / "weights.pt").read_bytes() == b"weights"
    assert read_result(earlier / "result.json").job == TRAINED
    assert (runs[KNN].path / "earlier/unknown-1/result.json").is_file()


def test_what_runs_again_does_so_on_weights_that_are_whole(here: Site, jobs: JobGraph, same: Inputs) -> None:
    runs = Runs(here.runs)
    done(runs, jobs, {TRAINED: same, KNN: OLD, LINEAR: OLD, APART: same})  # "abc" is not the sha256 of the weights
    assert readiness.verify(jobs, runs) == []
    for repeated in (frozenset({KNN}), frozenset({KNN, LINEAR})):
        done(runs, jobs, {})
        assert [event.job for event in readiness.verify(jobs, runs, repeated)] == [TRAINED]
    assert readiness.verify(jobs, runs, frozenset({TRAINED, KNN})) == []


def test_a_result_that_another_driver_has_made_anew_meanwhile_stays(here: Site, jobs: JobGraph, same: Inputs) -> None:
    runs = Runs(here.runs)
    done(runs, jobs, {APART: OLD})
    repeated = driver.again(jobs, DataHere(here), frozenset(), accept_data=False)
    done(runs, jobs, {APART: same})
    readiness.prepare(jobs, runs, here, readiness.RetryRules(), frozenset(), outdated=repeated.outdated)
    assert runs[APART].state() is State.DONE


def test_data_that_are_not_here_cannot_be_compared(here: Site, jobs: JobGraph, tmp_path: Path) -> None:
    runs = Runs(here.runs)
    done(runs, jobs, {job: Inputs(data={"imagenet": OTHER, "no data set": OTHER}) for job in jobs.jobs})
    assert freshness.compare(list(jobs), runs, DataHere(here)).outdated == {}


def test_data_that_are_here_and_cannot_be_read_are_named(here: Site, jobs: JobGraph, tmp_path: Path) -> None:
    runs = Runs(here.runs)
    done(runs, jobs, {job: Inputs(data={"inat18": OTHER}) for job in jobs.jobs})
    root = tmp_path / "inat"
    (root / "train_val2018").mkdir(parents=True)
    for name in ("train2018.json", "val2018.json"):
        (root / name).mkdir()  # a folder in the place of a file
    (root / "train_val2018" / "1.json").symlink_to(root / "train_val2018" / "1.json")  # a link to itself
    fresh = freshness.compare(list(jobs), runs, DataHere(replace(here, data={"inat18": root})))
    assert fresh.outdated == {}
    (line,) = fresh.lines()
    assert line.startswith("data cannot be compared: ")
    assert "1.json" in line


def test_a_runs_folder_of_somebody_else_is_looked_at_and_stays_as_it_is(
    here: Site, jobs: JobGraph, same: Inputs
) -> None:
    runs = Runs(here.runs)
    done(runs, jobs, dict.fromkeys(jobs.jobs, OLD))
    (here.runs / "data").write_text("in the way: nothing can be written below it")
    data = DataHere(here)
    assert len(freshness.compare(list(jobs), runs, data).outdated) == 4
    data.remember("mnist5k")
    assert (here.runs / "data").is_file()


def test_other_versions_are_one_line_and_no_reason_to_run(here: Site, jobs: JobGraph, same: Inputs) -> None:
    runs = Runs(here.runs)
    done(runs, jobs, dict.fromkeys(jobs.jobs, same))
    body = json.loads(runs[KNN].result_file.read_text())
    body["provenance"]["versions"] = {"python": "2.7", "torch": "0.4", "numpy": versions()["numpy"]}
    runs[KNN].result_file.write_text(json.dumps(body))
    fresh = freshness.compare(list(jobs), runs, DataHere(here))
    assert fresh.outdated == {}
    assert list(freshness.notes(fresh, versions())) == [
        f"1 of 4 done jobs ran with other versions of packages: torch 0.4 (here {versions()['torch']})"
    ]
    assert {"torch", "torchvision", "numpy", "scikit-learn", "pillow", "mlxtend"} <= versions().keys()


def test_what_is_wrong_in_a_result_is_damage_and_not_a_crash(here: Site, jobs: JobGraph, same: Inputs) -> None:
    runs = Runs(here.runs)
    done(runs, jobs, dict.fromkeys(jobs.jobs, same))
    half = {"mnist5k": {"digest": "x"}}
    broken: tuple[object, ...] = ({"data": half}, {"data": ["mnist5k"]}, {"code": {"a": {}}}, ["odd"])
    for odd in broken:
        body = json.loads(runs[KNN].result_file.read_text())
        body["provenance"]["inputs"] = odd
        runs[KNN].result_file.write_text(json.dumps(body))
        assert KNN not in freshness.compare(list(jobs), runs, DataHere(here)).results
        write_json(runs[APART].path / "state/inputs.json", odd)
        assert inputs.noted(runs[APART].path) == Inputs()


def test_status_and_plan_say_it_and_change_nothing(
    here: Site, jobs: JobGraph, same: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs(here.runs)
    planned = plan_request(TableRequest(here, ("simclr_table6",), "embedded", 1, (), ("kNN Top-1",)))
    first = next(job for job in planned.graph.jobs if job.startswith("pretrain-"))
    done(runs, planned.graph, {**dict.fromkeys(planned.graph.jobs, same), first: OLD})
    plans.write(runs, plans.StoredPlan("simclr_table6", "embedded", 1, (), (), plans.of_graph(planned.graph)))
    before = sorted(path for path in here.runs.rglob("*"))
    show_status(here, [])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("simclr_table6@embedded: ")
    assert said[1].startswith("data changed: mnist5k: ")
    show_plan(planned.request)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == said[1], "it is the first thing that is said, before anything is planned"
    assert lines.count(said[1]) == 1
    assert any(line.startswith(first) and line.endswith("runs again: mnist5k changed") for line in lines)
    assert any(line.endswith("runs again: what it stands on runs again") for line in lines)
    assert said[1] in lines
    show_plan(planned.request, accept_data=True)
    lines = capsys.readouterr().out.splitlines()
    assert any("; kept on purpose (--accept-data): " in line for line in lines)
    assert any(line.endswith(", 0 to run") for line in lines)
    assert sorted(path for path in here.runs.rglob("*")) == before


# -- what a worker writes ----------------------------------------------------------------------------------------------


def test_a_worker_writes_what_it_read(here: Site, workplace: Path) -> None:
    runs, spec = Runs(workplace / "runs"), knn_of(ALONE)
    job = next(iter(plan([("knn", spec)])))
    runs[job.id].create(job, Resources())
    assert worker.main(str(runs[job.id].path)) == 0
    read = runs[job.id].result().provenance.inputs
    now = DataHere(replace(here, runs=workplace / "runs")).fingerprint("mnist5k")
    assert read.data == {"mnist5k": now}
    assert read == inputs.noted(runs[job.id].path)
    assert "evals/knn.py" in read.code
    assert "evals/parts/features.py" in read.code
    assert not any(name.startswith("methods/") for name in read.code)
    assert now is not None
    entries = [path.name for path in runs.features.iterdir()]
    assert entries
    assert all(name.endswith(f"-v2-{now.short}") for name in entries)


def test_the_weights_that_an_evaluation_read_are_known(here: Site, jobs: JobGraph) -> None:
    runs = Runs(here.runs)
    done(runs, jobs, {}, sha="0123")
    data = DataHere(here)
    assert inputs.take(knn_of(PARENT), runs[KNN].path, data).encoder == "0123"
    assert inputs.take(knn_of(ALONE), runs[APART].path, data).encoder == ""
    assert "methods/simclr.py" in inputs.take(PARENT, runs[TRAINED].path, data).code


def kept(folder: Path, read: Inputs, step: int) -> Keeper:
    """A run folder whose newest attempt read this and saved its state."""
    inputs.note(read, folder)
    keeper = Keeper(folder, 4)
    with pytest.raises(Stopped, match="stopped after step"):
        keeper.keep(step, lambda: {"x": torch.ones(1)}, stop=True)
    return keeper


def test_a_checkpoint_of_other_data_is_not_continued_and_stays_until_there_is_another(
    tmp_path: Path, same: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(tmp_path, OLD, step=2)
    state = Keeper(tmp_path, 4).load()
    assert state is not None
    assert state["step"] == 2
    inputs.note(same, tmp_path)
    keeper = Keeper(tmp_path, 4)
    assert keeper.load() is None
    assert "checkpoint.pt is of other data (mnist5k changed): starting anew" in capsys.readouterr().out
    assert RunFolder(tmp_path).checkpoint.exists()
    with pytest.raises(Stopped, match="stopped after step 1"):
        keeper.keep(1, dict, stop=True)
    assert torch.load(tmp_path / "checkpoint.pt.other-data")["step"] == 2
    state = Keeper(tmp_path, 4).load()
    assert state is not None
    assert state["step"] == 1


def test_a_checkpoint_that_does_not_say_what_it_read_is_continued(tmp_path: Path, same: Inputs) -> None:
    torch.save({"step": 3}, tmp_path / "checkpoint.pt")
    inputs.note(same, tmp_path)
    state = Keeper(tmp_path, 4).load()
    assert state is not None
    assert state["step"] == 3


def test_a_plan_says_that_a_stopped_job_starts_anew(here: Site, jobs: JobGraph, same: Inputs) -> None:
    runs = Runs(here.runs)
    runs[TRAINED].create(jobs.jobs[TRAINED], Resources())
    runs[TRAINED].checkpoint.touch()
    for read, said in (
        (OLD, "its checkpoint is of other data (mnist5k changed)"),
        (same, "goes on from its checkpoint"),
    ):
        inputs.note(read, runs[TRAINED].path)
        assert said in readiness.describe(jobs.jobs[TRAINED], State.STOPPED, runs, DataHere(here))


# -- the source of plug-ins --------------------------------------------------------------------------------------------

SOURCE = '''"""Doc."""
from evals.parts.heads import Head
from evals.parts.tables import ROWS

def half(x):
    """Half."""
    return Head(x / 2)

DIFFERENCES = (ROWS, 1)
'''


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("x / 2", "x / 3", True),
        ("x / 2)", "x/2)  # halved", False),
        ("Half.", "Half of it.", False),
        ("(ROWS, 1)", "(ROWS, 2)", False),
        ('"""Half."""', "pass", True),
        ("import ROWS", "import ROWS, MORE", False),
        ("def half(x):", "\n\n\ndef half(\n    x,\n):", False),
        ("import Head", "import Other as Head", True),
    ],
)
def test_formatting_and_words_do_not_cry_wolf(tmp_path: Path, old: str, new: str, changes: bool) -> None:
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text(SOURCE)
    second.write_text(SOURCE.replace(old, new))
    assert sources.text_of(first) != sources.text_of(second)
    assert (sources.tree_of(first) != sources.tree_of(second)) is changes


def test_a_file_that_is_no_python_has_a_digest(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("def (")
    assert sources.tree_of(file) == sources.text_of(file)


EVALUATION = '''"""A protocol of one's own."""
from dataclasses import dataclass
from bench.contracts import Metric, Outcome
from evals._own_parts import value

@dataclass(frozen=True)
class Config:
    VERSION: int = 1

METRICS = {"top1": Metric("%", True)}
RECIPES = {"embedded": Config()}

def evaluate(config, subject, context):
    return Outcome({"top1": value()})
'''


def test_code_of_a_plug_in_that_changed_without_a_version_is_said(workplace: Path) -> None:
    folder = workplace / "own/evals"
    folder.mkdir(parents=True)
    (folder / "own_protocol.py").write_text(EVALUATION)
    (folder / "_own_parts.py").write_text("def value():\n    return 1.0\n")
    code = """if True:
        import sys
        from bench import plugins
        from bench.runs import sources
        from bench.spec import Data, Evaluate, Pixels
        config = plugins.evaluation("own_protocol").config()
        spec = Evaluate(encoder=Pixels(), protocol=config, data=Data(name="mnist5k", size=32))
        for name, found in sources.sources_of(spec).items():
            print(name, sources.file_of(name), found.text, found.tree)
    """
    command = [sys.executable, "-c", code]
    environment = {"BENCH_PLUGINS": str(workplace / "own"), "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[:2] for line in found] == [
        ["evals/own_protocol.py", str(folder / "own_protocol.py")],
        ["evals/_own_parts.py", str(folder / "_own_parts.py")],
    ]


def test_a_changed_file_is_named_with_the_number_of_results(here: Site, jobs: JobGraph, same: Inputs) -> None:
    runs = Runs(here.runs)
    now = sources.sources_of(knn_of(ALONE))
    before = replace(same, code={**now, "evals/knn.py": sources.Source("other text", "other tree")})
    formatted = replace(same, code={**now, "evals/knn.py": replace(now["evals/knn.py"], text="other text")})
    done(runs, jobs, {TRAINED: same, KNN: before, LINEAR: formatted, APART: before})
    fresh = freshness.compare(list(jobs), runs, DataHere(here))
    assert fresh.outdated == {}
    (said,) = freshness.notes(fresh, {})
    assert said == (
        "evals/knn.py changed since 2 of these results were made, and its VERSION did not rise: raise VERSION, or run "
        "them again with --force"
    )


def test_published_lists_of_labels_are_known_by_their_sha256() -> None:
    from bench.data.sets.lists import PUBLISHED  # another list is refused, so no result can have read another one

    assert all(len(known.sha256) == 64 for known in PUBLISHED.values())
