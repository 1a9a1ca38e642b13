"""Asset ``quantized_model``: the merged model in each form of the recipe, and the check that none of them is broken."""

from typing import Any

import dagster as dg

from ft_assets.assets.making import make_in_worker, recipe_run
from ft_assets.assets.training import GPU_POOL
from ft_assets.core.parity import REMEDY, faults
from ft_assets.core.stage import CODE_VERSIONS
from resources.catalog import CatalogResource
from resources.launching import Launcher
from resources.store import StoreResource
from resources.tracker import TrackerResource

PARITY = dg.AssetCheckSpec(
    "quantize_parity",
    asset="quantized_model",
    blocking=True,
    description="Each quantized form says on rows of the recipe what the merged model says, within what its number of bits explains, "
    "and each of its tensors is that of the merged model so far. What it costs in the task's score is for the report.",
)


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=partitions,
        deps=["merged_model", "tokenized_splits"],
        group_name="model",
        kinds={"bitsandbytes", "gguf", "safetensors"},
        owners=["team:ml"],
        pool=GPU_POOL,
        code_version=CODE_VERSIONS["quantized_model"],
        check_specs=[PARITY],
        description="Each quantized form the recipe lists, in a folder of its own that is loaded as it is.",
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
        return made.result(
            key, {f"{name} (MB)": round(size / 1e6, 1) for name, size in sizes.items()}, [quantize_parity(parity)]
        )

    return quantized_model


def quantize_parity(parity: dict[str, dict[str, Any]]) -> dg.AssetCheckResult:
    """``parity``: of each form, the measures of :mod:`ft_assets.worker.parity`."""
    found = {form: faults(form, measured) for form, measured in parity.items()}
    told = "; ".join(f"{form} is not the merged model: {', '.join(why)}" for form, why in found.items() if why)
    return dg.AssetCheckResult(
        passed=not told,
        check_name="quantize_parity",
        description=f"{told}. {REMEDY}" if told else None,
        metadata={f"{form} {name}": value for form, measured in parity.items() for name, value in measured.items()},
    )
