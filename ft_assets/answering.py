"""What ``ft predict`` does: batches answered through Dagster, in this process, and a file's answers written beside it."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from definitions import build
from ft_assets.automation.runs import close_dead_runs
from ft_assets.core.artifact import Artifact, Manifest
from ft_assets.core.errors import FineTuneError
from ft_assets.core.input_file import ingest_file, left_beside
from ft_assets.core.lineage import DATA_ASSETS
from ft_assets.core.predicting import FILE, Model, file_source, prediction_stage
from ft_assets.core.watching import as_ingested, files_of_batches
from ft_assets.recipes.load import Catalog
from ft_assets.running import Outcome, Runner, book_faults, unchanged_batches
from ft_assets.terminal import Screen
from resources.environment import Settings, prepare_dagster_home

ASSET = "batch_predictions"


@dataclass(frozen=True)
class Answered:
    """What became of a file: where its answers and the rows without one lie, and the manifest of both."""

    output: Path
    quarantine: Path | None
    manifest: Manifest

    def as_json(self) -> dict[str, Any]:
        quarantine = str(self.quarantine) if self.quarantine else None
        made = self.manifest
        told = {"fingerprint": made.fingerprint, "seconds": made.seconds, "cost_usd": made.cost_usd}
        return {"output": str(self.output), "quarantine": quarantine, **told, **made.metrics}


def predict_file(
    found: Settings,
    catalog: Catalog,
    name: str,
    file: Path,
    output: Path,
    columns: list[str],
    model: Model,
    max_new_tokens: int | None,
    screen: Screen,
) -> tuple[Outcome, Answered | None]:
    """Answers every row of a file; None where the run did not end well.

    Raises:
        FineTuneError: the file cannot be read, no row of it can be used, or its answers cannot be written.
    """
    rows = ingest_file(found.open_store(), file, file_source(model.classifies, columns))
    stage = prediction_stage(model, rows.manifest.fingerprint, max_new_tokens)
    config = {"model": model.name, **({} if max_new_tokens is None else {"max_new_tokens": max_new_tokens})}
    key = f"{name}@{FILE}@{rows.manifest.fingerprint}"

    def go(runner: Runner) -> None:
        runner.go("predict", key, (ASSET,), config={"ops": {ASSET: {"config": config}}})

    outcome = _run(found, catalog, [key], screen, go)
    artifact = found.open_store().open(stage.name, stage.fingerprint) if outcome.exit_code == 0 else None
    return outcome, None if artifact is None else _written(artifact, output)


def predict_batches(found: Settings, catalog: Catalog, name: str, screen: Screen) -> Outcome:
    """Ingests the batches that a recipe answers, where they are new or have changed, and answers each.

    Raises:
        FineTuneError: the recipe has no predictions, or a source cannot be read.
    """
    wanted = catalog.recipe(name).predictions
    if wanted is None:
        raise FineTuneError(f"recipe {name} has no predictions; give --input FILE, or predictions: in the recipe")
    keys = [f"{source}@{batch}" for source in wanted.sources for batch in catalog.batches(source)]

    def go(runner: Runner) -> None:
        runner.instance.add_dynamic_partitions("source_batch", keys)
        store = found.open_store()
        unchanged = unchanged_batches(
            store, runner.instance, as_ingested(catalog, store, files_of_batches(catalog, keys))
        )
        for key in keys:
            for row in unchanged.get(key, []):
                runner.row(row)
            if key not in unchanged and not runner.go("ingest", key, DATA_ASSETS):
                return
            if not runner.go("predict", f"{name}@{key}", (ASSET,)):
                return

    return _run(found, catalog, [f"{name}@{key}" for key in keys], screen, go)


def _run(found: Settings, catalog: Catalog, keys: list[str], screen: Screen, go: Callable[[Runner], None]) -> Outcome:
    prepare_dagster_home(found)
    outcome = Outcome()
    with book_faults(found, screen, outcome), dg.DagsterInstance.get() as instance:
        close_dead_runs(instance)
        instance.add_dynamic_partitions("prediction", keys)
        go(Runner(build(found, catalog), instance, found.home / "runs", screen, outcome))
    return outcome


def _written(artifact: Artifact, output: Path) -> Answered:
    """The answers as the output's name says, and the rows that have none beside them, each put in place as a whole."""
    left = left_beside(output)
    try:
        _put(output, lambda path: shutil.copyfile(artifact.file(f"predictions{output.suffix.lower()}"), path))
        if artifact.manifest.metrics["quarantined"]:
            _put(left, lambda path: _as_lines(artifact.file("quarantine.parquet"), path))
        else:
            left.unlink(missing_ok=True)  # of an earlier file of this name
    except OSError as error:
        raise FineTuneError(
            f"{error.filename or output} cannot be written ({error.strerror}); the answers are at {artifact.folder}"
        ) from error
    return Answered(output, left if artifact.manifest.metrics["quarantined"] else None, artifact.manifest)


def _put(target: Path, write: Callable[[Path], object]) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _as_lines(table: Path, target: Path) -> None:
    with target.open("w", encoding="utf-8") as lines:
        for piece in pq.ParquetFile(table).iter_batches(1024):
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in piece.to_pylist())


def told(outcome: Outcome, answered: Answered | None) -> dict[str, Any]:
    """A run as one JSON document."""
    body = asdict(outcome) | {"exit_code": outcome.exit_code}
    del body["report"]
    return {**body, **({} if answered is None else answered.as_json())}
