"""Scheduler, kubelet and nodes: why a pod waits, how it ends, and what its node does to it."""

import json
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client import ApiException

from cluster import Cluster, Script
from cluster.conditions import condition, is_true
from cluster.kinds import NODE, POD, Object
from cluster.samples import pod

SPACE = Cluster.namespace
PREEMPTION = "preemption: 0/{n} nodes are available: {n} Preemption is not helpful for scheduling."


@pytest.fixture
def core(cluster: Cluster) -> client.CoreV1Api:
    return client.CoreV1Api(cluster.client())


def create(core: client.CoreV1Api, name: str = "a", **given: Any) -> None:
    core.create_namespaced_pod(SPACE, pod(name, **given))


def waits(cluster: Cluster, name: str = "a") -> str:
    """What the scheduler says."""
    found = condition(cluster.get(POD, name), "PodScheduled")
    assert found is not None
    assert (found["status"], found["reason"]) == ("False", "Unschedulable")
    return str(found["message"])


def printed(core: client.CoreV1Api, **query: Any) -> str:
    """The client's own text is the text of a bytes object (kubernetes 36): what came is decoded here."""
    return core.read_namespaced_pod_log("a", SPACE, _preload_content=False, **query).data.decode()


def state(cluster: Cluster, name: str = "a") -> Object:
    return cluster.get(POD, name)["status"]["containerStatuses"][0]["state"]


def disruption(cluster: Cluster, name: str = "a") -> str:
    found = condition(cluster.get(POD, name), "DisruptionTarget")
    assert found is not None
    assert found["status"] == "True"
    return str(found["reason"])


def test_no_nodes(cluster: Cluster, core: client.CoreV1Api) -> None:
    create(core)
    assert waits(cluster) == "no nodes available to schedule pods"
    (event,) = cluster.events("a", "FailedScheduling")
    assert (event["type"], event["message"], event["source"]) == (
        "Warning",
        waits(cluster),
        {"component": "default-scheduler"},
    )


