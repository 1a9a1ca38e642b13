"""Labels: which there are, and how well they are told."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ft_assets.core import statistics
from ft_assets.core.errors import FineTuneError

FEW_ROWS = 2  # a label that fewer training rows have is told of

Codes = NDArray[np.int64]


def check_labels(trained: dict[str, int], held_out: Iterable[dict[str, Any]]) -> None:
    """Refuses training rows of one label, and held-out rows whose label no training row has: none could be right.

    Args:
        trained: training rows by label.
        held_out: rows with ``label`` and their place.

    Raises:
        FineTuneError: names the labels, and a row that has the strange one.
    """
    if not trained:
        return  # no row is left to train on, which a check of the splits says
    known = ", ".join(repr(label) for label in sorted(trained))
    if len(trained) < 2:
        raise FineTuneError(f"every training row under data.classification has the label {known}; give rows of another")
    strange = [row for row in held_out if row["label"] not in trained]
    if strange:
        first, labels = strange[0], sorted({row["label"] for row in strange})
        raise FineTuneError(
            f"{len(strange)} held-out rows have a label that no training row has ({', '.join(map(repr, labels))}), the first "
            f"is {first['file']} row {first['position']} of {first['batch']}; training rows have {known:.300}. Mend the "
            "label, or give training rows that have it"
        )


def majority(trained: dict[str, int]) -> str:
    """The label that most training rows have; of several the first by name."""
    return min(trained, key=lambda label: (-trained[label], label))


def accuracy(predicted: Codes, expected: Codes) -> float:
    """The share of rows whose label is right."""
    return float((predicted == expected).mean())


def macro_f1(predicted: Codes, expected: Codes) -> float:
    """:func:`ft_assets.core.statistics.macro_f1` of these rows.

    Args:
        predicted, expected: numbers from 0 that stand for labels.
    """
    labels = int(max(predicted.max(), expected.max())) + 1
    whole = np.arange(len(expected))[None]
    return float(statistics.macro_f1(expected, labels)(predicted[whole].astype(np.float64), whole)[0])


METRICS = {"accuracy": accuracy, "macro_f1": macro_f1}


def by_label(predicted: Sequence[str], expected: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label, and how many rows have it and were given it; 0 where there is nothing to
    divide by.
    """
    given, had = Counter(predicted), Counter(expected)
    right = Counter(want for found, want in zip(predicted, expected, strict=True) if found == want)
    return [
        {
            "label": label,
            "precision": right[label] / given[label] if given[label] else 0.0,
            "recall": right[label] / had[label] if had[label] else 0.0,
            "f1": 2 * right[label] / (given[label] + had[label]),
            "rows": had[label],
            "predicted": given[label],
        }
        for label in sorted(given | had)
    ]


def confusion(predicted: Sequence[str], expected: Sequence[str]) -> list[dict[str, Any]]:
    """How many rows of a label were given which, the most frequent first; pairs that no row has are left out."""
    counts = Counter(zip(expected, predicted, strict=True))
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [{"expected": want, "predicted": found, "rows": rows} for (want, found), rows in ranked]
