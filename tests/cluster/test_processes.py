"""Pods whose commands really run: what they are given, how they are stopped, what is left of them."""

import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest
from kubernetes import client, watch
from waiting import until

from cluster import Cluster, Script
from cluster.kinds import JOB, POD, Object
from cluster.processes import MARK
from cluster.samples import job, pod

SPACE = Cluster.namespace
FOREVER = "import time; print('ready', flush=True); time.sleep(600)"
SAVES = """
    import os, signal, sys, time
    def save(*_):
        open(os.environ["FT_TERMINATION_LOG"], "w").write("saved at step 7")
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
    print("ready", flush=True)
    time.sleep(600)
"""
DEAF = """
    import signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("ready", flush=True)
    time.sleep(600)
"""
MEETS = """
    import os, socket
    where = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if os.environ["JOB_COMPLETION_INDEX"] == "0":
        with socket.create_server(where) as server:
            peer, _ = server.accept()
            print("met", peer.recv(9).decode())
    else:
        while True:
            try:
                with socket.create_connection(where) as peer:
                    peer.sendall(os.environ["HOSTNAME"].encode())
                break
            except ConnectionRefusedError:
                pass
"""


@pytest.fixture
def core(cluster: Cluster) -> client.CoreV1Api:
    cluster.add_node("n")
    cluster.kubelet.script = lambda made: Script(process=True)
    return client.CoreV1Api(cluster.client())


def program(code: str, **fields: Any) -> Object:
    return {"command": ["python", "-c", textwrap.dedent(code)], **fields}


def begun(cluster: Cluster, name: str, code: str, **spec: Any) -> None:
    """A pod whose program has printed that it is ready."""
    cluster.add(POD, pod(name, worker=program(code), **spec))
    until(lambda: "ready" in cluster.log(cluster.get(POD, name)), 90, "the program")


def phase(cluster: Cluster, name: str) -> str:
    return str(cluster.get(POD, name)["status"]["phase"])


def ended(cluster: Cluster, name: str) -> Object:
    until(lambda: phase(cluster, name) in ("Succeeded", "Failed"), 90, "the pod's end")
    return cluster.get(POD, name)["status"]["containerStatuses"][0]["state"]["terminated"]


def left(cluster: Cluster) -> list[psutil.Process]:
    """Processes of this cluster's containers."""
    uids = {made["metadata"]["uid"] for made in cluster.all(POD)}
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").partition("/")[0] in uids and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_the_exit_code_and_what_was_printed(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add(POD, pod("good", worker=program("print('done')")))
    cluster.add(POD, pod("bad", worker=program("import sys; print('no rows', file=sys.stderr); sys.exit(2)")))
    assert (ended(cluster, "good")["exitCode"], phase(cluster, "good")) == (0, "Succeeded")
    assert (ended(cluster, "bad")["exitCode"], phase(cluster, "bad")) == (2, "Failed")
    assert cluster.log(cluster.get(POD, "good")) == "done\n"
    assert cluster.log(cluster.get(POD, "bad")) == "no rows\n"


def test_the_environment_is_the_kubelets(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_secret("hub", token="s3cret")
    cluster.add_config_map("settings", LEVEL="info")
    cluster.access.forbid("get", "secrets")
    env = [
        {"name": "FIRST", "value": "1"},
        {"name": "SECOND", "value": "$(FIRST)$(LATER)$$(FIRST)"},
        {"name": "LATER", "value": "x"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "none", "key": "token", "optional": True}}},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
    ]
    names = ["FIRST", "SECOND", "HF_TOKEN", "ABSENT", "POD", "NODE", "MEMORY", "LEVEL", "FT_HOME"]
    code = f"import os; print([os.environ.get(name) for name in {names}])"
    worker = program(
        code, env=env, envFrom=[{"configMapRef": {"name": "settings"}}], resources={"limits": {"memory": "2Gi"}}
    )
    cluster.add(POD, pod("a", worker=worker))
    assert ended(cluster, "a")["exitCode"] == 0
    assert (
        cluster.log(cluster.get(POD, "a"))
        == "['1', '1$(LATER)$(FIRST)', 's3cret', None, 'a', 'n', '2147483648', 'info', None]\n"
    )


def test_a_job_of_two_meets_by_the_services_name(cluster: Cluster, core: client.CoreV1Api, free_port: int) -> None:
    core.create_namespaced_service(
        SPACE,
        {
            "metadata": {"name": "meet"},
            "spec": {"clusterIP": "None", "selector": {"job-name": "meet"}, "publishNotReadyAddresses": True},
        },
    )
    env = [{"name": "MASTER_ADDR", "value": "meet-0.meet"}, {"name": "MASTER_PORT", "value": str(free_port)}]
    cluster.add(JOB, job("meet", nodes=2, pod={"subdomain": "meet"}, worker=program(MEETS, env=env)))
    until(lambda: cluster.ended("meet"), 90, "the Job's end")
    assert cluster.ended("meet") == "Complete", [cluster.log(each) for each in cluster.pods_of("meet")]
    assert cluster.log(cluster.pod("meet", 0)) == "met meet-1\n"


