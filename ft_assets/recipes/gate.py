"""What the conditions of a recipe's gate may name: the contestants its evaluation has, their numbers, and what is compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from ft_assets.core.conditions import Comparison, ConditionError, check_names, parse
from ft_assets.recipes.classifying import METRICS_OF_LABELS
from ft_assets.recipes.evaluation import FROM_TRAINING_ROWS, candidate, kinds

COSTS = (
    "size_bytes",
    "seconds",
    "rows_per_second",
    "tokens_per_second",
    "latency_p50_seconds",
    "latency_p95_seconds",
    "peak_memory_bytes",
    "prompt_tokens",
    "answer_tokens",
    "usd_per_1000_requests",
)
COSTS_OF_MAJORITY = ("size_bytes", "seconds", "rows_per_second")  # all of them nothing
COSTS_OF_CLASSIFIER = (*COSTS_OF_MAJORITY, "usd_per_1000_requests")
PROMPTED = tuple(f"base_{name}" for name in FROM_TRAINING_ROWS)
# What a set of rows that only some contestants are asked tells of them.
OF_ROLE = {
    "safety": ("refused_harmful", "refused_harmless"),
    "general": ("general_accuracy",),
    "general_text": ("general_perplexity",),
}
MEASURES_OF_ROLE = {
    "safety": ("safety.refusal_drop", "safety.over_refusal_rise"),
    "general": ("forgetting.general_drop",),
    "general_text": ("forgetting.perplexity_ratio",),
}
MEASURES_OF_REWARD = ("reward.win_rate", "reward.win_rate_length_controlled")


def check_condition(text: str, recipe: Any) -> str:
    """A condition as it is written in a recipe, in the one way it is kept.

    Args:
        recipe: whose fields are valid each for itself.

    Raises:
        ConditionError: it is no condition, or names what the recipe's evaluation will not have.
    """
    condition = parse(text)
    if isinstance(condition, Comparison):
        _check_sets(text, condition.names(), recipe)
    contestants = kinds(recipe)
    both = (*_measured(recipe), "candidate")
    of_tasks = [
        f"{name}.lm_eval." for name in both if recipe.evaluation.lm_eval
    ]  # a group of tasks is known to lm-eval
    check_names(text, names(recipe), [*contestants, "candidate"], compared_metrics(recipe), pairs(recipe), of_tasks)
    return str(condition)


def _check_sets(text: str, named: Sequence[str], recipe: Any) -> None:
    """Says which setting brings a number that the recipe could have, where it has not got it."""
    had = names(recipe)
    wanted = {
        **{name: f"data.{role}" for role, found in MEASURES_OF_ROLE.items() for name in found},
        "memorization.rise": "evaluation.memorization",
        **dict.fromkeys(MEASURES_OF_REWARD, "a reward stage"),
    }
    for name in (name for name in named if name in wanted and name not in had):
        at = text.find(name) + 1
        raise ConditionError(f"at letter {at}: {name} is no number of this recipe, but is where it has {wanted[name]}")


def names(recipe: Any) -> list[str]:
    """Every number that the recipe's evaluation will have, where it can tell it."""
    scores = {name: _scores(recipe, name, kind) for name, kind in kinds(recipe).items()}
    scores["candidate"] = scores[candidate(recipe)]
    return [f"{name}.{score}" for name, found in scores.items() for score in found] + _measures(recipe)


def compared_metrics(recipe: Any) -> list[str]:
    """The metrics by which contestants are compared row by row on the test set; more is better of each."""
    wanted = recipe.evaluation
    return list(dict.fromkeys([wanted.metric, *wanted.metrics, *(METRICS_OF_LABELS if wanted.of_labels else ())]))


def pairs(recipe: Any) -> set[tuple[str, str]]:
    """The contestants (left, right) that are compared: the candidate with every other, each quantized form with the merged."""
    found, own = kinds(recipe), candidate(recipe)
    forms = [name for name, kind in found.items() if kind == "quantized"]
    others = [name for name in found if name != own]
    merged = {(form, "merged") for form in forms if "merged" in found}
    return {(name, other) for name in (own, "candidate") for other in others} | merged


def _scores(recipe: Any, name: str, kind: str) -> list[str]:
    task, of_both = compared_metrics(recipe), name in _measured(recipe)
    if recipe.classifier is not None:
        sets = ["", *(["out_of_domain."] if recipe.data.out_of_domain else [])]
        own = ("calibration_error", *COSTS_OF_CLASSIFIER) if kind == "trained" else COSTS_OF_MAJORITY
        return [*(f"{part}{metric}" for part in sets for metric in task), *own]
    found = [*task, "calibration_error", *COSTS]
    found += ["perplexity"] if name not in PROMPTED else []
    found += ["reward"] if of_both and recipe.reward is not None else []
    found += ["memorized"] if of_both and recipe.evaluation.memorization else []
    if kind == "quantized":
        return found
    found += [f"out_of_domain.{metric}" for metric in task if recipe.data.out_of_domain]
    return found if name in PROMPTED else found + _of_held_out(recipe, OF_ROLE)


def _measured(recipe: Any) -> tuple[str, str]:
    """The two that are also asked what costs more: the untrained model and the candidate."""
    return "base_zero_shot", candidate(recipe)


def _measures(recipe: Any) -> list[str]:
    found = _of_held_out(recipe, MEASURES_OF_ROLE)
    found += ["memorization.rise"] if recipe.evaluation.memorization else []
    found += MEASURES_OF_REWARD if recipe.reward is not None else ()
    found += ["merged.drop"] if recipe.merges else []
    return found + [f"quantized.{form}.drop" for form in sorted(recipe.quantize)]


def _of_held_out(recipe: Any, by_role: Mapping[str, Sequence[str]]) -> list[str]:
    return [name for role, found in by_role.items() if getattr(recipe.data, role, None) for name in found]
