"""What a recipe with a ``classifier`` stage may say: it trains that alone, on texts with labels."""

from collections.abc import Mapping
from typing import Any

METRICS_OF_LABELS = ("accuracy", "macro_f1")
# Each teaches, changes or measures a model that writes.
NOT_BESIDE = ("cpt", "sft", "reward", "policy", "hyperparameters", "quantize", "chat_template")
ROLES_NOT_BESIDE = ("cpt", "sft", "preference", "prompt", "safety", "general", "general_text")


def check_measures(metric: str, settings: Mapping[str, int | None]) -> None:
    """Refuses a metric without the settings it needs, or with those it has no use for.

    Raises:
        ValueError: names the settings.
    """
    of_labels = metric in METRICS_OF_LABELS
    wrong = [name for name, value in settings.items() if (value is None) != of_labels]
    if wrong and of_labels:
        raise ValueError(f"metric {metric} is of labels, which no prompt asks for: leave {', '.join(wrong)} out")
    if wrong:
        raise ValueError(f"metric {metric} is of answers: give {', '.join(wrong)}")


def check_classifier(recipe: Any) -> None:
    """Refuses what does not go with a ``classifier`` stage.

    Args:
        recipe: a whole recipe; its fields are valid each for itself.

    Raises:
        ValueError: names the fields and what to do.
    """
    if beside := [name for name in NOT_BESIDE if getattr(recipe, name)]:
        raise ValueError(f"a classifier is trained from the base model alone; leave {', '.join(beside)} out")
    data = recipe.data
    if beside := [f"data.{name}" for name in ROLES_NOT_BESIDE if getattr(data, name)]:
        raise ValueError(f"a classifier is trained on data.classification alone; leave {', '.join(beside)} out")
    if recipe.adapter.method == "prompt_tuning":
        raise ValueError("prompt_tuning has no classifier; use adapter.method full, lora, dora, qlora or lora_8bit")
    if data.overlong == "chunk":
        raise ValueError(
            "data.overlong chunk would give each piece of a text the label of the whole; use error, drop or truncate"
        )
    if data.packing:
        raise ValueError(
            "a classifier gives one label to a sequence, so no two texts share one; leave data.packing out"
        )
    if not recipe.evaluation.of_labels:
        allowed = " or ".join(METRICS_OF_LABELS)
        raise ValueError(f"evaluation.metric {recipe.evaluation.metric} is of answers; a classifier takes {allowed}")
