"""Who takes part in an evaluation, as pure data: what of each is identity, and from which artifacts it answers."""

from collections.abc import Callable
from typing import Any

from ft_assets.recipes.evaluation import FROM_TRAINING_ROWS
from ft_assets.recipes.schema import Recipe

# The held-out sets that a contestant answers, by what it is. A prompt changes no weight: it is asked for the task alone.
SETS = ["test", "out_of_domain", "safety", "general", "general_text"]
OF_PROMPTED = SETS[:2]
OF_QUANTIZED = SETS[:1]
STAGES = {"cpt": "cpt_adapter", "sft": "sft_adapter", "policy": "policy"}

Entry = tuple[str, str]


def contestants(
    recipe: Recipe, made: Callable[[str], Entry], published: tuple[Entry, ...]
) -> dict[str, tuple[dict[str, Any], dict[str, Entry]]]:
    """By contestant its identity and its upstream artifacts.

    A merged or quantized model brings its tokenizer along: it needs no base model, and its answers stay what they are when
    the recipe takes another. So the incumbent's are those it gave when it was the candidate.

    Args:
        made: (made by, fingerprint) of a stage.
        published: those of merged models that were published, the champion first.
    """
    base, merged = made("base_model"), made("merged_model")
    found: dict[str, tuple[dict[str, Any], dict[str, Entry]]] = {
        "base_zero_shot": ({"sets": SETS}, {"base_model": base})
    }
    for name in FROM_TRAINING_ROWS:
        if count := getattr(recipe.evaluation, name):
            upstream = {"base_model": base, "tokenized_splits": made("tokenized_splits")}
            found[f"base_{name}"] = ({"sets": OF_PROMPTED, name: count}, upstream)
    for name, stage in STAGES.items():
        if getattr(recipe, name) is not None:
            found[name] = ({"sets": SETS}, {"base_model": base, "model": made(stage)})
    if recipe.merges:
        found["merged"] = ({"sets": SETS}, {"model": merged})
    for form in sorted(recipe.quantize):
        found[form] = ({"sets": OF_QUANTIZED, "form": form}, {"model": made("quantized_model")})
    if other := incumbent(published, merged[1]):
        of_base = {} if other[0] == "merged_model" else {"base_model": base}
        found["incumbent"] = ({"sets": SETS}, {**of_base, "model": other})
    return found


def incumbent(published: tuple[Entry, ...], merged: str) -> Entry | None:
    """Of published models the first that is not the candidate's own, by its merged model's fingerprint."""
    return next((other for other in published if other[1] != merged), None)
