"""Write bench/costs/memory.json: the peak memory of every training and network of the tables on GPUs.

Counted on tensors without numbers (bench/costs/peaks.py), on one core in about 15 minutes: what is there already is
kept, unless --all is given. `--check` says whether the jobs of all tables are there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import plugins
from bench.costs.fit import roughly
from bench.costs.known_peaks import FILE
from bench.costs.peaks import of_network, of_training
from bench.costs.steps import Count, Network, Training, key
from bench.planning import graph
from bench.planning.scales import scale_of
from bench.spec import Pixels, Pretrain
from results.cells import load_table, plan_table

SCALES = ("paper", "cifar")
LARGE = 8e9  # bytes; of the latter scale what could take more, as the rest fits anywhere


def wanted() -> dict[str, tuple[str, Network | Training]]:
    """What the tables ask for, by key, with a name for readers."""
    found: dict[str, tuple[str, Network | Training]] = {}
    for scale in map(scale_of, SCALES):
        cells = (cell for name in plugins.names("table") for cell in plan_table(load_table(name), scale, 1).asked)
        for job in graph.plan((cell.label, cell.spec) for cell in cells):
            if scale.published or roughly(job.spec) > LARGE:
                found |= {key(what): (name, what) for name, what in _of(job.spec) if key(what) not in found}
    return found


def _of(spec: object) -> Iterator[tuple[str, Network | Training]]:
    if isinstance(spec, Pretrain):
        views = " ".join(f"{view.size}" for view in spec.views)
        name = (
            f"{plugins.name_of(spec.method)}, {spec.backbone.name} {spec.backbone.width}x, batch {spec.batch_size}, "
            f"{spec.precision}, views of {views} px"
        )
        yield name, Training(spec, recompute=False)
        yield f"{name}, activations twice", Training(spec, recompute=True)
    elif not isinstance(spec.encoder, Pixels):  # type: ignore[attr-defined]
        backbone, size, protocol = spec.encoder.backbone, spec.data.size, spec.protocol  # type: ignore[attr-defined]
        if plugins.evaluation_of(protocol).uses_ranks:
            return
        if plugins.evaluation_of(protocol).recomputes:
            precision = protocol.precision
            twice = Network(backbone, size, precision, trains=True, recompute=True)
            yield f"{backbone.name} {backbone.width}x, trained, {size} px, {precision}, activations twice", twice
        for trains in (False, True):
            for precision in ("fp32", "fp16"):
                words = "trained" if trains else "frozen"
                yield (
                    f"{backbone.name} {backbone.width}x, {words}, {size} px, {precision}",
                    Network(backbone, size, precision, trains),  # type: ignore[arg-type]
                )


def _number(value: float) -> int:
    return round(value)


def main() -> None:
    """Count what is missing, or say what is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if something is missing or too much")
    parser.add_argument("--all", action="store_true", help="count everything anew")
    asked = parser.parse_args()
    before = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {"counts": {}, "names": {}}
    todo = wanted()
    if asked.check:
        wrong = sorted(before["counts"].keys() ^ todo.keys())
        sys.exit("\n".join(todo.get(name, (f"no job of a table has {name}",))[0] for name in wrong) or None)
    counts: dict[str, list[int]] = {} if asked.all else {k: v for k, v in before["counts"].items() if k in todo}
    for number, (name, (words, what)) in enumerate(todo.items(), 1):
        if name not in counts:
            made = _count(what)
            counts[name] = [_number(made.fixed), _number(made.image), _number(made.trained)]
            print(f"{number} of {len(todo)}: {words}: {made.fixed / 1e9:.2f} GB, {made.image / 1e6:.1f} MB an image")
            sys.stdout.flush()
            _write(counts, todo)
    _write(counts, todo)


def _count(what: Network | Training) -> Count:
    if isinstance(what, Training):
        return of_training(what.spec, recompute=what.recompute)
    return of_network(what)


def _write(counts: dict[str, list[int]], todo: dict[str, tuple[str, Network | Training]]) -> None:
    order = sorted(counts, key=lambda name: (todo[name][0], name))
    lines = [f'  "{name}": {json.dumps(counts[name])}' for name in order]
    words = [f'  "{name}": {json.dumps(todo[name][0])}' for name in order]
    about = '"about": "bytes at the peak, bytes more an image of a rank, bytes of trained weights; docs/make_memory.py"'
    FILE.write_text(
        "{\n" + about + ',\n"counts": {\n' + ",\n".join(lines) + '\n},\n"names": {\n' + ",\n".join(words) + "\n}\n}\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
