"""``ft run``: brings a recipe up to date through Dagster, in this process, and says what happened.

Data assets and model assets have different partition keys, which the dagster CLI cannot materialize in one line; this
ingests each batch the recipe names and then runs the model assets for the recipe.
"""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.utils import make_new_run_id
from sqlalchemy.exc import OperationalError

from definitions import build
from ft_assets.assets import gating, raw_corpus, validated_dataset
from ft_assets.automation.runs import book_held_open, close_dead_runs, process_tag
from ft_assets.beginning import Beginning
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.batches import RAW, BatchState, withdraw_gone
from ft_assets.core.errors import CorruptArtifact
from ft_assets.core.lineage import DATA_ASSETS
from ft_assets.recipes.load import Catalog
from ft_assets.terminal import Screen
from resources.environment import Settings

GATE_CHECK = f"eval_report: {gating.GATE}"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Row:
    """One line of the closing table."""

    asset: str
    partition: str
    status: str
    seconds: float
    key_metric: str
    cost_usd: float


@dataclass
class Outcome:
    """What a run did; ``failed`` holds the asset and the message that stopped it, ``checks`` the checks that failed."""

    rows: list[Row] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    checks: list[tuple[str, bool]] = field(default_factory=list)
    report: str | None = None
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return 130
        if self.failed:
            return 1
        return 3 if any(blocking for _, blocking in self.checks) else 0

    @property
    def shut(self) -> bool:
        """Whether the gate kept the candidate out."""
        return (GATE_CHECK, True) in self.checks

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "exit_code": self.exit_code}


def run_recipe(found: Settings, catalog: Catalog, name: str, beginning: Beginning, screen: Screen) -> Outcome:
    """Materializes a recipe, as it was begun."""
    sources = catalog.recipe(name).data.source_names()
    gone = [key for source in sources for key in withdraw_gone(catalog, found.open_store(), source, beginning.keys)]
    for key in gone:
        screen.say(f"{key} failed before and its files are gone: it no longer counts")
    outcome = Outcome()
    with book_faults(found, screen, outcome):
        _run_all(found, catalog, name, beginning, screen, outcome)
    return outcome


@contextmanager
def book_faults(found: Settings, screen: Screen, outcome: Outcome) -> Iterator[None]:
    """Tells in plain words of Dagster's book where it cannot be written."""
    try:
        yield
    except OperationalError as error:
        cause = (
            f"Dagster's records in {found.dagster_home} cannot be written: {error.orig}. Is the disk full or read-only?"
        )
        outcome.failed.append(("dagster", cause))
        screen.say(f"dagster failed: {cause}")


def _run_all(
    found: Settings, catalog: Catalog, name: str, beginning: Beginning, screen: Screen, outcome: Outcome
) -> None:
    with dg.DagsterInstance.get() as instance:
        close_dead_runs(instance)
        instance.add_dynamic_partitions("source_batch", beginning.keys)
        runner = Runner(build(found, catalog), instance, found.home / "runs", screen, outcome)
        new = [key for key in beginning.keys if key not in beginning.as_ingested]
        assets = DATA_ASSETS if beginning.until != RAW else DATA_ASSETS[:1]
        if not all(runner.go("ingest", key, assets) for key in new):
            return
        unchanged = unchanged_batches(found.open_store(), instance, beginning.as_ingested)
        for row in itertools.chain(*unchanged.values()):
            runner.row(row)
        if not all(runner.go("ingest", key, assets) for key in beginning.as_ingested if key not in unchanged):
            return
        if beginning.assets:
            runner.go("fine_tune", name, beginning.assets, beginning.run_id)


def unchanged_batches(
    store: ArtifactStore, instance: dg.DagsterInstance, same: dict[str, BatchState]
) -> dict[str, list[Row]]:
    """Of batches that are as they were ingested those that need no run, and what to say of them: what was made of them is
    whole, and Dagster knows of it.
    """
    unchanged: dict[str, list[Row]] = {}
    for key, state in same.items():
        if not _recorded_well(instance, key, state.validated):
            continue
        started = time.monotonic()
        try:
            found_raw, found_rows = (
                store.open("raw_corpus", state.raw),
                store.open("validated_dataset", state.validated),
            )
        except CorruptArtifact:  # its run makes it again
            continue
        if found_raw is None or found_rows is None:
            continue
        seconds = round(time.monotonic() - started, 3)
        unchanged[key] = [
            Row("raw_corpus", key, "reused", seconds, raw_corpus.key_metric(found_raw.manifest.metrics), 0.0),
            Row(
                "validated_dataset",
                key,
                "reused",
                seconds,
                validated_dataset.key_metric(found_rows.manifest.metrics),
                0.0,
            ),
        ]
    return unchanged


