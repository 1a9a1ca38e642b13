"""``ft deploy``: what recipes become on a cluster, for who runs it."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
import yaml

from ft_assets.arguments import AsJson, RecipeArgument, open_recipe
from ft_assets.core.errors import FineTuneError, MissingInput
from ft_assets.core.recipe_run import TRAINED_BY, RecipeRun, plans, stages_of
from ft_assets.recipes.load import Catalog
from resources.environment import Settings
from resources.kubernetes.cluster import Cluster, load_cluster
from resources.kubernetes.objects import Manifest, objects
from resources.kubernetes.workload import workload

deploy_app = typer.Typer(no_args_is_help=True, help="What recipes become on a cluster.")

# Assets whose work a worker does, and the stage each asks it for.
IN_WORKERS = {
    "base_model": "base_model",
    "tokenized_splits": "tokenized_splits",
    **{asset: asset for asset in TRAINED_BY},
    "merged_model": "merged_model",
    "quantized_model": "quantized_model",
    "eval_report": "evaluation",
}
NO_RUN = "00000000-0000-0000-0000-000000000000"
GRACE_SECONDS = 30.0


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
    if found.pods is None:
        raise FineTuneError(
            "FT_PODS names no file; it says in which namespace pods run, and how; see docs/kubernetes.md"
        )
    made, missing = rendered(found, known, name, load_cluster(found.pods), stage or list(IN_WORKERS))
    if as_json:
        print(json.dumps({"stages": made, "missing": missing}, indent=1))
    else:
        _print_yaml(made, missing)
    if missing:
        raise typer.Exit(3)


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
        stage = run.stages[IN_WORKERS[asset]]
        if stage.passes:
            continue
        if asset in TRAINED_BY and unplanned:
            missing[asset] = unplanned
            continue
        placement = placements.get(TRAINED_BY.get(asset, ""))
        request = {**stage.request(), "stage": IN_WORKERS[asset], "execution": _execution(run, stage.name, placement)}
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


def _placements(run: RecipeRun) -> tuple[dict[str, dict[str, Any]], str]:
    """The plan of each stage that trains, by its name in the plan; or why there is none."""
    try:
        return {plan.stage: asdict(plan) for plan in plans(run)}, ""
    except MissingInput as error:
        return {}, str(error)


def _execution(run: RecipeRun, stage: str, placement: dict[str, Any] | None) -> dict[str, Any]:
    hardware = run.recipe.hardware
    told = {"partition": run.recipe.name, "device": hardware.device, "memory_gib": hardware.memory_gib}
    planned = {} if placement is None else {"placement": placement}
    return {**told, "pods": hardware.pods.of(stage), **planned}


def _print_yaml(made: dict[str, list[Manifest]], missing: dict[str, str]) -> None:
    for asset, manifests in made.items():
        print(f"# {asset}. The names hold a hash of the run, whose id is not known yet.")
        print(yaml.safe_dump_all(manifests, sort_keys=False, explicit_start=True), end="")
    for asset, why in missing.items():
        print(f"# {asset} has no plan yet: {why}")
