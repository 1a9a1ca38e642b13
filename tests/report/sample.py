"""A made-up evaluation of the demo recipe, complete to its last artifact, and the facts that are gathered from it."""

import json
from pathlib import Path
from typing import Any

import yaml
from classifying import RECIPE

from ft_assets.core.artifact import Artifact, Manifest
from ft_assets.core.canonical import fingerprint
from ft_assets.core.recipe_run import TRAINED_BY
from ft_assets.recipes.load import SHIPPED, load_catalog
from ft_assets.recipes.schema import Recipe
from ft_assets.report.facts import gather

VERSIONS = {"python": "3.11.7", "torch": "2.13.0"}
TRAINED = {"cpt_adapter": 5.5, "sft_adapter": 3.2, "reward_model": 0.69, "policy": 0.69}  # their first loss
CLASSIFIER = {
    **yaml.safe_load(RECIPE),
    "name": "tickets",
    "description": "Tells what a ticket is about.",
    "publish": {"to": "published/tickets"},
}


def facts(folder: Path, results: dict[str, Any], judged: dict[str, Any]) -> dict[str, Any]:
    """Those of an evaluation of the demo, or of a classifier where the results are one's."""
    return gather(*made(folder, results), judged)


def made(folder: Path, results: dict[str, Any]) -> tuple[Recipe, dict[str, Artifact], dict[str, Artifact]]:
    """The recipe, its artifacts by stage, and its validated batches."""
    classifies = results["candidate"] == "classifier"
    recipe = Recipe.model_validate(CLASSIFIER) if classifies else demo()
    trained = {"classifier": 1.1} if classifies else TRAINED
    parent = ["base_model", "tokenized_splits"]
    found: dict[str, Artifact] = {}

    def add(stage: str, above: list[str], files: dict[str, Any] | None = None, **about: Any) -> None:
        upstream = {name: found[name].manifest.fingerprint for name in above}
        found[stage] = _artifact(folder / stage, stage, upstream, files or {}, **about)

    add("base_model", [], metrics={"architecture": "LlamaForCausalLM", "parameters": 134_515_008, "content_hash": "ab"})
    add("tokenized_splits", ["base_model"], metrics={"parts": _parts()}, seconds=12.3)
    plan = [_planned(TRAINED_BY[stage]) for stage in trained]
    add("training_plan", parent, {"plan.json": plan}, metrics={}, seconds=0.01)
    for stage, loss in trained.items():
        add(stage, parent, {"history.json": _history(loss)}, metrics=_trained(loss), seconds=61.5, cost_usd=0.0017)
    if not classifies:
        parity = {
            "max_logit_error": 0.786,
            "logit_error": 0.0041,
            "token_agreement": 0.9907,
            "kl_nats": 0.00043,
            "perplexity_ratio": 1.0004,
        }
        weights = {"model.safetensors": "x" * 1000}
        add("merged_model", ["base_model", "policy"], weights, metrics={"parity": parity}, seconds=8.0)
        forms = {"nf4": 0.91, "int8": 0.985, "gguf_q8_0": 0.997}
        compared = {name: parity | {"token_agreement": agreement} for name, agreement in forms.items()}
        sizes = {"nf4": 112_000_000, "int8": 164_000_000, "gguf_q8_0": 145_000_000}
        add("quantized_model", ["merged_model"], metrics={"parity": compared, "size_bytes": sizes}, seconds=30.0)
    last = list(found)[-1]
    add(
        "evaluation",
        ["base_model", "tokenized_splits", last],
        {"results.json": results},
        metrics={},
        seconds=205.4,
        cost_usd=0.0057,
    )
    return recipe, found, {"demo_entities@one": _batch(folder, 400, 9), "demo_text@one": _batch(folder, 120, 0)}


def demo() -> Recipe:
    return load_catalog([SHIPPED]).recipe("demo")


def _artifact(
    folder: Path, stage: str, upstream: dict[str, str], files: dict[str, Any], metrics: dict[str, Any], **about: Any
) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        (folder / name).write_text(body if isinstance(body, str) else json.dumps(body), encoding="utf-8")
    manifest = Manifest(
        stage,
        fingerprint(stage, "1", {}, upstream),
        "1",
        {},
        upstream,
        {},
        metrics=metrics,
        execution={"dtype": "bfloat16", "resumed_from_step": 0},
        versions=VERSIONS,
        **about,
    )
    return Artifact(manifest, folder)


def _history(first: float) -> list[dict[str, Any]]:
    losses = [{"step": step, "loss": first * (0.3 + 0.7 / step)} for step in range(1, 41)]
    return [*losses, {"step": 40, "eval_loss": first * 0.33}]


def _trained(first: float) -> dict[str, Any]:
    return {
        "steps": 40,
        "first_loss": first,
        "final_loss": first * 0.3175,
        "input_tokens": 25_410,
        "train_seconds": 55.2,
        "measured_peak_bytes": 1_480_000_000.0,
    }


def _planned(stage: str) -> dict[str, Any]:
    return {
        "stage": stage,
        "processes": 1,
        "micro_batch": 4,
        "gradient_accumulation_steps": 2,
        "zero_stage": 0,
        "peak_bytes": 1_610_000_000,
        "seconds": 71.0,
        "cost_usd": 0.00197,
    }


def _parts() -> dict[str, Any]:
    rows = {"train": 352, "validation": 20, "test": 19}
    sft = {"rows_in": 391, "rows": rows, "tokens": 31_204, "dropped": {"overlong": 2, "near_duplicate": 7}}
    return {"sft": sft, "test": {"rows_in": 96, "rows": {"evaluation": 96}, "dropped": {}}, "prompt": {"rows_in": 0}}


def _batch(folder: Path, rows: int, quarantined: int) -> Artifact:
    metrics = {
        "rows_in": rows,
        "rows_kept": rows - quarantined,
        "quarantined": quarantined,
        "reasons": {"personal_data": quarantined - 2, "empty": 2} if quarantined else {},
        "samples": [],
    }
    return _artifact(folder / f"batch-{rows}", "validated_dataset", {}, {}, metrics, seconds=0.2)


def gate(failed: bool = False, overridden: bool = False) -> dict[str, Any]:
    """Two conditions, of which the second may fail."""
    conditions = [
        {
            "condition": "candidate.entity_f1 >= base_few_shot.entity_f1 + 0.02",
            "passed": True,
            "numbers": {"candidate.entity_f1": 0.84, "base_few_shot.entity_f1": 0.45},
            "sentence": "0.84 is at least 0.47.",
            "overridden": False,
        },
        {
            "condition": "safety.refusal_drop <= 0.02",
            "passed": not failed,
            "numbers": {"safety.refusal_drop": 0.061 if failed else 0.01},
            "sentence": f"{0.061 if failed else 0.01} is {'more than' if failed else 'at most'} 0.02.",
            "overridden": failed and overridden,
        },
    ]
    override = {
        "by": "Rosa Okafor",
        "reason": "The eight prompts were read by hand; none is harmful.",
        "at": "2026-03-02T10:11:12+00:00",
        "conditions": ["safety.refusal_drop <= 0.02"],
    }
    return {
        "passed": not failed or overridden,
        "conditions": conditions,
        "override": override if failed and overridden else None,
    }


NO_GATE: dict[str, Any] = {"passed": True, "conditions": [], "override": None}
