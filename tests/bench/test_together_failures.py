"""Several probes in one process: what goes wrong around one of them, with its folder, its log or its claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.execution import together
from bench.execution.exits import DONE, FAILED
from bench.runs.folder import RunFolder, State
from tests.bench.test_together import folders, photos

__all__ = ["photos"]  # the fixture


@pytest.mark.parametrize("what", ["claim", "state", "was_cancelled"])
def test_an_error_around_the_work_of_one_is_its_failure_alone(
    what: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = folders(photos / "runs", 3)
    works = getattr(RunFolder, what)
    broken = iter([True])

    def breaks(self: RunFolder, *args: Any) -> Any:
        if self.path == runs[1].path and next(broken, False):
            raise OSError(5, "Input/output error", str(self.path))
        return works(self, *args)

    monkeypatch.setattr(together, "CANCEL_SECONDS", 0.0)
    monkeypatch.setattr(RunFolder, what, breaks)
    assert together.work(runs) == [DONE, FAILED, DONE]
    assert "Input/output error" in runs[1].failure().message
    assert "failed: " in runs[1].log_tail()
    assert runs[1].claim_holder() is None
    assert [run.state() for run in runs] == [State.DONE, State.FAILED, State.DONE]


def test_a_folder_that_cannot_be_made_is_of_its_job_alone(photos: Path) -> None:
    runs = folders(photos / "runs", 2)
    nowhere = RunFolder(photos / "bench.toml" / runs[0].job_id)
    assert together.work([nowhere, *runs]) == [FAILED, DONE, DONE]


def test_a_claim_that_cannot_be_given_back_leaves_the_result(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = folders(photos / "runs", 2)
    release = RunFolder.release

    def breaks(self: RunFolder) -> None:
        release(self)
        if self.path == runs[0].path:
            raise OSError(116, "Stale file handle")

    monkeypatch.setattr(RunFolder, "release", breaks)
    assert together.work(runs) == [DONE] * 2
