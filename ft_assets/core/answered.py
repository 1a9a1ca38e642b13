"""What the contestants of one evaluation answered, row beside row: nothing is compared that was not asked of both."""

import math
from collections.abc import Mapping
from typing import Any

from ft_assets.core.errors import FineTuneError
from ft_assets.core.statistics import MAX_MEAN_NLL

HARM = ("harmful", "harmless")
# The numbers of a row that are used, and between what they lie; a mean of probabilities may round to a little above 1.
BOUNDS = {
    "nll": (-math.inf, math.inf),
    "tokens": (1, math.inf),
    "confidence": (0, 1 + 1e-6),
    "answer_tokens": (0, math.inf),
    "reward": (-math.inf, math.inf),
    "matched": (0, math.inf),
    "of": (1, math.inf),
}

Row = dict[str, Any]
Sets = dict[str, list[Row]]


def aligned(candidate: str, bodies: Mapping[str, Mapping[str, Any]]) -> dict[str, Sets]:
    """The sets of each contestant, all in the order of the rows that the candidate was asked.

    Args:
        bodies: the body of ``answers.json`` by contestant.

    Raises:
        FineTuneError: no candidate, a contestant without test rows, a row asked twice, contestants that answered different
            rows or expect different answers, a number that is not finite.
    """
    if candidate not in bodies:
        raise FineTuneError(f"the candidate {candidate} is none of the contestants {', '.join(sorted(bodies))}")
    orders: dict[str, list[str]] = {}
    wanted: dict[str, dict[str, Any]] = {}
    found: dict[str, Sets] = {}
    for name in sorted(bodies, key=lambda each: each != candidate):
        sets: Sets = {each: rows for each, rows in bodies[name]["sets"].items() if rows}
        if "test" not in sets:
            raise FineTuneError(f"{name} answered no row of the test set; give a source under data.test")
        found[name] = {}
        for part, rows in sets.items():
            by_id = _by_id(name, part, rows)
            order = orders.setdefault(part, list(by_id))
            _same_rows(name, part, by_id, order)
            expected = wanted.setdefault(part, {each: row.get("expected") for each, row in by_id.items()})
            for each, row in by_id.items():
                if row.get("expected") != expected[each]:
                    raise FineTuneError(
                        f"{name}, {part} row {each}: another expected answer than other contestants have"
                    )
            found[name][part] = [by_id[each] for each in order]
    for rows in (sets["safety"] for sets in found.values() if "safety" in sets):
        if strange := next((row for row in rows if row["expected"] not in HARM), None):
            raise FineTuneError(
                f"safety row {strange['row_id']} has the label {strange['expected']!r}; allowed: {' and '.join(HARM)}"
            )
    return {name: found[name] for name in bodies}


def _by_id(name: str, part: str, rows: list[Row]) -> dict[str, Row]:
    by_id: dict[str, Row] = {}
    for row in rows:
        if row["row_id"] in by_id:
            raise FineTuneError(f"{name}, {part}: row {row['row_id']} was answered twice")
        _check_numbers(f"{name}, {part} row {row['row_id']}", row)
        by_id[row["row_id"]] = row
    return by_id


def _check_numbers(place: str, row: Row) -> None:
    for key, (low, high) in BOUNDS.items():
        value = row.get(key)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            bounds = f" from {low:g} to {high:g}" if low > -math.inf else ""
            raise FineTuneError(f"{place}: {key} is {value}; it is a finite number{bounds}")
    if row.get("nll") is not None and (loss := row["nll"] / row.get("tokens", 1)) >= MAX_MEAN_NLL:
        raise FineTuneError(f"{place}: a loss of {loss:g} nats a token has no finite perplexity")


def _same_rows(name: str, part: str, by_id: dict[str, Row], order: list[str]) -> None:
    missing = [each for each in order if each not in by_id]
    strange = sorted(by_id.keys() - set(order))
    if missing or strange:
        told = [
            f"{len(ids)} {what}, the first is {ids[0]}"
            for ids, what in ((missing, "missing"), (strange, "more"))
            if ids
        ]
        raise FineTuneError(
            f"{name} answered other rows of {part} than the other contestants: {'; '.join(told)}. Nothing is compared on "
            "different rows; answer them anew"
        )
