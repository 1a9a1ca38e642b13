"""Metrics of answers: each gives one row's score from the answer and the expected one."""

from collections.abc import Callable

from ft_assets.core.metrics.entities import entity_f1
from ft_assets.core.metrics.fields import json_field_f1, json_valid
from ft_assets.core.metrics.given_labels import label_accuracy, read_label
from ft_assets.core.metrics.numbers import numeric_answer
from ft_assets.core.metrics.texts import exact_match, rouge_l, token_f1

METRICS: dict[str, Callable[[str, str], float]] = {
    "entity_f1": entity_f1,
    "exact_match": exact_match,
    "token_f1": token_f1,
    "json_valid": json_valid,
    "json_field_f1": json_field_f1,
    "numeric_answer": numeric_answer,
    "rouge_l": rouge_l,
    "label_accuracy": label_accuracy,
    "label_macro_f1": label_accuracy,  # of one row; of all rows it is no mean, see scoring
    "accuracy": exact_match,  # a classifier's
    "macro_f1": exact_match,
}
MACRO = ("macro_f1", "label_macro_f1")


def label_of(metric: str) -> Callable[[str], str]:
    """How a metric of :data:`MACRO` reads a label: a classifier's stands as it is, a writing model's is freed of its dress."""
    return read_label if metric == "label_macro_f1" else str
