"""Asset ``sft_sweep``: a search for the settings of SFT; the best trial's go into ``sft_adapter``."""

from typing import Any

import dagster as dg

from ft_assets.assets.making import Made, make_in_worker, recipe_run
from ft_assets.assets.showing import image
from ft_assets.assets.training import DEPS, GPU_POOL
from ft_assets.core.recipe_run import placed, placement
from ft_assets.core.stage import CODE_VERSIONS
from resources.catalog import CatalogResource
from resources.launching import Launcher
from resources.store import StoreResource
from resources.tracker import TrackerResource


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=partitions,
        deps=[*DEPS, "cpt_adapter"],
        group_name="model",
        kinds={"optuna", "pytorch"},
        owners=["team:ml"],
        pool=GPU_POOL,
        code_version=CODE_VERSIONS["sft_sweep"],
        description="Trials of supervised fine-tuning with settings that Optuna proposes, where the recipe has "
        "`hyperparameters`; the best trial's settings are those of `sft_adapter`.",
    )
    def sft_sweep(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: Launcher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        run = recipe_run(context, catalog, store)
        stage, hardware = run.stages["sft_sweep"], run.recipe.hardware
        if stage.passes:
            made = make_in_worker(context, run, "sft_sweep", launcher, store, tracker)
            return made.result("no search in the recipe")
        execution = {
            **placed(placement(run, "sft_sweep")),
            "parallel_trials": hardware.parallel_trials,
            "threads": hardware.threads_per_process,
        }
        return shown(make_in_worker(context, run, "sft_sweep", launcher, store, tracker, execution))

    return sft_sweep


def shown(made: Made) -> dg.MaterializeResult:
    metrics, trials = made.manifest.metrics, made.artifact.json("trials.json")
    metadata = {
        **{name: metrics[name] for name in ("trials", "complete", "pruned", "diverged", "best_loss", "best_trial")},
        "best values": dg.MetadataValue.json(metrics["best_values"]),
        "trials table": trials_table(trials),
        "losses by trial": image("trials", trials),
        "losses by value": image("slices", trials),
        "losses while they trained": image("trial_curves", trials),
    }
    key = f"best loss {metrics['best_loss']:.3f} in trial {metrics['best_trial']} of {metrics['trials']}"
    return made.result(key, metadata)


def trials_table(trials: list[dict[str, Any]]) -> dg.TableMetadataValue:
    """One row for each trial, the best first; those without a loss last."""
    names = list(trials[0]["values"])
    columns = {"trial": "int", "state": "string", "loss": "float", **dict.fromkeys(names, "string")}
    columns |= {"steps": "int", "of": "int", "seconds": "float"}
    ranked = sorted(trials, key=lambda trial: (trial["state"] != "complete", trial["loss"] is None, trial["loss"]))
    rows = [
        {
            "trial": trial["number"],
            "state": trial["state"],
            "loss": trial["loss"],
            **{
                name: f"{value:.4g}" if isinstance(value, float) else str(value)
                for name, value in trial["values"].items()
            },
            "steps": trial["steps"],
            "of": trial["planned_steps"],
            "seconds": round(trial["seconds"], 1),
        }
        for trial in ranked
    ]
    schema = dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()])
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema)
