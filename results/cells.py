"""What a table asks for at a scale, planned once and handed to graph, remembered plans, view and report."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bench import plugins
from bench.authors import weights
from bench.data.catalogue import entry
from bench.errors import BenchError, one_line, unknown_name
from bench.identity import job_id
from bench.planning import graph, scales, translate
from bench.planning.graph import JobGraph
from bench.planning.pixels import too_large
from bench.runs import plans
from bench.spec import Encoder, Pixels, Pretrain, Released, Spec
from results.table import Column, Row, Table


@dataclass(frozen=True)
class CellJob:
    """What one cell asks for, for one seed."""

    row: Row
    column: Column
    seed: int
    label: str
    spec: Spec
    job: str


@dataclass(frozen=True, kw_only=True)
class PlannedTable:
    """A table at a scale with the jobs of its cells.

    Made once: graph, remembered plan, view and report read it and plan nothing.

    `rows` and `columns` are names as they were asked for, empty for all.
    """

    table: Table
    scale: scales.Scale
    seeds: int
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    released: Mapping[str, str] | None  # sha256 of the authors' weights by name, for a table that is run on them
    cells: tuple[CellJob, ...]  # of the whole table, row by row, asked for or not
    too_large: Mapping[tuple[str, str], str]  # (row, column) that cannot run at the size of the data, and why
    refused: Mapping[tuple[str, str], str]  # (row, column) that cannot be planned and was not asked for, and why

    @property
    def name(self) -> str:
        """`table@scale`."""
        return f"{self.table.id}@{self.scale.name}"

    @cached_property
    def asked_rows(self) -> frozenset[str]:
        """Names of the rows that were asked for."""
        return frozenset(row.name for row in chosen_rows(self.table, self.rows))

    @cached_property
    def asked_columns(self) -> frozenset[str]:
        """Names of the columns that were asked for."""
        return frozenset(self.columns or (column.name for column in self.table.columns))

    def is_asked(self, row: Row, column: Column) -> bool:
        """Whether a cell was asked for."""
        return row.name in self.asked_rows and column.name in self.asked_columns

    @property
    def asked_cells(self) -> frozenset[tuple[str, str]]:
        """(row, column) of the cells that were asked for."""
        return frozenset(itertools.product(self.asked_rows, self.asked_columns))

    @property
    def asked(self) -> tuple[CellJob, ...]:
        """The jobs that were asked for."""
        return tuple(cell for cell in self.cells if self.is_asked(cell.row, cell.column))

    @cached_property
    def graph(self) -> JobGraph:
        """What was asked for, each job once, parents first."""
        return graph.plan((cell.label, cell.spec) for cell in self.asked)

    @cached_property
    def protocols(self) -> Mapping[str, str]:
        """The protocol of each column in a sentence; of one that was not asked for and has none here, why."""
        found = {}
        for column in self.table.columns:
            try:
                found[column.name] = protocol_of(column, self.scale)
            except BenchError as error:
                if column.name in self.asked_columns:
                    raise
                found[column.name] = one_line(error)
        return found

    @cached_property
    def stand_ins(self) -> Mapping[str, str]:
        """What each column reads in place of its data set, or ""."""
        return {column.name: stand_in_of(column, self.table, self.scale) for column in self.table.columns}


def load_table(name: str) -> Table:
    """The table of a file in results/tables. Raises BenchError with the valid names."""
    table = plugins.table(name)
    if not isinstance(table, Table) or table.id != name:
        raise BenchError(f"results/tables/{name}.py must export TABLE, a Table with the id {name!r}.")
    return table


def plan_table(
    table: Table,
    scale: scales.Scale,
    seeds: int = 1,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    released: Mapping[str, str] | None = None,
) -> PlannedTable:
    """Plan all cells that can run.

    A row is chosen by its label, its full name or its method. With `released`, rows take the authors' weights instead
    of a pretraining; rows without them, and columns that change the pretraining, have no jobs. Raises BenchError for an
    unknown row, column or recipe, and for `released` away from the published scale.
    """
    if seeds < 1:
        raise BenchError(f"seeds is {seeds}, expected at least 1.")
    if released is not None:
        check_released(scale)
    asked_rows = {row.name for row in chosen_rows(table, rows)}
    asked_columns = {table.column(name).name for name in columns} or {column.name for column in table.columns}
    cells: list[CellJob] = []
    refused: dict[tuple[str, str], str] = {}
    large: dict[tuple[str, str], str] = {}
    for row in (*table.rows, *table.anchors):
        if (row.method is None) if released is None else (row.released not in released):
            continue
        for seed in range(seeds):
            encoders: dict[tuple[object, ...], Encoder] = {}  # most columns of a row look at the same
            for column in table.columns:
                try:
                    spec = _spec(row, column, scale, seed, released, encoders)
                except BenchError as error:
                    if row.name in asked_rows and column.name in asked_columns:
                        raise
                    refused[row.name, column.name] = one_line(error)
                    continue
                if spec is not None and (why := too_large(spec)):
                    large[row.name, column.name] = why
                elif spec is not None:
                    cells.append(CellJob(row, column, seed, _label(row, column, seed, seeds), spec, job_id(spec)))
    return PlannedTable(
        table=table,
        scale=scale,
        seeds=seeds,
        rows=tuple(rows),
        columns=tuple(columns),
        released=released,
        cells=tuple(cells),
        too_large=large,
        refused=refused,
    )


def plan_again(stored: plans.StoredPlan) -> PlannedTable:
    """The plan of an earlier run, as its file remembers it."""
    scale = scales.scale_of(stored.scale, stored.overrides)
    asked = {"rows": stored.rows, "columns": stored.columns}
    return plan_table(load_table(stored.table), scale, stored.seeds, **asked, released=stored.released)


def _can_be_released(column: Column) -> bool:
    """Not where the column changes the pretraining, or looks at the projector, which no released file brings."""
    if column.change is not None or column.epochs is not None:
        return False
    return column.protocol is None or not plugins.evaluation(column.protocol).needs_projector


def check_released(scale: scales.Scale) -> None:
    """Raises BenchError at a scale whose networks are not the published ones."""
    if not scale.published:
        names = ", ".join(name for name, other in scales.SCALES.items() if other.published)
        raise BenchError(
            f"--released needs --scale {names}: the authors' weights are those of ImageNet networks, at "
            f"{scale.name!r} they fit none."
        )


def chosen_rows(table: Table, names: Iterable[str]) -> list[Row]:
    """Rows and anchors by label, full name or method; all without names."""
    everything = [*table.rows, *table.anchors]
    names = list(names)
    for name in names:
        if not any(name in _aliases(row) for row in everything):
            raise unknown_name(f"row of {table.id}", name, {alias for row in everything for alias in _aliases(row)})
    return [row for row in everything if not names or _aliases(row).intersection(names)]


def protocol_at(column: Column, scale: scales.Scale, variant: str) -> tuple[str, str]:
    """File of evals/ and variant that measure a column at a scale."""
    if column.elsewhere and not scale.published:
        return column.elsewhere, ""
    return column.protocol or "", variant


def protocol_of(column: Column, scale: scales.Scale) -> str:
    """The column's protocol in a sentence."""
    if column.protocol is None:
        return "read off the pretraining job"
    name, variant = protocol_at(column, scale, column.variant)
    evaluation = plugins.evaluation(name)
    spec = translate.evaluation(
        scale, Pixels(), name, variant=variant, dataset=column.dataset, options=column.options, seed=0
    )
    here = scale.stand_in(column.dataset)
    data = (
        f"{scales.NAMES.get(column.dataset, column.dataset)} (here: {here}, {entry(spec.data.name).summary})"
        if here
        else spec.data.name
    )
    return f"{data}: {evaluation.describe(spec.protocol)} (evals.{name} version {evaluation.version(spec.protocol)})"


