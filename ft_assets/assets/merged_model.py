"""Asset ``merged_model``: the last adapter folded into the base weights, and the check that nothing broke in it."""

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
    "merge_parity",
    asset="merged_model",
    blocking=True,
    description="Merged weights say what adapter-on-base says on rows of the recipe: logits, first choice, distribution and "
    "perplexity of the answers; and each tensor of the file is what was merged.",
)


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=partitions,
        deps=["base_model", "tokenized_splits", "policy", "classifier"],
        group_name="model",
        kinds={"safetensors"},
        owners=["team:ml"],
        pool=GPU_POOL,
        code_version=CODE_VERSIONS["merged_model"],
        check_specs=[PARITY],
        description="One model without adapters: what transformers, vLLM and the rest load.",
    )
    def merged_model(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: Launcher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        run = recipe_run(context, catalog, store)
        splits = run.stages["tokenized_splits"]
        made = make_in_worker(
            context, run, "merged_model", launcher, store, tracker, {"splits": [splits.made_by, splits.fingerprint]}
        )
        if made.stage.passes:
            note = {"passes through": made.stage.passes}
            check = dg.AssetCheckResult(passed=True, check_name="merge_parity", metadata=note)
            return made.result(f"is {made.stage.passes}", checks=[check])
        parity = made.manifest.metrics["parity"]
        return made.result(f"{parity['token_agreement']:.1%} token agreement", parity, [merge_parity(parity)])

    return merged_model


def merge_parity(parity: dict[str, Any]) -> dg.AssetCheckResult:
    found = faults("merged", parity)
    return dg.AssetCheckResult(
        passed=not found,
        check_name="merge_parity",
        description=f"the merged weights are not the adapter on its base: {'; '.join(found)}. {REMEDY}"
        if found
        else None,
        metadata=parity,
    )
