from __future__ import annotations

import csv
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scipy import stats

from bench.errors import BenchError
from results.regression import reference
from results.regression.judge import CONFIDENCE, PRIOR, Spread, compare, spread_around, tolerance
from results.regression.reference import Deviation, Measured, deviations, read, write
from tests.conftest import BENCH

A = Measured(row="a", column="Top-1", mean=90.0, sd=0.5, n=3, higher_is_better=True, protocol="p")
B = replace(A, row="b", mean=80.0, sd=1.5)
PIXELS = replace(A, row="pixels", mean=70.0, sd=0.0)


def outcome(old: list[Measured], new: list[Measured], **known: Deviation) -> dict[str, str]:
    return {finding.row: finding.outcome for finding in compare(old, new, known.values())}


def test_the_same_digits_are_unchanged_and_noise_within_the_seeds_is_too() -> None:
    assert outcome([A, B], [A, replace(B, mean=81.0)]) == {"a": "unchanged", "b": "unchanged"}


@pytest.mark.parametrize(
    ("better", "mean", "expected"), [(True, 70.0, "regressed"), (True, 99.0, "improved"), (False, 70.0, "improved")]
)
def test_what_seeds_do_not_explain_has_a_direction(better: bool, mean: float, expected: str) -> None:
    old = replace(A, higher_is_better=better)
    assert outcome([old, B], [replace(old, mean=mean), B])["a"] == expected


def test_a_number_without_a_direction_is_changed_and_fails() -> None:
    old = replace(A, higher_is_better=None)
    (finding,) = compare([old], [replace(old, mean=50.0)])
    assert finding.outcome == "changed"
    assert finding.fails


def test_the_tolerance_is_the_moderated_t_of_the_cell() -> None:
    degrees = 2 + PRIOR
    variance = (2 * 0.5**2 + PRIOR * 1.5**2) / degrees
    expected = stats.t.ppf((1 + CONFIDENCE) / 2, degrees) * (variance * (1 / 3 + 1 / 2)) ** 0.5
    assert tolerance(A, 2, Spread(1.5**2, 4)) == pytest.approx(expected, rel=1e-12)
    # B's variance is the median of the column's three; the two other cells have four degrees of freedom.
    (finding, *_) = compare([A, B, replace(A, row="c", sd=4.0)], [replace(A, mean=90.1, n=2), B])
    assert finding.tolerance == pytest.approx(expected, rel=1e-12)


def test_a_single_wild_neighbour_does_not_blind_a_cell_and_its_own_seeds_count_once() -> None:
    wild = replace(A, row="untrained", sd=10.0)
    assert spread_around(A, [A, wild]) == Spread(0.5**2, 2, "1 other cells of the same column")
    assert spread_around(A, [A]) is None
    assert compare([A, wild], [replace(A, mean=70.0), wild])[0].outcome == "regressed"


def test_a_noisy_column_has_a_wider_tolerance_than_a_quiet_one() -> None:
    quiet, noisy = (tolerance(A, 3, Spread(variance, 10)) for variance in (0.01, 25.0))
    assert quiet is not None
    assert noisy is not None
    assert noisy > 5 * quiet


def test_rows_without_any_spread_do_not_narrow_their_column() -> None:
    alone, beside = (compare(cells, [replace(A, mean=90.4)])[0].tolerance for cells in ([A], [A, PIXELS]))
    assert alone == beside


def test_false_alarms_are_as_rare_as_the_confidence_says() -> None:
    # A table of 40 cells with equal spread, 3 seeds each, measured twice from the same distribution.
    draw = stats.norm(loc=90, scale=0.7)
    alarms = cells = 0
    for trial in range(25):
        tables = []
        for side in range(2):
            values = draw.rvs(size=(40, 3), random_state=2 * trial + side)
            tables.append(
                [
                    replace(A, row=str(row), mean=float(v.mean()), sd=float(v.std(ddof=1)))
                    for row, v in enumerate(values)
                ]
            )
        findings = compare(tables[0], tables[1])
        cells += len(findings)
        alarms += sum(finding.outcome in ("regressed", "improved") for finding in findings)
    # 1,000 cells at 0.2 %: 2 expected; 10 or more would happen in 5 of 100,000 runs.
    assert cells == 1000
    assert alarms < 10


