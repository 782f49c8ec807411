"""A table never mixes numbers of two trainings of one encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.bench_toml import find_site
from bench.commands.request import TableRequest
from bench.commands.run import run
from bench.runs.folder import Runs


def test_what_stood_on_an_earlier_training_runs_again_in_the_same_command(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = TableRequest(find_site(), ("fnc_table1",), "smoke", 1, ("SimCLR",), ())
    assert run(request, "inline", ()) == 0
    runs = Runs(workplace / "runs")
    (pretraining,) = (runs[path.parent.name] for path in runs.root.glob("pretrain-*/job.json"))
    (evaluation,) = (runs[path.parent.name] for path in runs.root.glob("evaluate-*/job.json"))
    # As if the weights had been others when it was evaluated, and the pretraining was stopped and taken up since.
    first = evaluation.result()
    read = replace(first.provenance.inputs, encoder="0" * 64)
    replace(first, provenance=replace(first.provenance, inputs=read)).write(evaluation.result_file)
    pretraining.result_file.unlink()
    capfd.readouterr()
    assert run(request, "inline", ()) == 0
    assert (
        "weights changed: these stand on a pretraining that runs or ran anew, and run again" in capfd.readouterr().out
    )
    second = evaluation.result()
    assert second.provenance.inputs.encoder == pretraining.result().details["weights_sha256"]
    assert second.metrics == first.metrics
