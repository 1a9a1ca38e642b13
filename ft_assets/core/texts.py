"""The texts inside a row, whatever its kind."""

import unicodedata
from collections.abc import Callable
from typing import Any

NO_WIDTH = dict.fromkeys([0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF])


def texts(row: dict[str, Any]) -> list[str]:
    """Every text of a row in its order; a label is none."""
    if "choices" in row:
        return [row["question"], *row["choices"]]
    found = [row["text"]] if "text" in row else [turn["content"] for turn in row.get("messages") or row["prompt"]]
    return found + [row[name] for name in ("chosen", "rejected") if name in row]


def rewritten(row: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The row with each of its texts changed."""
    new = dict(row)
    for name in ("messages", "prompt"):
        if name in row:
            new[name] = [{**turn, "content": change(turn["content"])} for turn in row[name]]
    if "choices" in row:
        new["choices"] = [change(choice) for choice in row["choices"]]
    for name in ("text", "question", "chosen", "rejected"):
        if name in row:
            new[name] = change(row[name])
    return new


def normal(text: str) -> str:
    """NFKC, lower case, white space folded, characters of no width left out."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text).translate(NO_WIDTH)
    return " ".join(plain.lower().split())