def test_one_seed_without_a_column_to_learn_from_is_not_judged_and_does_not_pass_in_silence() -> None:
    single = replace(A, sd=None, n=1)
    (finding,) = compare([single], [replace(single, mean=50.0)])
    assert finding.outcome == "not judged"
    assert "one seed" in finding.sentence()
    # its column knows the spread
    assert compare([single, B], [replace(single, mean=10.0), B])[0].outcome == "regressed"


# a table that was run with one seed
ONE = [replace(A, row=str(row), mean=90.0 + row, sd=None, n=1) for row in range(5)]
ELSEWHERE = [replace(A, row=f"other {row}", sd=0.5) for row in range(4)]  # another table of the scale, with three


def test_one_seed_is_judged_by_the_scale_neither_blind_nor_crying_wolf() -> None:
    # nothing knows any spread
    assert {f.outcome for f in compare(ONE, [replace(one, mean=one.mean + 1) for one in ONE])} == {"not judged"}
    # 0.5 points of noise between seeds: a difference of 1 is nothing, one of 10 is, in both directions.
    for by, expected in ((1.0, "unchanged"), (-1.0, "unchanged"), (10.0, "improved"), (-10.0, "regressed")):
        findings = compare(ONE, [replace(one, mean=one.mean + by) for one in ONE], elsewhere=ELSEWHERE)
        assert {f.outcome for f in findings} == {expected}, by
        assert "n = 1, the spread is that of 4 other cells of the same column in all tables" in findings[0].sentence()


def test_one_seed_alarms_as_rarely_as_the_confidence_says() -> None:
    draw = stats.norm(loc=90, scale=0.5)
    alarms = 0
    for trial in range(25):
        old, new = (draw.rvs(size=40, random_state=2 * trial + side) for side in range(2))
        before, now = (
            [replace(ONE[0], row=str(row), mean=float(mean)) for row, mean in enumerate(values)]
            for values in (old, new)
        )
        alarms += sum(f.outcome in ("regressed", "improved") for f in compare(before, now, elsewhere=ELSEWHERE))
    assert alarms < 10  # of 1,000 cells; 2 expected at the most


def test_more_seeds_that_begin_with_the_same_digits_are_unchanged_however_noisy_the_row() -> None:
    old = replace(ONE[0], mean=74.0)
    new = replace(old, mean=85.0, sd=9.5, n=3, values=(74.0, 90.0, 91.0))
    assert compare([old], [new], elsewhere=ELSEWHERE)[0].outcome == "unchanged"
    assert compare([old], [replace(new, values=(73.9, 90.0, 91.1))], elsewhere=ELSEWHERE)[0].outcome == "improved"


def test_a_seed_that_collapses_does_not_excuse_itself_by_the_spread_it_brings() -> None:
    fresh = replace(ONE[0], mean=63.3, sd=46.2, n=3, values=(90.1, 90.0, 9.8))
    assert compare(ONE, [fresh, *ONE[1:]], elsewhere=ELSEWHERE)[0].outcome == "regressed"


def test_the_spread_comes_from_the_nearest_cells_that_know_enough() -> None:
    column = [replace(A, row=row, sd=1.0) for row in "xy"]
    table = [replace(A, row=row, column="kNN", protocol="q", sd=2.0) for row in "xy"]
    scale = [replace(A, row=row, column="AP", protocol="r", sd=3.0) for row in "xy"]
    one = ONE[0]

    def spread(reference: list[Measured], elsewhere: list[Measured], cell: Measured = one) -> tuple[float, int] | None:
        found = spread_around(cell, [cell, *reference], elsewhere)
        return found and (found.variance, found.degrees)

    assert spread([*column, *table], [*ELSEWHERE, *scale]) == (1.0, 4)
    # one neighbour is too few: the column in every table
    assert spread([column[0], *table], [*ELSEWHERE, *scale]) == (
        0.25,
        10,
    )
    assert spread(table, scale) == (4.0, 4)
    assert spread([], scale) == (9.0, 4)
    assert spread([column[0]], []) == (1.0, 2)  # better than nothing
    rank = replace(one, column="Rank", higher_is_better=None, protocol="s")
    assert spread(table, scale, rank) is None  # percentages say nothing of ranks


