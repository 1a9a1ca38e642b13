"""Asset ``batch_predictions``: a model's answer to every row of a batch, or the reason why a row has none."""

from typing import Annotated, Any

import dagster as dg
from pydantic import Field

from ft_assets.assets.making import make_stage_in_worker
from ft_assets.assets.partitions import PREDICTIONS
from ft_assets.assets.showing import counts_table
from ft_assets.assets.training import GPU_POOL
from ft_assets.core.errors import FineTuneError
from ft_assets.core.predicting import find_model, prediction_stage, rows_of, split_prediction_key
from ft_assets.core.stage import CODE_VERSIONS
from resources.catalog import CatalogResource
from resources.launching import Launcher
from resources.store import StoreResource
from resources.tracker import TrackerResource

ACCOUNTED = dg.AssetCheckSpec(
    "rows_accounted",
    asset="batch_predictions",
    blocking=True,
    description="Rows in = rows predicted + rows quarantined with a reason.",
)
SHOWN = ("rows_in", "predicted", "quarantined", "cut_short", "prompt_tokens", "answer_tokens")


class Asking(dg.Config, extra="forbid"):
    """What to ask in place of what the recipe's ``predictions`` say: a model by its name, and how long an answer may be."""

    model: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] | None = None


@dg.asset(
    partitions_def=PREDICTIONS,
    deps=[
        dg.AssetDep("validated_dataset", partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep("published_model", partition_mapping=dg.AllPartitionMapping()),
    ],
    group_name="release",
    kinds={"parquet", "huggingface"},
    owners=["team:ml"],
    pool=GPU_POOL,
    code_version=CODE_VERSIONS["batch_predictions"],
    check_specs=[ACCOUNTED],
    description="The answers of a recipe's champion, or of another of its models, to the rows of one batch of a source; rows "
    "that cannot be answered stand in a quarantine with the reason.",
)
def batch_predictions(
    context: dg.AssetExecutionContext,
    config: Asking,
    store: StoreResource,
    catalog: CatalogResource,
    launcher: Launcher,
    tracker: TrackerResource,
) -> dg.MaterializeResult:
    known, artifacts = catalog.load(), store.open()
    name, source, batch = split_prediction_key(context.partition_key)
    recipe = known.recipe(name)
    wanted = recipe.predictions
    asked = config.model or (wanted.model if wanted else None)
    if asked is None:
        raise FineTuneError(
            f"recipe {name} has no predictions; name a model in the run's config: ops.batch_predictions.config.model"
        )
    model = find_model(known, recipe, artifacts, asked)
    rows = rows_of(known, recipe, artifacts, source, batch)
    most = config.max_new_tokens or (wanted.max_new_tokens if wanted else None)
    if most is None and not model.classifies:
        raise FineTuneError(
            f"recipe {name} does not say how long an answer may be; give max_new_tokens in the run's config"
        )
    stage = prediction_stage(model, rows.fingerprint, most)
    made = make_stage_in_worker(context, stage, recipe, launcher, store, tracker, None, None)
    metrics = made.manifest.metrics
    check = dg.AssetCheckResult(
        passed=metrics["rows_in"] == metrics["predicted"] + metrics["quarantined"],
        check_name="rows_accounted",
        metadata={key: metrics[key] for key in ("rows_in", "predicted", "quarantined")},
    )
    return made.result(
        f"{metrics['predicted']} predicted, {metrics['quarantined']} quarantined",
        {
            "dagster/row_count": metrics["predicted"],
            "model": f"{asked}: {model.manifest.stage} {model.manifest.fingerprint}",
            **{key.replace("_", " "): metrics[key] for key in SHOWN if key != "predicted"},
            "reasons": counts_table("reason", metrics["reasons"]),
            "predictions": dg.MetadataValue.path(str(made.artifact.file("predictions.parquet"))),
            **throughput(metrics, made.manifest.cost_usd),
        },
        [check],
    )


def throughput(metrics: dict[str, Any], cost_usd: float) -> dict[str, float]:
    """How fast rows were answered when they were, and what a thousand of them cost."""
    found = {f"{name.replace('_', ' ')}": round(metrics[name], 3) for name in ("rows_per_second", "tokens_per_second")}
    if metrics["predicted"]:
        found["USD per 1000 rows"] = round(cost_usd / metrics["predicted"] * 1000, 6)
    return found
