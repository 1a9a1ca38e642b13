"""Asset ``training_plan``: memory, time and cost of each stage, and the placement chosen before anything trains."""

from typing import Any

import dagster as dg

from ft_assets.assets.making import make_here, recipe_run
from ft_assets.core.artifact import Staging
from ft_assets.core.lineage import CODE_VERSIONS
from ft_assets.core.memory import GIB
from ft_assets.core.plan import as_json
from ft_assets.core.recipe_run import plans
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
        description="Peak memory, hours and dollars of each training stage, and the batch, accumulation and ZeRO stage "
        "chosen from them. Refuses what does not fit.",
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
        return made.result(
            f"{seconds / 60:.1f} min, ${dollars:.4f} predicted",
            {"plan": plan_table(found), "predicted cost (USD)": dollars, "predicted seconds": seconds},
        )

    return training_plan


def plan_table(plans: list[dict[str, Any]]) -> dg.TableMetadataValue:
    rows = [
        {
            "stage": plan["stage"],
            "processes": plan["processes"],
            "micro batch": plan["micro_batch"],
            "accumulation": plan["gradient_accumulation_steps"],
            "ZeRO": plan["zero_stage"],
            "steps": plan["steps"],
            "peak GiB": round(plan["peak_bytes"] / GIB, 2),
            "minutes": round(plan["seconds"] / 60, 2),
            "USD": plan["cost_usd"],
        }
        for plan in plans
    ]
    schema = dg.TableSchema(
        [
            dg.TableColumn(name, "string" if name == "stage" else "float")
            for name in (
                "stage",
                "processes",
                "micro batch",
                "accumulation",
                "ZeRO",
                "steps",
                "peak GiB",
                "minutes",
                "USD",
            )
        ]
    )
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema)
