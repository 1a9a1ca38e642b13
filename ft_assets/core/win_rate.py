"""How often one answer's reward beats another's, and how often it would were both as long."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ft_assets.core.statistics import BLOCK, Interval, Values, interval, percentiles

RIDGE = 1.0  # on the length's weight alone: finite where length tells every win
STEPS = 25


def wins(left: Sequence[float], right: Sequence[float]) -> Values:
    """Of each row 1 where left's reward is the higher, 0 where right's is, a half where they are equal."""
    won: Values = (np.sign(np.asarray(left) - np.asarray(right)) + 1) / 2
    return won


def win_rate(left: Sequence[float], right: Sequence[float], samples: int, seed: int) -> Interval:
    """The share of rows that left wins.

    Raises:
        ValueError: no rows.
    """
    return interval(wins(left, right), samples, seed)


def length_controlled(
    left: Sequence[float],
    right: Sequence[float],
    lengths: tuple[Sequence[int], Sequence[int]],
    samples: int,
    seed: int,
) -> Interval:
    """The share that left would win were the answers as long, as in AlpacaEval 2 (Dubois et al., 2024, arXiv 2404.04475, eq.
    1 and 3): a logistic regression of winning on tanh of the length difference over its standard deviation, read at no
    difference. Its term for how hard a question is needs many models, and is left out.

    Args:
        lengths: tokens of left's and right's answers.

    Raises:
        ValueError: no rows.
    """
    won = wins(left, right)
    if not won.size:
        raise ValueError("no rows were scored")
    longer = np.asarray(lengths[0], dtype=np.float64) - np.asarray(lengths[1], dtype=np.float64)
    spread = longer.std()
    covariate = np.tanh(longer / spread) if spread else np.zeros(len(longer))
    n, rng, found = len(won), np.random.default_rng(seed), []
    for start in range(0, samples, most := max(1, BLOCK // n)):
        rows = rng.integers(0, n, size=(min(most, samples - start), n))
        found.append(at_no_difference(won[rows], covariate[rows]))
    return Interval(
        float(at_no_difference(won[None], covariate[None])[0]), *percentiles(np.concatenate(found), n), len(won)
    )


def at_no_difference(won: Values, covariate: Values) -> Values:
    """(samples,) win rate at covariate 0 of (samples x rows), by Newton's method on each sample's two weights."""
    bias, slope = np.zeros(len(won)), np.zeros(len(won))
    share = won.mean(axis=1)
    for _ in range(STEPS):
        chance = _sigmoid(bias[:, None] + slope[:, None] * covariate)
        weight = np.maximum(chance * (1 - chance), 1e-9)
        pull, tilt = (won - chance).sum(axis=1), ((won - chance) * covariate).sum(axis=1) - RIDGE * slope
        a, b, c = weight.sum(axis=1), (weight * covariate).sum(axis=1), (weight * covariate**2).sum(axis=1) + RIDGE
        det = a * c - b * b
        bias += np.clip((c * pull - b * tilt) / det, -2, 2)
        slope += np.clip((a * tilt - b * pull) / det, -2, 2)
    # Where every row is won, or none, the likelihood grows without end.
    return np.where((share == 0) | (share == 1), share, _sigmoid(bias))


def _sigmoid(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(value / 2))
