"""Asset ``sft_adapter``: supervised fine-tuning, continuing the adapter before it."""

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
        deps=[*DEPS, "cpt_adapter"],
        group_name="model",
        kinds={"pytorch", "huggingface"},
        owners=["team:ml"],
        pool=GPU_POOL,
        code_version=CODE_VERSIONS["sft_adapter"],
        check_specs=[finished_check("sft_adapter")],
        description="Supervised fine-tuning on instruction rows; continues the adapter of continued pretraining.",
    )
    def sft_adapter(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: LocalLauncher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        return train(context, recipe_run(context, catalog, store), "sft_adapter", launcher, store, tracker)

    return sft_adapter
