"""The Helm values and dagster.yaml: one deployment said twice, in the chart's words and in Dagster's, and taken by Dagster."""

import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from conftest import ROOT
from dagster._config import process_config, resolve_to_config_type
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.instance.config import dagster_instance_config_schema
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.test_utils import create_run_for_test
from dagster_k8s import K8sRunLauncher
from kubernetes.client import ApiClient
from pod_laws import restricted_faults

FOLDER = ROOT / "deploy" / "kubernetes"
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text())
INSTANCE: dict[str, Any] = yaml.safe_load((FOLDER / "dagster.yaml").read_text())

CHART: dict[str, list[str]] = yaml.safe_load((Path(__file__).parent / "chart_keys.yaml").read_text())


def in_snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "_" + found[1].lower(), name)


def snaked(values: dict[str, Any]) -> dict[str, Any]:
    """The chart's spelling of Dagster's fields, as the chart turns it over: the first level alone."""
    return {in_snake(name): value for name, value in values.items()}


def launcher_values() -> dict[str, Any]:
    return VALUES["runLauncher"]["config"]["k8sRunLauncher"]


def test_the_chart_knows_every_key() -> None:
    for path, known in CHART.items():
        found: Any = VALUES
        for part in filter(None, path.split(".")):
            found = found[part]
        for entry in found if isinstance(found, list) else [found]:
            assert set(entry) <= set(known), path


def test_the_values_and_the_instance_say_the_same() -> None:
    monitoring = snaked(VALUES["dagsterDaemon"]["runMonitoring"])
    assert monitoring == INSTANCE["run_monitoring"]
    assert VALUES["additionalInstanceConfig"] == {
        name: INSTANCE[name] for name in ("nux", "run_retries", "concurrency")
    }
    assert VALUES["telemetry"] == INSTANCE["telemetry"]
    logs = VALUES["computeLogManager"]["config"]["customComputeLogManager"]
    assert logs == INSTANCE["compute_logs"]
    found = {name.removeprefix("postgresql").lower(): value for name, value in VALUES["postgresql"].items()}
    for name in ("run_storage", "event_log_storage", "schedule_storage"):
        database = INSTANCE[name]["config"]["postgres_db"]
        assert database == {
            "scheme": found["scheme"],
            "hostname": found["host"],
            "port": found["service"]["port"],
            "username": found["username"],
            "password": {"env": "DAGSTER_PG_PASSWORD"},
            "db_name": found["database"],
            "params": found["params"],
        }
    ours = {**snaked(launcher_values()), "run_k8s_config": snaked(launcher_values()["runK8sConfig"])}
    ours["env_config_maps"] = [entry["name"] for entry in ours["env_config_maps"]]
    assert ours.pop("env_secrets") == []
    added = {
        "job_namespace": "ft-assets",
        "service_account_name": VALUES["global"]["serviceAccountName"],
        "dagster_home": VALUES["global"]["dagsterHome"],
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
    }
    assert INSTANCE["run_launcher"] == {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": {**ours, **added}}


def test_dagster_takes_the_instance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "x")
    taken = process_config(dg.Shape(dagster_instance_config_schema()), INSTANCE)
    assert taken.success, taken.errors
    launcher = process_config(resolve_to_config_type(K8sRunLauncher.config_type()), INSTANCE["run_launcher"]["config"])
    assert launcher.success, launcher.errors
    assert INSTANCE["run_monitoring"]["max_resume_run_attempts"] > 0
    assert INSTANCE["run_monitoring"]["free_slots_after_run_end_seconds"] > 0
    assert INSTANCE["concurrency"]["pools"]["granularity"] == "run"


class Recorder:
    """Kubernetes' batch API, as far as Dagster's launcher calls it to start a run."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def create_namespaced_job(self, body: Any, namespace: str, **_: Any) -> None:
        self.jobs.append(body)


def launched(tmp_path: Path, tags: dict[str, str]) -> dict[str, Any]:
    """The Job that Dagster's own launcher makes of a run, given these values."""
    [deployment] = VALUES["dagster-user-deployments"]["deployments"]
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": False}
    recorder = Recorder()
    config = {**INSTANCE["run_launcher"]["config"], "load_incluster_config": False, "kubeconfig_file": None}
    launcher = K8sRunLauncher(**config, k8s_client_batch_api=recorder, k8s_client_core_api=object())
    pointer = ModuleCodePointer("definitions", "defs")
    repository = RepositoryPythonOrigin("python", pointer, "orchestrator@sha256:0", ["dagster"], {})
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        launcher.register_instance(instance)
        origin = JobPythonOrigin("fine_tune", repository)
        run = create_run_for_test(instance, job_name="fine_tune", job_code_origin=origin, tags=tags)
        launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    [job] = recorder.jobs
    return ApiClient().sanitize_for_serialization(job)


def test_what_libraries_write_lies_where_a_run_pod_may_write() -> None:
    image = (ROOT / "deploy" / "images" / "orchestrator.Dockerfile").read_text()
    folders = dict(re.findall(r"\b(DAGSTER_HOME|HF_HOME|MPLCONFIGDIR)=(\S+)", image))
    mounts = tuple(mount["mountPath"] for mount in launcher_values()["volumeMounts"] if not mount.get("readOnly"))
    assert set(folders) == {"DAGSTER_HOME", "HF_HOME", "MPLCONFIGDIR"}
    assert all(folder.startswith(mounts) for folder in folders.values())


@pytest.fixture
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagster_k8s.launcher.load_kubernetes_config", lambda **_: None)


@pytest.mark.usefixtures("_no_cluster")
def test_a_run_pod_is_restricted_and_may_start_the_pods_of_stages(tmp_path: Path) -> None:
    job = launched(tmp_path, {})
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    template = job["spec"]["template"]
    assert list(restricted_faults(template["spec"])) == []
    [container] = template["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"] == {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "8Gi"}}
    assert template["spec"]["serviceAccountName"] == "ft-run"
    assert template["metadata"]["labels"]["ft-assets.dev/part"] == "orchestrator"
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert {
        "/ft": "ft-home",
        "/etc/ft": "ft-pods",
        "/tmp": "tmp",
        "/opt/dagster/home": "dagster-home",
    }.items() <= mounted.items()
    assert {"configMapRef": {"name": "ft-settings"}} in container["envFrom"]
    [password] = [entry for entry in container["env"] if entry["name"] == "DAGSTER_PG_PASSWORD"]
    assert password["valueFrom"]["secretKeyRef"]["name"] == "ft-postgres"


@pytest.mark.usefixtures("_no_cluster")
def test_a_run_can_ask_for_more(tmp_path: Path) -> None:
    asked = {"container_config": {"resources": {"requests": {"memory": "64Gi"}, "limits": {"memory": "64Gi"}}}}
    job = launched(tmp_path, {"dagster-k8s/config": json.dumps(asked)})
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "64Gi"}
