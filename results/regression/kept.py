"""Records: the committed results behind the references, from which the report can be built without a run folder.

results/records/<scale>.jsonl     a result a line, sorted by job; the name of the host is left out
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from bench.errors import BenchError
from bench.files import write_atomic
from bench.planning.scales import scale_of
from bench.runs import plans
from bench.runs.folder import Runs
from bench.runs.result import Result, provenance_from
from bench.spec import Resources
from results.cells import load_table, plan_table
from results.regression import reference


def folder_of(references: Path) -> Path:
    """Beside the project's references; inside any other folder of references."""
    return references.parent / "records" if references == reference.ROOT else references / "records"


def keep(runs: Runs, jobs: Iterable[str], scale: str, folder: Path) -> Path:
    """Add the results of finished jobs to the records of a scale, in the place of older ones of the same job."""
    path = folder / f"{scale}.jsonl"
    found = {result.job: result for result in read(path)} if path.exists() else {}
    for job in jobs:
        if runs[job].result_file.exists():
            result = runs[job].result()
            found[job] = replace(result, provenance=replace(result.provenance, host=""))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(asdict(found[job]), sort_keys=True) + "\n" for job in sorted(found)))
    return path


def read(path: Path) -> Iterator[Result]:
    """All results of a file. Raises BenchError for a line that is none."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            data = json.loads(line)
            yield Result(provenance=provenance_from(data.pop("provenance")), **data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BenchError(
                f"line {number} of {path} is no record ({error}): restore the file, or remove the line."
            ) from error


def unpack(runs: Runs, references: Path = reference.ROOT) -> int:
    """Run folders as if every table with a reference had been run here, as far as records go; the number of results.

    A record that no table asks for any more stays unused. Raises BenchError when there are no records.
    """
    used = set()
    for path in sorted(folder_of(references).glob("[!.]*.jsonl")):
        scale, found = scale_of(path.stem), {result.job: result for result in read(path)}
        for file in sorted((references / scale.name).glob("[!.]*.csv")):
            if file.stem == reference.DEVIATIONS:
                continue
            seeds = max((cell.n for cell in reference.read(file)), default=1)
            jobs = plan_table(load_table(file.stem), scale, seeds).graph
            for job in jobs:
                runs[job.id].create(job, Resources())
                if job.id in found and job.id not in used:
                    found[job.id].write(runs[job.id].result_file)
                    used.add(job.id)
            plans.write(runs, plans.StoredPlan(file.stem, scale.name, seeds, (), (), plans.of_graph(jobs)))
    if not used:
        raise BenchError(
            f"no records under {folder_of(references)}: `bench check --update` writes them with the references."
        )
    return len(used)
