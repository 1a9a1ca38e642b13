"""Asset ``training_plan``: memory, time and cost of each stage, and the placement chosen before anything trains."""

from typing import Any

import dagster as dg

from ft_assets.assets.making import make_here, recipe_run
from ft_assets.assets.showing import image, table_schema
from ft_assets.core.artifact import Staging
from ft_assets.core.plan import StagePlan, as_json
from ft_assets.core.recipe_run import plans
from ft_assets.core.stage import CODE_VERSIONS
from ft_assets.report.placing import duration, plan_row
from resources.catalog import CatalogResource
from resources.store import StoreResource


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=partitions,
        deps=["base_model", "tokenized_splits"],
        group_name="model",
        kinds={"json"},
        owners=["team:ml"],
        code_version=CODE_VERSIONS["training_plan"],
        description="Where each training stage runs: the GPUs, ZeRO stage, offload and batch that cost least of all that fit, with "
        "memory, hours and dollars. Refuses what does not fit.",
    )
    def training_plan(
        context: dg.AssetExecutionContext, store: StoreResource, catalog: CatalogResource
    ) -> dg.MaterializeResult:
        run = recipe_run(context, catalog, store)

        def produce(staging: Staging) -> None:
            staging.write_json("plan.json", as_json(plans(run)))

        made = make_here(context, run.stages["training_plan"], run.store, 0.0, produce)
        found = made.artifact.json("plan.json")
        seconds, dollars = sum(plan["seconds"] for plan in found), sum(plan["cost_usd"] for plan in found)
        shown = {
            "plan": plan_table(found),
            "why": dg.MetadataValue.md("\n".join(f"- **{plan['stage']}**: {plan['why']}" for plan in found)),
            "memory": image("stage_memory", found),
            "placements considered": sum(plan["considered"] for plan in found),
            "placements that fit": sum(plan["fitting"] for plan in found),
            "predicted cost (USD)": dollars,
            "predicted seconds": seconds,
        }
        return made.result(f"{duration(seconds)}, ${dollars:.4f} predicted", shown)

    return training_plan


def plan_table(plans: list[dict[str, Any]]) -> dg.TableMetadataValue:
    rows = [plan_row(StagePlan(**plan)) for plan in plans]
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], table_schema(dict.fromkeys(rows[0], "string")))
