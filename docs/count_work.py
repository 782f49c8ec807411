"""Write bench/costs/counted.jsonl: the work of all networks and methods of the tables, counted by torch.

Run it after a change of a recipe; what is there already is kept, unless --all is given (some minutes), which a change
of a network or a loss asks for (tests/bench/test_counted.py recounts a few).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace

from bench import plugins
from bench.costs.amounts import numbers
from bench.costs.counted import OF_TABLES, label, line, network_key, shape, step_key
from bench.costs.counting import network_work, step_work
from bench.planning.scales import SCALES
from bench.spec import Backbone, Evaluate, Pixels, Pretrain, Spec
from results.cells import load_table, plan_table


def specs() -> Iterator[Spec]:
    """Of all tables at all scales, encoders and first stages too."""
    for table in map(load_table, plugins.names("table")):
        hashes = {row.released: "0" * 64 for row in table.rows if row.released}
        for scale in SCALES.values():
            for cell in plan_table(table, scale, 1).asked:
                yield from _with_parents(cell.spec)
            for cell in plan_table(table, scale, 1, released=hashes).asked if scale.published and hashes else ():
                yield from _with_parents(cell.spec)


def _with_parents(spec: Spec) -> Iterator[Spec]:
    yield spec
    parent = spec.encoder if isinstance(spec, Evaluate) else spec.start
    if isinstance(parent, Pretrain):
        yield from _with_parents(parent)


def _of_step(key: str, spec: Pretrain) -> str:
    return line(key, label(spec), numbers(step_work(replace(spec, backbone=shape(spec.backbone)))))


def _of_network(key: str, backbone: Backbone, size: int) -> str:
    what = f"{backbone.name} {backbone.width}x{backbone.base_channels} at {size} px"
    return line(key, what, numbers(network_work(shape(backbone), size)))


def main() -> None:
    """Count each once, by its key."""
    anew = sys.argv[1:] == ["--all"]
    before = {} if anew else {json.loads(text)["key"]: f"{text}\n" for text in OF_TABLES.read_text().splitlines()}
    lines: dict[str, str] = {}
    for spec in specs():
        if isinstance(spec, Pretrain):
            key = step_key(spec)
            if key not in lines:
                lines[key] = before.get(key) or _of_step(key, spec)
        size = spec.data.size
        if not isinstance(spec, Pretrain) and isinstance(spec.encoder, Pixels):
            continue
        backbone = spec.backbone if isinstance(spec, Pretrain) else spec.encoder.backbone
        # detectors take images of any size: they are priced by the network at its usual one
        size = min(size, 224)
        key = network_key(backbone, size)
        if key not in lines:
            lines[key] = before.get(key) or _of_network(key, backbone, size)
    OF_TABLES.write_text("".join(sorted(lines.values(), key=lambda text: text.partition('"what"')[2])))
    print(f"{len(lines)} counts, {OF_TABLES.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
