"""Asset ``cpt_adapter``: continued pretraining on plain text."""

import dagster as dg

from ft_assets.assets.making import recipe_run
from ft_assets.assets.training import DEPS, GPU_POOL, finished_check, train
from ft_assets.core.lineage import CODE_VERSIONS
from resources.catalog import CatalogResource
from resources.launcher import LocalLauncher
from resources.store import StoreResource
from resources.tracker import TrackerResource


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=partitions,
        deps=[*DEPS],
        group_name="model",
        kinds={"pytorch", "huggingface"},
        owners=["team:ml"],
        pool=GPU_POOL,
        code_version=CODE_VERSIONS["cpt_adapter"],
        check_specs=[finished_check("cpt_adapter")],
        description="Continued pretraining on plain text, as a LoRA adapter on the base model.",
    )
    def cpt_adapter(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: LocalLauncher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        return train(context, recipe_run(context, catalog, store), "cpt_adapter", launcher, store, tracker)

    return cpt_adapter
