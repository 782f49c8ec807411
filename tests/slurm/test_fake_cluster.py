"""The driver against a cluster on paper: how many calls, what is refused, found again, forgotten, how long it takes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.commands import jobs as monitor
from bench.execution.events import Event
from bench.execution.slurm import journal, settle
from bench.execution.slurm.journal import Journal, Submission, look
from bench.execution.slurm.snapshot import take
from bench.execution.slurm.watch import standing, watch
from bench.planning.graph import JobGraph, plan
from bench.runs import plans
from bench.runs.folder import State
from bench.spec import Random, Resources
from evals.svm import Config as Svm
from tests.bench.test_doctor import executable
from tests.conftest import BENCH, TINY, knn_of, linear_of, tiny_pretrain
from tests.slurm.conftest import FakeSlurm, Place, wait_until


class Silent:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def tick(self) -> None:
        pass


def alike(count: int) -> JobGraph:
    return plan((f"random {seed}", knn_of(Random(backbone=TINY, seed=seed))) for seed in range(count))


def chain() -> JobGraph:
    first, second = tiny_pretrain(0), tiny_pretrain(1)
    return plan([("a | kNN", knn_of(first)), ("a | linear", linear_of(first)), ("b | kNN", knn_of(second))])


def test_a_thousand_alike_jobs_are_one_sbatch_call(workplace: Path, fake_slurm: FakeSlurm) -> None:
    place = Place(workplace)
    found = place.submit(alike(1000))
    assert len(found.new) == 1000
    assert fake_slurm.calls("sbatch") == found.calls == 1
    assert fake_slurm.submitted()[0]["size"] == 1000
    place.file.write_text("[slurm]\narray = 100\n")
    assert len(place.submit(alike(1000)).new) == 0  # all are in the queue
    graph = plan((f"other {seed}", linear_of(Random(backbone=TINY, seed=seed))) for seed in range(1000))
    assert place.submit(graph).calls == 10


def test_edges_are_of_single_elements_and_parents_that_are_done_need_none(
    workplace: Path, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.set(seconds=1000)
    place, graph = Place(workplace), chain()
    assert place.submit(graph).calls == 3
    both, of_a, of_b = fake_slurm.submitted()
    assert (both["size"], both["after"]) == (2, [])
    assert (of_a["size"], of_a["after"], of_a["kind"]) == (2, [f"{both['id']}_0"], "afterok")
    assert (of_b["size"], of_b["after"]) == (1, [f"{both['id']}_1"])
    assert of_b["name"].startswith("b-kNN~")  # type: ignore[attr-defined]
    text = (Path(str(of_b["folder"])) / "submission.sh").read_text()
    assert "#SBATCH --kill-on-invalid-dep=yes" in text
    assert "export OMP_NUM_THREADS=1" in text


def test_a_finished_parent_gives_no_edge_even_if_slurm_has_forgotten_it(workplace: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(seconds=0.01)
    place = Place(workplace)
    first = plan([("a", tiny_pretrain(0))])
    place.submit(first)
    wait_until(lambda: bool(look(Journal(place.runs)).rows) and place.runs[next(iter(first)).id].state() is State.DONE)
    place.submit(plan([("a | kNN", knn_of(tiny_pretrain(0)))]))
    assert fake_slurm.submitted()[-1]["after"] == []


def test_a_driver_that_dies_after_sbatch_finds_its_jobs_again(
    workplace: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm.set(seconds=1000)
    place, graph = Place(workplace), chain()
    write = Journal.write

    def dies(journal: Journal, submission: Submission) -> None:
        if submission.slurm_id:
            raise KeyboardInterrupt
        write(journal, submission)

    monkeypatch.setattr(journal.Journal, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        place.submit(graph)
    monkeypatch.undo()
    monkeypatch.setenv("FAKE_SLURM", str(fake_slurm.home))
    monkeypatch.setenv("PATH", f"{Path(__file__).parent / 'fake'}:/usr/bin:/bin")
    found = place.submit(graph)
    assert (len(found.active), len(found.new)) == (2, 3)
    assert "found again: Slurm job 5000001" in capsys.readouterr().out
    assert len(fake_slurm.submitted()) == 3


def test_what_squeue_has_forgotten_is_found_in_accounting(workplace: Path, fake_slurm: FakeSlurm) -> None:
    place, graph = Place(workplace), plan([("a", tiny_pretrain(0))])
    (job,) = graph.jobs
    fake_slurm.set(seconds=0.01, fail=[job])
    place.submit(graph)
    time.sleep(0.1)
    number = str(fake_slurm.submitted()[0]["id"])
    fake_slurm.set(seconds=0.01, fail=[job], forgotten=[number])
    row = look(Journal(place.runs)).row(job)
    assert row is not None
    assert (row.id, row.state) == (number, "FAILED")


def test_a_refusal_is_one_line_and_the_same_command_goes_on(workplace: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(seconds=1000, refuse=3)
    place, graph = Place(workplace), chain()
    message = place.error(graph)
    assert "QOSMaxSubmitJobPerUserLimit" in message
    assert "2 of 5 jobs are submitted and stay so; the same command goes on with the others" in message
    assert "\n" not in message
    fake_slurm.set(seconds=1000)
    found = place.submit(graph)
    assert (len(found.active), len(found.new)) == (2, 3)
    assert fake_slurm.submitted()[-1]["after"] == [f"{fake_slurm.submitted()[0]['id']}_1"]


def test_no_answer_from_slurm_submits_nothing(
    workplace: Path, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm.set(seconds=1000)
    place, graph = Place(workplace), chain()
    place.submit(plan([("a", tiny_pretrain(0))]))
    (fake_slurm.home / "down").touch()
    assert "Unable to contact slurm controller" in place.error(graph)
    plans.write(place.runs, plans.StoredPlan("tests", "tiny", 1, (), (), plans.of_graph(graph)))
    monitor.show_status(place.site, ["tests"])
    out = capsys.readouterr().out
    assert (
        "Slurm does not answer (squeue failed: squeue: error: Unable to contact slurm controller (connect failure))"
        in out
    )
    assert "tests@tiny: 5 pending" in out
    (fake_slurm.home / "down").unlink()
    assert len(place.submit(graph).new) == 4


def test_a_dead_job_fails_its_row_with_slurms_word_and_its_children_are_blocked(
    workplace: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settle, "MOUNT_SECONDS", 0.3)
    place, graph = Place(workplace), chain()
    first = next(iter(graph)).id
    fake_slurm.set(seconds=0.1, fail=[first])
    place.submit(graph)
    plans.write(place.runs, plans.StoredPlan("tests", "tiny", 1, (), (), plans.of_graph(graph)))
    shown = Silent()
    summary = watch(graph, place.runs, shown, poll=0.1)
    assert (summary.done, len(summary.failed), len(summary.blocked)) == (2, 1, 2)
    assert "ended as FAILED: its worker died" in place.runs[first].failure().message
    monitor.show_status(place.site, ["tests"])
    out = capsys.readouterr().out
    assert "tests@tiny: 2 done, 1 failed, 2 blocked" in out
    assert f"needs {first}, which failed" in out
    fake_slurm.set(seconds=0.1)
    monitor.retry(place.site, None, ["tests"])
    assert "3 jobs submitted again" in capsys.readouterr().out
    assert watch(graph, place.runs, Silent(), poll=0.1).complete


def test_neither_driver_nor_files_are_the_bottleneck(workplace: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(seconds=0.5)
    place, graph = Place(workplace), alike(2000)
    clock, cpu = time.monotonic(), time.process_time()
    assert place.submit(graph).calls == 2
    summary = watch(graph, place.runs, Silent(), poll=0.5)
    assert summary.complete
    assert summary.done == 2000
    assert time.process_time() - cpu < 10, f"{time.monotonic() - clock:.1f} s in all"
    submissions = [path for path in (place.runs.root / "slurm").rglob("*") if path.is_file()]
    assert len(submissions) <= 5  # two records, two scripts, the lock
    place.submit(graph)
    assert [path.name for path in (place.runs.root / "slurm").iterdir()] == ["lock"]  # what is over is cleared away


def test_what_the_user_cancelled_is_no_failure_nor_is_what_slurm_drops_with_it(
    workplace: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settle, "MOUNT_SECONDS", 0.3)
    place, graph = Place(workplace), chain()
    first = next(iter(graph)).id
    plans.write(place.runs, plans.StoredPlan("tests", "tiny", 1, (), (), plans.of_graph(graph)))
    fake_slurm.set(seconds=1000)
    place.submit(graph)
    monitor.cancel(place.site, first, [])
    capsys.readouterr()
    monitor.show_status(place.site, ["tests"])
    assert "tests@tiny: 2 pending, 1 cancelled, 1 queued, 1 starting" in capsys.readouterr().out
    fake_slurm.set(seconds=0.1)
    summary = watch(graph, place.runs, Silent(), poll=0.1)
    assert (summary.done, summary.failed, summary.blocked, summary.cancelled) == (2, (), (), (first,))
    assert set(summary.stopped) == set(graph.dependents(first))
    assert [job.id for job in graph if place.runs[job.id].error_file.exists()] == []
    assert standing(list(graph.jobs), place.runs).cancelled == (first,)
    assert len(place.submit(graph).new) == 3  # the same command starts them again
    assert watch(graph, place.runs, Silent(), poll=0.1).complete


def test_what_waits_for_a_cancelled_job_at_any_distance_is_told_from_what_a_failure_blocks(
    workplace: Path, fake_slurm: FakeSlurm
) -> None:
    place = Place(workplace)
    start = tiny_pretrain(0)
    graph = plan([("a | kNN", knn_of(replace(tiny_pretrain(1), start=start)))])
    first, second, _ = graph
    fake_slurm.set(seconds=1000)
    place.submit(graph)
    place.runs[first.id].cancel()
    assert settle.waits_for_cancelled([second.id], place.runs)
    place.runs[second.id].fail("error", "its own")
    assert not settle.waits_for_cancelled([second.id], place.runs)


def test_ctrl_c_while_watching_leaves_the_jobs_alone(workplace: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(seconds=1000)
    # A test run that was started in the background of a script ignores SIGINT, and so would what it starts.
    command = [
        "env",
        "--default-signal=INT",
        *BENCH,
        "run",
        "--table",
        "simclr_table6",
        "--scale",
        "smoke",
        "--rows",
        "random",
    ]
    command += ["--executor", "slurm", "--watch"]
    driver = subprocess.Popen(command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: fake_slurm.calls("squeue") >= 1)  # only the watching asks: there was nothing to look for before
    time.sleep(0.5)
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, out
    assert "the jobs go on in Slurm without this command" in out
    assert fake_slurm.calls("scancel") == 0


def test_what_runs_is_what_was_submitted(
    workplace: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers import the packages from a copy whose name is its content, plug-in folders included."""
    plugins = workplace / "mine" / "methods"
    plugins.mkdir(parents=True)
    (plugins / "own.py").write_text("first = 1\n")
    monkeypatch.setenv("BENCH_PLUGINS", str(plugins.parent))
    runs = Place(workplace).runs
    before = take(runs, "abc")
    assert (before.plugins[0] / "methods" / "own.py").read_text() == "first = 1\n"
    assert (before.code / "COMMIT").read_text() == "abc"
    code = (
        "import bench.runs.commit, methods, evals, results, reports; print(bench.runs.commit.__file__, "
        "bench.runs.commit.commit())"
    )
    ask = [sys.executable, "-P", "-c", code]
    out = subprocess.run(
        ask, env=os.environ | {"PYTHONPATH": str(before.code)}, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert out == f"{before.code / 'bench' / 'runs' / 'commit.py'} abc\n"
    assert take(runs, "abc") == before
    (plugins / "own.py").write_text("second = 2\n")
    assert take(runs, "abc").code != before.code
    assert (before.plugins[0] / "methods" / "own.py").read_text() == "first = 1\n"


def test_names_are_for_humans_and_requests_reach_sbatch(workplace: Path, fake_slurm: FakeSlurm) -> None:
    toml = """[slurm]
partition = "gpu"
account = "lab"
setup = ["module load cuda"]
options = { exclude = "node7" }
[slurm.pretrain]
gpus = 4
nodes = 2
cpus = 6
memory = "300G"
time = "1-00:00:00"
[slurm.evaluate]
qos = "short"
time = "02:30:00"
"""
    place = Place(workplace, toml)
    spec = replace(tiny_pretrain(0), batch_size=256)  # for 8 ranks
    place.submit(plan([("SimCLR (ours), ResNet-50 | kNN", knn_of(spec))]))
    first, second = ((Path(str(entry["folder"])) / "submission.sh").read_text() for entry in fake_slurm.submitted())
    wanted = [
        "--partition=gpu",
        "--account=lab",
        "--exclude=node7",
        "--gpus-per-node=4",
        "--ntasks-per-node=4",
        "--nodes=2",
        "--cpus-per-task=6",
    ]
    for option in (
        *wanted,
        "--mem=300G",
        "--time=1440",
        "--signal=USR2@120",
        "--requeue",
        "--job-name='SimCLR-ours-ResNet-50~",
    ):
        assert f"#SBATCH {option}" in first, option
    lines = first.splitlines()
    start = lines.index("module load cuda")  # then what leaks in is taken out, then what a worker has
    assert lines[start + 1].startswith("unset ")
    assert lines[start + 2] == "export OMP_NUM_THREADS=6"
    assert "--kill-on-bad-exit=1 --cpus-per-task=6" in first
    assert "wckey" not in first
    for option in (
        "--qos=short",
        "--ntasks-per-node=1",
        "--nodes=1",
        "--time=150",
        "--cpus-per-task=1",
        "--job-name='SimCLR-ours-ResNet-50-kNN~",
    ):
        assert f"#SBATCH {option}" in second, option
    assert "gpus" not in second
    assert ("export BENCH_DEVICE=cuda" in first, "export BENCH_DEVICE" in second) == (True, False)
    assert place.runs[next(iter(place.runs.root.glob("pretrain-*"))).name].resources == Resources(ranks=8, threads=6)


def test_each_job_asks_for_the_gpus_that_its_batch_can_use_and_an_svm_for_cores(
    workplace: Path, fake_slurm: FakeSlurm
) -> None:
    toml = "[slurm]\ngpus = 4\ncpus = 2\n[slurm.pretrain]\nnodes = 2\nmemory = '300G'\nimages_per_gpu = 32\n"
    place = Place(workplace, toml)
    specs = {size: replace(tiny_pretrain(0), batch_size=size) for size in (250, 256, 192, 64)}
    svm = replace(knn_of(Random(backbone=specs[64].backbone)), protocol=Svm())
    place.submit(plan([*((f"batch {size}", spec) for size, spec in specs.items()), ("svm", svm)]))
    asked = {}
    for entry in fake_slurm.submitted():
        lines = (Path(str(entry["folder"])) / "submission.sh").read_text().splitlines()
        wanted = ("--job-name", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--mem", "--cpus-per-task")
        found = dict(line.removeprefix("#SBATCH ").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
        name, *rest = (found.get(option, "") for option in wanted)
        asked[name.strip("'").partition("~")[0]] = tuple(rest)
    assert asked == {
        "batch-x2": ("1", "2", "2", "150G", "2"),  # 250 and 64, an array
        "batch-256": ("2", "4", "4", "300G", "2"),
        "batch-192": ("2", "3", "3", "225G", "2"),
        "svm": ("1", "1", "", "", "8"),
    }


def test_a_cluster_whose_sbatch_greets_first_is_understood(
    workplace: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_slurm.set(seconds=1000)
    greeting = "echo; echo '------ 2026 ------'; echo 'Welcome, 42 jobs wait'; echo '--> queue (low)...OK'"
    executable(workplace / "tmp", "sbatch", f'{greeting}\n"{Path(__file__).parent}/fake/sbatch" "$@" | sed "s/$/;big/"')
    monkeypatch.setenv("PATH", f"{workplace / 'tmp'}{os.pathsep}{os.environ['PATH']}")
    place, graph = Place(workplace), chain()
    found = place.submit(graph)
    assert (len(found.new), len(fake_slurm.submitted())) == (5, 3)
    assert len(place.submit(graph).active) == 5  # known by their numbers
    executable(workplace / "tmp", "sbatch", f"{greeting}; exit 0")
    assert "gave no number of a job: ------ 2026 ------ Welcome, 42 jobs wait" in place.error(alike(1))
    executable(workplace / "tmp", "sbatch", f"{greeting}; echo 7; echo 'sbatch: error: No quota' >&2; exit 1")
    assert "sbatch refused" in place.error(alike(1))


@pytest.mark.parametrize("name", ["semi_1%train", "%j_%A", 'it\'s #1 $HOME & "x";*', "caf\udce9"])
def test_the_name_of_a_folder_reaches_sbatch_whole(workplace: Path, fake_slurm: FakeSlurm, name: str) -> None:
    folder = workplace / name
    folder.mkdir()
    place = Place(folder)
    place.submit(alike(3))
    (script,) = folder.glob("runs/slurm/*/submission.sh")
    lines = os.fsdecode(script.read_bytes()).splitlines()
    expected = f"{str(script.parent).replace('%', '%%')}/%A_%a_0_log.out"
    (output,) = [shlex.split(line)[1] for line in lines if line.startswith("#SBATCH --output=")]
    assert output == f"--output={expected}"
    (srun,) = [shlex.split(line) for line in lines if line.startswith("srun ")]
    assert srun[srun.index("--output") + 1] == expected.replace("_0_log", "_%t_log")
    assert srun[-1] == str(script.parent)


@pytest.mark.parametrize(("name", "called"), [("a\\b", "a backslash"), ("a\nb", "a line break"), ("a:b", "a ':'")])
def test_a_folder_that_slurm_cannot_be_told_of_is_refused(
    workplace: Path, fake_slurm: FakeSlurm, name: str, called: str
) -> None:
    (workplace / name).mkdir()
    message = Place(workplace / name).error(alike(1))
    assert f"has {called} in its name, which Slurm's jobs cannot be told" in message
    assert "name another one under [paths] runs" in message
    assert fake_slurm.submitted() == []


def test_a_job_inherits_no_rank_and_no_threads(
    workplace: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    executable(workplace / "tmp", "sbatch", f'env > {workplace}/env; "{Path(__file__).parent}/fake/sbatch" "$@"')
    monkeypatch.setenv("PATH", f"{workplace / 'tmp'}{os.pathsep}{os.environ['PATH']}")
    Place(workplace, '[slurm]\ncpus = 3\nsetup = ["export RANK=2"]\n').submit(alike(1))
    assert "\nRANK=" not in (workplace / "env").read_text()
    (script,) = workplace.glob("runs/slurm/*/submission.sh")
    lines = script.read_text().splitlines()
    (unset,) = [number for number, line in enumerate(lines) if line.startswith("unset ")]
    assert unset > lines.index("export RANK=2")
    assert {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(lines[unset].split())
    assert {"export OMP_NUM_THREADS=3", "export OPENBLAS_NUM_THREADS=3", "export LC_ALL=C.UTF-8"} <= set(lines)
