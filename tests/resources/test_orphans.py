"""The sweep deletes what nobody waits for, and nothing else."""

import json
from pathlib import Path

import dagster as dg
import pytest
from cluster.kinds import JOB, POD, SERVICE
from following import OTHER_RUN, RUN, Site, site
from typer.testing import CliRunner

from ft_assets.cli import app
from resources.kubernetes.orphans import orphans, sweep


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with site(tmp_path, monkeypatch) as found:
        yield found


def left_running(here: Site, run_id: str = RUN, fingerprint: str = "ab" * 32) -> str:
    """The Job of a step whose process is gone."""
    step = here.start(run_id, here.request(nodes=1, fingerprint=fingerprint))
    step.says("runs in 1 pod")
    step.interrupt()
    step.ends()
    [job] = [job for job in here.cluster.all(JOB) if job["metadata"]["labels"]["ft-assets.dev/run"] == run_id]
    return job["metadata"]["name"]


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "CANCELED", None])
def test_a_job_whose_run_has_ended_is_swept_with_all_it_owns(here: Site, status: str | None) -> None:
    name = left_running(here)
    here.cluster.advance(700)
    [found] = orphans(here.api, {RUN: status}.get, 600)
    assert (found.job, found.run, found.stage, found.known) == (name, RUN, "sft_adapter", status is not None)
    sweep(here.api, [found])
    here.cluster.advance(60)
    assert [here.cluster.all(kind) for kind in (JOB, SERVICE, POD)] == [[], [], []]


@pytest.mark.parametrize("status", ["QUEUED", "STARTING", "STARTED", "CANCELING"])
def test_a_job_whose_run_goes_on_is_left(here: Site, status: str) -> None:
    left_running(here)
    here.cluster.advance(700)
    assert orphans(here.api, {RUN: status}.get, 600) == []


def test_a_job_that_another_run_has_taken_up_is_left(here: Site) -> None:
    left_running(here)
    other = here.start(OTHER_RUN, here.request(nodes=1))
    other.says("takes up Job")
    other.says("runs in 1 pod")
    here.cluster.advance(700)
    assert orphans(here.api, {RUN: "FAILURE", OTHER_RUN: "STARTED"}.get, 600) == []
    assert orphans(here.api, {RUN: "FAILURE", OTHER_RUN: "FAILURE"}.get, 600) != []


def test_a_job_of_somebody_elses_that_names_no_run_is_left(here: Site) -> None:
    """Anybody may write the label that says who manages it."""
    left_running(here)
    labels = {"metadata": {"labels": {"ft-assets.dev/run": None}}}
    here.api._ask("patch", "PATCH", "jobs", here.jobs()[0], body=labels)
    here.cluster.advance(700)
    assert orphans(here.api, {}.get, 600) == []


def test_a_young_job_and_one_that_has_ended_are_left(here: Site) -> None:
    name = left_running(here)
    assert orphans(here.api, {RUN: "FAILURE"}.get, 600) == []
    here.cluster.finish_job(name)
    here.cluster.advance(700)
    assert orphans(here.api, {RUN: "FAILURE"}.get, 600) == []


def test_the_command_tells_and_deletes_what_this_instance_knows(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    known, unknown = left_running(here), left_running(here, OTHER_RUN, "cd" * 32)
    home = here.folder / "ft"
    settings = {
        "FT_HOME": home,
        "DAGSTER_HOME": home / "dagster_home",
        "FT_PODS": here.file,
        "KUBECONFIG": here.kubeconfig,
    }
    for variable, value in settings.items():
        monkeypatch.setenv(variable, str(value))
    (home / "dagster_home").mkdir(parents=True)
    (home / "dagster_home" / "dagster.yaml").touch()
    with dg.DagsterInstance.from_config(str(home / "dagster_home")) as instance:
        job = dg.GraphDefinition(name="made", node_defs=[]).to_job()
        instance.create_run_for_job(job, run_id=RUN, status=dg.DagsterRunStatus.FAILURE)

    def said(*words: str) -> dict[str, bool]:
        done = CliRunner().invoke(app, ["deploy", "sweep", "--older-than-minutes", "0", "--json", *words])
        assert done.exit_code == 0, done.output
        return {entry["job"]: entry["deleted"] for entry in json.loads(done.stdout)}

    assert said("--dry-run", "--unknown") == {known: False, unknown: False}
    assert sorted(here.jobs()) == sorted([known, unknown])
    assert said() == {known: True, unknown: False}
    assert here.jobs() == [unknown]
    assert said("--unknown") == {unknown: True}
    assert here.jobs() == []
