"""Write bench/costs/counted.jsonl: the work of all networks and methods of the tables, counted by torch.

Some minutes; run it after a change of a network, a loss or a recipe (tests/bench/test_counted.py recounts a few).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench import plugins
from bench.costs.amounts import numbers
from bench.costs.counted import OF_TABLES, label, line, network_key, shape, step_key
from bench.costs.counting import network_work, step_work
from bench.planning.scales import SCALES
from bench.spec import Evaluate, Pixels, Pretrain, Spec
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


def main() -> None:
    """Count each once, by its key."""
    lines: dict[str, str] = {}
    for spec in specs():
        if isinstance(spec, Pretrain):
            key = step_key(spec)
            if key not in lines:
                lines[key] = line(key, label(spec), numbers(step_work(replace(spec, backbone=shape(spec.backbone)))))
        size = spec.data.size
        if not isinstance(spec, Pretrain) and isinstance(spec.encoder, Pixels):
            continue
        backbone = spec.backbone if isinstance(spec, Pretrain) else spec.encoder.backbone
        # detectors take images of any size: they are priced by the network at its usual one
        size = min(size, 224)
        key = network_key(backbone, size)
        if key not in lines:
            what = f"{backbone.name} {backbone.width}x{backbone.base_channels} at {size} px"
            lines[key] = line(key, what, numbers(network_work(shape(backbone), size)))
    OF_TABLES.write_text("".join(sorted(lines.values(), key=lambda text: text.partition('"what"')[2])))
    print(f"{len(lines)} counts, {OF_TABLES.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