def test_without_the_service_the_name_means_nothing(cluster: Cluster, core: client.CoreV1Api) -> None:
    worker = program("import os; print(os.environ['MASTER_ADDR'])", env=[{"name": "MASTER_ADDR", "value": "a-0.meet"}])
    cluster.add(JOB, job("a", pod={"subdomain": "meet"}, worker=worker))
    until(lambda: cluster.ended("a"), 90, "the Job's end")
    assert cluster.log(cluster.pod("a")) == "a-0.meet\n"


def test_a_deletion_is_a_sigterm_and_the_message_is_kept(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add(
        JOB,
        job(
            "a",
            worker=program(SAVES),
            podFailurePolicy={"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [75]}}]},
        ),
    )
    until(lambda: "ready" in cluster.log(cluster.pod("a")), 90, "the program")
    seen = watch.Watch().stream(core.list_namespaced_pod, SPACE, resource_version=str(cluster.store.version))
    core.delete_namespaced_pod(cluster.pod("a")["metadata"]["name"], SPACE)
    last = next(event["raw_object"] for event in seen if event["type"] == "DELETED")
    over = last["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (over["exitCode"], over["message"]) == (75, "saved at step 7")
    assert "failed with exit code 75" in cluster.get(JOB, "a")["status"]["conditions"][0]["message"]


def test_a_deaf_program_and_its_children_are_killed_after_the_grace(cluster: Cluster, core: client.CoreV1Api) -> None:
    begun(cluster, "a", DEAF, terminationGracePeriodSeconds=5)
    assert len(left(cluster)) == 2
    core.delete_namespaced_pod("a", SPACE)
    cluster.advance(4)
    assert len(left(cluster)) == 2
    cluster.advance(1)
    until(lambda: not cluster.all(POD), 90, "the pod's end")
    assert not left(cluster)


def test_the_first_processs_end_is_the_containers(cluster: Cluster, core: client.CoreV1Api) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
    cluster.add(POD, pod("a", worker=program(code)))
    assert ended(cluster, "a")["exitCode"] == 0
    assert not left(cluster)


def test_out_of_memory(cluster: Cluster, core: client.CoreV1Api) -> None:
    begun(cluster, "a", FOREVER)
    cluster.kill_for_memory(cluster.get(POD, "a"))
    over = ended(cluster, "a")
    assert (over["exitCode"], over["reason"]) == (137, "OOMKilled")


def test_a_killed_process_is_an_error(cluster: Cluster, core: client.CoreV1Api) -> None:
    begun(cluster, "a", FOREVER)
    cluster.process_of(cluster.get(POD, "a")).kill()
    over = ended(cluster, "a")
    assert (over["exitCode"], over["reason"]) == (137, "Error")


def test_a_dead_nodes_processes_are_gone_and_nobody_knows(cluster: Cluster, core: client.CoreV1Api) -> None:
    begun(cluster, "a", FOREVER)
    cluster.lose_node("n")
    until(lambda: not left(cluster), 90, "the end of its processes")
    assert phase(cluster, "a") == "Running"


def test_a_log_can_be_followed_to_its_end(cluster: Cluster, core: client.CoreV1Api) -> None:
    begun(cluster, "a", "import sys; print('ready', flush=True); sys.stdin.read(); print('one'); print('two')")
    lines = list(watch.Watch().stream(core.read_namespaced_pod_log, "a", SPACE))
    assert lines == ["ready", "one", "two"]


def test_the_last_lines_are_the_message_where_none_was_written(cluster: Cluster, core: client.CoreV1Api) -> None:
    worker = program("import sys; print('the cause'); sys.exit(1)", terminationMessagePolicy="FallbackToLogsOnError")
    cluster.add(POD, pod("a", worker=worker))
    assert ended(cluster, "a")["message"] == "the cause\n"


def test_a_claim_is_mounted_at_its_folder_alone(cluster: Cluster, core: client.CoreV1Api, tmp_path: Path) -> None:
    cluster.add_claim("home", tmp_path)
    volumes = [{"name": "home", "persistentVolumeClaim": {"claimName": "home"}}]
    for name, path in (("good", str(tmp_path)), ("bad", "/elsewhere")):
        worker = program(f"open({str(tmp_path / 'made')!r}, 'w')", volumeMounts=[{"name": "home", "mountPath": path}])
        cluster.add(POD, pod(name, worker=worker, volumes=volumes))
    assert ended(cluster, "good")["exitCode"] == 0
    assert (tmp_path / "made").exists()
    over = ended(cluster, "bad")
    assert over["reason"] == "StartError"
    assert "must be mounted there" in over["message"]


def test_a_command_that_is_not_there(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add(POD, pod("a", worker={"command": ["no-such-command"]}))
    over = ended(cluster, "a")
    assert (over["exitCode"], over["reason"]) == (128, "StartError")
    assert "no-such-command" in over["message"]


def test_nothing_outlives_the_cluster() -> None:
    with Cluster() as made:
        made.add_node("n")
        made.kubelet.script = lambda each: Script(process=True)
        begun(made, "a", DEAF)
        assert len(processes := left(made)) == 2
    assert not [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_the_clock_may_run_with_the_real_one(cluster: Cluster, core: client.CoreV1Api) -> None:
    begun(cluster, "a", DEAF, terminationGracePeriodSeconds=30)
    with cluster.running_clock(speed=100):
        core.delete_namespaced_pod("a", SPACE)
        until(lambda: not cluster.all(POD), 90, "the pod's end")
