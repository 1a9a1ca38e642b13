"""Laws of label metrics."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from ft_assets.core.labels import METRICS, by_label, confusion, majority

EXPECTED = ["a", "a", "a", "b", "b", "c"]
PREDICTED = ["a", "a", "b", "b", "c", "b"]


def measured(metric, predicted, expected):
    _, codes = np.unique([*predicted, *expected], return_inverse=True)
    return METRICS[metric](codes[: len(predicted)], codes[len(predicted) :])


def test_macro_f1_is_the_mean_of_the_labels_f1_by_hand():
    # a: 2 right of 3, 2 given: 4/5; b: 1 right of 2, 3 given: 2/5; c: none right: 0.
    assert measured("macro_f1", PREDICTED, EXPECTED) == pytest.approx((4 / 5 + 2 / 5 + 0) / 3)
    assert measured("accuracy", PREDICTED, EXPECTED) == pytest.approx(3 / 6)


def test_a_label_that_is_only_given_counts_against_macro_f1():
    assert measured("macro_f1", ["a", "z"], ["a", "a"]) == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize("seed", range(20))
def test_both_metrics_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    expected = rng.choice(list("abcdefg")[: 2 + seed % 6], 1 + 3 * seed)
    predicted = np.where(rng.random(expected.size) < 0.6, expected, rng.choice(list("abcxyz"), expected.size))
    assert measured("accuracy", predicted, expected) == pytest.approx(accuracy_score(expected, predicted), abs=1e-9)
    assert measured("macro_f1", predicted, expected) == pytest.approx(
        f1_score(expected, predicted, average="macro", zero_division=0), abs=1e-9
    )


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
