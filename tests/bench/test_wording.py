from __future__ import annotations

import pytest

from bench.wording import counted, duration

WORDS = {
    0.04: "0.0 s",
    3.21: "3.2 s",
    9.96: "10 s",
    59.4: "59 s",
    59.7: "1 min 00 s",
    119.7: "2 min 00 s",
    200: "3 min 20 s",
}
WORDS |= {3599.7: "1 h 00 min", 7500: "2 h 05 min", 86399: "23 h 59 min", 86400: "1.0 d", 100 * 3600: "4.2 d"}


@pytest.mark.parametrize(("seconds", "expected"), WORDS.items())
def test_a_duration_in_words(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 epochs"), (1, "1 epoch"), (1.0, "1 epoch"), (2.5, "2.5 epochs"), (1_234_567, "1234567 epochs")],
)
def test_one_is_one(number: float, told: str) -> None:
    assert counted(number, "epoch") == told
