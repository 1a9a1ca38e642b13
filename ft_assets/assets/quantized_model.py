"""Asset ``quantized_model``: the merged model in bitsandbytes' NF4 and int8."""

import dagster as dg

from ft_assets.assets.making import make_in_worker, recipe_run
from ft_assets.assets.training import GPU_POOL
from ft_assets.core.lineage import CODE_VERSIONS
from resources.catalog import CatalogResource
from resources.launching import Launcher
from resources.store import StoreResource
from resources.tracker import TrackerResource

LEAST_AGREEMENT = 0.5
PARITY = dg.AssetCheckSpec(
    "quantize_parity",
    asset="quantized_model",
    blocking=True,
    description="Each quantized form chooses the same next token as the merged model on at least half of the tokens of "
    "held-out rows. What it costs in the task's score is for the report; less than this is a broken file.",
)


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=partitions,
        deps=["merged_model", "tokenized_splits"],
        group_name="model",
        kinds={"bitsandbytes", "safetensors"},
        owners=["team:ml"],
        pool=GPU_POOL,
        code_version=CODE_VERSIONS["quantized_model"],
        check_specs=[PARITY],
        description="Each quantized form the recipe lists, in a folder of its own that transformers loads as it is.",
    )
    def quantized_model(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: Launcher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        run = recipe_run(context, catalog, store)
        splits = run.stages["tokenized_splits"]
        compared_on = {"splits": [splits.made_by, splits.fingerprint]}
        made = make_in_worker(context, run, "quantized_model", launcher, store, tracker, compared_on)
        if made.stage.passes:
            note = {"passes through": made.stage.passes}
            check = dg.AssetCheckResult(passed=True, check_name="quantize_parity", metadata=note)
            return made.result(f"is {made.stage.passes}", checks=[check])
        sizes, parity = made.manifest.metrics["size_bytes"], made.manifest.metrics["parity"]
        agreement = {name: compared["token_agreement"] for name, compared in parity.items()}
        key = ", ".join(
            f"{name} {sizes[name] / 1e6:.0f} MB, {share:.0%} token agreement" for name, share in agreement.items()
        )
        check = dg.AssetCheckResult(
            passed=all(share >= LEAST_AGREEMENT for share in agreement.values()),
            check_name="quantize_parity",
            metadata={
                f"{name} {measure}": value for name, compared in parity.items() for measure, value in compared.items()
            },
        )
        return made.result(key, {f"{name} (MB)": round(size / 1e6, 1) for name, size in sizes.items()}, [check])

    return quantized_model
