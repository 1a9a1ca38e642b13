"""The Job controller: what becomes of a Job as its pods end, fail, are disrupted or deleted."""

from typing import Any

import pytest
from kubernetes import client

from cluster import Cluster, Script
from cluster.conditions import condition, is_true
from cluster.kinds import JOB, POD, Object
from cluster.samples import DISRUPTED, job

SPACE = Cluster.namespace
FAIL_ON_2 = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}


@pytest.fixture
def batch(cluster: Cluster) -> client.BatchV1Api:
    for n in range(4):
        cluster.add_node(f"n{n}", gpus=8)
    return client.BatchV1Api(cluster.client())


def create(batch: client.BatchV1Api, name: str, **given: Any) -> Object:
    return batch.create_namespaced_job(SPACE, job(name, **given))


def conditions(cluster: Cluster, name: str) -> dict[str, str]:
    """Those that are true, with their reasons."""
    found = cluster.get(JOB, name)["status"].get("conditions") or []
    return {each["type"]: each.get("reason", "") for each in found if each["status"] == "True"}


def test_each_index_gets_a_pod_that_knows_it(cluster: Cluster, batch: client.BatchV1Api) -> None:
    create(batch, "a", nodes=3, pod={"subdomain": "svc"})
    found = cluster.pods_of("a")
    job_made = cluster.get(JOB, "a")
    uid = job_made["metadata"]["uid"]
    for n, pod in enumerate(found):
        meta, spec = pod["metadata"], pod["spec"]
        assert meta["name"].rpartition("-")[0] == f"a-{n}"
        assert len(meta["name"].rpartition("-")[2]) == 5
        assert spec["hostname"] == f"a-{n}"
        assert meta["labels"] == {
            **{"batch.kubernetes.io/controller-uid": uid, "controller-uid": uid, "job-name": "a"},
            **{"batch.kubernetes.io/job-name": "a", "batch.kubernetes.io/job-completion-index": str(n)},
        }
        assert meta["annotations"] == {"batch.kubernetes.io/job-completion-index": str(n)}
        assert meta["finalizers"] == ["batch.kubernetes.io/job-tracking"]
        assert meta["ownerReferences"][0]["uid"] == uid
        (env,) = spec["containers"][0]["env"]
        assert env["name"] == "JOB_COMPLETION_INDEX"
        assert (
            env["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['batch.kubernetes.io/job-completion-index']"
        )
    status = job_made["status"]
    assert (status["active"], status["ready"], status["terminating"]) == (3, 3, 0)


def test_a_job_completes_when_every_index_has_succeeded(cluster: Cluster, batch: client.BatchV1Api) -> None:
    create(batch, "a", nodes=3)
    cluster.finish(cluster.pod("a", 0))
    cluster.finish(cluster.pod("a", 2))
    status = cluster.get(JOB, "a")["status"]
    assert (status["active"], status["succeeded"], status["completedIndexes"]) == (1, 2, "0,2")
    assert conditions(cluster, "a") == {}
    cluster.finish(cluster.pod("a", 1))
    assert conditions(cluster, "a") == {"SuccessCriteriaMet": "CompletionsReached", "Complete": "CompletionsReached"}
    status = cluster.get(JOB, "a")["status"]
    assert (status["succeeded"], status["completedIndexes"], status["completionTime"]) == (
        3,
        "0-2",
        cluster.clock.stamp(),
    )
    assert "active" not in status
    assert len(cluster.pods_of("a")) == 3, "ended pods stay, for their logs"
    assert all("finalizers" not in pod["metadata"] for pod in cluster.pods_of("a"))


def test_a_failure_beyond_the_limit_fails_the_job_once_its_pods_have_ended(
    cluster: Cluster, batch: client.BatchV1Api
) -> None:
    cluster.kubelet.script = lambda pod: Script(term_seconds=7)
    create(batch, "a", nodes=2)
    cluster.finish(cluster.pod("a", 0), 1)
    assert conditions(cluster, "a") == {"FailureTarget": "BackoffLimitExceeded"}
    assert "deletionTimestamp" in cluster.pod("a", 1)["metadata"]
    status = cluster.get(JOB, "a")["status"]
    assert (status["terminating"], status["failed"]) == (1, 2), (
        "what is still running when a Job fails counts as failed"
    )
    cluster.advance(7)
    assert conditions(cluster, "a") == {"FailureTarget": "BackoffLimitExceeded", "Failed": "BackoffLimitExceeded"}
    failed = condition(cluster.get(JOB, "a"), "Failed")
    assert failed is not None
    assert failed["message"] == "Job has reached the specified backoff limit"
    assert [pod["metadata"]["name"][:3] for pod in cluster.pods_of("a")] == ["a-0"], "the stopped pod is deleted"


def test_failed_pods_are_replaced_with_growing_waits(cluster: Cluster, batch: client.BatchV1Api) -> None:
    create(batch, "a", backoffLimit=2)
    for wait in (10, 20):
        cluster.finish(cluster.pod("a"), 1)
        before = len(cluster.pods_of("a"))
        cluster.advance(wait - 1)
        assert len(cluster.pods_of("a")) == before
        cluster.advance(1)
        assert len(cluster.pods_of("a")) == before + 1
    assert conditions(cluster, "a") == {}
    cluster.finish(cluster.pod("a"), 1)
    assert cluster.ended("a") == "Failed"
    assert cluster.get(JOB, "a")["status"]["failed"] == 3


def test_a_fail_job_rule_ends_it_at_once_and_says_why(cluster: Cluster, batch: client.BatchV1Api) -> None:
    create(batch, "a", nodes=2, backoffLimit=6, podFailurePolicy={"rules": [FAIL_ON_2, DISRUPTED]})
    pod = cluster.pod("a", 1)
    cluster.finish(pod, 2)
    failed = condition(cluster.get(JOB, "a"), "Failed")
    assert failed is not None
    name = f"{SPACE}/{pod['metadata']['name']}"
    assert failed["reason"] == "PodFailurePolicy"
    assert (
        failed["message"] == f"Container worker for pod {name} failed with exit code 2 matching FailJob rule at index 0"
    )


def test_an_ignored_failure_is_not_counted_and_the_pod_is_replaced(cluster: Cluster, batch: client.BatchV1Api) -> None:
    create(batch, "a", podFailurePolicy={"rules": [DISRUPTED]})
    cluster.evict(cluster.pod("a"))
    assert conditions(cluster, "a") == {}
    assert "failed" not in cluster.get(JOB, "a")["status"]
    cluster.advance(10)
    assert [pod["status"]["phase"] for pod in cluster.pods_of("a")] == ["Failed", "Running"]
    cluster.finish(cluster.pod("a"), 1)
    assert cluster.ended("a") == "Failed"


def test_a_disruption_can_fail_the_job(cluster: Cluster, batch: client.BatchV1Api) -> None:
    rule = {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget"}]}
    create(batch, "a", podFailurePolicy={"rules": [rule]})
    pod = cluster.pod("a")
    cluster.preempt(pod)
    failed = condition(cluster.get(JOB, "a"), "Failed")
    assert failed is not None
    assert (
        failed["message"]
        == f"Pod {SPACE}/{pod['metadata']['name']} has condition DisruptionTarget matching FailJob rule at index 0"
    )


def test_a_count_rule_comes_before_later_rules(cluster: Cluster, batch: client.BatchV1Api) -> None:
    count = {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [75]}}
    ignore = {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1, 75]}}
    create(batch, "a", backoffLimit=1, podFailurePolicy={"rules": [count, ignore]})
    cluster.finish(cluster.pod("a"), 75)
    assert "failed" not in cluster.get(JOB, "a")["status"]
    cluster.advance(10)
    cluster.finish(cluster.pod("a"), 1)
    assert cluster.get(JOB, "a")["status"]["failed"] == 1


