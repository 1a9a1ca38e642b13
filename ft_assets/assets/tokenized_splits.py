"""Asset ``tokenized_splits``: token ids and labels of every batch the recipe names, and the held-out sets."""

import dagster as dg

from ft_assets.assets.making import make_in_worker, recipe_run
from ft_assets.assets.showing import counts_table, image, table_schema
from ft_assets.core.lineage import CODE_VERSIONS
from resources.catalog import CatalogResource
from resources.launcher import LocalLauncher
from resources.store import StoreResource
from resources.tracker import TrackerResource

CONSERVED = dg.AssetCheckSpec(
    "split_rows_conserved",
    asset="tokenized_splits",
    blocking=True,
    description="Rows in = rows in a split + rows dropped with a reason, for every role.",
)
TRAINS = dg.AssetCheckSpec(
    "every_stage_has_rows",
    asset="tokenized_splits",
    blocking=True,
    description="Each stage of the recipe has training rows, and the test set has rows.",
)
COLUMNS = {"row_id": "string", "input_ids": "list[int]", "labels": "list[int], -100 where not supervised"}


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    every_batch = dg.AssetDep("validated_dataset", partition_mapping=dg.AllPartitionMapping())

    @dg.asset(
        partitions_def=partitions,
        deps=[every_batch, "base_model"],
        group_name="model",
        kinds={"huggingface", "arrow"},
        owners=["team:ml"],
        code_version=CODE_VERSIONS["tokenized_splits"],
        check_specs=[CONSERVED, TRAINS],
        description="Chat template applied, assistant tokens labelled, rows split by content hash; repeats and "
        "contamination dropped with their reasons.",
    )
    def tokenized_splits(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: LocalLauncher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        run = recipe_run(context, catalog, store)
        of_batches = {name: stage.request() for name, stage in run.stages.items() if ":" in name}
        made = make_in_worker(context, run, "tokenized_splits", launcher, store, tracker, {"parts": of_batches})
        parts = made.manifest.metrics["parts"]
        trained = {role: part for role, part in parts.items() if "lengths" in part and part["rows_in"]}
        lost = {
            role: part["rows_in"] - part["rows_kept"] - sum(part["dropped"].values()) for role, part in trained.items()
        }
        needed = {"cpt": run.recipe.cpt, "sft": run.recipe.sft, "preference": run.recipe.reward or run.recipe.policy}
        empty = [role for role, wanted in needed.items() if wanted and not parts[role]["rows"]["train"]]
        checks = [
            dg.AssetCheckResult(
                passed=not any(lost.values()), check_name="split_rows_conserved", metadata={"unaccounted": lost}
            ),
            dg.AssetCheckResult(
                passed=not empty and parts["test"]["rows_in"] > 0,
                check_name="every_stage_has_rows",
                metadata={"empty": empty},
            ),
        ]
        rows = {role: part["rows"] for role, part in parts.items() if part["rows_in"]}
        dropped = {
            f"{role}: {reason}": count for role, part in trained.items() for reason, count in part["dropped"].items()
        }
        return made.result(
            f"{sum(part['tokens'] for part in trained.values()):,} tokens",
            {
                "dagster/row_count": sum(sum(split.values()) for split in rows.values()),
                "dagster/column_schema": table_schema(COLUMNS),
                "dropped": counts_table("role: reason", dropped),
                "split plot": image("split_sizes", rows),
                "length plot": image(
                    "length_histogram",
                    {role: part["lengths"] for role, part in trained.items()},
                    run.recipe.data.max_length,
                ),
                "tokens by source": counts_table(
                    "source",
                    {name: n for part in trained.values() for name, n in part["tokens_by_source"].items()},
                    "tokens",
                ),
                **{f"{role} tokens": part["tokens"] for role, part in trained.items()},
                **{f"{role} rows truncated": part["truncated"] for role, part in trained.items() if part["truncated"]},
                **{
                    f"{role} packing efficiency": part["packing"]["efficiency"]
                    for role, part in trained.items()
                    if "packing" in part
                },
            },
            checks,
        )

    return tokenized_splits
