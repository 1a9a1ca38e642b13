"""A recipe as it stands now: its stages, computed from what has been ingested and made so far. No Dagster."""

import json
from dataclasses import dataclass
from typing import Any

from ft_assets.core.artifact import Artifact, ArtifactStore
from ft_assets.core.errors import MissingInput
from ft_assets.core.lineage import Inputs, Stage, base_stage, model_stages, validated_stage
from ft_assets.core.plan import StagePlan, plan_recipe, read_shape
from ft_assets.recipes.base import base_identity
from ft_assets.recipes.load import Catalog
from ft_assets.recipes.schema import Recipe

TRAINED_BY = {"cpt_adapter": "cpt", "sft_adapter": "sft", "reward_model": "reward", "policy": "policy"}


@dataclass(frozen=True)
class RecipeRun:
    """One recipe's stages as they stand now."""

    recipe: Recipe
    stages: dict[str, Stage]
    store: ArtifactStore

    def artifact(self, name: str) -> Artifact:
        """A stage's finished artifact.

        Raises:
            MissingInput: it has not been made.
        """
        stage = self.stages[name]
        found = self.store.open(stage.made_by, stage.fingerprint)
        if found is None:
            raise MissingInput(_missing(stage.made_by, self.recipe.name))
        return found


def stages_of(catalog: Catalog, recipe: Recipe, store: ArtifactStore) -> RecipeRun:
    """A recipe's stages.

    Raises:
        MissingInput: the base model or a batch of a source has not been made.
    """
    base = base_of(catalog, recipe)
    manifest = store.lookup("base_model", base.fingerprint)
    if manifest is None:
        raise MissingInput(_missing("base_model", recipe.name))
    inputs = Inputs(_validated(catalog, recipe, store), base.fingerprint, manifest.metrics["content_hash"])
    return RecipeRun(recipe, model_stages(recipe, inputs), store)


def base_of(catalog: Catalog, recipe: Recipe) -> Stage:
    identity, _ = base_identity(recipe.base_model, catalog.recipes[recipe.name].file)
    return base_stage(identity)


def _missing(asset: str, recipe: str) -> str:
    return f"{asset} of {recipe} has not been made as the recipe stands now; run: ft run {recipe} --until {asset}"


def _validated(catalog: Catalog, recipe: Recipe, store: ArtifactStore) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for role, names in recipe.data.sources().items():
        batches: dict[str, str] = {}
        for name in names:
            source = catalog.source(name)
            refs = store.refs("raw_corpus", f"{name}@")
            if not refs:
                raise MissingInput(
                    f"source {name} has no ingested batch; run: ft run {recipe.name} --until validated_dataset"
                )
            for key, ref in refs.items():
                stage = validated_stage(source, ref["fingerprint"])
                manifest = store.lookup("validated_dataset", stage.fingerprint)
                if manifest is None:
                    raise MissingInput(
                        f"validated_dataset of {key} has not been made as the source stands now; "
                        f"run: ft run {recipe.name} --until validated_dataset"
                    )
                if manifest.metrics["quarantined_share"] > source.max_quarantined_share:
                    raise MissingInput(
                        f"{key} failed its check: {manifest.metrics['quarantined_share']:.0%} of its rows are "
                        f"quarantined, max_quarantined_share allows {source.max_quarantined_share:.0%}"
                    )
                batches[key] = stage.fingerprint
        found[role] = batches
    return found


def plans(run: RecipeRun) -> list[StagePlan]:
    """The plan of a recipe whose base model and tokenized splits have been made."""
    parts = run.artifact("tokenized_splits").manifest.metrics["parts"]
    splits = {
        role: {"rows": part["rows"]["train"], "tokens": part["tokens"], "longest": part["longest"]}
        for role, part in parts.items()
        if "tokens" in part
    }
    device = "cuda" if run.recipe.hardware.device == "cuda" else "cpu"
    return plan_recipe(run.recipe, read_shape(run.artifact("base_model").folder), splits, device)


def placement(run: RecipeRun, asset: str) -> dict[str, Any]:
    """The plan's entry for an asset that trains."""
    found: list[dict[str, Any]] = json.loads(run.artifact("training_plan").file("plan.json").read_text())
    return next(plan for plan in found if plan["stage"] == TRAINED_BY[asset])
