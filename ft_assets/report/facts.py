"""Every number of the evaluation page, taken from the artifacts; the page and the model card only lay them out."""

from typing import Any

from ft_assets.core.artifact import Artifact
from ft_assets.core.labels import METRICS
from ft_assets.core.shape import weights_bytes
from ft_assets.recipes.schema import Recipe

LABELS = {
    "base_zero_shot": "base, zero-shot",
    "base_few_shot": "base, few-shot",
    "cpt": "continued pretraining",
    "sft": "SFT",
    "policy": "policy",
    "nf4": "policy, NF4",
    "int8": "policy, int8",
    "majority": "most frequent label",
    "classifier": "classifier",
}
TRAINED = ("policy", "sft", "cpt", "classifier")
UNTRAINED = ("base", "majority")  # what the names of contestants begin with that learned nothing
EXAMPLES = 8
MOST_MISTAKES = 20


def gather(recipe: Recipe, artifacts: dict[str, Artifact], batches: dict[str, Artifact]) -> dict[str, Any]:
    """The facts of one evaluation as plain JSON.

    Args:
        artifacts: by stage name; absent where the recipe leaves a stage out.
        batches: the validated dataset of each ``source@batch``.
    """
    results = artifacts["evaluation"].json("results.json")
    best = next(name for name in TRAINED if name in results)
    merged = artifacts.get("merged_model")
    contestants = [_contestant(name, result) for name, result in results.items()]
    return {
        "recipe": recipe.name,
        "description": recipe.description,
        "base_model": recipe.base_model,
        "metric": recipe.evaluation.metric,
        "few_shot": recipe.evaluation.few_shot,
        "policy_method": recipe.policy.method if recipe.policy else None,
        "adapter_method": recipe.adapter.method,
        "best": best,
        "verdict": verdict(results, best),
        "contestants": contestants,
        "merged_bytes": weights_bytes(merged.folder) if merged else None,
        "base": artifacts["base_model"].manifest.metrics,
        "parity": merged.manifest.metrics["parity"] if merged else None,
        "examples": _examples(results, best),
        "safety_examples": _safety_examples(results, best),
        "training": [
            _training(name, artifacts[name])
            for name in ("cpt_adapter", "sft_adapter", "reward_model", "policy", "classifier")
            if name in artifacts
        ],
        # A page of a recipe without a classifier or a sweep stays, byte for byte, what it was.
        **({"classes": _classes(results["classifier"])} if best == "classifier" else {}),
        **({"sweep": artifacts["sft_sweep"].manifest.metrics} if "sft_sweep" in artifacts else {}),
        "data": [_batch(key, artifact) for key, artifact in sorted(batches.items())],
        "splits": artifacts["tokenized_splits"].manifest.metrics["parts"],
        "plan": artifacts["training_plan"].json("plan.json"),
        "lineage": [
            {
                "stage": name,
                "fingerprint": a.manifest.fingerprint,
                "seconds": a.manifest.seconds,
                "cost_usd": a.manifest.cost_usd,
                "versions": a.manifest.versions,
            }
            for name, a in artifacts.items()
        ],
    }


def verdict(results: dict[str, Any], best: str) -> str:
    """Whether fine-tuning was needed, or a classifier has learned, in one sentence, from intervals alone."""
    tuned = results[best]["test"]
    untrained = {name: result["test"] for name, result in results.items() if name.startswith(UNTRAINED)}
    rival = max(untrained, key=lambda name: untrained[name]["mean"])
    other = untrained[rival]
    against = f"the best prompt ({LABELS[rival]})" if rival.startswith("base") else f"always giving the {LABELS[rival]}"
    numbers = (
        f"{LABELS[best]} scores {tuned['mean']:.2f} [{tuned['low']:.2f}, {tuned['high']:.2f}], {against} "
        f"{other['mean']:.2f} [{other['low']:.2f}, {other['high']:.2f}], on {tuned['n']} held-out rows."
    )
    if tuned["low"] > other["high"]:
        return f"{'The labels were learned' if best == 'classifier' else 'Fine-tuning was needed'}: {numbers}"
    if tuned["high"] < other["low"]:
        return f"{'It is worse than no model' if best == 'classifier' else 'Fine-tuning made it worse'}: {numbers}"
    return f"No difference can be told: {numbers}"


def _contestant(name: str, result: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "label": LABELS[name],
        "trained": not name.startswith(UNTRAINED),
        **result["test"],
        "perplexity": result.get("perplexity"),
        "size_bytes": result["size_bytes"],
        "rows_per_second": result["rows_per_second"],
        "out_of_domain": result.get("out_of_domain"),
        "safety": result.get("safety"),
        **{name: result[name] for name in METRICS if name in result},
    }


def _classes(result: dict[str, Any]) -> dict[str, Any]:
    """How well a classifier tells each label, what it takes for what, and how many texts it read in part."""
    mistakes = [pair for pair in result["confusion"] if pair["expected"] != pair["predicted"]]
    return {
        "labels": result["classes"],
        "mistakes": mistakes[:MOST_MISTAKES],
        "more_mistakes": sum(pair["rows"] for pair in mistakes[MOST_MISTAKES:]),
        "truncated": result["truncated"]["test"],
    }


def _examples(results: dict[str, Any], best: str) -> list[dict[str, Any]]:
    """Rows side by side: those where the contestants differ most first, in a fixed order."""
    shown = [name for name in ("base_zero_shot", "base_few_shot", "sft", "policy", "classifier") if name in results]
    records = {name: {row["row_id"]: row for row in results[name]["answers"]["test"]} for name in shown}
    rows = results[best]["answers"]["test"]

    def spread(row: dict[str, Any]) -> float:
        scores = [records[name][row["row_id"]]["score"] for name in shown]
        return float(max(scores) - min(scores))

    losing = [row for row in rows if row["score"] < 0.5][: EXAMPLES // 3]
    winning = sorted((row for row in rows if row not in losing), key=lambda row: (-spread(row), row["row_id"]))
    chosen = [*winning[: EXAMPLES - len(losing)], *losing]
    return [
        {
            "question": row["question"],
            "expected": row["expected"],
            "answers": [
                {"label": LABELS[name], **{key: records[name][row["row_id"]][key] for key in ("answer", "score")}}
                for name in shown
            ],
        }
        for row in chosen
    ]


def _safety_examples(results: dict[str, Any], best: str) -> list[dict[str, Any]]:
    names = [name for name in ("base_zero_shot", best) if name in results and "safety" in results[name]["answers"]]
    if len(names) < 2:
        return []
    pairs = zip(*(results[name]["answers"]["safety"] for name in names), strict=True)
    return [
        {
            "question": rows[0]["question"],
            "kind": rows[0]["expected"],
            "answers": [
                {"label": LABELS[name], "answer": row["answer"], "refused": bool(row["score"])}
                for name, row in zip(names, rows, strict=True)
            ],
        }
        for rows in list(pairs)[:6]
    ]


def _training(name: str, artifact: Artifact) -> dict[str, Any]:
    return {
        "stage": name,
        "metrics": artifact.manifest.metrics,
        "history": artifact.json("history.json"),
        "seconds": artifact.manifest.seconds,
        "cost_usd": artifact.manifest.cost_usd,
        "resumed_from_step": artifact.manifest.execution.get("resumed_from_step", 0),
        "dtype": artifact.manifest.execution["dtype"],
    }


def _batch(key: str, artifact: Artifact) -> dict[str, Any]:
    return {
        "key": key,
        **{
            name: artifact.manifest.metrics[name]
            for name in ("rows_in", "rows_kept", "quarantined", "reasons", "samples")
        },
    }
