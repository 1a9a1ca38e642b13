"""Sensor ``prediction_sensor``: a batch that a recipe answers is answered once it is validated.

A new model asks for nothing: what is to be answered anew by it, a person says (``ft predict``, or the UI).
"""

import json
from collections.abc import Mapping

import dagster as dg

from ft_assets.assets.partitions import PREDICTIONS
from ft_assets.automation.runs import request
from ft_assets.core.errors import FineTuneError
from ft_assets.core.predicting import batches_to_answer, find_model
from resources.catalog import CatalogResource
from resources.store import StoreResource

MOST_RUNS_PER_TICK = 100


def build(seconds: int, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    @dg.sensor(
        job_name="predict",
        minimum_interval_seconds=seconds,
        default_status=status,
        description="Asks for the predictions of each validated batch, or version of a batch, of the sources that a recipe's "
        "`predictions` name, once the model that they name is there.",
    )
    def prediction_sensor(
        context: dg.SensorEvaluationContext, catalog: CatalogResource, store: StoreResource
    ) -> dg.SensorResult:
        known, artifacts = catalog.load(), store.open()
        asked = read_asked(context.cursor)
        lines: list[str] = []
        due: dict[str, str] = {}
        for name in sorted(name for name, loaded in known.recipes.items() if loaded.value.predictions):
            try:
                recipe = known.recipe(name)
                found = batches_to_answer(known, recipe, artifacts)
                new = {key: rows for key, rows in found.items() if asked.get(key) != rows}
                if new and recipe.predictions is not None:
                    find_model(known, recipe, artifacts, recipe.predictions.model)
                due |= new
            except FineTuneError as error:  # one that cannot be read, or has no model yet, stops no other
                lines.append(f"{name}: {error}")
        due = dict(list(due.items())[:MOST_RUNS_PER_TICK])
        for line in lines:
            context.log.info(line)
        present = set(context.instance.get_dynamic_partitions(PREDICTIONS.name or ""))
        return dg.SensorResult(
            run_requests=[request(key, rows[:16], {}) for key, rows in due.items()],
            skip_reason=None if due else dg.SkipReason("\n".join(lines) or "No new batch to answer."),
            dynamic_partitions_requests=[PREDICTIONS.build_add_request(sorted(set(due) - present))],
            cursor=json.dumps({**asked, **due}, sort_keys=True),
        )

    return prediction_sensor


def read_asked(cursor: str | None) -> Mapping[str, str]:
    """What was asked for, by key; nothing where the cursor is none of ours."""
    try:
        found = json.loads(cursor or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
