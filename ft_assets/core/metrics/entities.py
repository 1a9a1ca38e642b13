"""Entities: an answer that is a JSON object of names and their types."""

import json


def read_entities(answer: str) -> set[tuple[str, str]] | None:
    """(name, type) pairs of an answer that is a JSON object of text to text, else None."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not all(isinstance(kind, str) for kind in value.values()):
        return None
    return set(value.items())


def entity_f1(answer: str, expected: str) -> float:
    """F1 of (name, type) pairs, 0 to 1. Nothing expected and nothing found is 1; an answer that is no JSON is 0.

    Raises:
        ValueError: the expected answer is no such object.
    """
    found, wanted = read_entities(answer), read_entities(expected)
    if wanted is None:
        raise ValueError(f"the expected answer is not a JSON object of names and types: {expected[:200]!r}")
    if found is None:
        return 0.0
    if not found and not wanted:
        return 1.0
    return 2 * len(found & wanted) / (len(found) + len(wanted))
