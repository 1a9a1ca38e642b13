"""Asset ``policy``: the SFT adapter, optimised on preferences (DPO or RLOO)."""

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
        deps=[*DEPS, "sft_adapter", "reward_model"],
        group_name="model",
        kinds={"pytorch", "huggingface"},
        owners=["team:ml"],
        pool=GPU_POOL,
        code_version=CODE_VERSIONS["policy"],
        check_specs=[finished_check("policy")],
        description="The SFT adapter optimised on preferences: DPO on the pairs, or RLOO against the reward model.",
    )
    def policy(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: LocalLauncher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        return train(context, recipe_run(context, catalog, store), "policy", launcher, store, tracker)

    return policy
