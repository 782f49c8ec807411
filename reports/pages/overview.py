"""Methods against protocols: what every table together says about each pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.planning.scales import NAMES
from reports import words
from results.table import Column, Row
from results.view import CellView, TableView


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One value of a pair; several tables may ask for it."""

    text: str  # "95.1 ± 0.2", or the state
    is_value: bool
    href: str  # from the report's folder
    where: str  # "SimCLR, table 6"
    variant: str


@dataclass(frozen=True, kw_only=True)
class Overview:
    """One scale: rows are methods, columns protocols with their data sets."""

    scale: str
    methods: tuple[str, ...]
    protocols: tuple[tuple[str, str, str], ...]  # protocol, data set in the paper's words, metric
    entries: dict[tuple[str, tuple[str, str, str]], tuple[Standing, ...]]

    def at(self, method: str, protocol: tuple[str, str, str]) -> tuple[Standing, ...]:
        """The values of a pair, none where no table asks for it."""
        return self.entries.get((method, protocol), ())


def overviews(views: Sequence[TableView]) -> list[Overview]:
    """One for each scale, in the order of the views."""
    return [
        _overview(scale, [view for view in views if view.scale == scale])
        for scale in dict.fromkeys(view.scale for view in views)
    ]


def _overview(scale: str, views: Sequence[TableView]) -> Overview:
    metrics = _first_metrics(views)
    entries: dict[tuple[str, tuple[str, str, str]], dict[tuple[str, ...], Standing]] = {}
    for view in views:
        for row in (*view.rows, *view.anchors):
            for column in view.columns:
                cell = view.cell(row, column)
                key = (column.protocol or "", column.dataset)
                if not _is_headline(row, column) or metrics.get(key) != column.metric or not cell.jobs:
                    continue
                name, protocol = _method(row), (key[0], NAMES.get(key[1], key[1]), column.metric)
                # The same jobs are the same number, whatever table asked.
                entries.setdefault((name, protocol), {}).setdefault(cell.jobs, _entry(view, row, column, cell))
    methods = sorted({name for name, _ in entries})
    protocols = sorted({protocol for _, protocol in entries})
    found = {key: tuple(one.values()) for key, one in entries.items()}
    return Overview(scale=scale, methods=tuple(methods), protocols=tuple(protocols), entries=found)


def _is_headline(row: Row, column: Column) -> bool:
    """The method's own run on its own network: ablations, other widths and lengths stay in their tables."""
    own = (
        row.method is not None
        and row.change is None
        and row.width == 1
        and row.epochs is None
        and row.network == "resnet50"
    )
    return (
        own
        and column.protocol is not None
        and column.change is None
        and column.epochs is None
        and column.name not in row.untrained
    )


def _method(row: Row) -> str:
    return f"{row.method} ({row.recipe})" if row.recipe else row.method or ""


def _first_metrics(views: Sequence[TableView]) -> dict[tuple[str, str], str]:
    """The metric of a protocol on a data set that most columns show: one number a pair is enough here."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for view in views:
        for column in view.columns:
            if column.protocol:
                own = counts.setdefault((column.protocol, column.dataset), {})
                own[column.metric] = own.get(column.metric, 0) + 1
    return {key: max(own, key=lambda metric: (own[metric], metric == "top1")) for key, own in counts.items()}


def _entry(view: TableView, row: Row, column: Column, cell: CellView) -> Standing:
    spread = "" if cell.sd is None else f" ± {cell.sd:.{cell.digits}f}"
    text = cell.status if cell.mean is None else f"{cell.mean:.{cell.digits}f}{spread}"
    variant = row.variants.get(column.name, column.variant)
    options = ", ".join(f"{key} {words.compact(value)}" for key, value in column.options.items())
    return Standing(
        text=text,
        is_value=cell.mean is not None,
        href=f"{view.scale}/{view.table.id}.html",
        where=words.title(view.table),
        variant=", ".join(filter(None, (variant, options))),
    )
