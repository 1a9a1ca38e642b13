"""Laws of win rates by reward."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ft_assets.core.win_rate import RIDGE, at_no_difference, length_controlled, win_rate, wins


def test_a_draw_is_half_a_win():
    assert wins([2.0, 1.0, 1.0], [1.0, 2.0, 1.0]).tolist() == [1, 0, 0.5]
    assert win_rate([2.0, 1.0, 1.0], [1.0, 2.0, 1.0], 100, 1).mean == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(4))
def test_the_regression_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    covariate = np.tanh(rng.normal(0.5, 1, 80))
    won = (rng.random(80) < 1 / (1 + np.exp(-0.4 - 1.5 * covariate))).astype(float)
    fitted = LogisticRegression(C=1 / RIDGE, tol=1e-10, max_iter=1000).fit(covariate[:, None], won)
    theirs = fitted.predict_proba([[0.0]])[0, 1]
    assert at_no_difference(won[None], covariate[None])[0] == pytest.approx(theirs, abs=1e-6)


def test_a_draw_counts_as_a_win_and_a_loss_of_half_the_weight():
    covariate = np.array([0.2, -0.4, 0.9, 0.1])
    won = np.array([1.0, 0.0, 0.5, 0.5])
    twice = np.concatenate([covariate, covariate])
    hard = np.array([1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    fitted = LogisticRegression(C=1 / RIDGE, tol=1e-10).fit(twice[:, None], hard, sample_weight=np.full(8, 0.5))
    theirs = fitted.predict_proba([[0.0]])[0, 1]
    assert at_no_difference(won[None], covariate[None])[0] == pytest.approx(theirs, abs=1e-6)


def rewarded_for_length(seed, count, better):
    """Rewards of one who is ``better`` at equal length, with longer answers and a judge who likes them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(30, 80, count), rng.integers(10, 60, count)
    longer = lengths[0] - lengths[1]
    return better + 0.1 * longer + rng.logistic(0, 1, count), np.zeros(count), lengths


def test_who_wins_by_length_alone_wins_half_where_length_is_held():
    left, right, lengths = rewarded_for_length(1, 2000, 0.0)
    assert win_rate(left, right, 200, 1).mean > 0.75
    held = length_controlled(left, right, lengths, 200, 1)
    assert held.low < 0.5 < held.high
    assert held.mean == pytest.approx(0.5, abs=0.05)


def test_who_is_better_wins_where_length_is_held():
    held = length_controlled(*rewarded_for_length(2, 2000, 2.0), 200, 1)
    assert held.low > 0.75
    assert held.mean < win_rate(*rewarded_for_length(2, 2000, 2.0)[:2], 200, 1).mean


def test_nothing_is_held_where_all_are_as_long():
    left, right = [1.0, 2.0, 3.0, 0.0], [2.0, 1.0, 1.0, 1.0]
    held = length_controlled(left, right, ([5] * 4, [5] * 4), 100, 1)
    assert held.mean == pytest.approx(win_rate(left, right, 100, 1).mean)


@pytest.mark.parametrize(("left", "rate"), [([1.0] * 5, 1.0), ([-1.0] * 5, 0.0), ([0.0] * 5, 0.5)])
def test_all_won_all_lost_or_all_drawn(left, rate):
    held = length_controlled(left, [0.0] * 5, ([9, 8, 7, 6, 5], [1] * 5), 100, 1)
    assert (held.mean, held.low, held.high) == pytest.approx((rate, rate, rate), abs=1e-9)


def test_length_that_tells_every_win_leaves_a_finite_rate():
    left, lengths = [1.0, 1.0, 1.0, -1.0, -1.0, -1.0], ([9, 8, 7, 1, 2, 3], [5] * 6)
    held = length_controlled(left, [0.0] * 6, lengths, 200, 1)
    assert 0 <= held.low <= held.mean <= held.high <= 1
    assert held.mean == pytest.approx(0.5, abs=1e-6)


def test_no_rows_raise():
    with pytest.raises(ValueError, match="no rows"):
        length_controlled([], [], ([], []), 100, 1)