def test_an_index_that_fails_for_good_leaves_the_others(cluster: Cluster, batch: client.BatchV1Api) -> None:
    rule = {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [3]}}
    spec: Object = {"backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": [rule]}}
    made = job("a", nodes=2, **spec)
    del made["spec"]["backoffLimit"]
    batch.create_namespaced_job(SPACE, made)
    cluster.finish(cluster.pod("a", 0), 3)
    assert cluster.get(JOB, "a")["status"]["failedIndexes"] == "0"
    cluster.advance(100)
    assert len(cluster.pods_of("a")) == 2
    cluster.finish(cluster.pod("a", 1))
    assert conditions(cluster, "a") == {"FailureTarget": "FailedIndexes", "Failed": "FailedIndexes"}


@pytest.mark.parametrize(("policy", "at_once"), [("Failed", False), ("TerminatingOrFailed", True)])
def test_when_a_deleted_pod_is_replaced(cluster: Cluster, batch: client.BatchV1Api, policy: str, at_once: bool) -> None:
    cluster.kubelet.script = lambda pod: Script(term_seconds=15)
    create(batch, "a", backoffLimit=3, podReplacementPolicy=policy)
    cluster.delete(POD, cluster.pod("a")["metadata"]["name"])
    status = cluster.get(JOB, "a")["status"]
    assert (status.get("active"), status["terminating"]) == (None, 1)
    assert status.get("failed") == (1 if at_once else None)
    cluster.advance(11)
    assert len(cluster.pods_of("a")) == (2 if at_once else 1)
    cluster.advance(30)
    assert [pod["status"]["phase"] for pod in cluster.pods_of("a")] == ["Running"]
    assert cluster.get(JOB, "a")["status"]["failed"] == 1


