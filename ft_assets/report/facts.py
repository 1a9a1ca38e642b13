"""Every number of the evaluation page, taken from the artifacts; the page and the model card only lay them out."""

from typing import Any

from ft_assets.core.artifact import Artifact
from ft_assets.core.calibration import STAGES
from ft_assets.core.shape import weights_bytes
from ft_assets.recipes.schema import Recipe
from ft_assets.report.contestants import classes, comparisons, contestants, other_scores
from ft_assets.report.examples import examples, safety_examples
from ft_assets.report.making import batch, lineage, placements, totals, training
from ft_assets.report.marks import plain
from ft_assets.report.verdict import outcome, rival, sentences

MOST_MISTAKES = 20


def gather(
    recipe: Recipe, artifacts: dict[str, Artifact], batches: dict[str, Artifact], gate: dict[str, Any]
) -> dict[str, Any]:
    """The facts of one evaluation as plain JSON.

    Args:
        artifacts: by stage name; absent where the recipe leaves a stage out.
        batches: the validated dataset of each ``source@batch``.
        gate: what :func:`ft_assets.core.gate.judge` came to, with its override.
    """
    results = artifacts["evaluation"].json("results.json")
    metric, candidate = results["metric"], results["candidate"]
    found = contestants(results)
    facts = {
        "recipe": recipe.name,
        "description": recipe.description,
        "base_model": recipe.base_model,
        "metric": metric,
        "few_shot": recipe.evaluation.few_shot,
        "retrieval": recipe.evaluation.retrieval,
        "best": candidate,
        "rival": None if (place := rival(found)) is None else found[place]["name"],
        "outcome": outcome(found),
        "gate": _gate(gate),
        "contestants": found,
        "other_scores": other_scores(found, metric),
        "comparisons": comparisons(results),
        "measures": results["measures"],
        "warnings": results["warnings"],
        "judge": results.get("judge"),
        "examples": examples(results),
        "safety_examples": safety_examples(results),
        "data": [batch(key, artifact) for key, artifact in sorted(batches.items())],
        **_of_stages(artifacts),
    }
    if candidate == "classifier":
        facts["classes"] = classes(results["contestants"][candidate], MOST_MISTAKES)
    facts["placements"] = placements(facts["plan"], facts["training"])
    facts["totals"] = totals(facts["lineage"])
    facts["headline"] = sentences(facts)
    facts["told"] = [plain(sentence, facts) for sentence in facts["headline"]]
    facts["verdict"] = facts["told"][0]
    return facts


def _of_stages(artifacts: dict[str, Artifact]) -> dict[str, Any]:
    """What each stage that was made says of itself."""
    merged, quantized = artifacts.get("merged_model"), artifacts.get("quantized_model")
    sweep = {"sweep": artifacts["sft_sweep"].manifest.metrics} if "sft_sweep" in artifacts else {}
    return {
        "merged_bytes": weights_bytes(merged.folder) if merged else None,
        "base": artifacts["base_model"].manifest.metrics,
        "parity": merged.manifest.metrics["parity"] if merged and "parity" in merged.manifest.metrics else None,
        "forms": quantized.manifest.metrics if quantized else None,
        "training": [training(name, artifacts[name]) for name in STAGES if name in artifacts],
        "splits": artifacts["tokenized_splits"].manifest.metrics["parts"],
        "plan": artifacts["training_plan"].json("plan.json"),
        "lineage": lineage(artifacts),
        **sweep,
    }


def _gate(gate: dict[str, Any]) -> dict[str, Any]:
    conditions = gate["conditions"]
    failed = sum(not one["passed"] for one in conditions)
    return {**gate, "total": len(conditions), "failed": failed}