def test_a_column_that_never_varies_has_no_tolerance_whatever_the_table_shows_elsewhere() -> None:
    parameters = [
        replace(A, row=row, column="Param (M)", mean=23.5, sd=0.0, higher_is_better=None, protocol="job")
        for row in "ab"
    ]
    assert compare([*parameters, A, B], [replace(parameters[0], mean=23.51)])[0].outcome == "changed"
    single = replace(parameters[0], sd=None, n=1)
    assert compare([single, parameters[1], A], [replace(single, mean=23.51)])[0].outcome == "changed"
    # Raw pixels beside it never vary, a trained network does: one seed of it is judged by the table.
    trained = [ONE[0], replace(PIXELS), *(replace(A, row=row, column="kNN", protocol="q") for row in "xy")]
    assert compare(trained, [replace(ONE[0], mean=90.1)])[0].outcome == "unchanged"


def test_a_dropped_row_is_missing_and_a_new_one_is_new() -> None:
    findings = {f.row: f for f in compare([A, B], [B, replace(A, row="c")])}
    assert {row: f.outcome for row, f in findings.items()} == {"b": "unchanged", "c": "new", "a": "missing"}
    assert [row for row, f in findings.items() if f.fails] == ["a"]


def test_another_protocol_is_never_compared_by_its_numbers() -> None:
    (finding,) = compare([A], [replace(A, protocol="q")])
    assert finding.outcome == "protocol changed"
    assert finding.fails


def test_a_known_deviation_is_printed_not_hidden_and_does_not_fail() -> None:
    entry = Deviation(table="t", row="a", column="Top-1", reason="another BLAS on this machine", date="2026-01-31")
    (finding, other) = compare([A, B], [replace(A, mean=50.0), replace(B, mean=20.0)], [entry])
    assert finding.outcome == "known"
    assert not finding.fails
    assert "regressed, known since 2026-01-31: another BLAS on this machine" in finding.sentence()
    assert other.outcome == "regressed"
    assert compare([A], [A], [entry])[0].outcome == "unchanged"


def test_a_reference_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    cells = [
        replace(A, mean=0.1 + 0.2, sd=1 / 3),
        replace(B, higher_is_better=None, sd=None, n=1),
        replace(PIXELS, row='with, "quotes"'),
    ]
    write(tmp_path / "embedded" / "t.csv", cells)
    assert read(tmp_path / "embedded" / "t.csv") == cells


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row,column\n", "expected row, column, mean"),
        (",".join(reference.COLUMNS) + "\na,b,x,0.1,3,yes,p\n", "no number"),
        (",".join(reference.COLUMNS) + "\na,b,1.0\n", "line 2"),
        (",".join(reference.COLUMNS) + "\na,b,1.0,0.1,3,perhaps,p\n", "perhaps"),
    ],
)
def test_a_damaged_reference_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BenchError, match=message):
        read(tmp_path / "t.csv")


def test_the_ledger_wants_a_reason_and_a_date(tmp_path: Path) -> None:
    folder = tmp_path / "embedded"
    folder.mkdir()
    head = ",".join(reference.LEDGER)
    assert deviations("t", "embedded", tmp_path) == []
    (folder / "deviations.csv").write_text(f"{head}\nt,a,Top-1,slower clock,2026-01-31\nother,a,Top-1,x,2026-01-31\n")
    assert [entry.reason for entry in deviations("t", "embedded", tmp_path)] == ["slower clock"]
    (folder / "deviations.csv").write_text(f"{head}\nt,a,Top-1,,2026-01-31\n")
    with pytest.raises(BenchError, match="needs a reason"):
        deviations("t", "embedded", tmp_path)
    (folder / "deviations.csv").write_text(f"{head}\nt,a,Top-1,slower clock,yesterday\n")
    with pytest.raises(BenchError, match="expected one like"):
        deviations("t", "embedded", tmp_path)


