"""Dagster's book in a real PostgreSQL, as on a cluster: the graph runs on it, and a run outlives restarts of everything else."""

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml
from conftest import ROOT, Workshop
from dagster._grpc.types import ResumeRunArgs
from postgres import Postgres, postgres
from waiting import until

from resources.processes import end_process_tree

# What is waited for is bounded below; a busy machine takes minutes for the graph that they share.
pytestmark = [pytest.mark.graph, pytest.mark.timeout(1200)]

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""


def instance_settings(server: Postgres) -> dict[str, Any]:
    """The cluster's dagster.yaml with this database, and with processes here in place of pods."""
    settings = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "dagster.yaml").read_text())
    for name in ("run_storage", "event_log_storage", "schedule_storage"):
        settings[name]["config"]["postgres_db"] |= server.settings
    del settings["run_launcher"], settings["compute_logs"]
    settings["run_coordinator"]["config"] = {"dequeue_interval_seconds": 1}
    settings["run_monitoring"] |= {"poll_interval_seconds": 2, "max_resume_run_attempts": 0}  # pods alone are resumed
    return settings


class Deployment:
    """A code location, a daemon and a webserver over one database; each can be killed and started again."""

    def __init__(self, shop: Workshop, server: Postgres):
        self.shop, self.server = shop, server
        home = shop.home / "dagster_home"
        (home / "dagster.yaml").write_text(yaml.safe_dump(instance_settings(server)))
        self.instance = dg.DagsterInstance.from_config(str(home))
        self.code_port, self.web_port = free_port(), free_port()
        self.workspace = shop.folder / "workspace.yaml"
        location = {"host": "127.0.0.1", "port": self.code_port, "location_name": "ft"}
        self.workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": location}]}))
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self, *names: str) -> None:
        commands = {
            "code": ["dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(self.code_port), "-m", "definitions"],
            "daemon": ["dagster-daemon", "run", "-w", str(self.workspace)],
            "webserver": ["dagster-webserver", "-h", "127.0.0.1", "-p", str(self.web_port), "-w", str(self.workspace)],
        }
        for name in names:
            program, *words = commands[name]
            with (self.shop.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [str(Path(sys.executable).parent / program), *words],
                    env={**self.shop.env, "PYTHONPATH": str(ROOT)},
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                )

    def kill(self, *names: str) -> None:
        for name in names:
            self.processes[name].kill()
            self.processes[name].wait()

    def end(self) -> None:
        for process in self.processes.values():
            end_process_tree(process, grace_seconds=5.0)
        self.instance.dispose()

    def answers(self) -> bool:
        """The webserver knows the code location."""
        try:
            reply = self.ask("{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }", {})
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False
        return bool(reply["data"]["repositoriesOrError"].get("nodes"))

    def ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        url = f"http://127.0.0.1:{self.web_port}/graphql"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def launch(self, recipe: str) -> str:
        """Asks for everything of a recipe, as the UI does; the run's id."""
        selector = {"repositoryLocationName": "ft", "repositoryName": "__repository__", "jobName": "fine_tune"}
        tags = [{"key": "dagster/partition", "value": recipe}]
        reply = self.ask(LAUNCH, {"params": {"selector": selector, "executionMetadata": {"tags": tags}}})
        found = reply["data"]["launchRun"]
        assert found["__typename"] == "LaunchRunSuccess", found
        return found["run"]["runId"]

    def lose(self, name: str) -> None:
        """As when a node is lost: the process and all it has started are gone at once."""
        tree = [*psutil.Process(self.processes[name].pid).children(recursive=True), self.processes[name]]
        for process in tree:
            process.kill()
        for process in tree:
            process.wait()

    def resume(self, run_id: str) -> subprocess.CompletedProcess:
        """The command of the run pod that Dagster's monitor starts in place of one that is gone."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        assert run.job_code_origin is not None
        args = ResumeRunArgs(
            job_origin=run.job_code_origin,
            run_id=run_id,
            instance_ref=self.instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        env = {**self.shop.env, "PYTHONPATH": str(ROOT)}
        program, *words = args.get_command_args()
        command = [str(Path(sys.executable).parent / program), *words]
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)

    def run(self) -> dg.DagsterRun:
        [run] = self.instance.get_runs()
        return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as found:
        yield found


@pytest.fixture
def deployment(server: Postgres, made: Workshop, tmp_path: Path) -> Iterator[Deployment]:
    """The made workshop without its fine-tuned adapter, and an instance whose book is empty."""
    shop = made.copy(tmp_path)
    shop.forget("sft_adapter")
    found = Deployment(shop, server)
    found.instance.wipe()
    yield found
    found.end()


def test_a_recipe_runs_with_its_book_in_postgres(deployment: Deployment) -> None:
    outcome = deployment.shop.run()
    assert outcome["sft_adapter", "tiny"]["status"] == "made"
    assert outcome["published_model", "tiny"]["status"] == "reused"
    run = next(run for run in deployment.instance.get_runs() if run.job_name == "fine_tune")
    assert run.status == dg.DagsterRunStatus.SUCCESS
    materialized = deployment.instance.get_latest_materialization_event(dg.AssetKey("sft_adapter"))
    assert materialized is not None
    assert materialized.run_id == run.run_id


def test_a_run_outlives_restarts_of_daemon_webserver_and_database(deployment: Deployment) -> None:
    shop, folder = deployment.shop, deployment.shop.home / "runs"
    before = set(folder.glob("*/sft_adapter"))
    deployment.start("code", "daemon", "webserver")
    until(deployment.answers, 120, "the webserver's answer")
    run_id = deployment.launch("tiny")
    until(lambda: (folder / run_id / "sft_adapter" / "progress.jsonl").exists(), 180, "the training's first step")
    [worker] = [process for process in shop.workers() if "torchrun" in " ".join(process.cmdline())] or shop.workers()[
        :1
    ]
    deployment.kill("daemon", "webserver")
    deployment.server.stop()
    deployment.server.start()
    deployment.start("daemon", "webserver")
    until(lambda: deployment.run().is_finished, 240, "the run's end")
    assert deployment.run().status == dg.DagsterRunStatus.SUCCESS, (shop.folder / "code.log").read_text()[-3000:]
    assert deployment.run().run_id == run_id
    assert set(folder.glob("*/sft_adapter")) - before == {folder / run_id / "sft_adapter"}
    notes = [json.loads(line) for line in (folder / run_id / "sft_adapter" / "progress.jsonl").read_text().splitlines()]
    steps = [note["step"] for note in notes if note.get("loss") is not None]
    assert steps == sorted(set(steps)), "a step was done twice"
    assert not worker.is_running()
    starts = deployment.instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_START)
    assert len(starts) == 1


def test_a_run_whose_pod_is_lost_goes_on_in_another(deployment: Deployment) -> None:
    shop, folder = deployment.shop, deployment.shop.home / "runs"
    deployment.start("code", "daemon", "webserver")
    until(deployment.answers, 120, "the webserver's answer")
    run_id = deployment.launch("tiny")
    until(lambda: shop.checkpoints(), 180, "a checkpoint")
    deployment.lose("code")
    assert deployment.run().status == dg.DagsterRunStatus.STARTED
    deployment.kill("daemon")  # it would start the run's pod, had it pods
    done = deployment.resume(run_id)
    assert done.returncode == 0, done.stderr[-3000:]
    assert deployment.run().status == dg.DagsterRunStatus.SUCCESS
    notes = [json.loads(line) for line in (folder / run_id / "sft_adapter" / "progress.jsonl").read_text().splitlines()]
    assert any("resum" in note.get("note", "") for note in notes), "the training began anew"
