"""The sensors in a real Dagster daemon, over real files: what they ask for, really run, through a kill and a restart."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from conftest import ROOT
from dagster._core.definitions.run_request import InstigatorType
from test_automation import BAD, RECIPE, SOURCES, rows
from waiting import until

from resources.processes import end_process_tree

pytestmark = pytest.mark.graph

DEFINITIONS = """
from dataclasses import replace
from definitions import build
from resources.environment import catalog, settings
own = replace(settings(), recipe_folders=settings().recipe_folders[1:])  # without the shipped sources
defs = build(own, catalog(own))
"""
# Retrains stay in the queue: what is tested is that they are asked for, and training takes minutes.
INSTANCE = """
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    max_concurrent_runs: 2
    dequeue_interval_seconds: 1
    tag_concurrency_limits: [{key: dagster/partition, value: first, limit: 0}]
telemetry: {enabled: false}
nux: {enabled: false}
"""


class Deployment:
    """A Dagster home of its own, with a daemon that can be killed and started again."""

    def __init__(self, folder: Path):
        self.folder, self.recipes = folder, folder / "recipes"
        for name in ("rows", "more", "held"):
            (self.recipes / "data" / name).mkdir(parents=True)
        (self.recipes / "sources.yaml").write_text(SOURCES)
        (folder / "own_definitions.py").write_text(DEFINITIONS)
        (folder / "dagster_home").mkdir()
        (folder / "dagster_home" / "dagster.yaml").write_text(INSTANCE)
        self.env = {
            **os.environ,
            "DAGSTER_HOME": str(folder / "dagster_home"),
            "PYTHONPATH": str(ROOT),
            "FT_HOME": str(folder / "home"),
            "FT_RECIPES": str(self.recipes),
            "FT_WANDB": "disabled",
            "FT_SENSORS": "on",
            "FT_SENSOR_SECONDS": "1",
        }
        self.instance = dg.DagsterInstance.from_config(str(folder / "dagster_home"))
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [
            str(Path(sys.executable).parent / "dagster-daemon"),
            "run",
            "-f",
            str(self.folder / "own_definitions.py"),
        ]
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=self.env, cwd=ROOT, stdout=log, stderr=log)

    def drop(self, name: str, text: str) -> Path:
        path = self.recipes / "data" / name
        path.write_text(text)
        return path

    def runs(self, partition: str, *statuses: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
        found = dg.RunsFilter(tags={"dagster/partition": partition}, statuses=list(statuses) or None)
        return list(self.instance.get_runs(found))

    def ended(self, *partitions: str) -> bool:
        return all(self.runs(key, dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE) for key in partitions)

    def ticks(self, sensor: str) -> list:
        states = self.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        [state] = [state for state in states if state.instigator_name == sensor] or [None]
        return list(self.instance.get_ticks(state.instigator_origin_id, state.selector_id)) if state else []

    def ticked(self, sensor: str, times: int) -> None:
        """Waits for more ticks that have ended."""
        before = len(self.ticks(sensor))
        until(lambda: len(self.ticks(sensor)) > before + times, 180, f"{times} ticks of {sensor}")

    def says(self, sensor: str, words: str) -> bool:
        return any(words in (tick.skip_reason or "") for tick in self.ticks(sensor)[:3])


@pytest.fixture
def deployment(tmp_path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path)
    yield deployment
    end_process_tree(deployment.process, grace_seconds=5.0)
    deployment.instance.dispose()


def test_each_file_is_ingested_once_and_whole_through_a_killed_daemon(deployment):
    deployment.drop("rows/one.jsonl", rows(3))
    growing = deployment.drop("rows/growing.jsonl", rows(1))
    deployment.start()
    seen = len(deployment.ticks("new_data_sensor"))
    count, deadline = 1, time.monotonic() + 180
    while len(deployment.ticks("new_data_sensor")) < seen + 4 or not deployment.runs("rows@one"):
        assert time.monotonic() < deadline, (deployment.folder / "daemon.log").read_text()[-3000:]
        count += 1
        growing.write_text(rows(count))
    assert deployment.runs("rows@growing") == []
    until(lambda: deployment.runs("rows@growing"), 180, "the file that has ended is asked for")
    deployment.process.kill()  # SIGKILL; the run it has launched goes on
    deployment.process.wait()
    deployment.drop("rows/two.jsonl", rows(3, 500))
    deployment.start()
    until(lambda: deployment.ended("rows@one", "rows@growing", "rows@two"), 180, "three ingestions")
    deployment.ticked("new_data_sensor", 2)
    for key in ("rows@one", "rows@growing", "rows@two"):
        [run] = deployment.runs(key)
        assert (run.job_name, run.status) == ("ingest", dg.DagsterRunStatus.SUCCESS), key


def test_a_failed_batch_is_seen_and_a_retrain_is_asked_for_once_at_a_time(deployment):
    text = RECIPE.replace("NAME", "first").replace("SOURCE", "rows").replace("RETRAIN", "{min_new_rows: 5}")
    (deployment.recipes / "first.yaml").write_text(text)
    deployment.drop("held/one.jsonl", rows(2, 900))
    deployment.drop("rows/one.jsonl", rows(9))
    bad = deployment.drop("rows/bad.jsonl", BAD)
    deployment.start()
    until(lambda: deployment.ended("held@one", "rows@one", "rows@bad"), 180, "three ingestions")
    until(lambda: deployment.says("retrain_sensor", "rows@bad failed its check"), 180, "the batch is named")
    assert deployment.runs("first") == []
    bad.write_text(rows(2, 50))
    queued = dg.DagsterRunStatus.QUEUED
    until(lambda: deployment.runs("first", queued), 180, "a retrain, once the batch is mended")
    [run] = deployment.runs("first")
    assert run.job_name == "fine_tune"
    deployment.drop("rows/more.jsonl", rows(9, 100))
    until(lambda: deployment.says("retrain_sensor", "of it has not ended"), 180, "the next waits for the first")
    assert len(deployment.runs("first")) == 1
    deployment.instance.report_run_canceled(run)
    until(lambda: len(deployment.runs("first")) == 2, 180, "the next is asked for when the first has ended")