METHOD = '''"""Toy: cross entropy on the labels, so that one epoch tells right from wrong."""
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from methods import simclr

_SIGN = 1.0


@dataclass(frozen=True, kw_only=True)
class Config:
    VERSION: int = field(default=1, init=False)


class Method(torch.nn.Module):
    def __init__(self, config, encoder, facts):
        super().__init__()
        self.encoder, self.head = encoder, torch.nn.Linear(facts.feature_dim, facts.classes)

    def embed(self, batch):
        return {"logits": self.head(self.encoder(batch.views[0]))}

    def loss(self, z, labels):
        return {"loss": _SIGN * F.cross_entropy(z["logits"], labels)}

    def after_step(self, progress):
        pass


RECIPES = {name: replace(recipe, method=Config()) for name, recipe in simclr.RECIPES.items()}
'''
TABLE = '''"""Guarded, table 1: https://arxiv.org/abs/0000.00000."""
from results.table import Column, Row, Table

TABLE = Table(
    id="guarded", paper="Mine", arxiv="0000.00000", number="1", title="A table that is guarded",
    columns=(Column(name="Top-1", metric="top1", protocol="knn"),),
    rows=(Row(label="Toy", method="toy", epochs=8000), Row(label="Random", method="random"),),
)
'''


@pytest.mark.slow
def test_planted_regressions_are_caught(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong loss sign, a dropped row, a changed protocol; through the installed command and the pytest fixture."""
    for folder, name, text in (("methods", "toy", METHOD), ("tables", "guarded", TABLE)):
        (workplace / "plugins" / folder).mkdir(parents=True)
        (workplace / "plugins" / folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("BENCH_PLUGINS", str(workplace / "plugins"))
    method, table = workplace / "plugins/methods/toy.py", workplace / "plugins/tables/guarded.py"
    what = ("--table", "guarded", "--scale", "smoke")
    measure = [*BENCH, "run", *what, "--seeds", "3", "--executor", "inline"]
    guard = [*BENCH, "check", *what, "--references", "references"]

    def run(*command: str, code: int) -> str:
        found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert found.returncode == code, found.stdout + found.stderr
        return found.stdout + found.stderr

    assert "was not run at the scale 'smoke'" in run(*guard, code=2)
    run(*measure, code=0)
    assert "there is no reference" in run(*guard, code=2)
    run(*guard, "--update", code=0)
    assert "2 unchanged" in run(*guard, code=0)
    (workplace / "runs").rename(workplace / "right")

    method.write_text(METHOD.replace("_SIGN = 1.0", "_SIGN = -1.0"))
    run(*measure, code=0)
    text = run(*guard, "--junit", "junit.xml", code=1)
    assert "regressed: Toy | Top-1" in text
    assert "1 unchanged" in text  # the untrained encoder: the same digits from the same seeds, computed anew
    suite = ElementTree.parse(workplace / "junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("name") for case in suite if case.find("failure") is not None] == ["Toy | Top-1"]

    (workplace / "test_mine.py").write_text(
        "from pathlib import Path\n\n\ndef test_mine(assert_table_matches_reference):\n"
        "    assert_table_matches_reference('guarded', scale='smoke', references=Path('references'))\n"
    )
    python = str(Path(BENCH[0]).with_name("python"))
    assert "regressed: Toy | Top-1" in run(python, "-m", "pytest", "-q", "test_mine.py", code=1)

    ledger = workplace / "references/smoke/deviations.csv"
    with ledger.open("w", newline="") as file:
        csv.writer(file).writerows(
            [reference.LEDGER, ["guarded", "Toy", "Top-1", "the sign is under review", "2026-01-31"]]
        )
    assert "the sign is under review" in run(*guard, code=0)
    ledger.unlink()

    (workplace / "runs").rename(workplace / "wrong")
    (workplace / "right").rename(workplace / "runs")
    method.write_text(METHOD)
    assert "2 unchanged" in run(*guard, code=0)
    table.write_text(TABLE.replace('Row(label="Toy", method="toy", epochs=8000), ', ""))
    assert "missing: Toy | Top-1" in run(*guard, code=1)
    table.write_text(TABLE.replace('protocol="knn"', 'protocol="knn", options={"neighbours": 3}'))
    run(*measure, code=0)
    assert "protocol changed: Toy | Top-1" in run(*guard, code=1)
