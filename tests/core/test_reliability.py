"""Laws of calibration."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from ft_assets.core.reliability import BINS, calibration_error, reliability


def drawn(seed, count, right=lambda sure: sure):
    rng = np.random.default_rng(seed)
    sure = rng.random(count)
    return sure, (rng.random(count) < right(sure)).astype(float)


@pytest.mark.parametrize(("seed", "count"), [(1, 100), (2, 250), (3, 37), (4, 10), (5, 3)])
def test_the_bins_and_the_error_are_those_of_scikit_learn(seed, count):
    sure, scores = drawn(seed, count)
    right, said = calibration_curve(scores, sure, n_bins=BINS, strategy="quantile")
    bins = reliability(sure, scores)
    assert [each["score"] for each in bins] == pytest.approx(right.tolist(), abs=1e-9)
    assert [each["confidence"] for each in bins] == pytest.approx(said.tolist(), abs=1e-9)
    rows = [each["rows"] for each in bins]
    assert sum(rows) == count
    error = np.abs(right - said) @ rows / count
    assert calibration_error(sure, scores, 100, 1).mean == pytest.approx(error, abs=1e-9)


def test_rows_of_one_confidence_share_a_bin_in_any_order():
    sure, scores = [0.9] * 40, [1.0] * 36 + [0.0] * 4
    assert reliability(sure, scores) == [
        {"low": 0.9, "high": 0.9, "rows": 40, "confidence": pytest.approx(0.9), "score": pytest.approx(0.9)}
    ]
    assert calibration_error(sure, scores, 100, 1).mean == pytest.approx(0)
    assert calibration_error(sure, scores[::-1], 100, 1).mean == pytest.approx(0)


def test_one_who_is_always_too_sure_is_off_by_as_much():
    sure, scores = drawn(1, 4000, lambda sure: sure / 2)
    found = calibration_error(sure, scores, 400, 1)
    assert found.mean == pytest.approx(0.25, abs=0.02)
    assert found.low < found.mean < found.high
    assert found.high - found.low < 0.05


def test_the_interval_holds_the_estimate_and_reaches_for_0_where_it_is_calibrated():
    lows = []
    for seed in range(40):
        found = calibration_error(*drawn(seed, 100), 200, seed)
        assert 0 <= found.low <= found.mean <= found.high <= 1
        lows.append(found.low)
    assert np.median(lows) < 0.03


def test_nothing_scored_raises():
    with pytest.raises(ValueError, match="no rows"):
        calibration_error([], [], 100, 1)
