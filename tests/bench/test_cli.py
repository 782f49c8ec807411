from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from bench import cli
from tests.conftest import BENCH

TORCHLESS = [
    ["--help"],
    ["run", "--help"],
    ["list"],
    ["list", "methods"],
    ["list", "methods", "--missing"],
    ["list", "evals"],
    ["list", "scales"],
    ["list", "datasets"],
    ["status"],
]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *arguments], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("arguments", TORCHLESS, ids=" ".join)
def test_quick_commands_do_not_import_torch(workplace: Path, arguments: list[str]) -> None:
    code = f"""
import sys
from bench import cli
sys.argv = ["bench", *{arguments!r}]
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "pandas", "matplotlib", "sklearn", "scipy", "numpy"}} & set(sys.modules)
assert not heavy, heavy
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("interrupted", [KeyboardInterrupt, typer.Abort])
def test_an_interrupt_is_one_line_whatever_typer_makes_of_it(
    interrupted: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app(**_: object) -> None:
        raise interrupted

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr("sys.argv", ["bench", "list"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err.count("\n")) == (130, 1)


def test_list_names_what_there_is(workplace: Path) -> None:
    assert "simclr_table6" in bench("list").stdout
    assert {"barlow_twins", "simclr", "supervised"} <= {
        line.split()[0] for line in bench("list", "methods").stdout.splitlines()
    }
    assert {"linear", "knn"} <= {line.split()[0] for line in bench("list", "evals").stdout.splitlines()}
    assert {"embedded", "smoke", "cifar", "paper"} == {
        line.split()[0] for line in bench("list", "scales").stdout.splitlines()
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--table", "simclr_tabel6"], "unknown table 'simclr_tabel6'. Did you mean 'simclr_table6'?"),
        (
            ["plan", "--table", "simclr_table6", "--scale", "papr"],
            "unknown scale 'papr'. Did you mean 'paper'? Allowed: cifar, embedded, paper, smoke.",
        ),
        (
            ["run", "--table", "simclr_table6", "--executor", "locl"],
            "unknown executor 'locl'. Did you mean 'local'? Allowed: inline, local, slurm.",
        ),
        (
            ["plan", "--table", "simclr_table6", "--rows", "SimCRL (ours)"],
            "unknown row of simclr_table6 'SimCRL (ours)'. Did you mean 'SimCLR (ours)",
        ),
        (
            ["plan", "--table", "simclr_table6", "--columns", "Top-2"],
            "unknown column of simclr_table6 'Top-2'. Did you mean 'Top-",
        ),
        (["plan", "--table", "simclr_table6", "--seeds", "0"], "seeds is 0, expected at least 1."),
        (
            ["run", "--table", "simclr_table6", "--force", "pretrain-zzz"],
            "--force 'pretrain-zzz' fits 0 jobs of this plan",
        ),
        (
            ["plan", "--table", "simclr_table6", "--time-limit", "24"],
            "describe the cluster of --nodes: give --nodes too.",
        ),
        (["run", "--table", "simclr_table6", "--watch"], "--watch goes with --executor slurm"),
        (["retry"], "retry needs either a job id or --table."),
        (["run"], "which table? --table NAME or --all. Tables: "),
        (["run", "--all", "--table", "simclr_table6"], "give either --table or --all."),
        (
            ["list", "tables", "--missing"],
            "--missing goes with methods, found 'tables': `bench list methods --missing`.",
        ),
        (["list", "method"], "unknown list 'method'. Did you mean 'methods'?"),
        (["logs", "pretrain-1"], "no job 'pretrain-1'"),
        (["cancel"], "cancel needs either a job id or --table."),
        (["cancel", "--table", "simclr_table6"], "/runs: `bench run --table simclr_table6` starts it."),
        (["status", "--table", "vicreg_table2"], "table 'vicreg_table2' was not run under "),
        (["status", "--table", "vicreg_table"], "unknown table 'vicreg_table'. Did you mean 'vicreg_table"),
        (
            ["plan", "--table", "simclr_table6", "--rows", "SimCLR (ours), ResNet-5"],
            "CPC v2, ResNet-50; ",  # names with commas need another mark between them
        ),
        (["plan", "--table", "simclr_table6", "--nodes", "0"], "--nodes must be at least 1, not 0."),
        (["report"], "nothing was run under"),
        (
            ["run", "--table", "simclr_table6", "--scale", "paper"],
            "data set 'imagenet' needs a folder: add `imagenet = ",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_mistake_is_one_clear_line_and_exit_code_2(workplace: Path, arguments: list[str], message: str) -> None:
    found = bench(*arguments)
    assert found.returncode == 2
    assert message in found.stderr
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
    assert not (workplace / "runs").exists()  # nothing was submitted


def test_a_wrong_flag_is_answered_by_the_parser(workplace: Path) -> None:
    for wrong in (("run", "--tabel", "simclr_table6"), ("run", "--seeds", "x"), ("rum",), ("logs",)):
        found = bench(*wrong)
        assert found.returncode == 2
        assert found.stderr.startswith("error: ")
        assert found.stderr.endswith("--help` lists what there is.\n")
        assert found.stderr.count("\n") == 1
    assert "--table" in bench("run", "--tabel", "simclr_table6").stderr
    assert bench().returncode == 2
    assert bench("--help").returncode == 0


def test_plan_shows_jobs_hyperparameters_costs_and_what_is_missing(workplace: Path) -> None:
    (workplace / "bench.toml").write_text('[price]\ngpu_hour = 2\ncurrency = "USD"\n')
    found = bench("plan", "--table", "simclr_table6", "--scale", "paper", "--device", "h100")
    assert found.returncode == 0, found.stderr
    out = found.stdout
    assert (
        "resnet50 4x, imagenet, batch 4096, lars lr 4.8, weight decay 1e-06, 1000 epochs, warm-up 10, tf32, seed 0"
        in out
    )
    hours, price, _ = re.findall(r"about ([\d,.]+) GPU-hours, ([\d,.]+) (USD)", out)[0]
    assert float(price.replace(",", "")) == pytest.approx(2 * float(hours.replace(",", "")), rel=1e-4)
    assert 3200 < float(hours.replace(",", "")) < 3500  # docs/costs.md
    assert "priced for H100 SXM5 80 GB: NVIDIA H100 data sheet" in out
    assert "waits for pretrain-" in out
    assert "missing: data set 'imagenet' needs a folder" in out
    assert "not implemented: Local Agg., ResNet-50; PIRL, ResNet-50" in out
    assert not (workplace / "runs").exists()


def test_plan_counts_each_pretraining_once(workplace: Path) -> None:
    found = bench("plan", "--table", "simclr_table6", "--rows", "SimCLR (ours), ResNet-50", "--seeds", "2")
    # per seed: the parameter count, and 4 cells that each ask for their pretraining too; Top-1 and Top-5 are one job
    assert "18 jobs asked for, 8 after each is taken once, 6 edges; 0 done, 8 to run" in found.stdout, found.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[paths]\nruns = "file"\n', "the folder"),
        ('[paths]\noutput = "file"\n', "the folder"),
        ('[paths]\nreport = "file"\n', "is a file, expected a folder for the report"),
        ('[paths]\nreport = "."\n', "holds files that are no report"),
        ('[paths]\nruns = "/proc/nope"\n', "the folder /proc/nope cannot be made"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_said_before_anything_runs(
    workplace: Path, text: str, message: str
) -> None:
    (workplace / "file").touch()
    (workplace / "bench.toml").write_text(text)
    found = bench("run", "--table", "simclr_table6", "--scale", "smoke")
    assert found.returncode == 2
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
    assert "started" not in found.stdout


def test_damaged_plan_files_are_named_and_left_out(workplace: Path) -> None:
    (workplace / "runs/plans").mkdir(parents=True)
    for name, text in (("a@smoke", "{"), ("b@smoke", '{"format": 1}'), ("c@smoke", '{"format": 9}')):
        (workplace / f"runs/plans/{name}.json").write_text(text)
    found = bench("status")
    assert found.returncode == 0
    assert found.stderr.count("run its table anew") == 3
    assert "nothing was run" in found.stdout


def test_bench_toml_in_another_encoding_is_named(workplace: Path) -> None:
    (workplace / "bench.toml").write_bytes(b'[paths]\nruns = "\xff"\n')
    found = bench("status")
    assert found.returncode == 2
    assert "is not valid TOML" in found.stderr


def test_a_large_batch_can_be_cut_into_chunks_by_the_place(workplace: Path) -> None:
    (workplace / "bench.toml").write_text("[recipe]\nchunks = 4\n")
    found = bench("plan", "--table", "simclr_table6", "--scale", "paper", "--rows", "SimCLR (ours), ResNet-50")
    assert found.returncode == 0, found.stderr
    assert (
        "batch 4096, lars lr 4.8, weight decay 1e-06, 1000 epochs, warm-up 10, tf32, seed 0, 4 chunks a step"
        in found.stdout
    )
    (workplace / "bench.toml").write_text("[recipe]\nchunks = 3\n")
    found = bench("plan", "--table", "simclr_table6", "--scale", "paper", "--rows", "simclr")
    assert found.returncode == 2
    assert "batch_size 4096 does not divide into 3 chunks" in found.stderr
