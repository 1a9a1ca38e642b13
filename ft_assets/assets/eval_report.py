"""Asset ``eval_report``: every contestant on the same held-out rows, and one page that says what came of it."""

from collections.abc import Collection
from typing import Any

import dagster as dg

from ft_assets.assets import gating
from ft_assets.assets.making import make_here, make_in_worker, recipe_run
from ft_assets.assets.showing import bullets, image, picture
from ft_assets.assets.training import GPU_POOL
from ft_assets.core.artifact import Artifact, Staging
from ft_assets.core.batches import SHUT_OUT
from ft_assets.core.lineage import MODEL_ASSETS, parts
from ft_assets.core.recipe_run import RecipeRun
from ft_assets.core.stage import CODE_VERSIONS
from ft_assets.report.contestants import UNTRAINED
from resources.catalog import CatalogResource
from resources.launching import Launcher
from resources.store import StoreResource
from resources.tracker import TrackerResource

SCORED = dg.AssetCheckSpec(
    "every_contestant_scored",
    asset="eval_report",
    blocking=True,
    description="Every contestant answered every row of the test set.",
)
NEEDED = dg.AssetCheckSpec(
    "beats_prompting",
    asset="eval_report",
    blocking=False,
    description="The trained model is better than each prompt of the base, a classifier than always giving the most frequent "
    "label: paired by row, at 95% after Holm's correction.",
)
# Of the assets that a recipe makes, those that come before the page.
BEFORE = MODEL_ASSETS[: MODEL_ASSETS.index("eval_report")]


def build(partitions: dg.StaticPartitionsDefinition, conditions: Collection[str]) -> dg.AssetsDefinition:
    """``conditions``: those of a gate that have a check of their own."""

    @dg.asset(
        partitions_def=partitions,
        deps=[name for name in BEFORE if name != "training_plan"],
        group_name="release",
        kinds={"html"},
        owners=["team:ml"],
        pool=GPU_POOL,
        code_version=CODE_VERSIONS["eval_report"],
        check_specs=[SCORED, NEEDED, *gating.specs(conditions)],
        description="Held-out scores with intervals for the base, prompted and trained models, and one HTML page about them.",
    )
    def eval_report(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: Launcher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        run = recipe_run(context, catalog, store)
        told = {"parts": parts(run.stages, "evaluation")}
        evaluation = make_in_worker(context, run, "evaluation", launcher, store, tracker, told)

        def produce(staging: Staging) -> None:
            from ft_assets.report.facts import gather
            from ft_assets.report.page import render

            gate = gating.judged(run, evaluation.artifact.json("results.json"))
            staging.write_json("gate.json", gate)
            facts = gather(run.recipe, stage_artifacts(run), quarantines(run), gate)
            staging.write_json("report.json", facts)
            staging.file("report.html").write_text(render(facts), encoding="utf-8")
            staging.metrics = {"verdict": facts["verdict"]}

        made = make_here(context, run.stages["eval_report"], run.store, 0.0, produce)
        gate, facts = made.artifact.json("gate.json"), made.artifact.json("report.json")
        if not gate["passed"]:
            run.store.set_ref(SHUT_OUT, run.recipe.name, {"validated": sorted(run.data())})
        metadata = {
            "report": dg.MetadataValue.url(made.artifact.file("report.html").as_uri()),
            **shown(facts),
            "gate": "open" if gate["passed"] else "shut",
            "evaluation": evaluation.status,
            "seconds": round(made.seconds + evaluation.seconds, 2),
            "cost (USD)": evaluation.cost_usd,
        }
        return made.result(best(facts), metadata, [scored(facts), needed(facts), *gating.results(gate, conditions)])

    return eval_report


def best(facts: dict[str, Any]) -> str:
    """The candidate's score with its interval, as a line of ``ft run`` says it."""
    found = next(one for one in facts["contestants"] if one["name"] == facts["best"])
    return f"{found['label']} {found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def scored(facts: dict[str, Any]) -> dg.AssetCheckResult:
    """The check ``every_contestant_scored``."""
    rows = sorted({one["n"] for one in facts["contestants"]})
    return dg.AssetCheckResult(passed=len(rows) == 1, check_name=SCORED.name, metadata={"rows": rows})


def needed(facts: dict[str, Any]) -> dg.AssetCheckResult:
    """The check ``beats_prompting``."""
    told = {one["label"]: one["against"] for one in facts["contestants"] if one["kind"] in UNTRAINED}
    open_to_doubt = {
        label: against["outcome"] if against else "not compared"
        for label, against in told.items()
        if not against or against["outcome"] != "better"
    }
    found = "; ".join(f"{label}: {outcome}" for label, outcome in open_to_doubt.items())
    return dg.AssetCheckResult(
        passed=not open_to_doubt,
        check_name=NEEDED.name,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{facts['best']} is not shown to be better than what learned nothing ({found})" if found else None,
        metadata={one["name"]: one["mean"] for one in facts["contestants"]},
    )


def shown(facts: dict[str, Any]) -> dict[str, Any]:
    """What the Dagster UI tells of a report: the headline, warnings, the plots a decision hangs on, and each score."""
    from ft_assets.report.drawn import figure_of_cost

    told = {
        "verdict": facts["verdict"],
        "headline": bullets(facts["told"]),
        "scores plot": image("scores", facts["contestants"], facts["metric"]),
    }
    if figure := figure_of_cost(facts):
        told["score against cost"] = picture("score against cost", figure)
    if facts["warnings"]:
        told["warnings"] = bullets(facts["warnings"])
    measures = {name: found["mean"] for name, found in facts["measures"].items()}
    return {**told, **{f"score {one['name']}": one["mean"] for one in facts["contestants"]}, **measures}


def stage_artifacts(run: RecipeRun) -> dict[str, Artifact]:
    """The artifacts the page speaks of, by role; stages the recipe leaves out are absent."""
    return {name: run.artifact(name) for name in ("evaluation", *BEFORE) if not run.stages[name].passes}


def quarantines(run: RecipeRun) -> dict[str, Artifact]:
    """The validated dataset of each batch the recipe uses, by ``source@batch``."""
    found = {}
    for role, (stage, fingerprint) in run.stages["tokenized_splits"].upstream.items():
        if stage == "validated_dataset":
            artifact = run.store.open(stage, fingerprint)
            assert artifact is not None, "the splits were made from it"
            found[role.partition(":")[2]] = artifact
    return found
