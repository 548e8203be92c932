from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.reading.stats import render, rounded, summarize


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.randoms())
def test_a_summary_does_not_depend_on_the_order(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert summarize(values, expected=6) == summarize(shuffled, expected=6)


def test_statistics_against_numbers_worked_out_by_hand() -> None:
    summary = summarize([1.0, 2.0, 4.0], expected=3)
    assert summary.mean == pytest.approx(7 / 3, rel=1e-15)
    # squared deviations 16/9, 1/9, 25/9, over n - 1 = 2
    assert summary.sd == pytest.approx(math.sqrt(42 / 18), rel=1e-15)
    assert render(summary, factor=1.0, decimals=2, spread=False) == "2.33"
    assert summarize([], expected=3).mean is None
    assert summarize([1.0], expected=1).sd is None
    assert render(summarize([0.0], expected=1), factor=1.0, decimals=1, spread=True) == "0.0"
    assert rounded(-0.0001, 100.0, 1) == "0.0"
    assert rounded(-0.01, 100.0, 1) == "-1.0"