def stand_in_of(column: Column, table: Table, scale: scales.Scale) -> str:
    """What a column that leaves the data set of the pretraining reads at this scale; "" where that is as published."""
    is_transfer = column.protocol is not None and column.dataset not in {row.dataset for row in table.rows}
    return scale.stand_in(column.dataset) if is_transfer else ""


def _encoder(row: Row, column: Column, scale: scales.Scale, seed: int) -> Encoder:
    changes = [change for change in (row.change, column.change) if change is not None]
    encoder = translate.encoder(
        scale,
        "random" if column.name in row.untrained else row.method or "",
        variant=row.recipe,
        network=row.network,
        width=row.width,
        epochs=row.epochs if column.epochs is None else column.epochs,
        dataset=row.dataset,
        seed=seed,
        changes=changes,
        full_run=row.full_run,
    )
    if isinstance(encoder, Pretrain):
        # brings torch, which `bench list methods --missing` does without
        from bench.planning.refusals import (
            check_pretrain,
        )

        check_pretrain(encoder)
    return encoder


def _released(row: Row, released: Mapping[str, str]) -> Released:
    return Released(name=row.released, backbone=weights(row.released).backbone, sha256=released[row.released])


def _spec(
    row: Row,
    column: Column,
    scale: scales.Scale,
    seed: int,
    released: Mapping[str, str] | None,
    encoders: dict[tuple[object, ...], Encoder],
) -> Spec | None:
    """What a cell asks for, None where it has nothing to run; `encoders` are those of the row's other columns."""
    if column.name in row.without or (released is not None and not _can_be_released(column)):
        return None
    pretrained = released is None or column.name in row.untrained
    key = (pretrained, id(column.change), column.epochs, column.name in row.untrained)
    if key not in encoders:
        encoders[key] = _encoder(row, column, scale, seed) if pretrained else _released(row, released or {})
    encoder = encoders[key]
    if column.protocol is None:
        return encoder if column.metric and isinstance(encoder, Pretrain) else None
    protocol, variant = protocol_at(column, scale, row.variants.get(column.name, column.variant))
    return translate.evaluation(
        scale, encoder, protocol, variant=variant, dataset=column.dataset, options=column.options, seed=seed
    )


def _label(row: Row, column: Column, seed: int, seeds: int) -> str:
    subject = row.name + (f" seed {seed}" if seeds > 1 else "")
    return f"{subject} | {column.name}" if column.protocol else subject


def _aliases(row: Row) -> set[str]:
    return {row.label, row.name} | ({row.method} if row.method else set())
