"""Laws of label metrics."""

import numpy as np
import pytest

from ft_assets.core.labels import METRICS, by_label, confusion, interval, majority

EXPECTED = ["a", "a", "a", "b", "b", "c"]
PREDICTED = ["a", "a", "b", "b", "c", "b"]


def test_macro_f1_is_the_mean_of_the_labels_f1_by_hand():
    # a: 2 right of 3, 2 given: 4/5; b: 1 right of 2, 3 given: 2/5; c: none right: 0.
    assert interval("macro_f1", PREDICTED, EXPECTED, 100, 1).mean == pytest.approx((4 / 5 + 2 / 5 + 0) / 3)
    assert interval("accuracy", PREDICTED, EXPECTED, 100, 1).mean == pytest.approx(3 / 6)


def test_a_label_that_is_only_given_counts_against_macro_f1():
    assert interval("macro_f1", ["a", "z"], ["a", "a"], 100, 1).mean == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize("metric", METRICS)
def test_all_right_is_one_and_has_no_width(metric):
    found = interval(metric, EXPECTED, EXPECTED, 100, 1)
    assert (found.mean, found.low, found.high, found.n) == (1.0, 1.0, 1.0, 6)


@pytest.mark.parametrize("metric", METRICS)
def test_an_interval_holds_its_mean_and_narrows_with_rows(metric):
    rng = np.random.default_rng(0)
    few, many = (
        (expected := rng.choice(["a", "b"], size).tolist(), [e if rng.random() < 0.8 else "a" for e in expected])
        for size in (40, 4000)
    )
    wide, narrow = (interval(metric, predicted, expected, 400, 3) for expected, predicted in (few, many))
    assert wide.low < wide.mean < wide.high
    assert narrow.high - narrow.low < (wide.high - wide.low) / 3
    assert wide == interval(metric, few[1], few[0], 400, 3)


def test_the_table_of_labels_adds_up_to_the_rows():
    table = {entry["label"]: entry for entry in by_label(PREDICTED, EXPECTED)}
    assert sum(entry["rows"] for entry in table.values()) == sum(entry["predicted"] for entry in table.values()) == 6
    assert (table["a"]["precision"], table["a"]["recall"]) == (1.0, pytest.approx(2 / 3))
    assert (table["c"]["precision"], table["c"]["recall"], table["c"]["f1"]) == (0.0, 0.0, 0.0)


def test_confusion_counts_every_row_once_the_most_frequent_first():
    pairs = confusion(PREDICTED, EXPECTED)
    assert sum(pair["rows"] for pair in pairs) == 6
    assert pairs[0] == {"expected": "a", "predicted": "a", "rows": 2}


def test_of_labels_with_as_many_rows_the_first_by_name_is_the_majority():
    assert majority({"b": 3, "a": 3, "c": 1}) == "a"


def test_no_rows_have_no_score():
    with pytest.raises(ValueError, match="no rows were scored"):
        interval("accuracy", [], [], 100, 1)
