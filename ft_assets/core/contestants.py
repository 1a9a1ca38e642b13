"""Who takes part in an evaluation, as pure data: what of each is identity, from which artifacts it answers, and its stages."""

from collections.abc import Callable
from typing import Any

from ft_assets.core.stage import Entry, Stage, make_stage
from ft_assets.recipes.evaluation import FROM_TRAINING_ROWS, candidate
from ft_assets.recipes.schema import Recipe

# The held-out sets that a contestant answers, by what it is. A prompt changes no weight: it is asked for the task alone.
SETS = ["test", "out_of_domain", "safety", "general", "general_text"]
OF_PROMPTED = SETS[:2]
OF_QUANTIZED = SETS[:1]
STAGES = {"cpt": "cpt_adapter", "sft": "sft_adapter", "policy": "policy"}


def answer_stages(
    recipe: Recipe, made: Callable[[str], Entry], published: tuple[Entry, ...], base_content: str
) -> dict[str, Stage]:
    """``answers:CONTESTANT``, what each says to the held-out questions. None depends on the training data, on a metric or on
    another contestant, but where it is shown examples.

    Beside them ``memorized:CONTESTANT``, ``rewarded:CONTESTANT`` and ``lm_eval:CONTESTANT`` of the untrained model and the
    candidate, where the recipe wants the first and the last, and trains a reward model for the second.
    """
    if recipe.classifier is not None:
        return {}
    stages: dict[str, Stage] = {}
    settings = recipe.evaluation
    asked = {"max_new_tokens": settings.max_new_tokens, "max_rows": settings.max_rows}
    compared = ("base_zero_shot", candidate(recipe))
    for name, (identity, upstream) in contestants(recipe, made, published).items():
        of_base = {"base_content": base_content} if "base_model" in upstream else {}
        own = make_stage("answers", {**asked, **identity, **of_base}, {"questions": made("questions"), **upstream})
        stages[f"answers:{name}"] = own
        if name in compared and settings.memorization:
            sample = {"rows": settings.memorization, "seed": recipe.seed, **of_base}
            reading = {**upstream, "tokenized_splits": made("tokenized_splits")}
            stages[f"memorized:{name}"] = make_stage("memorized", sample, reading)
        if name in compared and recipe.reward is not None:
            judged = {"answers": ("answers", own.fingerprint), "reward_model": made("reward_model")}
            stages[f"rewarded:{name}"] = make_stage("rewarded", {}, judged)
        if name in compared and settings.lm_eval:
            tasks = {"tasks": sorted(set(settings.lm_eval)), "max_rows": settings.max_rows, **of_base}
            stages[f"lm_eval:{name}"] = make_stage("lm_eval", tasks, upstream)
    return stages


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
