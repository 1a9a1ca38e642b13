"""When new data asks for a retrain: pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ft_assets.core.batches import BatchState
from ft_assets.core.cron import parse
from ft_assets.recipes.roles import TRAINING_ROLES
from ft_assets.recipes.schema import Recipe

MARK_DIGITS = 12


@dataclass(frozen=True)
class Verdict:
    """Whether a recipe is due and why (or why not); ``since``: up to when its schedule has been served."""

    due: bool
    why: str
    since: float


def judge(
    recipe: Recipe, states: Iterable[BatchState], used: Collection[str], since: float | None, now: float
) -> Verdict:
    """Whether the data a recipe would train on now asks for a run.

    Args:
        states: its batches; those that cannot be used count as nothing here.
        used: marks (:func:`mark`) of the batches that its last finished and requested runs used.
        since: when its schedule was last served, or None at the first look; times are seconds since 1970.
    """
    assert recipe.retrain is not None, "asked only of recipes with retrain"
    trained = recipe.data.source_names(TRAINING_ROLES)
    new = [state for state in states if not state.fault and mark(state.validated) not in used]
    rows = sum(state.rows for state in new if state.source in trained)
    least, schedule = recipe.retrain.min_new_rows, recipe.retrain.schedule
    since = now if since is None else min(since, now)  # a clock may have stepped back
    if least is not None and rows >= least:
        return Verdict(True, f"{rows:,} new rows, {least:,} ask for a run", now)
    latest = parse(schedule).latest(now) if schedule is not None else None
    if latest is not None and latest > since:
        if new:
            return Verdict(True, f"its schedule ({schedule}) came due and {len(new)} batches are new", now)
        since = now
    counted = f"{rows:,} of {least:,} new rows" if least is not None else f"{len(new)} new batches"
    return Verdict(False, counted + (f", schedule {schedule} not due" if schedule is not None else ""), since)


def mark(fingerprint: str) -> str:
    return fingerprint[:MARK_DIGITS]
