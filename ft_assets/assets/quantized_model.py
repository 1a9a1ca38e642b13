"""Asset ``quantized_model``: the merged model in bitsandbytes' NF4 and int8."""

import dagster as dg

from ft_assets.assets.making import make_in_worker, recipe_run
from ft_assets.assets.training import GPU_POOL
from ft_assets.core.lineage import CODE_VERSIONS
from resources.catalog import CatalogResource
from resources.launcher import LocalLauncher
from resources.store import StoreResource
from resources.tracker import TrackerResource


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=partitions,
        deps=["merged_model"],
        group_name="model",
        kinds={"bitsandbytes", "safetensors"},
        owners=["team:ml"],
        pool=GPU_POOL,
        code_version=CODE_VERSIONS["quantized_model"],
        description="Each quantized form the recipe lists, in a folder of its own that transformers loads as it is.",
    )
    def quantized_model(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: LocalLauncher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        made = make_in_worker(context, recipe_run(context, catalog, store), "quantized_model", launcher, store, tracker)
        if made.stage.passes:
            return made.result(f"is {made.stage.passes}")
        sizes = made.manifest.metrics["size_bytes"]
        key = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.items() if name != "merged")
        return made.result(key, {f"{name} (MB)": round(size / 1e6, 1) for name, size in sizes.items()})

    return quantized_model
