"""Labels that a writing model gives in words."""

import string
import unicodedata

_EDGES = string.punctuation + string.whitespace + "\u201c\u201d\u2018\u2019\u00ab\u00bb"


def read_label(answer: str) -> str:
    """A label without case, and without the punctuation and space around it."""
    return unicodedata.normalize("NFKC", answer).strip(_EDGES).casefold()


def label_accuracy(answer: str, expected: str) -> float:
    """1 where both are one label, else 0."""
    return float(read_label(answer) == read_label(expected))
