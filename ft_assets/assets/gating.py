"""The gate as asset checks of ``eval_report``: one of each condition, and one over all."""

from collections.abc import Collection, Mapping
from typing import Any

import dagster as dg

from ft_assets.core.conditions import check_name
from ft_assets.core.gate import as_body, failed, judge
from ft_assets.core.recipe_run import RecipeRun
from ft_assets.recipes.load import Catalog

GATE = "gate"
# Dagster wants each declared check answered in each materialization, also where a recipe has no such condition.
MOST_CHECKS = 40


def conditions(known: Catalog) -> list[str]:
    """The conditions of all recipes, each once, of as many as have a check of their own; ``gate`` counts all."""
    found = dict.fromkeys(text for _, loaded in sorted(known.recipes.items()) for text in loaded.value.gate)
    return list(found)[:MOST_CHECKS]


def specs(texts: Collection[str]) -> list[dg.AssetCheckSpec]:
    """The checks to declare, before any recipe runs."""
    every = dg.AssetCheckSpec(
        GATE,
        asset="eval_report",
        blocking=True,
        description="Every condition of the recipe's gate is met, or a person has overridden it by name and with a reason.",
    )
    own = {check_name(text): text for text in texts}
    return [every] + [
        dg.AssetCheckSpec(name, asset="eval_report", blocking=True, description=text) for name, text in own.items()
    ]


def judged(run: RecipeRun, found: Mapping[str, Any]) -> dict[str, Any]:
    """What gate.json says of an evaluation's results."""
    from ft_assets.core import scoring  # and with it numpy, which loading the definitions does without

    override = run.stages["eval_report"].identity.get("override")
    return as_body(judge(run.recipe.gate, scoring.names(dict(found)), found, override), override)


def results(body: Mapping[str, Any], texts: Collection[str]) -> list[dg.AssetCheckResult]:
    """What came of a gate.json, for the checks that were declared for ``texts``."""
    judged: dict[str, list[dict[str, Any]]] = {check_name(text): [] for text in texts}
    for each in body["conditions"]:
        judged.get(check_name(each["condition"]), []).append(each)
    return [_gate(body), *(_condition(name, found) for name, found in judged.items())]


def _gate(body: Mapping[str, Any]) -> dg.AssetCheckResult:
    found, shut, override = body["conditions"], failed(body), body["override"]
    met = sum(each["passed"] for each in found)
    told = f"{met} of {len(found)} conditions are met" if found else "the recipe's gate has no conditions"
    if override:
        told += f"; overridden by {override['by']} at {override['at']}: {override['reason']}"
    return dg.AssetCheckResult(
        passed=not shut,
        check_name=GATE,
        description=told,
        metadata={each["condition"]: each["sentence"] for each in found},
    )


def _condition(name: str, found: list[dict[str, Any]]) -> dg.AssetCheckResult:
    """A condition that was overridden stays failed, as a warning."""
    if not found:
        return dg.AssetCheckResult(passed=True, check_name=name, description="The recipe has no such condition.")
    shut = any(not each["passed"] and not each["overridden"] for each in found)
    return dg.AssetCheckResult(
        passed=all(each["passed"] for each in found),
        check_name=name,
        severity=dg.AssetCheckSeverity.ERROR if shut else dg.AssetCheckSeverity.WARN,
        description=" ".join(each["sentence"] for each in found),
        metadata={key: value for each in found for key, value in each["numbers"].items()},
    )