def _recorded_well(instance: dg.DagsterInstance, key: str, validated: str) -> bool:
    """Whether Dagster's last word of a batch is this version, and its run, with its checks, ended well."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("validated_dataset"), asset_partitions=[key])
    for record in instance.fetch_materializations(wanted, limit=1).records:
        run = instance.get_run_by_id(record.run_id)
        tags = record.asset_materialization.tags if record.asset_materialization else None
        ended_well = run is not None and run.status == dg.DagsterRunStatus.SUCCESS
        return ended_well and (tags or {}).get(DATA_VERSION_TAG) == validated
    return False


class Runner:
    """Runs jobs in this process and turns their events into lines on the screen and rows of the outcome."""

    def __init__(
        self, definitions: dg.Definitions, instance: dg.DagsterInstance, runs: Path, screen: Screen, outcome: Outcome
    ):
        self.definitions, self.instance, self.runs, self.screen, self.outcome = (
            definitions,
            instance,
            runs,
            screen,
            outcome,
        )

    def go(
        self,
        job: str,
        partition: str,
        assets: tuple[str, ...],
        run_id: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> bool:
        """Runs a job for one partition; says whether what follows may run."""
        run_id = run_id or make_new_run_id()
        self.instance.add_event_listener(run_id, lambda entry: self._event(entry.dagster_event, partition))
        with book_held_open(self.instance, run_id), self._following(run_id):
            try:
                self.definitions.resolve_job_def(job).execute_in_process(
                    instance=self.instance,
                    partition_key=partition,
                    run_id=run_id,
                    raise_on_error=False,
                    run_config={**QUIET, **(config or {})},
                    tags=process_tag(),
                    asset_selection=[dg.AssetKey(asset) for asset in assets],
                )
            except (DagsterExecutionInterruptedError, KeyboardInterrupt):
                self.outcome.interrupted = True
        return self.outcome.exit_code == 0

    @contextmanager
    def _following(self, run_id: str) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self.screen.follow, args=(self.runs / run_id, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _event(self, event: dg.DagsterEvent | None, partition: str) -> None:
        if event is None:
            return
        if event.event_type == dg.DagsterEventType.STEP_START:
            self.screen.started(str(event.step_key), partition)
        elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            self._materialized(event, partition)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            self._checked(event)
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
            self._failed(event)

    def _materialized(self, event: dg.DagsterEvent, partition: str) -> None:
        metadata: dict[str, Any] = {
            key: value.value for key, value in event.step_materialization_data.materialization.metadata.items()
        }
        row = Row(
            str(event.step_key),
            partition,
            metadata["status"],
            metadata["seconds"],
            metadata["key metric"],
            metadata["cost (USD)"],
        )
        if "report" in metadata:
            self.outcome.report = metadata["report"].removeprefix("file://")
        self.row(row)

    def row(self, row: Row) -> None:
        self.outcome.rows.append(row)
        self.screen.finished(row.asset, row.partition, row.status, row.seconds, row.key_metric)

    def _checked(self, event: dg.DagsterEvent) -> None:
        check = event.asset_check_evaluation_data
        if not check.passed:
            blocking = bool(check.blocking) and check.severity == dg.AssetCheckSeverity.ERROR
            name = f"{check.asset_key.to_user_string()}: {check.check_name}"
            self.outcome.checks.append((name, blocking))
            why = f". {check.description}" if check.description else ""
            self.screen.say(f"check failed{' (blocking)' if blocking else ' (warning)'}: {name}{why}")

    def _failed(self, event: dg.DagsterEvent) -> None:
        error = event.step_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        name = error.cls_name if error else ""
        if name == "DagsterAssetCheckFailedError":
            return
        if name == "DagsterExecutionInterruptedError":
            self.outcome.interrupted = True
            return
        message = (
            error.message.removeprefix(f"ft_assets.core.errors.{name}: ").strip() if error else "no cause recorded"
        )
        self.outcome.failed.append((str(event.step_key), message))
        self.screen.say(f"{event.step_key} failed: {message}")
