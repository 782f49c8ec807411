"""Finished jobs by their id."""

from __future__ import annotations

from bench.errors import BenchError, one_line
from bench.runs.folder import Failure, RunFolder, Runs, State
from bench.runs.result import Result


class Store:
    """Reads run folders; a result that cannot be read counts as not there and is named by `problems`."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.problems: list[str] = []
        self._results: dict[str, Result | None] = {}

    def result(self, job: str) -> Result | None:
        """The result, None while there is none."""
        if job not in self._results:
            self._results[job] = self._read(self.runs[job])
        return self._results[job]

    def state(self, job: str) -> State:
        """The state of the run folder."""
        state = self.runs[job].state()
        return State.PENDING if state is State.DONE and self.result(job) is None else state

    def failure(self, job: str) -> Failure:
        """Why a failed job failed."""
        return self.runs[job].failure()

    def _read(self, run: RunFolder) -> Result | None:
        if not run.result_file.exists():
            return None
        try:
            return run.result()
        except BenchError as error:  # damaged, or of another FORMAT
            self.problems.append(one_line(error))
            return None
