"""JobSets: their child Jobs, restarts and conditions."""

import json
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client import ApiException

from cluster import Cluster
from cluster.conditions import condition
from cluster.kinds import JOB, JOB_SET, POD, SERVICE, Object
from cluster.samples import job

SPACE = Cluster.namespace
WHERE = ("jobset.x-k8s.io", "v1alpha2", SPACE, "jobsets")


@pytest.fixture
def custom(cluster: Cluster) -> client.CustomObjectsApi:
    cluster.add_node("n", gpus=8)
    return client.CustomObjectsApi(cluster.client())


def job_set(name: str, nodes: int = 2, labels: dict[str, str] | None = None, **spec: Any) -> Object:
    replicated = {"name": "worker", "replicas": 1, "template": {"spec": job("x", nodes=nodes)["spec"]}}
    meta = {"name": name, "labels": labels or {}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": meta,
        "spec": {"replicatedJobs": [replicated], **spec},
    }


def why(cluster: Cluster, type_: str) -> Object:
    return condition(cluster.get(JOB_SET, "a"), type_) or {}


def test_a_child_job_with_a_service_and_names_that_tell(cluster: Cluster, custom: client.CustomObjectsApi) -> None:
    custom.create_namespaced_custom_object(*WHERE, job_set("a"))
    (child,) = cluster.all(JOB)
    assert child["metadata"]["name"] == "a-worker-0"
    assert child["metadata"]["labels"]["jobset.sigs.k8s.io/jobset-name"] == "a"
    first = cluster.pod("a-worker-0", 0)
    assert (first["spec"]["hostname"], first["spec"]["subdomain"]) == ("a-worker-0-0", "a")
    service = cluster.get(SERVICE, "a")["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert service["selector"] == {"jobset.sigs.k8s.io/jobset-name": "a"}
    made = custom.get_namespaced_custom_object(*WHERE, "a")
    assert made["status"]["replicatedJobsStatus"] == [
        {"name": "worker", "succeeded": 0, "failed": 0, "active": 1, "ready": 1, "suspended": 0}
    ]


def test_it_completes_with_its_jobs(cluster: Cluster, custom: client.CustomObjectsApi) -> None:
    custom.create_namespaced_custom_object(*WHERE, job_set("a"))
    cluster.finish_job("a-worker-0")
    assert why(cluster, "Completed")["reason"] == "AllJobsCompleted"
    assert cluster.get(JOB_SET, "a")["status"]["terminalState"] == "Completed"


def test_it_fails_with_one_of_them(cluster: Cluster, custom: client.CustomObjectsApi) -> None:
    custom.create_namespaced_custom_object(*WHERE, job_set("a"))
    cluster.finish(cluster.pod("a-worker-0", 1), 1)
    assert (
        why(cluster, "Failed")["message"]
        == "jobset failed due to one or more job failures (first failed job: a-worker-0)"
    )


def test_it_begins_anew_as_often_as_it_may(cluster: Cluster, custom: client.CustomObjectsApi) -> None:
    custom.create_namespaced_custom_object(*WHERE, job_set("a", failurePolicy={"maxRestarts": 1}))
    uid = cluster.get(JOB, "a-worker-0")["metadata"]["uid"]
    cluster.finish_job("a-worker-0", 1)
    child = cluster.get(JOB, "a-worker-0")
    assert child["metadata"]["uid"] != uid
    assert child["metadata"]["labels"]["jobset.sigs.k8s.io/restart-attempt"] == "1"
    assert cluster.get(JOB_SET, "a")["status"]["restarts"] == 1
    cluster.finish_job("a-worker-0", 1)
    assert why(cluster, "Failed")["reason"] == "ReachedMaxRestarts"


def test_a_suspended_one_has_suspended_jobs(cluster: Cluster, custom: client.CustomObjectsApi) -> None:
    cluster.use_kueue()
    custom.create_namespaced_custom_object(*WHERE, job_set("a", labels={"kueue.x-k8s.io/queue-name": "gpus"}))
    assert why(cluster, "Suspended")["reason"] == "SuspendedJobs"
    assert cluster.all(POD) == []
    cluster.admit("a", JOB_SET)
    assert why(cluster, "Suspended")["status"] == "False"
    assert len(cluster.all(POD)) == 2


def test_a_deletion_takes_everything(cluster: Cluster, custom: client.CustomObjectsApi) -> None:
    custom.create_namespaced_custom_object(*WHERE, job_set("a"))
    custom.delete_namespaced_custom_object(*WHERE, "a")
    assert cluster.all(JOB_SET) == cluster.all(JOB) == cluster.all(POD) == cluster.all(SERVICE) == []


def test_what_a_custom_resource_does_not_take(cluster: Cluster, custom: client.CustomObjectsApi) -> None:
    made = custom.create_namespaced_custom_object(*WHERE, job_set("a"))
    with pytest.raises(ApiException) as caught:
        custom.patch_namespaced_custom_object(
            *WHERE, "a", {"spec": {"suspend": True}}, _content_type="application/strategic-merge-patch+json"
        )
    assert caught.value.status == 415
    patched = custom.patch_namespaced_custom_object(
        *WHERE, "a", {"spec": {"suspend": True}}, _content_type="application/merge-patch+json"
    )
    assert patched["spec"]["suspend"] is True
    del made["metadata"]["resourceVersion"]
    with pytest.raises(ApiException) as caught:
        custom.replace_namespaced_custom_object(*WHERE, "a", made)
    assert "must be specified for an update" in json.loads(caught.value.body)["message"]