def test_without_indexes_too_a_pod_is_replaced_when_it_has_ended(cluster: Cluster, batch: client.BatchV1Api) -> None:
    cluster.kubelet.script = lambda pod: Script(term_seconds=15)
    create(batch, "a", backoffLimit=3, podReplacementPolicy="Failed", completionMode="NonIndexed")
    cluster.delete(POD, cluster.pods_of("a")[0]["metadata"]["name"])
    cluster.advance(14)
    assert len(cluster.pods_of("a")) == 1
    cluster.advance(11)
    assert [pod["status"]["phase"] for pod in cluster.pods_of("a")] == ["Running"]


def test_a_pod_deleted_by_hand_fails_a_job_without_retries(cluster: Cluster, batch: client.BatchV1Api) -> None:
    create(batch, "a", podReplacementPolicy="Failed")
    cluster.delete(POD, cluster.pod("a")["metadata"]["name"])
    assert conditions(cluster, "a") == {"FailureTarget": "BackoffLimitExceeded", "Failed": "BackoffLimitExceeded"}
    assert cluster.pods_of("a") == []


def test_the_deadline_ends_it(cluster: Cluster, batch: client.BatchV1Api) -> None:
    create(batch, "a", nodes=2, activeDeadlineSeconds=100)
    began = cluster.clock.now
    cluster.advance_until(lambda: cluster.ended("a"), 200, "its end")
    assert cluster.clock.now - began == 100
    assert conditions(cluster, "a")["Failed"] == "DeadlineExceeded"
    failed = condition(cluster.get(JOB, "a"), "Failed")
    assert failed is not None
    assert failed["message"] == "Job was active longer than specified deadline"
    assert cluster.pods_of("a") == []


