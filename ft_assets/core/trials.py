"""The rules of a sweep: what one trial is, how far apart its measurements are, and when it ends early.

What ends a trial is settled before it starts and is part of its identity. So a trial is an artifact like any other: a
function of its inputs, reused where it is there, resumed where it was cut short.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ft_assets.core.stage import Stage, make_stage

PART = {"sft": "training", "adapter": "adapter"}  # of a recipe: where its settings stand in a stage's identity


@dataclass(frozen=True)
class Trial:
    """One finished trial; ``losses`` are its validation losses (nats per token) by mark, None where it has none.

    ``state`` is ``complete``, ``pruned`` or ``diverged``; ``loss`` is the last one, and None where it diverged.
    """

    number: int
    values: dict[str, Any]
    state: str
    loss: float | None
    losses: list[float | None]
    steps: int
    planned_steps: int
    seconds: float
    fingerprint: str


def settings(identity: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """``training`` and ``adapter`` of a stage's identity with a trial's values (``sft.learning_rate``, ...) in them."""
    found = {part: dict(identity[part]) for part in PART.values()}
    for name, value in values.items():
        part, field = name.split(".")
        found[PART[part]][field] = value
    return found


def trial_stage(
    sweep: dict[str, Any], upstream: dict[str, list[str]], values: dict[str, Any], stop_above: list[float | None]
) -> Stage:
    """The stage of one trial of a sweep.

    Args:
        sweep: the identity of ``sft_sweep``.
        stop_above: for each mark the loss above which the trial ends there, None where it goes on in any case.
    """
    own = {name: value for name, value in sweep.items() if name != "sweep"} | settings(sweep, values)
    own |= {"eval_steps": sweep["sweep"]["eval_steps"], "stop_above": stop_above}
    return make_stage("sft_trial", own, {role: (entry[0], entry[1]) for role, entry in upstream.items()})


def marks(eval_steps: float) -> int:
    """Number of marks of a trial: the share ``eval_steps`` of its steps, twice that, ..., and the end."""
    return math.ceil(1 / eval_steps - 1e-9)


def mark(step: int, max_steps: int, eval_steps: float) -> int:
    """The mark (from 0) that a measurement after ``step`` belongs to. The trainer rounds its interval up to whole steps, so a
    mark may be passed without a measurement; the last one is the end.
    """
    last = marks(eval_steps) - 1
    return last if step >= max_steps else max(0, math.floor(step / max_steps / eval_steps + 1e-9) - 1)


def stop_above(finished: Sequence[Trial], count: int, n_startup_trials: int) -> list[float | None]:
    """For each of ``count`` marks the median loss of the complete trials there, which is Optuna's MedianPruner; None for
    each while there are fewer than ``n_startup_trials`` of them, and for the last, where nothing is left to save.
    """
    complete = [trial for trial in finished if trial.state == "complete"]
    if len(complete) < n_startup_trials:
        return [None] * count
    seen = [[loss for trial in complete if (loss := trial.losses[at]) is not None] for at in range(count - 1)]
    return [*(statistics.median(losses) if losses else None for losses in seen), None]


def pruned_at(losses: Sequence[float | None], stop_above: Sequence[float | None]) -> int | None:
    """The first mark at which the least loss so far is above what is allowed there; None where the trial goes on."""
    best = math.inf
    for at, (loss, allowed) in enumerate(zip(losses, stop_above, strict=True)):
        best = best if loss is None else min(best, loss)
        if loss is not None and allowed is not None and best > allowed:
            return at
    return None


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial of least loss; of equals the first."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.loss is not None]
    return min(complete, key=lambda trial: (trial.loss, trial.number), default=None)
