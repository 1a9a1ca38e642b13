"""What a test can let go wrong between a client and the server."""

import json
from typing import Any

import pytest
import urllib3
from kubernetes import client, config
from kubernetes.client import ApiException

from cluster import Cluster
from cluster.kinds import JOB, Object
from cluster.samples import job

SPACE = Cluster.namespace


@pytest.fixture
def batch(cluster: Cluster) -> client.BatchV1Api:
    return client.BatchV1Api(cluster.client())


def refused(call: Any, *args: Any, **given: Any) -> tuple[int, Object, Any]:
    with pytest.raises(ApiException) as caught:
        call(*args, **given)
    return caught.value.status, json.loads(caught.value.body), caught.value.headers


def test_a_server_that_is_away_comes_back_with_all_it_had(cluster: Cluster, batch: client.BatchV1Api) -> None:
    batch.create_namespaced_job(SPACE, job("a"))
    url = cluster.url
    cluster.unreach()
    with pytest.raises(urllib3.exceptions.HTTPError):
        batch.list_namespaced_job(SPACE)
    cluster.add_node("n")  # the cluster itself goes on
    assert cluster.pods_of("a")[0]["status"]["phase"] == "Running"
    cluster.reach()
    assert cluster.url == url
    assert [each.metadata.name for each in batch.list_namespaced_job(SPACE).items] == ["a"]
    assert cluster.requests[("create", "jobs")] == 1


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (409, "Conflict"),
        (410, "Expired"),
        (429, "TooManyRequests"),
        (500, "InternalError"),
        (503, "ServiceUnavailable"),
        (504, "Timeout"),
    ],
)
def test_the_next_requests_fail_and_change_nothing(
    cluster: Cluster, batch: client.BatchV1Api, status: int, reason: str
) -> None:
    cluster.faults.fail(2, status, verb="create", resource="jobs", retry_after=7)
    for _ in range(2):
        code, body, headers = refused(batch.create_namespaced_job, SPACE, job("a"))
        assert (code, body["reason"]) == (status, reason)
        assert (headers["Retry-After"], body["details"]["retryAfterSeconds"]) == ("7", 7)
        assert batch.list_namespaced_job(SPACE).items == []
    batch.create_namespaced_job(SPACE, job("a"))


def test_a_connection_breaks_before_or_after_the_request_is_carried_out(
    cluster: Cluster, batch: client.BatchV1Api
) -> None:
    cluster.faults.drop(1, verb="create")
    with pytest.raises(urllib3.exceptions.HTTPError):
        batch.create_namespaced_job(SPACE, job("a"))
    assert cluster.all(JOB) == []
    cluster.faults.lose_answers(1, verb="create")
    with pytest.raises(urllib3.exceptions.HTTPError):
        batch.create_namespaced_job(SPACE, job("a"))
    assert len(cluster.all(JOB)) == 1
    assert refused(batch.create_namespaced_job, SPACE, job("a"))[1]["reason"] == "AlreadyExists"


def test_a_slow_server_outlasts_a_clients_patience(cluster: Cluster, batch: client.BatchV1Api) -> None:
    cluster.faults.slow_seconds = 0.3
    with pytest.raises(urllib3.exceptions.HTTPError):
        batch.list_namespaced_job(SPACE, _request_timeout=0.05)
    assert batch.list_namespaced_job(SPACE, _request_timeout=5).items == []
    cluster.faults.clear()


def test_requests_are_counted_by_verb_and_resource(cluster: Cluster, batch: client.BatchV1Api) -> None:
    batch.create_namespaced_job(SPACE, job("a"))
    batch.read_namespaced_job("a", SPACE)
    batch.read_namespaced_job("a", SPACE)
    batch.delete_namespaced_job("a", SPACE, propagation_policy="Background")
    assert cluster.requests == {("create", "jobs"): 1, ("get", "jobs"): 2, ("delete", "jobs"): 1}
    cluster.forget_requests()
    assert cluster.requests == {}


def test_a_kubeconfig_leads_to_it(cluster: Cluster, tmp_path: Any) -> None:
    made = config.new_client_from_config(str(cluster.kubeconfig(tmp_path / "config")))
    assert client.CoreV1Api(made).read_namespace(SPACE).metadata.name == SPACE
