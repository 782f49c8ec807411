"""A published table: its rows, columns and printed values, and what to run for each cell."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any

from bench.authors import catalogue
from bench.errors import BenchError, unknown_name
from bench.planning.translate import Change


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    `protocol` None: the metric comes from the encoder's own pretraining job (its parameter count, say).
    """

    name: str  # as printed; unique in the table
    metric: str = ""  # "": the column is printed only, nothing here measures it
    protocol: str | None = None  # a file of evals/
    # fields of the protocol's Config that differ from its recipe
    options: Mapping[str, Any] = field(default_factory=dict)
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
    full_run: float | None = (
        None  # epochs that at other scales shrink to the whole recipe; None: those of the headline run
    )
    dataset: str = "imagenet"  # pretrained on
    change: Change | None = None  # what this row changes in the method's recipe
    # column name -> variant of its protocol that this row has instead
    variants: Mapping[str, str] = field(default_factory=dict)
    untrained: tuple[str, ...] = ()  # columns in which the row starts from the same network, never trained
    without: tuple[str, ...] = ()  # columns that this row cannot have
    # column name -> as printed, a number or a word; "" where the paper has none
    printed: Mapping[str, str] = field(default_factory=dict)
    doubts: Mapping[str, str] = field(default_factory=dict)  # column name -> why the printed value is not certain
    note: str = ""
    released: str = ""  # the authors' weights for this row, a name in methods/*.toml; `bench run --released` takes them

    @property
    def name(self) -> str:
        """Unique in the table: label and architecture."""
        return f"{self.label}, {self.architecture}" if self.architecture else self.label


@dataclass(frozen=True, kw_only=True)
class Table:
    """One published table. `anchors` are rows of ours under it: raw pixels, an untrained and a supervised encoder.

    Table files before version 0.2 call them `references`, which answers for one release.
    """

    id: str
    paper: str
    arxiv: str  # "" for a table of our own
    number: str  # as the paper numbers it
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    anchors: tuple[Row, ...] = ()
    references: InitVar[tuple[Row, ...]] = ()
    order_by: str = "Top-1"  # the column whose row order is compared
    confidence: str = "read in the paper"  # how sure the printed values are
    notes: tuple[str, ...] = ()

    def __post_init__(self, references: tuple[Row, ...]) -> None:
        if references and self.anchors:
            raise BenchError(f"table {self.id}: `references` is the old name of `anchors`: give one of them.")
        if references:
            warnings.warn(
                f"table {self.id}: `references` is called `anchors` since version 0.2.", FutureWarning, stacklevel=3
            )
            object.__setattr__(self, "anchors", references)
        names = [c.name for c in self.columns]
        rows = [r.name for r in (*self.rows, *self.anchors)]
        for kind, found in (("column", names), ("row", rows)):
            twice = {name for name in found if found.count(name) > 1}
            if twice:
                raise BenchError(f"table {self.id}: {kind} {twice.pop()!r} stands twice.")
        for row in self.rows:
            odd = {*row.printed, *row.doubts, *row.variants, *row.untrained, *row.without} - set(names)
            if odd:
                raise BenchError(f"table {self.id}, row {row.name}: values for unknown columns {sorted(odd)}.")
        for row in (*self.rows, *self.anchors):
            if row.released and row.released not in catalogue():
                raise unknown_name(f"released weights in row {row.name!r} of {self.id}", row.released, catalogue())

    def column(self, name: str) -> Column:
        """Raises BenchError with the valid names."""
        for column in self.columns:
            if column.name == name:
                return column
        raise unknown_name(f"column of {self.id}", name, [c.name for c in self.columns])
