from __future__ import annotations

from pathlib import Path

import pytest

from bench.bench_toml import read_site
from bench.errors import BenchError
from bench.settings.site import Site
from bench.settings.slurm import minutes_of
from bench.spec import Resources


def site(folder: Path, text: str) -> Site:
    (folder / "bench.toml").write_text(text)
    return read_site(folder / "bench.toml")


def test_kinds_inherit_and_evaluations_are_one_process_on_one_gpu(tmp_path: Path) -> None:
    found = site(
        tmp_path, '[slurm]\ngpus = 8\nnodes = 4\ncpus = 7\ntime = "2-00:00:00"\n[slurm.evaluate]\ntime = "00:30:30"\n'
    ).slurm
    assert (found.pretrain.gpus, found.pretrain.nodes, found.pretrain.minutes) == (8, 4, 2880)
    assert (found.evaluate.gpus, found.evaluate.nodes, found.evaluate.minutes) == (1, 1, 31)
    assert found.pretrain.resources == Resources(ranks=32, threads=7)
    assert found.evaluate.resources == Resources(ranks=1, threads=7)


def test_without_a_section_jobs_ask_for_one_core_and_a_day(tmp_path: Path) -> None:
    found = site(tmp_path, "").slurm
    assert found.pretrain == found.evaluate
    assert (found.pretrain.cpus, found.pretrain.gpus, found.pretrain.minutes, found.pretrain.partition) == (
        1,
        0,
        1440,
        "",
    )


def test_the_request_to_save_comes_well_after_the_start(tmp_path: Path) -> None:
    # Slurm sends the signal up to 30 s early: in a limit of a minute 120 s before the end would be at the start.
    assert site(tmp_path, '[slurm]\ntime = "00:01:00"\n').slurm.pretrain.signal_seconds == 10
    assert site(tmp_path, '[slurm]\ntime = "10:00:00"\n').slurm.pretrain.signal_seconds == 120


def test_minutes() -> None:
    assert [minutes_of(text) for text in ("00:01:00", "00:00:01", "100:00:00", "1-02:03:04")] == [1, 1, 6000, 1564]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[slurm]\ngpu = 1\n", r"unknown key in .*slurm 'gpu'. Did you mean 'gpus'"),
        ("[slurm.evaluat]\ngpus = 1\n", r"unknown key in .*slurm 'evaluat'. Did you mean 'evaluate'"),
        ("[slurm]\ncpus = 0\n", r"slurm.cpus is 0, expected a whole number, at least 1\."),
        ("[slurm]\ngpus = true\n", r"slurm.gpus is True, expected a whole number"),
        ('[slurm]\ntime = "24h"\n', r'slurm.time is \'24h\', expected "HH:MM:SS" or "D-HH:MM:SS"'),
        ("[slurm]\ntime = 24\n", r"slurm.time is 24, expected a text in quotes"),
        ('[slurm.pretrain]\nmemory = "60GB"\n', r"slurm.pretrain.memory is '60GB', expected a number and K, M, G or T"),
        ('[slurm]\nsetup = "module load cuda"\n', r"slurm.setup is .* expected a list of lines"),
        ("[slurm]\noptions = { array = '0-9' }\n", r"slurm.options: 'array' cannot stand there"),
        ("[slurm]\noptions = { exclude = 7 }\n", r"slurm.options is .* expected texts by option name"),
        ("[slurm.evaluate]\nnodes = 2\n", r"slurm.evaluate.nodes: an evaluation is one process on one node"),
        ("[slurm]\ngpus = 8\ntasks = 2\n", r"slurm.tasks is 2, but there are 8 GPUs a node"),
        ("[slurm]\npretrain = 3\n", r"slurm.pretrain must be a section"),
        ("[notify]\ncommand = 3\n", r"notify.command is 3, expected a line of shell"),
    ],
)
def test_mistakes_are_one_line_with_the_entry(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BenchError, match=message) as found:
        site(tmp_path, text)
    assert "\n" not in str(found.value)
