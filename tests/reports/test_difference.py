"""How a measured cell is set beside the printed one: by value at the published scale, by rank elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from reports.pages.difference import differences
from results.table import Column, Row
from results.view import CellView, Status, TableView, verdict
from tests.reports.conftest import TABLE, Demo

TOP1 = Column(name="Top-1", metric="top1", protocol="linear")


def with_cells(view: TableView, column: Column, pairs: Sequence[tuple[str, tuple[float, ...]]]) -> TableView:
    """A view of one column: (printed, measured) of each row."""
    rows = tuple(
        Row(label=str(place), method="simclr", printed={column.name: printed})
        for place, (printed, _) in enumerate(pairs)
    )
    done: Status = "done"
    cells = {
        (row.name, column.name): CellView(
            published=printed, measured=measured, digits=column.digits, status=done, jobs=("j",),
            verdict=verdict(printed, measured) if not view.caveat and printed else None,
        )
        for row, (printed, measured) in zip(rows, pairs, strict=True)
    }  # fmt: skip
    table = replace(TABLE, columns=(column,), rows=rows, anchors=())
    return replace(view, table=table, columns=(column,), rows=rows, anchors=(), cells=cells)


def test_ranks_elsewhere_say_how_many_places_a_row_moved(demo: Demo) -> None:
    # Printed order: 3, 2, 1, 0. Measured: row 0 is first now, rows 1 and 2 each a place lower.
    pairs: list[tuple[str, tuple[float, ...]]] = [
        ("60.0", (99.0,)),
        ("70.0", (80.0,)),
        ("75.0", (85.0,)),
        ("80.0", (90.0,)),
        ("", (95.0,)),
        ("collapse", (50.0,)),
    ]
    found = differences(with_cells(demo.embedded, TOP1, pairs))
    assert {row: one.text for (row, _), one in found.items()} == {
        "0": "▲3 #1",
        "1": "▼1 #4",
        "2": "▼1 #3",
        "3": "▼1 #2",
    }
    assert found["0", "Top-1"].spoken == "rank 1 of 4, 4 in the paper: 3 places higher than in the paper"
    assert found["1", "Top-1"].spoken == "rank 4 of 4, 3 in the paper: 1 place lower than in the paper"
    assert (found["0", "Top-1"].shade, found["1", "Top-1"].shade) == ("up-3", "down-2")


def test_where_lower_is_better_the_lowest_is_first(demo: Demo) -> None:
    column = replace(TOP1, higher_is_better=False)
    found = differences(with_cells(demo.embedded, column, [("10", (5.0,)), ("20", (1.0,))]))
    assert [one.text for one in found.values()] == ["▼1 #2", "▲1 #1"]


def test_ties_share_a_rank(demo: Demo) -> None:
    # one decimal is shown
    found = differences(with_cells(demo.embedded, TOP1, [("70.0", (90.0,)), ("70.0", (90.01,)), ("60.0", (80.0,))]))
    assert [one.text for one in found.values()] == ["= #1", "= #1", "= #3"]
    assert {one.shade for one in found.values()} == {"same"}


@pytest.mark.parametrize(
    "pairs", [[("70.0", (90.0,))], [("70.0", (90.0,)), ("", (3.0,))], [("70.0", ()), ("60.0", ())]]
)
def test_one_row_has_no_rank(demo: Demo, pairs: list[tuple[str, tuple[float, ...]]]) -> None:
    assert differences(with_cells(demo.embedded, TOP1, pairs)) == {}


def test_no_order_no_difference(demo: Demo) -> None:
    assert (
        differences(with_cells(demo.embedded, replace(TOP1, higher_is_better=None), [("1", (2.0,)), ("2", (1.0,))]))
        == {}
    )


@pytest.mark.parametrize(
    ("printed", "measured", "text", "shade"),
    [
        ("70.0", (70.04,), "0.0 match", "same"),
        ("70.0", (69.0, 71.2), "+0.1 within noise", "same"),
        ("70.0", (70.3,), "+0.3 above", "up-1"),
        ("70.0", (71.0,), "+1.0 above", "up-2"),
        ("70.0", (66.0,), "\N{MINUS SIGN}4.0 below", "down-3"),
    ],
)
def test_at_the_published_scale_values_are_subtracted(
    demo: Demo, printed: str, measured: tuple[float, ...], text: str, shade: str
) -> None:
    (found,) = differences(with_cells(demo.paper, TOP1, [(printed, measured)])).values()
    assert (found.text, found.shade) == (text, shade)


def test_below_is_good_where_lower_is_better(demo: Demo) -> None:
    column = replace(TOP1, higher_is_better=False, unit="")
    (found,) = differences(with_cells(demo.paper, column, [("10.0", (5.0,))])).values()
    assert (found.text, found.shade) == ("\N{MINUS SIGN}5.0 below", "up-3")


def test_a_move_that_the_spread_of_the_seeds_covers_is_grey(demo: Demo) -> None:
    # 99.9 ± 0.1 and 100.0 ± 0.1 could stand in either order; 70.0 ± 0.1 stands below both for sure.
    pairs: list[tuple[str, tuple[float, ...]]] = [
        ("80.0", (99.8, 99.9, 100.0)),
        ("75.0", (99.9, 100.0, 100.1)),
        ("90.0", (69.9, 70.0, 70.1)),
    ]
    found = differences(with_cells(demo.embedded, TOP1, pairs))
    assert {row: (one.text, one.shade) for (row, _), one in found.items()} == {
        "0": ("= #2", "same"),
        "1": ("▲2 #1", "up-3"),  # third in the paper, and 70.0 is far below
        "2": ("▼2 #3", "down-3"),
    }
    swapped = differences(with_cells(demo.embedded, TOP1, pairs[:2]))
    assert {one.shade for one in swapped.values()} == {"same"}
    assert swapped["1", "Top-1"].text == "▲1 #1"
    assert swapped["1", "Top-1"].spoken.endswith("1 place higher than in the paper, within the spread of the seeds")
    one_seed = differences(with_cells(demo.embedded, TOP1, [("80.0", (99.9,)), ("75.0", (100.0,))]))
    assert {one.shade for one in one_seed.values()} == {"up-3", "down-3"}  # of one seed there is no spread to go by
