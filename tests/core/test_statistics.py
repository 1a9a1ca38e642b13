"""Laws of intervals, of comparisons, and of what they are computed of."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core.statistics import Interval, interval, perplexity


@pytest.mark.parametrize(
    "draw",
    [lambda rng: rng.normal(0.3, 1, 80), lambda rng: rng.random(80) < 0.3, lambda rng: rng.beta(0.5, 1.1667, 80)],
    ids=["normal", "yes-or-no", "f1-like"],
)
def test_the_interval_covers_the_truth_about_95_times_in_100(draw):
    rng, runs, covered = np.random.default_rng(5), 400, 0
    for run in range(runs):
        found = interval(draw(rng).astype(float).tolist(), 300, run)
        covered += found.low <= 0.3 <= found.high
    assert 0.90 <= covered / runs <= 0.985


def test_the_interval_narrows_as_rows_are_added():
    scores = np.random.default_rng(1).random(1600).tolist()
    wide, narrow = interval(scores[:100], 1000, 1), interval(scores, 1000, 1)
    assert (narrow.high - narrow.low) / (wide.high - wide.low) == pytest.approx(0.25, rel=0.2)


def test_an_interval_is_decided_by_its_seed():
    scores = np.random.default_rng(2).random(50).tolist()
    assert interval(scores, 500, 3) == interval(scores, 500, 3)
    assert interval(scores, 500, 3) != interval(scores, 500, 4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 99))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_the_interval_lies_inside_the_scores(scores, seed):
    found = interval(scores, 100, seed)
    assert found.n == len(scores)
    assert found.mean == pytest.approx(sum(scores) / len(scores))
    assert min(scores) - 1e-9 <= found.low <= found.high <= max(scores) + 1e-9


def test_one_score_has_no_spread():
    assert interval([0.5], 100, 1) == Interval(0.5, 0.5, 0.5, 1)


def test_no_scores_raise():
    with pytest.raises(ValueError, match="no rows"):
        interval([], 100, 1)


def test_perplexity_is_of_all_tokens_of_all_rows():
    assert perplexity([0.0], [7], 100, 1).mean == 1
    found = perplexity([3 * math.log(50), 4 * math.log(2)], [3, 4], 100, 1)
    assert found.mean == pytest.approx(50 ** (3 / 7) * 2 ** (4 / 7))
    assert 2 <= found.low <= found.mean <= found.high <= 50


@pytest.mark.parametrize("nll", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_raises(nll):
    with pytest.raises(ValueError, match=r"row 1 is .*, no finite number"):
        perplexity([1.0, nll], [1, 1], 100, 1)


def test_a_loss_too_large_to_be_a_perplexity_raises():
    with pytest.raises(ValueError, match="no finite perplexity"):
        perplexity([1e4], [1], 100, 1)


@pytest.mark.parametrize("tokens", [0, -1])
def test_a_row_without_tokens_raises(tokens):
    with pytest.raises(ValueError, match="row 1 has no supervised tokens"):
        perplexity([1.0, 1.0], [1, tokens], 100, 1)