def test_a_suspended_job_has_no_pods_and_no_deadline(cluster: Cluster, batch: client.BatchV1Api) -> None:
    create(batch, "a", suspend=True, activeDeadlineSeconds=50)
    assert conditions(cluster, "a") == {"Suspended": "JobSuspended"}
    assert "startTime" not in cluster.get(JOB, "a")["status"]
    cluster.advance(100)
    assert cluster.pods_of("a") == []
    batch.patch_namespaced_job("a", SPACE, {"spec": {"suspend": False}})
    suspended = condition(cluster.get(JOB, "a"), "Suspended")
    assert suspended is not None
    assert (suspended["status"], suspended["reason"]) == ("False", "JobResumed")
    assert cluster.get(JOB, "a")["status"]["startTime"] == cluster.clock.stamp()
    assert len(cluster.pods_of("a")) == 1
    cluster.advance(50)
    assert cluster.ended("a") == "Failed"


def test_suspending_deletes_pods_without_counting_them(cluster: Cluster, batch: client.BatchV1Api) -> None:
    create(batch, "a", nodes=2)
    batch.patch_namespaced_job("a", SPACE, {"spec": {"suspend": True}})
    assert cluster.pods_of("a") == []
    assert conditions(cluster, "a") == {"Suspended": "JobSuspended"}
    assert "failed" not in cluster.get(JOB, "a")["status"]


def test_a_finished_job_goes_after_its_time_to_live(cluster: Cluster, batch: client.BatchV1Api) -> None:
    create(batch, "a", ttlSecondsAfterFinished=60)
    cluster.finish_job("a")
    cluster.advance(59)
    assert cluster.ended("a") == "Complete"
    cluster.advance(1)
    assert cluster.all(JOB) == cluster.all(POD) == []


def test_restarted_containers_count_against_the_limit(cluster: Cluster, batch: client.BatchV1Api) -> None:
    create(batch, "a", backoffLimit=2, pod={"restartPolicy": "OnFailure"})
    cluster.finish(cluster.pod("a"), 1)
    status = cluster.pod("a")["status"]["containerStatuses"][0]
    assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert status["lastState"]["terminated"]["exitCode"] == 1
    cluster.advance(10)
    assert cluster.pod("a")["status"]["containerStatuses"][0]["restartCount"] == 1
    cluster.finish(cluster.pod("a"), 1)
    assert cluster.ended("a") == "Failed"


def test_without_completions_one_success_is_enough(cluster: Cluster, batch: client.BatchV1Api) -> None:
    made = job("a")
    made["spec"] |= {"completions": None, "parallelism": 2, "completionMode": "NonIndexed"}
    batch.create_namespaced_job(SPACE, made)
    first, second = cluster.pods_of("a")
    cluster.finish(first)
    assert cluster.ended("a") == ""
    cluster.finish(second)
    assert cluster.ended("a") == "Complete"


def test_a_job_deleted_by_hand_takes_its_pods_with_it(cluster: Cluster, batch: client.BatchV1Api) -> None:
    create(batch, "a", nodes=2)
    cluster.delete(JOB, "a")
    assert cluster.all(JOB) == cluster.all(POD) == []


def test_kueue_holds_a_job_until_it_is_admitted(cluster: Cluster, batch: client.BatchV1Api) -> None:
    cluster.use_kueue()
    made = job("a")
    made["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}
    assert batch.create_namespaced_job(SPACE, made).spec.suspend is True
    cluster.advance(1000)
    assert cluster.pods_of("a") == []
    cluster.admit("a")
    assert len(cluster.pods_of("a")) == 1
    cluster.preempt_workload("a")
    assert cluster.pods_of("a") == []
    assert is_true(cluster.get(JOB, "a"), "Suspended")
    cluster.admit("a")
    cluster.finish_job("a")
    assert cluster.ended("a") == "Complete"
    create(batch, "b")
    assert len(cluster.pods_of("b")) == 1, "a Job without a queue is nobody's to hold"


def test_controllers_can_be_held(cluster: Cluster, batch: client.BatchV1Api) -> None:
    with cluster.loop.held():
        create(batch, "a")
        cluster.advance(100)
        assert cluster.get(JOB, "a")["status"] == {}
        assert cluster.pods_of("a") == []
    assert len(cluster.pods_of("a")) == 1
