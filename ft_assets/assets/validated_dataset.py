"""Asset ``validated_dataset``: the rows of one batch that can be trained on, and the quarantine of those that cannot."""

import importlib
from typing import Any

import dagster as dg

from ft_assets.assets.making import make_here, source_of
from ft_assets.assets.partitions import SOURCE_BATCHES
from ft_assets.assets.showing import counts_table, image, table_schema
from ft_assets.core.absent import absent
from ft_assets.core.artifact import Staging
from ft_assets.core.batches import below_threshold, ingesting, rows_conserved
from ft_assets.core.errors import MissingInput
from ft_assets.core.lineage import validated_stage
from ft_assets.core.quarantine import COLUMNS
from ft_assets.core.stage import CODE_VERSIONS
from resources.catalog import CatalogResource
from resources.store import StoreResource

CONSERVED = dg.AssetCheckSpec(
    "rows_conserved", asset="validated_dataset", blocking=True, description="Rows in = rows kept + rows quarantined."
)
THRESHOLD = dg.AssetCheckSpec(
    "quarantine_below_threshold",
    asset="validated_dataset",
    blocking=True,
    description="The share quarantined is at most the source's max_quarantined_share.",
)


@dg.asset(
    partitions_def=SOURCE_BATCHES,
    deps=["raw_corpus"],
    group_name="data",
    kinds={"polars", "parquet"},
    owners=["team:data"],
    code_version=CODE_VERSIONS["validated_dataset"],
    check_specs=[CONSERVED, THRESHOLD],
    description="Rows that passed their kind's schema, and a quarantine that holds every other row with its reason.",
)
def validated_dataset(
    context: dg.AssetExecutionContext, store: StoreResource, catalog: CatalogResource
) -> dg.MaterializeResult:
    known, artifacts = catalog.load(), store.open()
    name, _ = source_of(context.partition_key, known)
    source = known.source(name)
    ref = artifacts.get_ref("raw_corpus", context.partition_key)
    if ref is None:
        raise MissingInput(f"raw_corpus of {context.partition_key} has not been made; materialize it first")
    stage = validated_stage(source, ref["fingerprint"])

    def produce(staging: Staging) -> None:
        raw = artifacts.open("raw_corpus", ref["fingerprint"])
        assert raw is not None, "inputs were checked"
        files = {path.removeprefix("files/"): raw.file(path) for path in sorted(raw.manifest.files)}
        # pandera and pyarrow would import pandas, for longer than a small batch takes; here both work on polars' frames.
        importlib.import_module("polars")  # it looks whether pandas is there, and imports it when it is wanted
        with absent("pandas"):
            from ft_assets.core.rows import validate_batch

            staging.metrics = validate_batch(name, source, files, staging.folder).metrics(source.kind)

    with ingesting(artifacts, context.partition_key, context.run_id):
        made = make_here(context, stage, artifacts, 0.0, produce)
    metrics = made.manifest.metrics
    below = below_threshold(metrics, source)
    checks = [
        dg.AssetCheckResult(
            passed=rows_conserved(metrics),
            check_name="rows_conserved",
            metadata={key: metrics[key] for key in ("rows_in", "rows_kept", "quarantined")},
        ),
        dg.AssetCheckResult(
            passed=below,
            check_name="quarantine_below_threshold",
            description=None
            if below
            else f"{metrics['quarantined']} of {metrics['rows_in']} rows of {context.partition_key} are quarantined, "
            f"max_quarantined_share allows {source.max_quarantined_share:.0%}; see: ft quarantine {context.partition_key}",
            metadata={"share": metrics["quarantined_share"], "allowed": source.max_quarantined_share},
        ),
    ]
    return made.result(
        key_metric(metrics),
        {
            "dagster/row_count": metrics["rows_kept"],
            "rows in": metrics["rows_in"],
            "quarantined": metrics["quarantined"],
            "dagster/column_schema": table_schema(metrics["columns"]),
            "reasons": counts_table("reason", metrics["reasons"]),
            "redacted": counts_table("personal data", metrics["redacted"]),
            "quarantine plot": image("quarantine", metrics["reasons"]),
            "quarantine samples": samples_table(metrics["samples"]),
        },
        checks,
    )


def key_metric(metrics: dict[str, Any]) -> str:
    return f"{metrics['rows_kept']} kept, {metrics['quarantined']} quarantined"


def samples_table(samples: list[dict[str, Any]]) -> dg.TableMetadataValue:
    """Two quarantined rows of each reason; the whole quarantine is in the artifact."""
    records = [
        dg.TableRecord(
            {name: sample[name][:160] if isinstance(sample[name], str) else sample[name] for name in COLUMNS}
        )
        for sample in samples
    ]
    schema = dg.TableSchema([dg.TableColumn(name, "int" if name == "position" else "string") for name in COLUMNS])
    return dg.MetadataValue.table(records, schema)
