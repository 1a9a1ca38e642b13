"""The progress lines a worker writes, read and put in words."""

import json
from pathlib import Path
from typing import Any

FIELDS = {"t", "stage", "note", "step", "total"}


def last_progress(path: Path) -> dict[str, Any]:
    """The newest whole record of a progress file, or nothing. Progress is for show: damage to it stops no run."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 4096))
            lines = stream.read().split(b"\n")
    except OSError:
        return {}
    for line in reversed(lines[:-1]):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found.keys() >= FIELDS:
            return found
    return {}


def describe(progress: dict[str, Any]) -> str:
    """A progress record as one line of text."""
    if not progress:
        return ""
    words = [f"{progress['stage']}: {progress['note']}"]
    if progress.get("total"):
        words.append(f"step {progress['step']}/{progress['total']}")
    if progress.get("loss") is not None:
        words.append(f"loss {progress['loss']:.3f}")
    if progress.get("tokens_per_second"):
        words.append(f"{progress['tokens_per_second']:.0f} tokens/s")
    if progress.get("seconds_left") is not None:
        words.append(f"{progress['seconds_left']:.0f} s left")
    return ", ".join(words)
