"""Laws of intervals, of comparisons, and of what they are computed of."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test
from sklearn.metrics import f1_score

from ft_assets.core import statistics
from ft_assets.core.statistics import (
    Interval,
    difference,
    gap_of_means,
    holm,
    interval,
    macro_f1,
    p_value,
    perplexity,
    perplexity_ratio,
)

N, RUNS, SAMPLES = 100, 1500, 400
DRAWS = {
    "half right": (lambda rng, size: rng.random(size) < 0.5, 0.5),
    "8 of 10 right": (lambda rng, size: rng.random(size) < 0.8, 0.8),
    "9 of 10 right": (lambda rng, size: rng.random(size) < 0.9, 0.9),
    "skewed": (lambda rng, size: rng.beta(0.5, 3, size), 0.5 / 3.5),
    "skewed to the ends": (lambda rng, size: rng.beta(0.2, 2, size), 0.2 / 2.2),
    "f1 of few entities": (lambda rng, size: np.where(rng.random(size) < 0.6, 1, rng.integers(0, 4, size) / 4), 0.75),
}


def share_covered(truth, intervals):
    return np.mean([found.low <= truth <= found.high for found in intervals])


@pytest.mark.parametrize(("draw", "truth"), DRAWS.values(), ids=DRAWS)
def test_the_interval_of_100_rows_holds_the_truth_93_to_97_times_in_100(draw, truth):
    rows = draw(np.random.default_rng(5), (RUNS, N)).astype(float)
    assert 0.93 <= share_covered(truth, (interval(each, SAMPLES, run) for run, each in enumerate(rows))) <= 0.97


def test_the_interval_of_a_paired_difference_holds_the_truth_93_to_97_times_in_100():
    rng = np.random.default_rng(6)
    hard = rng.random((RUNS, N))  # what is hard for one is hard for the other
    left, right = (hard + 0.3 * rng.random((RUNS, N)) < bar for bar in (0.9, 0.7))
    truth = 0.2  # bars are far enough from the ends for both to move alike
    found = (difference(one, other, SAMPLES, run) for run, (one, other) in enumerate(zip(left, right, strict=True)))
    assert 0.93 <= share_covered(truth, found) <= 0.97


def test_the_interval_of_a_perplexity_holds_the_truth_93_to_97_times_in_100():
    rng = np.random.default_rng(7)
    tokens = rng.integers(5, 60, (RUNS, N))
    nll = rng.gamma(4, 0.5, (RUNS, N)) * tokens  # 2 nats a token
    found = (perplexity(each, count, SAMPLES, run) for run, (each, count) in enumerate(zip(nll, tokens, strict=True)))
    assert 0.93 <= share_covered(math.exp(2), found) <= 0.97


def test_without_a_difference_the_p_value_is_below_5_percent_about_5_times_in_100():
    rng = np.random.default_rng(8)
    low = [p_value(rng.random(30) < 0.6, rng.random(30) < 0.6, run) < 0.05 for run in range(400)]
    assert np.mean(low) <= 0.07


def test_the_p_value_is_scipys_of_sign_flips():
    rng = np.random.default_rng(9)
    for shift in (0.0, 0.2, 0.5):
        left, right = rng.normal(shift, 1, 12), rng.normal(0, 1, 12)
        exact = permutation_test((left - right,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
        assert p_value(left, right, 1) == pytest.approx(exact, abs=0.02)


def test_the_p_value_of_means_is_the_one_of_any_measure():
    rng = np.random.default_rng(10)
    left, right = rng.random(40), np.where(rng.random(40) < 0.5, 0.4, rng.random(40))
    assert p_value(left, right, 3) == p_value(left, right, 3, lambda values, rows: values.mean(axis=1))


def test_of_equal_answers_nothing_differs():
    scores = np.random.default_rng(11).random(50)
    assert p_value(scores, scores, 1) == 1
    assert difference(scores, scores, 200, 1) == Interval(0, 0, 0, 50)


def test_pairing_sees_what_two_intervals_do_not():
    rng = np.random.default_rng(12)
    hard = rng.random(200)
    left, right = hard + 0.05 + 0.02 * rng.random(200), hard
    one, other = interval(left, 1000, 1), interval(right, 1000, 1)
    assert one.low < other.high
    found = difference(left, right, 1000, 1)
    assert found.low > 0
    assert p_value(left, right, 1) == pytest.approx(1e-4)
    assert found.mean == pytest.approx(one.mean - other.mean)


def test_rows_that_are_not_the_same_cannot_be_paired():
    for compare in (lambda: difference([1.0], [1.0, 2.0], 100, 1), lambda: p_value([1.0], [1.0, 2.0], 1)):
        with pytest.raises(ValueError, match="1 rows cannot be paired with 2"):
            compare()


def test_holm_by_hand():
    # 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, none below the one before it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(1e-4, 1), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_holm_lies_between_the_plain_p_value_and_bonferronis(p_values):
    for plain, corrected in zip(p_values, holm(p_values), strict=True):
        assert plain <= corrected <= min(1, plain * len(p_values)) + 1e-12
    assert np.argsort(p_values, kind="stable").tolist() == sorted(
        range(len(p_values)), key=lambda at: (p_values[at], at)
    )
    assert min(holm(p_values)) == pytest.approx(min(1, min(p_values) * len(p_values)))


def labelled(seed, rows, labels):
    rng = np.random.default_rng(seed)
    wanted = rng.integers(0, labels, rows)
    return wanted, np.where(rng.random(rows) < 0.7, wanted, rng.integers(0, labels + 2, rows))


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_of_many_samples_is_scikit_learns_of_each(seed):
    wanted, given = labelled(seed, 60, 4)
    rows = np.random.default_rng(seed).integers(0, 60, (20, 60))
    found = macro_f1(wanted, 6)(given[rows].astype(float), rows)
    for sample, score in zip(rows, found, strict=True):
        theirs = f1_score(wanted[sample], given[sample], average="macro", zero_division=0)
        assert score == pytest.approx(theirs, abs=1e-9)


def test_a_number_that_is_no_label_costs_its_row_alone():
    wanted, given = labelled(3, 200, 4)
    found = interval(given, 200, 1, macro_f1(wanted, 4))
    theirs = f1_score(wanted, given, labels=range(4), average="macro", zero_division=0)
    assert found.mean == pytest.approx(theirs, abs=1e-9)
    assert found.low < found.mean < found.high


def test_the_macro_f1_of_two_is_compared_on_the_same_rows():
    wanted, given = labelled(4, 300, 4)
    measure = macro_f1(wanted, 6)
    worse = np.where(np.arange(300) % 3 == 0, 0, given)
    found = difference(given, worse, 500, 1, measure)
    assert found.mean == pytest.approx(interval(given, 9, 1, measure).mean - interval(worse, 9, 1, measure).mean)
    assert found.low > 0
    assert p_value(given, worse, 1, measure) < 0.01


def test_a_ratio_of_perplexities_is_paired_by_text():
    rng = np.random.default_rng(13)
    tokens = rng.integers(10, 50, 80)
    nll = tokens * rng.gamma(4, 0.5, 80)  # texts differ much; the two models by 2% on each
    found = perplexity_ratio(nll + 0.02 * tokens, nll, tokens, 500, 1)
    assert (found.mean, found.low, found.high) == pytest.approx((math.exp(0.02),) * 3)
    one, other = perplexity(nll + 0.02 * tokens, tokens, 500, 1), perplexity(nll, tokens, 500, 1)
    assert found.mean == pytest.approx(one.mean / other.mean)
    assert one.low < other.high


def test_a_gap_of_two_sets_is_that_of_their_means():
    found = gap_of_means([1.0] * 8 + [0.0] * 2, [0.0] * 9 + [1.0], 2000, 1)
    assert found.mean == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx((0.35, 1.0), abs=0.1)
    assert found.n == 10


def test_more_rows_than_a_block_holds_are_resampled_as_any(monkeypatch):
    scores = np.random.default_rng(14).random(50)
    whole = interval(scores, 100, 1), difference(scores, scores[::-1], 100, 1)
    monkeypatch.setattr(statistics, "BLOCK", 333)
    assert (interval(scores, 100, 1), difference(scores, scores[::-1], 100, 1)) == whole


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
