"""Sentences about states that the faults played on the cluster do not bring about."""

from typing import Any

import pytest

from resources.kubernetes.explain import State, Wait, explain

FOREVER = 1e9


def job(*conditions: tuple[str, str, str], **spec: Any) -> dict[str, Any]:
    """A Job of one pod; conditions are type, reason and message, and true."""
    containers = [{"name": "worker", "resources": {"limits": {"memory": "4096Mi"}}}]
    return {
        "metadata": {"name": "ft-x", "uid": "j", "labels": {"kueue.x-k8s.io/queue-name": "gpus"}},
        "spec": {"completions": 1, "template": {"spec": {"containers": containers}}, **spec},
        "status": {"conditions": [{"type": t, "status": "True", "reason": r, "message": m} for t, r, m in conditions]},
    }


def pod(
    phase: str = "Pending", conditions: Any = (), state: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    status = {
        "phase": phase,
        "conditions": [{"type": t, "status": s, "reason": r, "message": m} for t, s, r, m in conditions],
        "containerStatuses": [{"name": "worker", "state": state}] if state else [],
        **more.pop("status", {}),
    }
    meta = {"name": "ft-x-0-abcde", "uid": "p", "labels": {}, **more.pop("metadata", {})}
    return {"metadata": meta, "spec": {"nodeName": "node-a"}, "status": status, "gone": False, **more}


def event(uid: str, reason: str, message: str) -> dict[str, Any]:
    return {
        "involvedObject": {"uid": uid},
        "reason": reason,
        "message": message,
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }


FAILED = ("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
BOUND = [("PodScheduled", "True", "", "")]


@pytest.mark.parametrize(
    ("message", "state", "wait", "words"),
    [
        (
            'Error creating: pods "ft-x-0-abcde" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
            State.REFUSED,
            None,
            "the namespace's Pod Security profile refuses them",
        ),
        ('Error creating: pods "x" is forbidden: no PriorityClass with name big was found', State.REFUSED, None, "big"),
        (
            "Error creating: Internal error occurred: failed calling webhook",
            State.WAITING,
            Wait.START,
            "failed calling webhook",
        ),
        (
            'Error creating: pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2',
            State.WAITING,
            Wait.SCHEDULE,
            "the namespace's quota is used up",
        ),
    ],
)
def test_what_the_server_says_of_pods_it_does_not_create(
    message: str, state: State, wait: Wait | None, words: str
) -> None:
    found = explain(job(), [], [event("j", "FailedCreate", message)], 0.0, FOREVER)
    assert (found.state, found.wait) == (state, wait)
    assert words in found.sentence
    assert message.removeprefix("Error creating: ") in found.sentence


@pytest.mark.parametrize(
    ("events", "wait", "words"),
    [
        ([], Wait.START, "is starting on node node-a"),
        ([event("p", "FailedMount", 'MountVolume.SetUp failed: secret "hub" not found')], Wait.START, 'secret "hub"'),
        ([event("p", "Pulling", 'Pulling image "worker"')], Wait.IMAGE, 'Pulling image "worker"'),
        ([event("other", "FailedMount", "of another pod")], Wait.START, "is starting"),
    ],
)
def test_what_a_pod_waits_for_between_its_node_and_its_start(events: Any, wait: Wait, words: str) -> None:
    found = explain(job(), [pod(conditions=BOUND)], events, 0.0, FOREVER)
    assert (found.state, found.wait, found.look) == (State.WAITING, wait, True)
    assert words in found.sentence


def test_a_pod_that_used_up_its_own_disk_is_at_fault_itself() -> None:
    own = {
        "reason": "Evicted",
        "message": "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi.",
    }
    disrupted = [("DisruptionTarget", "True", "TerminationByKubelet", "")]
    found = explain(job(FAILED), [pod("Failed", disrupted, status=own)], [], 0.0, FOREVER)
    assert found.state is State.FAILED
    assert "because of what it used itself" in found.sentence


def test_the_first_pod_that_failed_is_named_not_those_that_fell_with_it() -> None:
    def ended(name: str, code: int, at: int, **meta: Any) -> dict[str, Any]:
        state = {"terminated": {"exitCode": code, "finishedAt": f"2026-01-01T00:00:{at:02}Z", "message": f"of {name}"}}
        return pod("Failed", state=state, metadata={"name": name, "uid": name, **meta})

    pods = [ended("later", 1, 30), ended("first", 1, 10), ended("stopped", 143, 10, deletionTimestamp="x")]
    found = explain(job(FAILED), pods, [], 0.0, FOREVER)
    assert (found.pod, found.lines) == ("first", "of first")


@pytest.mark.parametrize(
    ("ending_since", "steady", "state"),
    [(0.0, 500.0, State.LOST), (0.0, 5.0, State.RUNNING), (450.0, 500.0, State.RUNNING)],
)
def test_a_pod_hangs_only_if_it_has_been_seen_to_for_long_enough(
    ending_since: float, steady: float, state: State
) -> None:
    """While the watch was away, the pod may have ended: what was seen before says nothing."""
    meta = {"deletionTimestamp": "x", "deletionGracePeriodSeconds": 30}
    hangs = pod("Running", BOUND, metadata=meta, ending_since=ending_since)
    target = job(("FailureTarget", "BackoffLimitExceeded", ""))
    assert explain(target, [hangs], [], 500.0, steady).state is state
    assert explain(target, [{**hangs, "gone": True}], [], 500.0, steady).state is State.RUNNING


@pytest.mark.parametrize(
    ("message", "state"),
    [
        ("Pod ns/x has condition DisruptionTarget matching FailJob rule at index 0", State.PREEMPTED),
        ("Container worker for pod ns/x failed with exit code 75 matching FailJob rule at index 1", State.STOPPED),
        ("Container worker for pod ns/x failed with exit code 2 matching FailJob rule at index 2", State.FAILED),
    ],
)
def test_where_no_pod_is_known_the_jobs_condition_tells(message: str, state: State) -> None:
    found = explain(job(("Failed", "PodFailurePolicy", message)), [], [], 0.0, FOREVER)
    assert found.state is state
    assert message in found.sentence


def test_a_job_that_has_ended_is_what_it_ended_as_while_it_is_being_deleted() -> None:
    made = job(("Complete", "", ""))
    made["metadata"]["deletionTimestamp"] = "x"
    assert explain(made, [], [], 0.0, FOREVER).state is State.SUCCEEDED
    assert explain(None, [], [], 0.0, FOREVER).state is State.DELETED


def test_pods_count_although_the_job_controllers_clock_is_ahead() -> None:
    """It stamps the start of a Job, and the API server the pods: on a control plane of three these are two machines."""
    made = job()
    made["status"]["startTime"] = "2026-01-01T00:00:03Z"
    runs = pod("Running", BOUND, metadata={"creationTimestamp": "2026-01-01T00:00:02Z"})
    assert explain(made, [runs], [], 0.0, FOREVER).state is State.RUNNING


@pytest.mark.parametrize(
    ("before", "state"),
    [
        ({"deletionTimestamp": "2026-01-01T00:01:45Z", "deletionGracePeriodSeconds": 45}, State.FAILED),
        ({"deletionTimestamp": "2026-01-01T00:10:45Z", "deletionGracePeriodSeconds": 45}, State.STOPPED),
        ({"labels": {"batch.kubernetes.io/controller-uid": "an earlier Job of that name"}}, State.FAILED),
        ({}, State.FAILED),
    ],
    ids=["suspended before", "deleted since", "another Job's", "gone without a word"],
)
def test_pods_that_went_before_the_job_began_anew_say_nothing_of_its_end(before: Any, state: State) -> None:
    stopped = {"terminated": {"exitCode": 75, "finishedAt": "2026-01-01T00:01:20Z"}}
    broke = {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:11:00Z"}}
    meta = {"uid": "q", "creationTimestamp": "2026-01-01T00:00:00Z", **before}
    pods = [pod("Failed", state=stopped, metadata=meta, gone=True), pod("Failed", state=broke)]
    made = job(FAILED)
    made["status"]["startTime"] = "2026-01-01T00:05:00Z"
    assert explain(made, pods, [], 0.0, FOREVER).state is state
