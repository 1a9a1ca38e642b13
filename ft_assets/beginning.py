"""The beginning of ``ft run``: what it does beside Dagster, whose import and records take as long as a small batch's work.

Another core verifies what the run will read, and where a batch is new the worker of the splits does its own imports, looks
through the splits as they were, then tokenizes the batch as soon as it is validated, while Dagster still draws and records
what came of it. Imports no Dagster.
"""

import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_assets.core.ahead import Wanted, verify_ahead
from ft_assets.core.batches import RAW, BatchState, recipe_batches
from ft_assets.core.errors import MissingInput
from ft_assets.core.lineage import DATA_ASSETS, MODEL_ASSETS, parts
from ft_assets.core.location import Files, access_errors
from ft_assets.core.recipe_run import base_of, stages_of, worker_request
from ft_assets.core.stage import Stage
from ft_assets.core.watching import as_ingested, files_of_batches, validated_as
from ft_assets.recipes.load import Catalog
from ft_assets.recipes.schema import Recipe
from resources.environment import Settings, prepare_dagster_home
from resources.processes import ask_ahead, standing_by, stands_by

SPLITS = "tokenized_splits"
ASKING = "asking ahead"  # the thread's name
# Between two looks at a batch that is being validated, on this machine and where each look is a request.
LOOK_SECONDS = 0.02
REMOTE_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Beginning:
    """What a run of a recipe sets out from.

    ``until`` is the last asset that is wanted, all where None. ``keys`` are the batches of the recipe's sources and
    ``as_ingested`` those of them that are as they were ingested; ``assets`` are the model assets that are wanted, and
    ``run_id`` is the Dagster run that makes them.
    """

    until: str | None
    keys: list[str]
    as_ingested: dict[str, BatchState]
    assets: tuple[str, ...]
    run_id: str


@contextmanager
def begun(found: Settings, catalog: Catalog, name: str, until: str | None) -> Iterator[Beginning]:
    """Sets out to bring a recipe up to ``until``; a worker that nobody has taken in the end is ended.

    Raises:
        RecipeError: the recipe, a source or the base model is not there; nothing has been created then.
        FineTuneError: Dagster's folder cannot be written.
    """
    recipe = catalog.recipe(name)
    base = base_of(catalog, recipe)
    keys = [f"{source}@{batch}" for source in recipe.data.source_names() for batch in catalog.batches(source)]
    prepare_dagster_home(found)
    store = found.open_store()
    now = files_of_batches(catalog, keys)
    same = as_ingested(catalog, store, now) if until != RAW else {}
    assets = _upstream(until)
    verify_ahead(store, _wanted(same, base if assets else None))
    beginning = Beginning(until, keys, same, assets, str(uuid.uuid4()))
    with ExitStack() as ahead:
        if found.launcher == "local" and SPLITS in assets and len(same) < len(keys):
            folder = found.home / "runs" / beginning.run_id / SPLITS
            with suppress(OSError):  # without it the run takes longer, and says itself where nothing can be written
                ahead.enter_context(standing_by(folder, recipe.hardware.threads_per_process))
                new = {key: now.get(key) for key in keys if key not in same}
                ahead.enter_context(_asking(found, catalog, recipe, new, folder))
        yield beginning


@contextmanager
def _asking(
    found: Settings, catalog: Catalog, recipe: Recipe, new: Mapping[str, Files | None], folder: Path
) -> Iterator[None]:
    """Asks the worker that stands by for the splits as they were, if they were made, and as they will be once new batches are
    validated.
    """
    over = threading.Event()

    def ask() -> None:
        # What is wrong with a batch, or cannot be read just now, is told by the run itself.
        with suppress(*access_errors()):
            store = found.open_store()
            states = recipe_batches(catalog, recipe, store)
            with suppress(MissingInput):
                before = stages_of(catalog, recipe, store, states).stages
                if store.lookup(SPLITS, before[SPLITS].fingerprint) is not None:
                    ask_ahead(folder, _request(found, recipe, before, folder))
            for key, files in new.items():
                while files is None or (state := validated_as(catalog, store, key, files)) is None:
                    if over.wait(LOOK_SECONDS if store.is_local else REMOTE_LOOK_SECONDS) or not stands_by(folder):
                        return
                states[key] = state
            after = stages_of(catalog, recipe, store, states).stages
            ask_ahead(folder, _request(found, recipe, after, folder))

    threading.Thread(target=ask, name=ASKING, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _request(found: Settings, recipe: Recipe, stages: Mapping[str, Stage], folder: Path) -> dict[str, Any]:
    """What the worker of the splits is asked for where these are the recipe's stages."""
    store = {"url": found.store, "local": str(found.home / "local")}
    told = {"parts": parts(stages, SPLITS)}
    return {
        **worker_request(recipe, stages[SPLITS], store, found.tracker, told),
        "progress": str(folder / "progress.jsonl"),
        "cache": str(found.cache),
    }


def _upstream(until: str | None) -> tuple[str, ...]:
    """The model assets needed for one, itself included; the graph is a line with side inputs, so these are its prefix."""
    if until is None:
        return MODEL_ASSETS
    return () if until in DATA_ASSETS else MODEL_ASSETS[: MODEL_ASSETS.index(until) + 1]


def _wanted(same: dict[str, BatchState], base: Stage | None) -> list[Wanted]:
    wanted: list[Wanted] = [
        (stage, fingerprint, None)
        for state in same.values()
        for stage, fingerprint in (("raw_corpus", state.raw), ("validated_dataset", state.validated))
    ]
    return [*wanted, (base.made_by, base.fingerprint, None)] if base else wanted
