"""What the training assets share: run the worker under torchrun as the plan says, show the loss curve, check the end."""

from typing import Any

import dagster as dg

from ft_assets.assets.making import Made, make_in_worker, recipe_run
from ft_assets.assets.showing import image
from ft_assets.core.recipe_run import RecipeRun, placed, placement
from ft_assets.core.stage import CODE_VERSIONS
from resources.catalog import CatalogResource
from resources.launching import Launcher
from resources.store import StoreResource
from resources.tracker import TrackerResource

GPU_POOL = "gpu"
DEPS = ("base_model", "tokenized_splits", "training_plan")


def finished_check(asset: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        f"{asset}_finished",
        asset=asset,
        blocking=True,
        description="Every planned optimizer step was done and the loss is a finite number.",
    )


def training_asset(
    name: str, partitions: dg.StaticPartitionsDefinition, after: list[str], description: str
) -> dg.AssetsDefinition:
    """An asset that trains; ``after`` names the training assets it continues or reads."""

    @dg.asset(
        name=name,
        partitions_def=partitions,
        deps=[*DEPS, *after],
        group_name="model",
        kinds={"pytorch", "huggingface"},
        owners=["team:ml"],
        pool=GPU_POOL,
        code_version=CODE_VERSIONS[name],
        check_specs=[finished_check(name)],
        description=description,
    )
    def asset(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: Launcher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        return train(context, recipe_run(context, catalog, store), name, launcher, store, tracker)

    return asset


def train(
    context: dg.AssetExecutionContext,
    run: RecipeRun,
    name: str,
    launcher: Launcher,
    store: StoreResource,
    tracker: TrackerResource,
) -> dg.MaterializeResult:
    """Makes a training asset, or passes its parent through where the recipe leaves the stage out."""
    stage = run.stages[name]
    if stage.passes:
        made = make_in_worker(context, run, name, launcher, store, tracker)
        return made.result(
            f"is {stage.passes}",
            checks=[
                dg.AssetCheckResult(
                    passed=True, check_name=f"{name}_finished", metadata={"passes through": stage.passes}
                )
            ],
        )
    chosen = placement(run, name)
    made = make_in_worker(context, run, name, launcher, store, tracker, placed(chosen), chosen["processes"])
    return shown(made, name, chosen)


def shown(made: Made, name: str, chosen: dict[str, Any]) -> dg.MaterializeResult:
    metrics, history = made.manifest.metrics, made.artifact.json("history.json")
    finite = metrics["final_loss"] == metrics["final_loss"] and abs(metrics["final_loss"]) != float("inf")
    check = dg.AssetCheckResult(
        passed=metrics["steps"] == chosen["steps"] and finite,
        check_name=f"{name}_finished",
        metadata={"steps": metrics["steps"], "planned": chosen["steps"], "final loss": metrics["final_loss"]},
    )
    best = metrics.get("validation_eval_accuracy", metrics.get("validation_accuracy"))
    key = (
        f"accuracy {best:.2f}"
        if best is not None
        else f"loss {metrics['first_loss']:.2f} to {metrics['final_loss']:.2f}"
    )
    return made.result(
        key,
        {
            **metrics,
            "loss curve": image("loss_curve", history, name),
            "resumed from step": made.manifest.execution.get("resumed_from_step", 0),
            "dtype": made.manifest.execution.get("dtype", ""),
            "processes": chosen["processes"],
            "nodes": chosen["nodes"],
            "GPU": chosen["gpu"] or "none named",
            "ZeRO stage": chosen["zero_stage"],
            "micro batch": chosen["micro_batch"],
            "predicted peak (MB)": round(chosen["peak_bytes"] / 1e6),
        },
        [check],
    )
