"""How sure one can be of a score, and of the difference between two.

Rows are resampled in blocks of an index matrix (samples x rows), so that a measure is computed of many samples at once.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

MAX_MEAN_NLL = 700.0  # nats a token; exp of more than 709 overflows
BLOCK = 1_000_000  # resampled rows at once, 8 MB
EXCHANGES = 9999  # of a permutation test; a p-value is no smaller than 1 / (1 + these)
CLOSE = 1e-12  # a permuted difference this much under the observed one is as large

Values = NDArray[np.float64]
Rows = NDArray[np.int64]
# Of values (samples x rows) and which rows they are, one number a sample.
Measure = Callable[[Values, Rows], Values]


@dataclass(frozen=True)
class Interval:
    """A number, a mean where nothing else is said, with its 95% interval over ``n`` rows."""

    mean: float
    low: float
    high: float
    n: int


def mean(values: Values, rows: Rows) -> Values:
    """The plain mean of the rows."""
    return values.mean(axis=1)


def per_weight(weights: Sequence[float]) -> Measure:
    """Sum over rows, divided by the sum of their weights: the mean loss of a token, say."""
    heavy = np.asarray(weights, dtype=np.float64)
    return lambda values, rows: values.sum(axis=1) / heavy[rows].sum(axis=1)


def macro_f1(expected: Rows, labels: int) -> Measure:
    """The mean of each label's F1, over labels that a row has or was given: rare ones count as much as frequent ones. It is
    no mean of rows, so it is computed anew of each sample.

    Args:
        expected: (rows,) numbers from 0 that stand for labels; the values measured are such numbers.
        labels: how many labels there are; a larger number is none of them, and costs its row its label alone.
    """
    return lambda values, rows: _macro_f1(values.astype(np.int64), expected[rows], labels)


def _macro_f1(given: Rows, wanted: Rows, labels: int) -> Values:
    count = partial(_count, labels=labels)
    hits, both = count(given, given == wanted), count(given) + count(wanted)
    f1 = np.divide(2.0 * hits, both, out=np.zeros(both.shape), where=both > 0)
    scored: Values = f1.sum(axis=1) / np.maximum((both > 0).sum(axis=1), 1)
    return scored


def _count(codes: Rows, chosen: NDArray[np.bool_] | None = None, *, labels: int) -> Rows:
    """(samples x labels): how many rows of each sample have each label."""
    samples = len(codes)
    kept = codes < labels if chosen is None else (codes < labels) & chosen
    places = (codes + labels * np.arange(samples)[:, None])[kept]
    return np.bincount(places, minlength=samples * labels).reshape(samples, labels)


def interval(values: Sequence[float] | Values, samples: int, seed: int, measure: Measure = mean) -> Interval:
    """A measure with its 95% bootstrap interval over resampled rows.

    Raises:
        ValueError: no rows, or a value that is no finite number.
    """
    row = _checked(values)
    whole = np.arange(len(row))[None]
    found = np.concatenate([measure(row[rows], rows) for rows in _resampled(len(row), samples, seed)])
    return Interval(float(measure(row[whole], whole)[0]), *percentiles(found, len(row)), len(row))


def percentiles(found: Values, n: int) -> tuple[float, float]:
    """The ends of the 95% interval of a measure's resampled values: the percentiles that make up for the small sample's
    narrowness (Hesterberg, 2015, doi:10.1080/00031305.2015.1089789, "expanded percentile").
    """
    from scipy.special import ndtr, stdtrit

    if n < 2:
        return float(found.min()), float(found.max())
    tail = ndtr(-math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.975))
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def difference(
    left: Sequence[float] | Values, right: Sequence[float] | Values, samples: int, seed: int, measure: Measure = mean
) -> Interval:
    """Left minus right with its 95% bootstrap interval, paired by row: both are measured on the same resampled rows.

    Raises:
        ValueError: no rows, rows of one that the other has not, or a value that is no finite number.
    """
    one, other = _paired(left, right)
    n = len(one)
    whole = np.arange(n)[None]
    observed = float((measure(one[whole], whole) - measure(other[whole], whole))[0])
    found = [measure(one[rows], rows) - measure(other[rows], rows) for rows in _resampled(n, samples, seed)]
    return Interval(observed, *percentiles(np.concatenate(found), n), n)


def p_value(
    left: Sequence[float] | Values, right: Sequence[float] | Values, seed: int, measure: Measure = mean
) -> float:
    """How likely a difference as large is, in either direction, where none is: a permutation test.

    Where left and right do not differ, each row's two values could as well be exchanged (for means, the sign of their
    difference flipped). It is the share of :data:`EXCHANGES` random exchanges with a difference as large (Noreen, 1989,
    "Computer-intensive methods for testing hypotheses"), 1 added above and below, so that it is never 0 (Phipson and Smyth,
    2010, doi:10.2202/1544-6115.1585).

    Raises:
        ValueError: as :func:`difference`.
    """
    one, other = _paired(left, right)
    n, gap = len(one), other - one
    whole = np.arange(n)[None]
    observed = abs(float((measure(one[whole], whole) - measure(other[whole], whole))[0]))
    differing = np.flatnonzero(gap)
    as_large = 0
    for coins in _coins(len(differing), seed):
        if measure is mean:  # what stands below says, many times faster
            found = (2 * (coins @ gap[differing]) - gap.sum()) / n
        else:
            exchanged = np.zeros((len(coins), n), dtype=bool)
            exchanged[:, differing] = coins
            rows = np.broadcast_to(whole, exchanged.shape)
            found = measure(np.where(exchanged, other, one), rows) - measure(np.where(exchanged, one, other), rows)
        as_large += int((np.abs(found) >= observed - CLOSE).sum())
    return (1 + as_large) / (1 + EXCHANGES)


def _paired(left: Sequence[float] | Values, right: Sequence[float] | Values) -> tuple[Values, Values]:
    one, other = _checked(left), _checked(right)
    if len(one) != len(other):
        raise ValueError(f"{len(one)} rows cannot be paired with {len(other)}")
    return one, other


def gap_of_means(left: Sequence[float], right: Sequence[float], samples: int, seed: int) -> Interval:
    """Mean of one set of rows minus that of another set, each resampled for itself; ``n`` counts the smaller set.

    Raises:
        ValueError: no rows, or a value that is no finite number.
    """
    one, other = _checked(left), _checked(right)
    means = [
        np.concatenate([values[rows].mean(axis=1) for rows in _resampled(len(values), samples, seed + at)])
        for at, values in enumerate((one, other))
    ]
    n = min(len(one), len(other))
    return Interval(float(one.mean() - other.mean()), *percentiles(means[0] - means[1], n), n)


def perplexity(nll: Sequence[float], tokens: Sequence[int], samples: int, seed: int) -> Interval:
    """exp of the mean negative log-likelihood of a token, over all rows' tokens.

    Args:
        nll: of each row, in nats, summed over its tokens.

    Raises:
        ValueError: no rows, a row without tokens, or a perplexity that is no finite number.
    """
    return _exp(interval(nll, samples, seed, per_weight(_counted(tokens))))


def perplexity_ratio(
    left: Sequence[float], right: Sequence[float], tokens: Sequence[int], samples: int, seed: int
) -> Interval:
    """Perplexity of left over that of right on the same texts of as many tokens, paired by text.

    Raises:
        ValueError: as :func:`perplexity`, and where the texts cannot be paired.
    """
    return _exp(difference(left, right, samples, seed, per_weight(_counted(tokens))))


def _exp(logs: Interval) -> Interval:
    if logs.high >= MAX_MEAN_NLL:
        raise ValueError(f"a mean loss of {logs.high} nats has no finite perplexity")
    return Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high), logs.n)


def _counted(tokens: Sequence[int]) -> Sequence[int]:
    if min(tokens, default=1) < 1:
        raise ValueError(f"row {next(at for at, count in enumerate(tokens) if count < 1)} has no supervised tokens")
    return tokens


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many comparisons there are (Holm, 1979, jstor.org/stable/4615733), in their order."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    corrected, most = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        most = max(most, min(1.0, p_values[at] * (len(p_values) - rank)))
        corrected[at] = most
    return corrected


def _checked(values: Sequence[float] | Values) -> Values:
    row = np.asarray(values, dtype=np.float64)
    if not row.size:
        raise ValueError("no rows were scored")
    if not np.isfinite(row).all():
        at = int(np.flatnonzero(~np.isfinite(row))[0])
        raise ValueError(f"the value of row {at} is {row[at]}, no finite number")
    return row


def _resampled(n: int, samples: int, seed: int) -> Iterator[Rows]:
    """Blocks of rows drawn with replacement (Efron, 1979, doi:10.1214/aos/1176344552); decided by the seed and ``n``."""
    rng = np.random.default_rng(seed)
    for size in _blocks(n, samples):
        yield rng.integers(0, n, size=(size, n))


def _coins(n: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    rng = np.random.default_rng([seed, 1])
    for size in _blocks(n, EXCHANGES):
        yield rng.integers(0, 2, size=(size, n), dtype=np.uint8).astype(bool)


def _blocks(n: int, samples: int) -> Iterator[int]:
    most = max(1, BLOCK // max(n, 1))
    for start in range(0, samples, most):
        yield min(most, samples - start)
