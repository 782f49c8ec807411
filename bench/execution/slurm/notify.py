"""The [notify] command of bench.toml, run once when all jobs of a submission are over.

As the last, tiny Slurm job of a submission (`python -m bench.execution.slurm.notify SUBMISSION_FOLDER`), so that it
comes whoever watches. The command is a line of shell; it finds

    BENCH_MESSAGE   "simclr_table6@smoke: 5 done, 1 failed"
    BENCH_FAILED    how many are not done
    BENCH_RUNS      the folder of the runs
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from bench.bench_toml import find_site
from bench.execution.slurm.journal import read_submission
from bench.runs.folder import Runs, State


def main(folder: str) -> int:
    """The command's exit code; 0 when it has run before (a requeued job runs again)."""
    submission = read_submission(Path(folder))
    runs = Runs(Path(folder).parents[1])
    try:
        (Path(folder) / "notified").touch(exist_ok=False)
    except FileExistsError:
        print("was run before", flush=True)
        return 0
    jobs = (Path(folder) / "jobs").read_text(encoding="utf-8").split()
    counts = Counter(runs[job].state() for job in jobs)
    message = (
        f"{', '.join(submission.titles) or 'jobs'}: "
        f"{', '.join(f'{counts[state]} {state}' for state in State if counts[state])}"
    )
    print(message, flush=True)
    variables = {
        "BENCH_MESSAGE": message,
        "BENCH_FAILED": str(len(jobs) - counts[State.DONE]),
        "BENCH_RUNS": str(runs.root),
    }
    return subprocess.run(["sh", "-c", find_site().notify], env=os.environ | variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
