"""Which rows train, which are held out, and which must go, over all batches of a recipe.

The split of a row depends on its prompt and the seed alone, so a new batch moves no row and rows that share a prompt
stay on one side.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ft_assets.core.reasons import Reason

Part = Literal["train", "validation", "test"]


def part_of(key: str, seed: int, validation: float, test: float) -> Part:
    """The part a key falls in: its sha-256, read as a number in [0, 1), against the shares."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    if point < test:
        return "test"
    return "validation" if point < test + validation else "train"


def prompt_key(row: dict[str, Any]) -> str:
    """What two rows share when they ask the same: the prompt's turns, or the whole text of a text row."""
    if "text" in row:
        return str(row["text"])
    turns = row["messages"][:-1] if "messages" in row else row["prompt"]
    return json.dumps([[turn["role"], turn["content"].strip()] for turn in turns], ensure_ascii=False)


@dataclass
class Merged:
    """Rows of one role over all its batches, without repeats and without rows that an evaluation set holds."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    rows_in: int = 0

    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(entry["reason"] for entry in self.dropped).items()))

    def drop(self, row: dict[str, Any], reason: Reason, detail: str) -> None:
        self.dropped.append(
            {
                "batch": row["batch"],
                "position": row["position"],
                "row_id": row["row_id"],
                "reason": reason.value,
                "detail": detail,
            }
        )


def merge(rows: Iterable[dict[str, Any]], evaluated_prompts: set[str]) -> Merged:
    """Joins batches in the order given; the first of equal rows is kept.

    Args:
        rows: rows with ``row_id``, ``batch`` and ``position``.
        evaluated_prompts: prompt keys of every evaluation set; a training row with one of them is contamination.
    """
    merged = Merged()
    first: dict[str, str] = {}
    for row in rows:
        merged.rows_in += 1
        if row["row_id"] in first:
            merged.drop(row, Reason.EXACT_DUPLICATE, f"same content as {first[row['row_id']]}")
        elif prompt_key(row) in evaluated_prompts:
            merged.drop(row, Reason.CONTAMINATION, "its prompt is in an evaluation set")
        else:
            first[row["row_id"]] = f"{row['batch']} line {row['position']}"
            merged.rows.append(row)
    return merged
