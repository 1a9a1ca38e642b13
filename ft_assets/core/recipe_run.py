"""A recipe as it stands now: its stages, computed from what has been ingested and made so far. No Dagster."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ft_assets.core import champion, overrides
from ft_assets.core.artifact import Artifact, ArtifactStore
from ft_assets.core.auto_round import FORM as AUTO_ROUND
from ft_assets.core.auto_round import group_size
from ft_assets.core.batches import BatchState, recipe_batches
from ft_assets.core.errors import MissingInput
from ft_assets.core.gguf import FORMS as GGUF_FORMS
from ft_assets.core.gguf import check_gguf
from ft_assets.core.lineage import Inputs, base_stage, model_stages
from ft_assets.core.plan import StagePlan, as_json, plan_recipe
from ft_assets.core.shape import Shape, read_shape
from ft_assets.core.stage import Stage
from ft_assets.recipes.base import base_identity
from ft_assets.recipes.load import Catalog
from ft_assets.recipes.schema import Recipe

TRAINED_BY = {
    "cpt_adapter": "cpt",
    "sft_sweep": "sft_sweep",
    "sft_adapter": "sft",
    "reward_model": "reward",
    "policy": "policy",
    "classifier": "classifier",
}


@dataclass(frozen=True)
class RecipeRun:
    """One recipe's stages as they stand now; ``published``: the models its candidate is judged against."""

    recipe: Recipe
    stages: dict[str, Stage]
    store: ArtifactStore
    published: tuple[champion.Merged, ...] = ()

    def artifact(self, name: str, only: Collection[str] | None = None) -> Artifact:
        """A stage's finished artifact.

        Args:
            only: the files that are wanted, all where None.

        Raises:
            MissingInput: it has not been made.
        """
        stage = self.stages[name]
        found = self.store.open(stage.made_by, stage.fingerprint, only)
        if found is None:
            raise MissingInput(_missing(stage.made_by, self.recipe.name))
        return found

    def data(self) -> set[str]:
        """Fingerprints of the validated batches all of it stands on."""
        upstream = self.stages["tokenized_splits"].upstream.values()
        return {fingerprint for stage, fingerprint in upstream if stage == "validated_dataset"}


def stages_of(
    catalog: Catalog,
    recipe: Recipe,
    store: ArtifactStore,
    states: Mapping[str, BatchState] | None = None,
    published: tuple[champion.Merged, ...] | None = None,
) -> RecipeRun:
    """A recipe's stages, from ``states`` of its batches and ``published`` models or, without, from what has been ingested and
    published so far.

    Raises:
        MissingInput: the base model or a batch of a source has not been made.
    """
    base = base_of(catalog, recipe)
    manifest = store.lookup("base_model", base.fingerprint)
    if manifest is None:
        raise MissingInput(_missing("base_model", recipe.name))
    if states is None:
        states = recipe_batches(catalog, recipe, store)
    if published is None:
        published = champion.published(champion.read(store, recipe.name))
    inputs = Inputs(
        _validated(recipe, states),
        base.fingerprint,
        manifest.metrics["content_hash"],
        published,
        overrides.read(store, recipe.name),
    )
    return RecipeRun(recipe, model_stages(recipe, inputs), store, published)


def base_of(catalog: Catalog, recipe: Recipe) -> Stage:
    file = catalog.recipes[recipe.name].file
    identity, _ = base_identity(recipe.base_model, file, recipe.chat_template, recipe.classifier is not None)
    return base_stage(identity)


def _missing(asset: str, recipe: str) -> str:
    return f"{asset} of {recipe} has not been made as the recipe stands now; run: ft run {recipe} --until {asset}"


