"""JSON answers: whether they parse, and how many of their fields are right."""

import json
from collections import Counter
from typing import Any


def read_json(answer: str) -> tuple[bool, Any]:
    """Whether a text is JSON, and its value. NaN and Infinity are no JSON (RFC 8259, section 6); text around it, a code
    fence say, is none either. Of a key that stands twice the last value counts, as most readers take it.
    """
    try:
        return True, json.loads(answer, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False, None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def json_valid(answer: str, expected: str) -> float:
    """1 where the answer is JSON, else 0; what is expected is not looked at."""
    return float(read_json(answer)[0])


def json_field_f1(answer: str, expected: str) -> float:
    """F1 of (path, value) pairs of nested JSON, 0 to 1, and 1 only for equal values.

    A path is the keys and list positions that lead to a value, so the order of a list counts. An empty object or list is a
    value too. Numbers are compared as numbers (1 is 1.0), and are neither texts nor booleans. An answer that is no JSON is 0.

    Raises:
        ValueError: the expected answer is no JSON.
    """
    readable, wanted = read_json(expected)
    if not readable:
        raise ValueError(f"the expected answer is not JSON: {expected[:200]!r}")
    readable, found = read_json(answer)
    if not readable:
        return 0.0
    ours, theirs = _pairs(found), _pairs(wanted)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def _pairs(value: Any) -> Counter[tuple[Any, ...]]:
    """Each leaf with its path and its type; a stack, as an answer may be nested as deep as the parser goes."""
    pairs: Counter[tuple[Any, ...]] = Counter()
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while stack:
        path, here = stack.pop()
        if isinstance(here, dict) and here:
            stack += [((*path, key), inner) for key, inner in here.items()]
        elif isinstance(here, list) and here:
            stack += [((*path, at), inner) for at, inner in enumerate(here)]
        else:
            kind = "number" if type(here) in (int, float) else type(here).__name__
            pairs[path, kind, here if isinstance(here, str | int | float) else None] += 1
    return pairs
