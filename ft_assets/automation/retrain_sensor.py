"""Sensor ``retrain_sensor``: a recipe with ``retrain`` is run again when its new data asks for it."""

import hashlib
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ft_assets.automation.runs import close_dead_runs, request, unfinished_runs
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.batches import SHUT_OUT, TRAINED_ON, BatchState, recipe_batches
from ft_assets.core.errors import FineTuneError
from ft_assets.core.retraining import judge, mark
from ft_assets.recipes.load import Catalog
from ft_assets.recipes.schema import Recipe
from resources.catalog import CatalogResource
from resources.store import StoreResource

REASON_TAG = "ft/retrain"


@dataclass(frozen=True)
class Answer:
    """What a look at one recipe came to: a line for people, what to remember, and a run where one is due."""

    line: str
    memory: dict[str, Any]
    request: dg.RunRequest | None = None


def build(recipes: Collection[str], seconds: int, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """``recipes``: those that are partitions of the loaded definitions."""

    @dg.sensor(
        job_name="fine_tune",
        minimum_interval_seconds=seconds,
        default_status=status,
        description="Asks for a run of each recipe with `retrain` when enough validated rows are new or its schedule came "
        "due, its batches passed their checks and no run of it is unfinished.",
    )
    def retrain_sensor(
        context: dg.SensorEvaluationContext, catalog: CatalogResource, store: StoreResource
    ) -> dg.SensorResult:
        known, artifacts = catalog.load(), store.open()
        close_dead_runs(context.instance)
        memory = read_memory(context.cursor)
        partitions = context.instance.get_dynamic_partitions("source_batch")
        answers = {}
        for name in sorted(name for name, loaded in known.recipes.items() if loaded.value.retrain):
            if name not in recipes:
                answers[name] = Answer(f"{name} is new: reload the code location", memory.get(name, {}))
                continue
            answers[name] = ask(context.instance, known, artifacts, name, memory.get(name, {}), partitions)
        lines = [answer.line for answer in answers.values()]
        for line in lines:
            context.log.info(line)
        requests = [answer.request for answer in answers.values() if answer.request]
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason("\n".join(lines) or "No recipe has `retrain`."),
            cursor=json.dumps({name: answer.memory for name, answer in answers.items()}, sort_keys=True),
        )

    return retrain_sensor


def ask(
    instance: dg.DagsterInstance,
    known: Catalog,
    store: ArtifactStore,
    name: str,
    memory: Mapping[str, Any],
    partitions: Collection[str],
) -> Answer:
    """Whether a recipe is to be run now. A recipe or store that cannot be read stops no other."""
    try:
        recipe = known.recipe(name)
        states = recipe_batches(known, recipe, store)
        # A candidate that its gate kept out has used its data too: the same again would be kept out again.
        of_both = [store.get_ref(kind, name) or {} for kind in (TRAINED_ON, SHUT_OUT)]
        used = {mark(found) for ref in of_both for found in ref.get("validated", ())}
    except FineTuneError as error:
        return Answer(f"{name}: {error}", dict(memory))
    requested = set(memory.get("requested", ()))
    verdict = judge(recipe, states.values(), used | requested, memory.get("since"), time.time())
    faults = [state.fault for state in states.values() if state.fault] + absent(recipe, states, partitions)
    # A due time stays open until it is answered by a run; data that waits to be mended is no lack of new data.
    still_open = verdict.due or faults
    kept = {**memory, "since": memory.get("since", verdict.since) if still_open else verdict.since}
    if faults:
        return Answer(f"{name} waits ({verdict.why}): {'; '.join(faults)}", kept)
    if not verdict.due:
        return Answer(f"{name}: {verdict.why}", kept)
    running = unfinished_runs(instance, name)
    if running:
        which = ", ".join(f"{run.run_id[:8]} ({run.status.value.lower()})" for run in running)
        return Answer(f"{name} waits ({verdict.why}): run {which} of it has not ended", kept)
    marks = sorted(mark(state.validated) for state in states.values())
    digest = hashlib.sha256(" ".join(marks).encode()).hexdigest()[:16]
    asked = request(name, digest, {REASON_TAG: verdict.why})
    return Answer(f"{name}: {verdict.why}; requested", {"requested": marks, "since": verdict.since}, asked)


def absent(recipe: Recipe, states: Mapping[str, BatchState], partitions: Collection[str]) -> list[str]:
    """Batches that are known and have not been ingested, and sources without a batch: the recipe counts on them."""
    sources = recipe.data.source_names()
    known = [key for key in sorted(partitions) if key.partition("@")[0] in sources and key not in states]
    empty = [
        f"source {name} has no ingested batch"
        for name in sources
        if not any(key.startswith(f"{name}@") for key in (*states, *known))
    ]
    return [f"{key} has not been ingested" for key in known] + empty


def read_memory(cursor: str | None) -> dict[str, dict[str, Any]]:
    """What a cursor holds by recipe; nothing where it is none of ours."""
    try:
        found = json.loads(cursor or "{}")
        return {name: dict(entry) for name, entry in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
