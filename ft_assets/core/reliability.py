"""Calibration: whether answers that a model is sure of are right as often as it is sure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ft_assets.core.statistics import Interval, Rows, Values, interval

BINS = 10


def reliability(confidence: Sequence[float], scores: Sequence[float]) -> list[dict[str, Any]]:
    """Up to :data:`BINS` bins of as many rows each, by confidence: the ends, the rows, mean confidence and mean score. Rows
    of one confidence share a bin, whatever their order.
    """
    sure, right, bins = np.asarray(confidence), np.asarray(scores), _bins(confidence)
    return [
        {
            "low": float(sure[bins == each].min()),
            "high": float(sure[bins == each].max()),
            "rows": int((bins == each).sum()),
            "confidence": float(sure[bins == each].mean()),
            "score": float(right[bins == each].mean()),
        }
        for each in np.unique(bins)
    ]


def calibration_error(confidence: Sequence[float], scores: Sequence[float], samples: int, seed: int) -> Interval:
    """Expected calibration error (Naeini et al., 2015, doi:10.1609/aaai.v29i1.9602) over these bins: |confidence - score| of
    each bin, weighed by its rows, 0 to 1.

    A sum of magnitudes is too large by chance, and the more so when resampled; the interval is therefore the basic
    bootstrap's, which mirrors the resampled values at the estimate, cut at 0 and stretched to hold the estimate.

    Raises:
        ValueError: no rows, or a value that is no finite number.
    """
    bins = _bins(confidence)
    count = int(bins.max()) + 1

    def measure(gaps: Values, rows: Rows) -> Values:
        places = bins[rows] + count * np.arange(len(rows))[:, None]
        sums = np.bincount(places.ravel(), gaps.ravel(), minlength=count * len(rows))
        error: Values = np.abs(sums.reshape(len(rows), count)).sum(axis=1) / gaps.shape[1]
        return error

    found = interval(np.asarray(confidence) - np.asarray(scores), samples, seed, measure)
    low, high = (min(max(2 * found.mean - end, 0.0), 1.0) for end in (found.high, found.low))
    return Interval(found.mean, min(low, found.mean), max(high, found.mean), found.n)


def _bins(confidence: Sequence[float]) -> Rows:
    if not len(confidence):
        raise ValueError("no rows were scored")
    inner = np.quantile(confidence, np.linspace(0, 1, BINS + 1)[1:-1])
    bins: Rows = np.searchsorted(inner, np.asarray(confidence))
    return bins
