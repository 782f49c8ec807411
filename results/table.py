"""A published table: its rows, columns and printed values, and what to run for each cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import plugins
from bench.authors import catalogue, weights
from bench.data.catalogue import entry
from bench.errors import BenchError, unknown_name
from bench.identity import job_id
from bench.planning import scales, translate
from bench.planning.translate import Change
from bench.spec import Encoder, Pixels, Pretrain, Released, Spec


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. `protocol` None: the metric comes from the encoder's own pretraining job (its parameter count, say)."""

    name: str  # as printed; unique in the table
    metric: str = ""  # "": the column is printed only, nothing here measures it
    protocol: str | None = None  # a file of evals/
    options: Mapping[str, Any] = field(default_factory=dict)  # fields of the protocol's Config that differ from its recipe
    variant: str = ""  # one of the protocol's VARIANTS, e.g. the paper's own settings; "": its RECIPES
    elsewhere: str = ""  # protocol at scales that are not the published one, with its own RECIPES; "": the same
    dataset: str = "imagenet"  # in the paper's words
    unit: str = "%"
    digits: int = 1  # decimals shown for measured values
    higher_is_better: bool | None = True  # None: no order, nothing to win
    printed: bool = True  # False: a column of ours, beside what the paper prints
    change: Change | None = None  # what this column changes in the pretraining
    epochs: float | None = None  # length of the pretraining in this column, where columns differ in it


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row. `method` None: nothing here can run it yet; `missing` names what it would take."""

    label: str  # as printed
    architecture: str = ""  # as printed
    section: str = ""  # heading that groups rows in the paper
    method: str | None = None  # a file of methods/, or "random", or "pixels"
    recipe: str = ""  # one of the method's VARIANTS; "": its RECIPES
    missing: str = ""
    network: str = "resnet50"  # in the paper's words; a scale translates it
    width: int = 1
    epochs: float | None = None  # None: the method's headline run
    full_run: float | None = None  # epochs that at other scales shrink to the whole recipe; None: those of the headline run
    dataset: str = "imagenet"  # pretrained on
    change: Change | None = None  # what this row changes in the method's recipe
    variants: Mapping[str, str] = field(default_factory=dict)  # column name -> variant of its protocol that this row has instead
    untrained: tuple[str, ...] = ()  # columns in which the row starts from the same network, never trained
    without: tuple[str, ...] = ()  # columns that this row cannot have
    printed: Mapping[str, str] = field(default_factory=dict)  # column name -> as printed, a number or a word; "" where the paper has none
    doubts: Mapping[str, str] = field(default_factory=dict)  # column name -> why the printed value is not certain
    note: str = ""
    released: str = ""  # the authors' weights for this row, a name in methods/*.toml; `bench run --released` takes them

    @property
    def name(self) -> str:
        """Unique in the table: label and architecture."""
        return f"{self.label}, {self.architecture}" if self.architecture else self.label


@dataclass(frozen=True, kw_only=True)
class Table:
    """One published table. `references` are rows of ours under it, which anchor a scale."""

    id: str
    paper: str
    arxiv: str  # "" for a table of our own
    number: str  # as the paper numbers it
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    references: tuple[Row, ...] = ()
    order_by: str = "Top-1"  # the column whose row order is compared
    confidence: str = "read in the paper"  # how sure the printed values are
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [c.name for c in self.columns]
        rows = [r.name for r in (*self.rows, *self.references)]
        for kind, found in (("column", names), ("row", rows)):
            twice = {name for name in found if found.count(name) > 1}
            if twice:
                raise BenchError(f"table {self.id}: {kind} {twice.pop()!r} stands twice.")
        for row in self.rows:
            odd = {*row.printed, *row.doubts, *row.variants, *row.untrained, *row.without} - set(names)
            if odd:
                raise BenchError(f"table {self.id}, row {row.name}: values for unknown columns {sorted(odd)}.")
        for row in (*self.rows, *self.references):
            if row.released and row.released not in catalogue():
                raise unknown_name(f"released weights in row {row.name!r} of {self.id}", row.released, catalogue())

    def column(self, name: str) -> Column:
        """Raises BenchError with the valid names."""
        for column in self.columns:
            if column.name == name:
                return column
        raise unknown_name(f"column of {self.id}", name, [c.name for c in self.columns])


@dataclass(frozen=True)
class CellJob:
    """What one cell asks for, for one seed."""

    row: Row
    column: Column
    seed: int
    label: str
    spec: Spec
    job: str


def load_table(name: str) -> Table:
    """The table of a file in results/tables. Raises BenchError with the valid names."""
    table = plugins.table(name)
    if not isinstance(table, Table) or table.id != name:
        raise BenchError(f"results/tables/{name}.py must export TABLE, a Table with the id {name!r}.")
    return table


def cell_jobs(
    table: Table,
    scale: scales.Scale,
    seeds: int,
    *,
    rows: Iterable[str] = (),
    columns: Iterable[str] = (),
    released: Mapping[str, str] | None = None,
) -> list[CellJob]:
    """The jobs of all cells that can run, row by row; `rows` and `columns` restrict them.

    A row is chosen by its label, its full name or its method. With `released`, the sha256 of the authors' weights by name,
    rows take those instead of a pretraining; rows without them, and columns that change the pretraining, have no jobs.
    Raises BenchError for an unknown row, column or recipe, and for `released` away from the published scale.
    """
    if seeds < 1:
        raise BenchError(f"seeds is {seeds}, expected at least 1.")
    wanted_columns = [table.column(name) for name in columns] or list(table.columns)
    if released is not None:
        check_released(scale)
    found = []
    for row in chosen_rows(table, rows):
        if (row.method is None) if released is None else (row.released not in released):
            continue
        for seed in range(seeds):
            encoders: dict[tuple[object, ...], Encoder] = {}  # most columns of a row look at the same
            for column in wanted_columns:
                if column.name in row.without or (released is not None and not _can_be_released(column)):
                    continue
                pretrained = released is None or column.name in row.untrained
                key = (pretrained, id(column.change), column.epochs, column.name in row.untrained)
                if key not in encoders:
                    encoders[key] = _encoder(row, column, scale, seed) if pretrained else _released(row, released or {})
                spec = _spec(encoders[key], row, column, scale, seed)
                if spec is not None:
                    found.append(CellJob(row, column, seed, _label(row, column, seed, seeds), spec, job_id(spec)))
    return found


def _can_be_released(column: Column) -> bool:
    """Not where the column changes the pretraining, or looks at the projector, which no released file brings."""
    if column.change is not None or column.epochs is not None:
        return False
    return column.protocol is None or not plugins.evaluation(column.protocol).needs_projector


def check_released(scale: scales.Scale) -> None:
    """Raises BenchError at a scale whose networks are not the published ones."""
    if not scale.published:
        names = ", ".join(name for name, other in scales.SCALES.items() if other.published)
        raise BenchError(f"--released needs --scale {names}: the authors' weights are those of ImageNet networks, at {scale.name!r} they fit none.")


def chosen_rows(table: Table, names: Iterable[str]) -> list[Row]:
    """Rows and references by label, full name or method; all without names."""
    everything = [*table.rows, *table.references]
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
    spec = translate.evaluation(scale, Pixels(), name, variant=variant, dataset=column.dataset, options=column.options, seed=0)
    here = scale.stand_in(column.dataset)
    data = f"{scales.NAMES.get(column.dataset, column.dataset)} (here: {here}, {entry(spec.data.name).summary})" if here else spec.data.name
    return f"{data}: {evaluation.describe(spec.protocol)} (evals.{name} version {evaluation.version(spec.protocol)})"


def stand_in_of(column: Column, table: Table, scale: scales.Scale) -> str:
    """What a column that leaves the data set of the pretraining reads at this scale, e.g. "digits1797"; "" where that is as published."""
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
        from bench.planning.refusals import check_pretrain  # brings torch, which `bench list methods --missing` does without

        check_pretrain(encoder)
    return encoder


def _released(row: Row, released: Mapping[str, str]) -> Released:
    return Released(name=row.released, backbone=weights(row.released).backbone, sha256=released[row.released])


def _spec(encoder: Encoder, row: Row, column: Column, scale: scales.Scale, seed: int) -> Spec | None:
    if column.protocol is not None:
        protocol, variant = protocol_at(column, scale, row.variants.get(column.name, column.variant))
        return translate.evaluation(scale, encoder, protocol, variant=variant, dataset=column.dataset, options=column.options, seed=seed)
    return encoder if column.metric and isinstance(encoder, Pretrain) else None


def _label(row: Row, column: Column, seed: int, seeds: int) -> str:
    subject = row.name + (f" seed {seed}" if seeds > 1 else "")
    return f"{subject} | {column.name}" if column.protocol else subject


def _aliases(row: Row) -> set[str]:
    return {row.label, row.name} | ({row.method} if row.method else set())
