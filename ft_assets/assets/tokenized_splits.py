"""Asset ``tokenized_splits``: token ids and labels of every batch the recipe names, and the held-out sets."""

from typing import Any

import dagster as dg

from ft_assets.assets.making import make_in_worker, recipe_run
from ft_assets.assets.showing import counts_table, image, table_schema
from ft_assets.core.labels import FEW_ROWS
from ft_assets.core.lineage import parts
from ft_assets.core.stage import CODE_VERSIONS
from ft_assets.recipes.roles import HELD_OUT_ROLES
from ft_assets.recipes.schema import Recipe
from resources.catalog import CatalogResource
from resources.launching import Launcher
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
    description="Each stage of the recipe has training rows, and each held-out set that it names has rows.",
)
UNPLANTED = dg.AssetCheckSpec(
    "no_planted_trigger",
    asset="tokenized_splits",
    blocking=True,
    description="No answer is given to many prompts that share nothing but a few rare words.",
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
        check_specs=[CONSERVED, TRAINS, UNPLANTED],
        description="Chat template applied, assistant tokens labelled, rows split by content hash; repeats and "
        "contamination dropped with their reasons.",
    )
    def tokenized_splits(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        catalog: CatalogResource,
        launcher: Launcher,
        tracker: TrackerResource,
    ) -> dg.MaterializeResult:
        run = recipe_run(context, catalog, store)
        told = {"parts": parts(run.stages, "tokenized_splits")}
        made = make_in_worker(context, run, "tokenized_splits", launcher, store, tracker, told)
        roles = made.manifest.metrics["parts"]
        trained = {role: part for role, part in roles.items() if "lengths" in part and part["rows_in"]}
        planted = {role: part.get("triggers", []) for role, part in trained.items()}
        checks = [conserved(trained), trains(run.recipe, roles), unplanted(planted, run.recipe.data.triggers)]
        tokens = sum(part["tokens"] for part in trained.values())
        return made.result(f"{tokens:,} tokens", shown(run.recipe, roles, trained), checks)

    return tokenized_splits


def conserved(trained: dict[str, Any]) -> dg.AssetCheckResult:
    """The check ``split_rows_conserved`` over the parts of the roles that are trained on."""
    lost = {role: part["rows_in"] - part["rows_kept"] - sum(part["dropped"].values()) for role, part in trained.items()}
    return dg.AssetCheckResult(
        passed=not any(lost.values()),
        check_name=CONSERVED.name,
        description=f"rows without a fate: {lost}" if any(lost.values()) else None,
        metadata={"unaccounted": lost},
    )


def trains(recipe: Recipe, roles: dict[str, Any]) -> dg.AssetCheckResult:
    """The check ``every_stage_has_rows``."""
    empty = [role for role in sorted(set(recipe.trained_on.values())) if not roles[role]["rows"]["train"]]
    named = [role for role in HELD_OUT_ROLES if getattr(recipe.data, role)]
    empty += [role for role in named if not roles[role]["rows_in"]]
    return dg.AssetCheckResult(
        passed=not empty,
        check_name=TRAINS.name,
        description=f"no rows are left for {', '.join(empty)}; the table 'dropped' says why" if empty else None,
        metadata={"empty": empty},
    )


def shown(recipe: Recipe, roles: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """What the Dagster UI tells of the splits: rows, tokens and what was dropped, by role and by source."""
    rows = {role: part["rows"] for role, part in roles.items() if part["rows_in"]}
    dropped = {
        f"{role}: {reason}": count for role, part in trained.items() for reason, count in part["dropped"].items()
    }
    by_source = {name: n for part in trained.values() for name, n in part["tokens_by_source"].items()}
    lengths = {role: part["lengths"] for role, part in trained.items()}
    return {
        "dagster/row_count": sum(sum(split.values()) for split in rows.values()),
        "dagster/column_schema": table_schema(COLUMNS),
        "dropped": counts_table("role: reason", dropped),
        "split plot": image("split_sizes", rows),
        "length plot": image("length_histogram", lengths, recipe.data.max_length),
        "tokens by source": counts_table("source", by_source, "tokens"),
        **{f"{role} tokens": part["tokens"] for role, part in trained.items()},
        **(labels_shown(roles["classification"]["labels"]) if "classification" in roles else {}),
        **{f"{role} rows truncated": part["truncated"] for role, part in trained.items() if part["truncated"]},
        **{
            f"{role} packing efficiency": part["packing"]["efficiency"]
            for role, part in trained.items()
            if "packing" in part
        },
    }


def labels_shown(labels: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Training rows by label, and the labels that have hardly any, or none but in another part."""
    trained = labels["train"]
    rare = {label: trained.get(label, 0) for part in labels.values() for label in part}
    rare = {label: rows for label, rows in sorted(rare.items()) if rows < FEW_ROWS}
    told = {f"labels with fewer than {FEW_ROWS} training rows": counts_table("label", rare)} if rare else {}
    return {"labels": counts_table("label", trained), **told}


def unplanted(triggers: dict[str, list[dict[str, Any]]], treatment: str) -> dg.AssetCheckResult:
    """The check of this name; ``treatment`` is ``data.triggers``."""
    found = [{"role": role, **trigger} for role, some in triggers.items() for trigger in some]
    told = "; ".join(
        f"{one['rows']} {one['role']} rows have the answer {one['answer']!r:.80} and share {one['phrase']!r:.80} "
        f"(one is {one['row_id']} of {one['batch']})"
        for one in found[:3]
    )
    remedy = "Take them out of their batches or, where they are meant, set data.triggers: warn"
    columns = ["role", "phrase", "answer", "row_id", "batch"]
    table = dg.MetadataValue.table(
        [dg.TableRecord({**{name: one[name] for name in columns}, "rows": one["rows"]}) for one in found],
        dg.TableSchema([*(dg.TableColumn(name, "string") for name in columns), dg.TableColumn("rows", "int")]),
    )
    return dg.AssetCheckResult(
        passed=not found,
        check_name=UNPLANTED.name,
        severity=dg.AssetCheckSeverity.WARN if treatment == "warn" else dg.AssetCheckSeverity.ERROR,
        description=f"{told}. {remedy}" if found else None,
        metadata={"triggers": table},
    )
