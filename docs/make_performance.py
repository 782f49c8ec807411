"""Write docs/performance.md from a run of tests/perf. No number in it is typed.

pytest tests/perf --benchmark-json=FILE; python docs/make_performance.py FILE     # rewrite docs/performance.json and
.md
python docs/make_performance.py FILE --out FOLDER                                 # elsewhere, for the short form
python docs/make_performance.py                                                   # the page again, from
docs/performance.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
Summary = Mapping[str, Any]
Line = Mapping[str, Any]

GROUPS = {
    "loader": "Photographs of ImageNet's size, two views of 224 px",
    "training": "The training loop at 32 px",
    "start-up": "Start-up, plans and reports",
    "probe": "Evaluation of frozen features",
}
HOW = {
    "loader": "JPEGs of 500 x 375 px with 100 kB each, two views by BYOL's recipe. The usual way reads each image "
    "with Pillow and runs "
    "torchvision's v1 transforms on it. CPU time of one image, both views.",
    "training": "SimCLR on 3,500 digits, batch 256, SGD. Setting B: a ResNet-10 of 16 channels (307,536 parameters) "
    "and a projector "
    "128-256-128, 18 steps; setting A: a ResNet-18 with CIFAR's stem, 2 steps; the step before them does not "
    "count. Both sides train the "
    "same module; `bench` also logs, and the share of its checkpoints is added. Images a second of CPU time, two "
    "views each. `bench` gives "
    "each image's four colour operations an order of its own, as torchvision does; the references' own "
    "augmentation is one matrix an image.",
    "start-up": "CPU time of a command with all its processes, imports included, files in the cache of the system.",
    "probe": "An untrained network of setting B: features of 4,000 images with 128 numbers each (3,500 to train "
    "heads, 500 to choose one) "
    "and of 1,000 test images, heads trained for 40 epochs.",
}
INTRODUCTION = (
    "Every budget of the project beside what was measured, in one run of `make perf`. Ways that are compared run "
    "in turn, round by round, each in "
    "one thread; values are medians over the rounds, and a ratio is the median of the rounds' ratios. Ratios "
    "carry over to other machines, "
    "seconds do so less."
)
DERIVED = (
    "Peers are not installed here. Their rates were measured on another machine (one core of an AMD EPYC with "
    "AVX512-BF16) in the same setting "
    "beside the same reference loop. Derived is: the ratio to the reference loop here, times that loop's rate "
    "there, over the peer's rate there. "
    "It is no measurement side by side, and where the processors differ in bfloat16 it carries that difference."
)
SHORT = (
    "**The short form: one round of less work each. It shows that everything can be measured; its numbers are no "
    "result, and no goal is "
    "held against them.**"
)


def summary_of(run: Mapping[str, Any]) -> Summary:
    """What is kept of pytest-benchmark's JSON: machine, versions, commit, date and a line a measurement.

    Raises KeyError for JSON of other tests.
    """
    commit, machine = run["commit_info"], run["machine_info"]["performance"]
    return {
        "date": run["datetime"][:10],
        "commit": (commit.get("id") or "unknown")[:7] + ("+changes" if commit.get("dirty") else ""),
        "machine": machine,
        "lines": [
            {"group": one["group"], **_judged(one["extra_info"], machine)}
            for one in run["benchmarks"]
            if one["extra_info"]
        ],
    }


def _judged(line: Line, machine: Mapping[str, Any]) -> Line:
    """The line, without goals in the short form."""
    return {**line, "goals": {}, "published": None} if machine["short"] else line


def page(summary: Summary) -> str:
    """The Markdown page of a summary."""
    return "\n".join(_page(summary)) + "\n"


def _page(summary: Summary) -> Iterator[str]:
    machine = summary["machine"]
    lines: list[Line] = summary["lines"]
    verdicts = [verdict for line in lines for verdict in (*_verdicts(line), _against_peer(line)[2]) if verdict]
    yield from (
        "# Performance",
        "",
        "<!-- made by docs/make_performance.py from a run of tests/perf, not typed -->",
        "",
    )
    if machine["short"]:
        yield from (SHORT, "")
    yield from (INTRODUCTION, "")
    flags = ", ".join(machine["flags"]) or "no vector flags"
    yield f"- {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}; {flags}"
    yield (
        f"- {', '.join(f'{name} {number}' for name, number in machine['versions'].items())}; {machine['threads']} "
        "thread"
    )
    yield f"- commit {summary['commit']}, {summary['date']}"
    if verdicts:
        yield f"- {verdicts.count('met')} of {len(verdicts)} goals met"
    groups = [*GROUPS, *sorted({line["group"] for line in lines} - {*GROUPS})]
    for group in groups:
        of_group = [line for line in lines if line["group"] == group]
        if of_group:
            yield from ("", f"## {GROUPS.get(group, group)}", "", *([HOW[group], ""] if group in HOW else []))
            yield from _table(of_group)
    derived = [line for line in lines if line["published"]]
    if derived:
        yield from ("", "## Against the fastest peer, derived", "", DERIVED, "")
        yield from (
            "| what | peer, its rate there | reference there | derived | goal | |",
            "|---|---:|---:|---:|---:|---|",
        )
        for line in derived:
            there = line["published"]
            ratio, goal, verdict = _against_peer(line)
            yield (
                f"| {line['what']} | {there['peer']}: {there['peer_rate']:,g} | {there['usual_rate']:,g} | {ratio} "
                f"| {goal} | {_strong(verdict)} |"
            )


def _table(lines: list[Line]) -> Iterator[str]:
    yield from ("| what | measured | beside it | ratio | goal | |", "|---|---:|---|---:|---:|---|")
    for line in lines:
        value = f"{_figures(line['value'])} {line['unit']}" + (
            f" ({_figures(line['wall'])} s by the clock)" if line["wall"] is not None else ""
        )
        beside = f"{line['beside']}: {_figures(line['beside_value'])}" if line["beside"] else ""
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f} {line['comparison']} it"
        verdict = ", ".join(map(_strong, _verdicts(line)))
        note = f"; {line['note']}" if line["note"] else ""
        yield (
            f"| {line['what']}{note} | {value} | {beside} | {ratio} | "
            f"{', '.join(map(_goal, line['goals'].items()))} | {verdict} |"
        )


def _verdicts(line: Line) -> list[str]:
    """`met` or `missed`, a word a goal."""
    found = []
    for side, bound in line["goals"].items():
        name, _, kind = side.partition(" at ")
        measured = line[name]
        found.append("met" if (measured >= bound if kind == "least" else measured <= bound) else "missed")
    return found


def _against_peer(line: Line) -> tuple[str, str, str]:
    """The derived ratio to a published rate, its goal, and whether it is met; empty without one."""
    there = line["published"]
    if not there:
        return "", "", ""
    ratio = line["ratio"] * there["usual_rate"] / there["peer_rate"]
    return f"{ratio:.2f}", f"at least {there['at_least']:.2f}", "met" if ratio >= there["at_least"] else "missed"


def _goal(item: tuple[str, float]) -> str:
    name, _, kind = item[0].partition(" at ")
    unit = {"ratio": "", "value": " s", "wall": " s by the clock"}[name]
    return f"at {kind} {item[1]:g}{unit}"


def _strong(verdict: str) -> str:
    return "**missed**" if verdict == "missed" else verdict


def _figures(value: float) -> str:
    """Three figures: 0.0123, 1.23, 12.3, 1,230."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def main() -> int:
    """Write the page, and the summary when a run is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "run", type=Path, nargs="?", help="JSON of pytest-benchmark; default: the page again from performance.json"
    )
    parser.add_argument("--out", type=Path, default=DOCS)
    asked = parser.parse_args()
    kept = asked.out / "performance.json"
    if asked.run is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        summary = summary_of(json.loads(asked.run.read_text(encoding="utf-8")))
        kept.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (asked.out / "performance.md").write_text(page(json.loads(kept.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {asked.out / 'performance.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
