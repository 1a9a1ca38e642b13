"""Asset ``base_model``: the pinned base as bf16 safetensors; its data version is the hash of weights and tokenizer."""

import dagster as dg

from ft_assets.assets.making import make_stage_in_worker
from ft_assets.core.lineage import base_stage
from ft_assets.core.stage import CODE_VERSIONS
from ft_assets.recipes.base import base_identity
from resources.catalog import CatalogResource
from resources.launching import Launcher
from resources.store import StoreResource
from resources.tracker import TrackerResource


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=partitions,
        group_name="model",
        kinds={"huggingface", "safetensors"},
        owners=["team:ml"],
        code_version=CODE_VERSIONS["base_model"],
        description="The base model the recipe names, as bf16 safetensors with its tokenizer and chat template.",
    )
    def base_model(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: Launcher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        known = catalog.load()
        recipe = known.recipe(context.partition_key)
        file, classifies = known.recipes[recipe.name].file, recipe.classifier is not None
        identity, path = base_identity(recipe.base_model, file, recipe.chat_template, classifies)
        made = make_stage_in_worker(
            context, base_stage(identity), recipe, launcher, store, tracker, {"path": str(path or "")}, None
        )
        metrics = made.manifest.metrics
        return made.result(
            f"{metrics['parameters'] / 1e6:.0f}M parameters",
            {
                "base model": recipe.base_model,
                "kind": identity["kind"],
                "content hash": metrics["content_hash"],
                **{key: metrics[key] for key in ("architecture", "layers", "hidden_size", "vocabulary")},
            },
            data_version=metrics["content_hash"],
        )

    return base_model