def _validated(recipe: Recipe, states: Mapping[str, BatchState]) -> dict[str, dict[str, str]]:
    """Fingerprint of each validated batch by role. One batch that cannot be used stops the recipe: fewer rows than it
    names would make another model without a word.
    """
    found: dict[str, dict[str, str]] = {}
    faults = {key: state.fault for key, state in states.items() if state.fault}
    for role, names in recipe.data.sources().items():
        found[role] = {key: state.validated for key, state in states.items() if state.source in names}
        for name in names:
            if not any(state.source == name for state in states.values()):
                faults[name] = f"source {name} has no ingested batch"
    if faults:
        raise MissingInput(f"{'; '.join(faults.values())}. Then run: ft run {recipe.name} --until validated_dataset")
    return found


def plans(run: RecipeRun) -> list[StagePlan]:
    """The plan of a recipe whose base model and tokenized splits have been made."""
    return plan_recipe(run.recipe, *planned_from(run))


def planned_from(run: RecipeRun) -> tuple[Shape, dict[str, dict[str, int]], str]:
    """What a plan is made from beside the recipe: the model's shape, rows and tokens of each role, the device.

    Raises:
        FineTuneError: the model cannot be written in a form that the recipe wants of it at the end.
    """
    parts = run.artifact("tokenized_splits").manifest.metrics["parts"]
    splits = {
        role: {"rows": part["rows"]["train"], "tokens": part["tokens"], "longest": part["longest"]}
        for role, part in parts.items()
        if "tokens" in part
    }
    base = run.artifact("base_model").folder
    shape = read_shape(base)
    if set(run.recipe.quantize) & set(GGUF_FORMS):
        check_gguf(base)
    if AUTO_ROUND in run.recipe.quantize:
        group_size(shape)
    return shape, splits, planned_device(run.recipe)


def planned_device(recipe: Recipe) -> str:
    return "cuda" if recipe.hardware.gpus or recipe.hardware.device == "cuda" else "cpu"


def placement(run: RecipeRun, asset: str) -> dict[str, Any]:
    """The plan's entry for an asset that trains; of an SFT whose settings a sweep decides, the plan for those."""
    found: list[dict[str, Any]] = json.loads(run.artifact("training_plan").file("plan.json").read_text())
    if asset == "sft_adapter" and run.recipe.hyperparameters is not None:
        best = run.artifact("sft_sweep").json("best.json")
        found = as_json(plans(replace(run, recipe=run.recipe.with_values(best["values"]))))
    return next(plan for plan in found if plan["stage"] == TRAINED_BY[asset])


def execution(recipe: Recipe, stage: str) -> dict[str, Any]:
    """What a worker is told of the machine it works on, by the recipe; nothing of it changes what is made."""
    hardware = recipe.hardware
    return {
        "partition": recipe.name,
        "device": hardware.device,
        "dtype": hardware.dtype,
        "usd_per_hour": hardware.usd_per_hour,
        "batch_size": hardware.evaluation_batch_size,
        "memory_gib": hardware.memory_gib,
        "deepspeed": hardware.deepspeed,
        "torch_compile": hardware.torch_compile,
        "use_liger_kernel": hardware.use_liger_kernel,
        "full_determinism": hardware.full_determinism,
        "pods": hardware.pods.of(stage),
        **hardware.checkpoints(),
    }


def worker_request(
    recipe: Recipe, stage: Stage, store: Mapping[str, str], tracker: Mapping[str, str], told: Mapping[str, Any]
) -> dict[str, Any]:
    """What a worker is asked for.

    Args:
        store: ``url`` and ``local`` of the artifact store.
        told: of this stage alone, beside what each is told.
    """
    return {
        **stage.request(),
        "store": dict(store),
        "execution": {**execution(recipe, stage.name), "tracker": dict(tracker), **told},
    }


def placed(chosen: dict[str, Any]) -> dict[str, Any]:
    """What a worker is told of its placement. One that is planned for GPUs must not train on what else there is."""
    device = {"device": "cuda"} if chosen["gpu"] else {}
    return {"placement": chosen, "memory_gib": chosen["memory_gib"], "usd_per_hour": chosen["usd_per_hour"], **device}
