#!/usr/bin/env -S python3 -SE
"""A cluster on paper, for tests of scale: sbatch, squeue, sacct, scancel, scontrol and srun are links to this file.

sbatch and scancel append a line to $FAKE_SLURM/log. squeue reads it, works out from the clock what 1,000 nodes would
have done by now (one job a node, first come first served, afterok edges), prints it, and leaves result.json in the run
folders of jobs that have ended, as their workers would. Nothing else is kept, so nothing can be out of step.

$FAKE_SLURM/settings.json: nodes, seconds (of every job), refuse (jobs after which sbatch says no), fail (job ids that
fail), history (what squeue has forgotten and sacct still knows: ids)
"""

from __future__ import annotations

import heapq
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

HOME = Path(os.environ["FAKE_SLURM"])


def settings() -> dict[str, Any]:
    known: dict[str, Any] = {"nodes": 1000, "seconds": 1.0, "refuse": None, "fail": [], "forgotten": []}
    known.update(json.loads((HOME / "settings.json").read_text()))
    return known


def log() -> list[dict[str, Any]]:
    path = HOME / "log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(entry: dict[str, Any]) -> None:
    with (HOME / "log").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def sbatch(script: str) -> None:
    text = Path(script).read_text(errors="surrogateescape")
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", text, re.M))
    before = [entry for entry in log() if entry["what"] == "sbatch"]
    size = int(re.split("[-%]", options.get("array", "0-0"))[1]) + 1
    limit = settings()["refuse"]
    if limit is not None and sum(entry["size"] for entry in before) + size > limit:
        sys.exit(
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy"
        )
    number = before[-1]["id"] + 1 if before else 5000001
    after = re.sub(r"^after\w+:", "", options["dependency"]).split(":") if "dependency" in options else []
    kind = options.get("dependency", "").partition(":")[0]
    name = options["job-name"].strip("'")
    append({"what": "sbatch", "id": number, "size": size, "array": "array" in options, "after": after, "kind": kind,
            "name": name, "folder": str(Path(script).parent), "time": time.time(),
            "fail": settings()["fail"]})  # fmt: skip
    print(number)


def scancel(*ids: str) -> None:
    append({"what": "scancel", "ids": [i for i in ids if not i.startswith("-")], "time": time.time()})


def history() -> tuple[list[tuple[str, str, str]], dict[str, Any]]:
    """Every job's (id, state, name) by now, and the settings; writes the results of those that are done."""
    now, rules = time.time(), settings()
    entries = log()
    cancelled = {i for entry in entries if entry["what"] == "scancel" for i in entry["ids"]}
    jobs: dict[str, tuple[dict[str, Any], str]] = {}
    members: dict[str, list[str]] = {}
    for entry in entries:
        if entry["what"] == "sbatch":
            ids = [f"{entry['id']}_{n}" for n in range(entry["size"])] if entry["array"] else [str(entry["id"])]
            members[str(entry["id"])] = ids
            names = (
                json.loads((Path(entry["folder"]) / "submission.json").read_text())["jobs"]
                if Path(entry["folder"]).exists()
                else []
            )
            for place, i in enumerate(ids):
                jobs[i] = (entry, names[place] if place < len(names) else "")
    free = [0.0] * rules["nodes"]
    heapq.heapify(free)
    ends: dict[str, float] = {}
    states: dict[str, str] = {}
    for i, (entry, name) in jobs.items():  # in the order of submission: parents first
        parents = [p for a in entry["after"] for p in members.get(a, [a])]
        if i in cancelled or (
            entry["kind"] == "afterok" and any(states.get(p) in ("FAILED", "CANCELLED") for p in parents)
        ):
            states[i], ends[i] = "CANCELLED", now
            continue
        ready = max([entry["time"], *(ends.get(p, 0.0) for p in parents)])
        begin = max(ready, free[0])
        if begin > now:
            states[i], ends[i] = "PENDING", float("inf")
            continue
        ends[i] = begin + rules["seconds"]
        heapq.heapreplace(free, ends[i])
        if ends[i] > now:
            states[i] = "RUNNING"
            continue
        states[i] = "FAILED" if name in entry["fail"] else "COMPLETED"
        if states[i] == "COMPLETED" and name:
            folder = Path(entry["folder"]).parents[1] / name
            if not (folder / "result.json").exists():
                folder.mkdir(exist_ok=True)
                where = {
                    "started": "",
                    "seconds": 1.0,
                    "cpu_seconds": 1.0,
                    "host": "",
                    "device": "cpu",
                    "ranks": 1,
                    "threads": 1,
                    "commit": "",
                    "versions": {},
                }
                (folder / "result.json").write_text(
                    json.dumps({"format": 1, "job": name, "metrics": {}, "details": {}, "provenance": where})
                )
    return [(i, states[i], jobs[i][0]["name"]) for i in jobs], rules


def table(known: bool) -> None:
    rows, rules = history()
    forgotten = set(rules["forgotten"])
    out = []
    for i, state, name in rows:
        if (i in forgotten) == known:
            continue
        reason = "Resources" if state == "PENDING" else "None"
        node = "node1" if state == "RUNNING" else ""
        out.append(f"{i}|{state}|0:01|1:00:00|{reason}|{node}|{name}")
    print("\n".join(out))


if __name__ == "__main__":
    program, arguments = Path(sys.argv[0]).name, [a for a in sys.argv[1:] if a != "--parsable"]
    if (HOME / "down").exists():
        sys.exit(f"{program}: error: Unable to contact slurm controller (connect failure)")
    with (HOME / "calls").open("a") as calls:
        calls.write(program + "\n")
    if program == "squeue":
        table(known=True)
    elif program == "sacct":
        if not settings()["forgotten"]:
            sys.exit("sacct: error: Slurm accounting storage is disabled")
        table(known=False)
    elif program == "sbatch":
        sbatch(arguments[0])
    elif program == "scancel":
        scancel(*arguments)
