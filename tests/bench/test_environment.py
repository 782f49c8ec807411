from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.execution import environment
from bench.execution.inline import InlineExecutor
from bench.execution.local import gpus
from bench.execution.local.slots import LocalExecutor
from bench.planning.graph import plan
from bench.runs.folder import Runs, State
from bench.spec import Random, Resources
from tests.bench.test_doctor import executable
from tests.bench.test_local import prepared, site_of, wait
from tests.conftest import TINY, knn_of

LEFT_IN_THE_SHELL = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "3",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "SLURM_PROCID": "3",
    "OMP_NUM_THREADS": "7",
    "OPENBLAS_NUM_THREADS": "7",
    "OMP_PROC_BIND": "close",
    "NVIDIA_TF32_OVERRIDE": "1",
    "LC_ALL": "C",
    "LANG": "de_DE.ISO-8859-1",
    "LC_NUMERIC": "de_DE",
    "PYTHONIOENCODING": "latin-1",
}


@pytest.fixture
def another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LEFT_IN_THE_SHELL.items():
        monkeypatch.setenv(name, value)


def test_a_worker_has_the_threads_it_is_given_and_nothing_of_another_program(
    workplace: Path, another_program: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/certificates")
    made = LocalExecutor(site_of(workplace))._environment(Resources(threads=2), [])
    assert {made[name] for name in environment.THREADS} == {"2"}
    left = {name for name in LEFT_IN_THE_SHELL if name in made} - {*environment.THREADS, "LC_ALL"}
    assert not left
    assert (made["LC_ALL"], made["PYTHONUTF8"]) == ("C.UTF-8", "1")
    assert (made["SSL_CERT_FILE"], made["PATH"]) == ("/certificates", os.environ["PATH"])


def test_a_search_path_is_absolute_and_never_the_working_folder_by_accident(tmp_path: Path) -> None:
    inherited = os.pathsep.join(["", "theirs", "/others", ""])
    found = environment.searched(inherited, "/ours", "")
    assert found == os.pathsep.join(["/ours", str(Path.cwd() / "theirs"), "/others"])


@pytest.mark.slow
def test_ranks_left_in_the_shell_change_no_job(workplace: Path, another_program: None) -> None:
    executor, run = LocalExecutor(site_of(workplace)), prepared(workplace, epochs=0.3)
    executor.submit(run)
    assert wait(executor).code == 0, run.log_tail()
    alone = Runs(workplace / "alone")[run.job_id]
    alone.create(next(iter(plan([("tiny", run.read_spec())]))), Resources())
    inline = InlineExecutor()
    inline.submit(alone)
    assert inline.ended()[0].code == 0, alone.log_tail()
    assert run.result().metrics == alone.result().metrics
    assert run.result().details["weights_sha256"] == alone.result().details["weights_sha256"]
    assert {name: os.environ.get(name) for name in LEFT_IN_THE_SHELL} == LEFT_IN_THE_SHELL


BLAS = """
import numpy, scipy.linalg, threadpoolctl
from bench.execution import environment
def threads():
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
before = threads()
with environment.worn_here(1):
    print(threads())
assert threads() == before
"""


def test_a_job_in_this_process_has_the_threads_of_a_worker_in_every_library() -> None:
    asked = os.environ | dict.fromkeys(environment.THREADS, "2")
    found = subprocess.run([sys.executable, "-c", BLAS], env=asked, capture_output=True, text=True, check=False)
    assert found.stdout == "{1}\n", found.stderr


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        (" 3, 5 ", ["3", "5"]),
        ("0,-1,2", ["0"]),
        ("1,1", []),
        ("GPU-8932f937-d72c,GPU-0b1c", ["GPU-8932f937-d72c", "GPU-0b1c"]),
        ("GPU-8932f937,1", ["GPU-8932f937"]),
        ("MIG-GPU-8932f937/1/0,MIG-GPU-8932f937/2/0", ["MIG-GPU-8932f937/1/0", "MIG-GPU-8932f937/2/0"]),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, text: str, names: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
    assert gpus.visible() == names
    executor, run = LocalExecutor(site_of(workplace)), prepared(workplace)
    assert executor.room(run)  # the name of a slot is the name of a file
    assert executor._environment(Resources(), names[:1])["CUDA_VISIBLE_DEVICES"] == "".join(names[:1])


def test_the_driver_is_asked_once_a_job_starts_and_what_it_warns_of_is_no_gpu(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = workplace / "tools"
    tools.mkdir()
    executable(tools, "nvidia-smi", f"touch {tools}/asked; echo 'WARNING: infoROM is corrupted'; echo 0; echo 1")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    executor = LocalExecutor(site_of(workplace))
    assert (executor.running(), executor.ended()) == ([], [])
    assert not (tools / "asked").exists()
    assert executor.room(prepared(workplace))
    assert (tools / "asked").exists()
    assert gpus.visible() == ["0", "1"]
    executable(tools, "nvidia-smi", "sleep 60")
    monkeypatch.setattr(gpus, "SECONDS", 0.1)
    with pytest.raises(BenchError, match=r"nvidia-smi gave no answer \(TimeoutExpired\).*CUDA_VISIBLE_DEVICES"):
        gpus.visible()


def test_an_evaluation_in_this_process_is_not_told_of_other_ranks(workplace: Path, another_program: None) -> None:
    job = next(iter(plan([("random", knn_of(Random(backbone=TINY)))])))
    run = Runs(workplace / "runs")[job.id]
    run.create(job, Resources())
    executor = InlineExecutor()
    executor.submit(run)
    assert run.state() is State.DONE
