"""``ft deploy``: what recipes become on a cluster, for who runs it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ft_assets.arguments import AsJson, RecipeArgument, open_recipe
from ft_assets.core.errors import FineTuneError, MissingInput
from ft_assets.core.predicting import batches_to_answer, find_model, prediction_stage
from ft_assets.core.recipe_run import TRAINED_BY, RecipeRun, execution, placed, plans, stages_of
from ft_assets.core.stage import Stage
from ft_assets.recipes.load import Catalog
from ft_assets.terminal import print_table
from resources.environment import Settings, prepare_dagster_home, settings
from resources.kubernetes.client import Api
from resources.kubernetes.cluster import Cluster, load_cluster
from resources.kubernetes.objects import Manifest, objects
from resources.kubernetes.workload import workload
from resources.worker import GRACE_SECONDS

deploy_app = typer.Typer(no_args_is_help=True, help="What recipes become on a cluster.")

# Assets whose work a worker does, and the stage each asks it for.
IN_WORKERS = {
    "base_model": "base_model",
    "tokenized_splits": "tokenized_splits",
    **{asset: asset for asset in TRAINED_BY},
    "merged_model": "merged_model",
    "quantized_model": "quantized_model",
    "eval_report": "evaluation",
    "batch_predictions": "batch_predictions",
}
NO_RUN = "00000000-0000-0000-0000-000000000000"


@deploy_app.callback()
def _deploy() -> None:
    pass


@deploy_app.command("render")
def render(
    recipe: RecipeArgument,
    stage: Annotated[
        list[str] | None, typer.Option(help="An asset; may be given several times. All without it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the Kubernetes objects that a recipe's stages become, as they would be created now."""
    unknown = sorted(set(stage or ()) - set(IN_WORKERS))
    if unknown:
        raise FineTuneError(f"--stage {unknown[0]!r}: no asset that runs in pods; allowed: {', '.join(IN_WORKERS)}")
    found, known, name = open_recipe(recipe)
    made, missing = rendered(found, known, name, load_cluster(_file_of(found)), stage or list(IN_WORKERS))
    if as_json:
        print(json.dumps({"stages": made, "missing": missing}, indent=1))
    else:
        _print_yaml(made, missing)
    if missing:
        raise typer.Exit(3)


@deploy_app.command("sweep")
def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also Jobs whose run this Dagster instance does not know.")
    ] = False,
    older_than_minutes: Annotated[int, typer.Option(min=0, max=525_600, help="Leave younger Jobs alone.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Delete Jobs that no run waits for any more; what they saved stays, and a later run resumes from it."""
    from dagster import DagsterInstance

    from resources.kubernetes import orphans

    found = settings()
    api = Api(load_cluster(_file_of(found)).namespace)
    prepare_dagster_home(found)
    with DagsterInstance.get() as instance:

        def status_of(run_id: str) -> str | None:
            run = instance.get_run_by_id(run_id)
            return run.status.value if run is not None else None

        lost = orphans.orphans(api, status_of, older_than_minutes * 60.0)
    going = [orphan for orphan in lost if orphan.known or unknown]
    if not dry_run:
        orphans.sweep(api, going)
    if as_json:
        print(json.dumps([{**asdict(each), "deleted": each in going and not dry_run} for each in lost], indent=1))
        return
    word = "would be deleted" if dry_run else "deleted"
    rows = [[o.job, o.stage, o.run, o.why, word if o in going else "left (--unknown deletes it)"] for o in lost]
    print_table("", ["job", "stage", "run", "why", ""], rows)


def _file_of(found: Settings) -> Path:
    """The deployment's file."""
    if found.pods is None:
        raise FineTuneError(
            "FT_PODS names no file; it says in which namespace pods run, and how; see docs/kubernetes.md"
        )
    return found.pods


def rendered(
    found: Settings, known: Catalog, name: str, cluster: Cluster, assets: list[str]
) -> tuple[dict[str, list[Manifest]], dict[str, str]]:
    """The objects of each asset that the recipe makes in a worker, and why others have none yet.

    Raises:
        MissingInput: nothing of it can be said before its base model and its batches are there.
        FineTuneError: the settings cannot be pods.
    """
    run = stages_of(known, known.recipe(name), found.open_store())
    placements, unplanned = _placements(run)
    made: dict[str, list[Manifest]] = {}
    missing: dict[str, str] = {}
    for asset in (asset for asset in IN_WORKERS if asset in assets):
        try:
            stage = _predictions(known, run) if asset == "batch_predictions" else run.stages[IN_WORKERS[asset]]
        except MissingInput as error:
            missing[asset] = str(error)
            continue
        if stage is None or stage.passes:
            continue
        if asset in TRAINED_BY and unplanned:
            missing[asset] = unplanned
            continue
        placement = placements.get(TRAINED_BY.get(asset, ""))
        told = {**execution(run.recipe, stage.name), **(placed(placement) if placement is not None else {})}
        request = {**stage.request(), "stage": IN_WORKERS[asset], "execution": told}
        trains = placement is not None and asset != "sft_sweep"
        load = workload(
            request,
            cluster,
            run_id=NO_RUN,
            asset=asset,
            attempt=1,
            processes=placement["processes"] if placement is not None and trains else None,
            threads=run.recipe.hardware.threads_per_process,
            request_path=str(found.home / "runs" / NO_RUN / stage.name / "request.json"),
            grace_seconds=GRACE_SECONDS,
        )
        made[asset] = objects(load)
    return made, missing


def _predictions(known: Catalog, run: RecipeRun) -> Stage | None:
    """The predictions of the first batch that the recipe answers; None where it answers none.

    Raises:
        MissingInput: there is no such batch yet, or no model.
    """
    recipe = run.recipe
    if recipe.predictions is None:
        return None
    rows = batches_to_answer(known, recipe, run.store)
    if not rows:
        raise MissingInput(
            f"no batch of {', '.join(recipe.predictions.sources)} is ingested; run: ft predict {recipe.name}"
        )
    model = find_model(known, recipe, run.store, recipe.predictions.model)
    return prediction_stage(model, next(iter(rows.values())), recipe.predictions.max_new_tokens)


def _placements(run: RecipeRun) -> tuple[dict[str, dict[str, Any]], str]:
    """The plan of each stage that trains, by its name in the plan; or why there is none."""
    try:
        return {plan.stage: asdict(plan) for plan in plans(run)}, ""
    except MissingInput as error:
        return {}, str(error)


def _print_yaml(made: dict[str, list[Manifest]], missing: dict[str, str]) -> None:
    for asset, manifests in made.items():
        print(f"# {asset}. The names hold a hash of the run, whose id is not known yet.")
        print(yaml.safe_dump_all(manifests, sort_keys=False, explicit_start=True), end="")
    for asset, why in missing.items():
        print(f"# {asset} has no plan yet: {why}")