def test_too_few_gpus_and_what_else_is_wrong_with_each_node(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("small", gpus=2)
    cluster.add_node("cpu")
    cluster.add_node("taken", gpus=8, taints=[{"key": "team", "value": "other", "effect": "NoSchedule"}])
    cluster.add_node("elsewhere", gpus=8)
    cluster.cordon_node("elsewhere")
    create(core, gpus=4)
    assert waits(cluster) == (
        "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient nvidia.com/gpu. "
        + PREEMPTION.format(n=4)
    )
    cluster.cordon_node("elsewhere", False)
    assert cluster.get(POD, "a")["spec"]["nodeName"] == "elsewhere"


def test_a_full_node_takes_the_next_pod_when_one_ends(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n", gpus=2)
    create(core, "a", gpus=2)
    create(core, "b", gpus=1)
    assert waits(cluster, "b") == (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available: "
        "1 No preemption victims found for incoming pod."
    )
    cluster.finish(cluster.get(POD, "a"))
    assert cluster.get(POD, "b")["status"]["phase"] == "Running"


def test_memory_cpu_and_the_number_of_pods(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n", cpu="2", memory="4Gi")
    create(core, worker={"resources": {"requests": {"cpu": "2500m", "memory": "5Gi"}}})
    assert waits(cluster).startswith("0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. ")


def test_selectors_affinity_and_tolerations(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("a100", labels={"gpu": "a100"}, taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
    term = {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["a100", "h100"]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    create(core, "a", nodeSelector={"gpu": "h100"}, tolerations=[{"operator": "Exists"}])
    assert waits(
        cluster
    ) == "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. " + PREEMPTION.format(n=1)
    create(core, "b", affinity=affinity)
    assert waits(cluster, "b") == "0/1 nodes are available: 1 node(s) had untolerated taint(s). " + PREEMPTION.format(
        n=1
    )
    create(core, "c", affinity=affinity, tolerations=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
    assert cluster.get(POD, "c")["spec"]["nodeName"] == "a100"


def test_a_claim_that_is_absent_or_not_bound(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    volumes = [{"name": "home", "persistentVolumeClaim": {"claimName": "home"}}]
    create(core, volumes=volumes)
    assert (
        waits(cluster) == f'0/1 nodes are available: persistentvolumeclaim "home" not found. {PREEMPTION.format(n=1)}'
    )
    cluster.add_claim("home", bound=False)
    assert (
        waits(cluster)
        == f"0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. {PREEMPTION.format(n=1)}"
    )
    cluster.bind_claim("home")
    assert cluster.get(POD, "a")["status"]["phase"] == "Running"


def test_a_more_important_pod_takes_the_place_of_a_lesser_one(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n", gpus=1)
    cluster.add_priority_class("high", 1000)
    cluster.kubelet.script = lambda made: Script(term_seconds=5)
    create(core, "low", gpus=1)
    create(core, "high", gpus=1, priorityClassName="high")
    assert disruption(cluster, "low") == "PreemptionByScheduler"
    assert cluster.get(POD, "high")["status"]["nominatedNodeName"] == "n"
    cluster.advance(5)
    assert [(made["metadata"]["name"], made["status"]["phase"]) for made in cluster.all(POD)] == [("high", "Running")]
    assert cluster.events("low", "Preempted")


def test_an_image_that_cannot_be_pulled_is_tried_with_growing_waits(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    image = "registry.example/worker:1"
    cluster.kubelet.missing_images.add(image)
    create(core)
    assert state(cluster)["waiting"]["reason"] == "ErrImagePull"
    assert "pull access denied" in state(cluster)["waiting"]["message"]
    cluster.advance(10)
    assert state(cluster)["waiting"]["reason"] == "ImagePullBackOff"
    assert state(cluster)["waiting"]["message"].startswith(f'Back-off pulling image "{image}": ErrImagePull: ')
    assert cluster.get(POD, "a")["status"]["phase"] == "Pending"
    cluster.advance(3600)
    assert cluster.events("a", "BackOff")
    cluster.kubelet.missing_images.clear()
    cluster.advance(310)
    assert cluster.get(POD, "a")["status"]["phase"] == "Running"


def test_a_name_that_is_no_image(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    create(core, worker={"image": "Registry/Worker:1:2"})
    assert state(cluster)["waiting"]["reason"] == "InvalidImageName"
    assert "invalid reference format" in state(cluster)["waiting"]["message"]


def test_a_secret_that_is_absent_or_lacks_the_key(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    source = {"secretKeyRef": {"name": "hub", "key": "token"}}
    create(core, worker={"env": [{"name": "HF_TOKEN", "valueFrom": source}]})
    assert state(cluster)["waiting"] == {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}
    cluster.add_secret("hub", other="x")
    assert state(cluster)["waiting"]["message"] == f"couldn't find key token in Secret {SPACE}/hub"
    core.patch_namespaced_secret("hub", SPACE, {"stringData": {}, "data": {"token": "eA=="}})
    assert "running" in state(cluster)


def test_a_volume_whose_secret_is_absent_keeps_the_container_from_being_made(
    cluster: Cluster, core: client.CoreV1Api
) -> None:
    cluster.add_node("n")
    create(core, volumes=[{"name": "key", "secret": {"secretName": "hub"}}])
    assert state(cluster)["waiting"] == {"reason": "ContainerCreating"}
    (event,) = cluster.events("a", "FailedMount")
    assert event["message"] == 'MountVolume.SetUp failed for volume "key" : secret "hub" not found'


def test_a_script_says_when_and_how_a_pod_ends(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    cluster.kubelet.script = lambda made: Script(
        starting_seconds=30, running_seconds=60, exit_code=3, message="no rows", log="one\n"
    )
    create(core)
    assert state(cluster) == {"waiting": {"reason": "ContainerCreating"}}
    cluster.advance(30)
    assert cluster.get(POD, "a")["status"]["phase"] == "Running"
    assert is_true(cluster.get(POD, "a"), "Ready")
    cluster.advance(60)
    ended = state(cluster)["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "no rows")
    assert (ended["startedAt"], ended["finishedAt"]) == ("2026-01-01T00:00:30Z", "2026-01-01T00:01:30Z")
    assert cluster.get(POD, "a")["status"]["phase"] == "Failed"
    assert printed(core) == "one\n"


def test_a_container_out_of_memory(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    create(core)
    cluster.kill_for_memory(cluster.get(POD, "a"))
    assert (state(cluster)["terminated"]["exitCode"], state(cluster)["terminated"]["reason"]) == (137, "OOMKilled")


def test_an_evicted_pod(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    create(core)
    cluster.evict(cluster.get(POD, "a"))
    status = cluster.get(POD, "a")["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "Evicted")
    assert status["message"].startswith("The node was low on resource: memory.")
    assert disruption(cluster) == "TerminationByKubelet"


def test_a_deaf_container_is_killed_after_the_grace(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    cluster.kubelet.script = lambda made: Script(exit_code_at_term=None)
    core.create_namespaced_pod(
        SPACE,
        {**pod("a", terminationGracePeriodSeconds=40), "metadata": {"name": "a", "finalizers": ["x.example/see"]}},
    )
    core.delete_namespaced_pod("a", SPACE)
    cluster.advance(39)
    assert "running" in state(cluster)
    core.delete_namespaced_pod("a", SPACE, grace_period_seconds=39)  # a shorter grace counts from the first deletion
    cluster.advance(0)
    assert state(cluster)["terminated"]["exitCode"] == 137
    assert cluster.get(POD, "a")["status"]["phase"] == "Failed"


def test_a_drain_evicts_by_the_api(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    cluster.kubelet.script = lambda made: Script(term_seconds=5)
    create(core)
    core.create_namespaced_pod_eviction("a", SPACE, {"metadata": {"name": "a"}})
    assert disruption(cluster) == "EvictionByEvictionAPI"
    cluster.advance(5)
    assert cluster.all(POD) == []


def test_a_dead_node(cluster: Cluster, core: client.CoreV1Api) -> None:
    """Not ready after 40 s; its pods go 300 s later, and hang until the node is out of service."""
    cluster.add_node("n")
    create(core)
    cluster.lose_node("n")
    cluster.advance(39)
    assert is_true(cluster.get(NODE, "n"), "Ready")
    cluster.advance(1)
    ready = condition(cluster.get(NODE, "n"), "Ready")
    assert ready is not None
    assert (ready["status"], ready["reason"]) == ("Unknown", "NodeStatusUnknown")
    assert not is_true(cluster.get(POD, "a"), "Ready")
    assert cluster.get(POD, "a")["status"]["phase"] == "Running"
    with pytest.raises(ApiException) as caught:
        core.read_namespaced_pod_log("a", SPACE)
    assert caught.value.status == 500
    cluster.advance(299)
    assert "deletionTimestamp" not in cluster.get(POD, "a")["metadata"]
    cluster.advance(1)
    assert "deletionTimestamp" in cluster.get(POD, "a")["metadata"]
    assert disruption(cluster) == "DeletionByTaintManager"
    cluster.advance(24 * 3600)
    assert cluster.get(POD, "a")["status"]["phase"] == "Running", "nobody can say that it has ended"
    cluster.taint_node("n", "node.kubernetes.io/out-of-service", "NoExecute", "nodeshutdown")
    assert cluster.all(POD) == []


def test_a_pod_may_be_given_less_time_on_a_dead_node(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    create(
        core,
        tolerations=[
            {
                "key": "node.kubernetes.io/unreachable",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 10,
            }
        ],
    )
    cluster.lose_node("n")
    cluster.advance(50)
    assert "deletionTimestamp" in cluster.get(POD, "a")["metadata"]


def test_a_node_that_comes_back_tells_how_its_pods_ended(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    create(core)
    cluster.lose_node("n")
    cluster.advance(100)
    cluster.restore_node("n")
    assert (state(cluster)["terminated"]["exitCode"], cluster.get(POD, "a")["status"]["phase"]) == (255, "Failed")
    create(core, "b")
    assert cluster.get(POD, "b")["status"]["phase"] == "Running"


def test_a_node_object_that_is_deleted_takes_its_pods(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    core.create_namespaced_pod(SPACE, {**pod("a"), "metadata": {"name": "a", "finalizers": ["x.example/see"]}})
    cluster.lose_node("n")
    core.delete_node("n")
    assert cluster.get(POD, "a")["status"]["phase"] == "Failed"
    assert disruption(cluster) == "DeletionByPodGC"


def test_a_spot_node_that_is_taken_back(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    create(core)
    cluster.shut_down_node("n")
    status = cluster.get(POD, "a")["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "Terminated")
    assert status["message"] == "Pod was terminated in response to imminent node shutdown."
    assert disruption(cluster) == "TerminationByKubelet"
    create(core, "b")
    assert "had untolerated taint(s)" in waits(cluster, "b")


def test_logs(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.add_node("n")
    create(core)
    made = cluster.get(POD, "a")
    cluster.print(made, "one\ntwo\n")
    cluster.advance(100)
    cluster.print(made, "three\nfour")
    assert printed(core) == "one\ntwo\nthree\nfour"
    assert printed(core, tail_lines=2) == "three\nfour"
    assert printed(core, since_seconds=50) == "three\nfour"
    assert printed(core, limit_bytes=3) == "one"
    assert printed(core, timestamps=True, tail_lines=1) == "2026-01-01T00:01:40.000000000Z four"


@pytest.mark.parametrize(
    ("given", "query", "words"),
    [
        ({}, {"previous": True}, 'previous terminated container "worker" in pod "a" not found'),
        ({}, {"container": "other"}, "container other is not valid for pod a"),
        (
            {"worker": {"image": "missing:1"}},
            {},
            'container "worker" in pod "a" is waiting to start: image can not be pulled',
        ),
    ],
)
def test_logs_that_are_not_there(
    cluster: Cluster, core: client.CoreV1Api, given: Object, query: Object, words: str
) -> None:
    cluster.add_node("n")
    cluster.kubelet.missing_images.add("missing:1")
    create(core, **given)
    with pytest.raises(ApiException) as caught:
        core.read_namespaced_pod_log("a", SPACE, **query)
    assert (caught.value.status, json.loads(caught.value.body)["message"]) == (400, words)


def test_a_pod_on_no_node_has_an_empty_log(core: client.CoreV1Api) -> None:
    create(core)
    assert printed(core) == ""
