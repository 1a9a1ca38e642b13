"""Asset ``reward_model``: a scorer of answers, trained on preference pairs."""

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
        deps=[*DEPS, "sft_adapter"],
        group_name="model",
        kinds={"pytorch", "huggingface"},
        owners=["team:ml"],
        pool=GPU_POOL,
        code_version=CODE_VERSIONS["reward_model"],
        check_specs=[finished_check("reward_model")],
        description="A model that scores answers, trained on preference pairs from the SFT model.",
    )
    def reward_model(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: LocalLauncher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        return train(context, recipe_run(context, catalog, store), "reward_model", launcher, store, tracker)

    return reward_model
