"""Who let a candidate through a shut gate, and why: written once, for one report of one evaluation, and never changed."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ft_assets.core import gate
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.errors import FineTuneError

OVERRIDE = "gate_override"  # ref: recipe@fingerprint, that which the eval_report had without it
LONGEST = {"by": 200, "reason": 2000}  # letters


def read(store: ArtifactStore, recipe: str) -> dict[str, dict[str, Any]]:
    """Every override of a recipe, by the fingerprint of the eval_report it is for."""
    return {name.partition("@")[2]: body for name, body in store.refs(OVERRIDE, f"{recipe}@").items()}


def signed(by: str, reason: str) -> dict[str, str]:
    """Who decides something, why, and when (UTC), as it is kept.

    Raises:
        FineTuneError: one of them is empty, too long, or holds what would break a line or steer a terminal.
    """
    found = {"by": by.strip(), "reason": " ".join(reason.split())}
    for name, text in found.items():
        if not text or len(text) > LONGEST[name] or not text.isprintable():
            raise FineTuneError(f"--{name} {text!r:.80}: wanted are 1 to {LONGEST[name]} printable letters")
    return {**found, "at": datetime.now(UTC).isoformat(timespec="seconds")}


def write(
    store: ArtifactStore,
    recipe: str,
    report: str,
    body: Mapping[str, Any],
    wanted: Sequence[str],
    mark: Mapping[str, str],
) -> dict[str, Any]:
    """Lets the candidate of a report through.

    Args:
        report: the fingerprint of the eval_report.
        body: its gate.json.
        wanted: the conditions that may have failed, all where there are none.
        mark: ``by``, ``reason`` and ``at``.

    Raises:
        FineTuneError: its gate is open, ``wanted`` are not the conditions that failed, or it was overridden before.
    """
    failed = [each["condition"] for each in gate.failed(body)]
    if not failed:
        raise FineTuneError(f"the gate of {recipe} is open: there is nothing to override (see: ft gate {recipe})")
    if unknown := [text for text in wanted if text not in failed]:
        raise FineTuneError(f"--condition {unknown[0]!r} is none that failed; failed have: {'; '.join(failed)}")
    if left := [text for text in failed if wanted and text not in wanted]:
        raise FineTuneError(
            f"the gate would stay shut by: {'; '.join(left)}. Name every condition that failed, or none"
        )
    found = {**mark, "conditions": failed}
    if not store.create_ref(OVERRIDE, f"{recipe}@{report}", found):
        raise FineTuneError(f"this evaluation of {recipe} was overridden a moment ago; run: ft run {recipe}")
    return found
