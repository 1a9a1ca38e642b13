"""What a Job, its pods and their events mean: a state to act on and a sentence a person understands. Pure.

Objects are the API's JSON. Reasons and messages are those of Kubernetes 1.31 and later: the scheduler's, the kubelet's, the Job
controller's and the disruption reasons of a pod's ``DisruptionTarget`` condition (KEP-3329).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from ft_assets.core.errors import STOPPED

Manifest = dict[str, Any]

INDEX = "batch.kubernetes.io/job-completion-index"
CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
# After its grace period a pod that is being deleted is gone; one that stays is on a node that does not answer.
HANGS_SECONDS = 60.0
KILLED, TERMINATED = 128 + 9, 128 + 15  # exit codes of a container that a signal ended
IMAGE_REASONS = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
IMAGE_EVENTS = ("Pulling", "BackOff", "Failed")
MOUNT_EVENTS = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedBinding")
NODE_GONE = ("DeletionByTaintManager", "DeletionByPodGC")
DISRUPTIONS = {
    "PreemptionByScheduler": "was preempted for a pod of higher priority",
    "EvictionByEvictionAPI": "was evicted, as by `kubectl drain`",
    "TerminationByKubelet": "was ended by its node, which shuts down or runs short of resources",
    "DeletionByTaintManager": "was taken from its node, which does not answer or was tainted",
    "DeletionByPodGC": "was lost with its node",
}


class State(StrEnum):
    """Of a materialization's Job; the last eight are ends."""

    QUEUED = "queued"
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    OOM = "out of memory"
    PREEMPTED = "preempted"
    LOST = "lost"
    STOPPED = "stopped"
    DELETED = "deleted"
    REFUSED = "refused"


RESUMABLE = (State.PREEMPTED, State.LOST, State.STOPPED)


class Wait(StrEnum):
    """What is waited for; each has a bound of its own."""

    QUEUE = "queue"
    SCHEDULE = "schedule"
    IMAGE = "image"
    START = "start"


@dataclass(frozen=True)
class Verdict:
    """``pod`` decided it; ``lines`` are the last words of that pod, where its termination message holds them.

    ``look`` says that more may be heard: from the events of ``pod`` (or of the Job, where it is empty) while it waits, from
    its pods once it has ended.
    """

    state: State
    sentence: str
    wait: Wait | None = None
    pod: str = ""
    code: int | None = None
    lines: str = ""
    look: bool = False

    @property
    def killed(self) -> bool:
        return self.code == KILLED


def explain(
    job: Manifest | None, pods: Sequence[Manifest], events: Sequence[Manifest], now: float, steady_seconds: float
) -> Verdict:
    """Where a materialization stands.

    Args:
        job: None once it is gone.
        pods: its pods, with those that are ``gone`` as they were last seen, and of those that end, ``ending_since``.
        events: of the Job or of its pods, as far as they have been asked for.
        now: seconds, of the clock of ``ending_since``.
        steady_seconds: for how long nothing can have been missed: what has not been heard of since may be old.
    """
    gone = Verdict(State.DELETED, "its Job was deleted, by hand or by a sweep; what was saved is kept")
    if job is None:
        return gone
    if _condition(job, "Complete") is not None:
        return Verdict(State.SUCCEEDED, "all its pods ended well")
    pods = sorted(_present(job, pods), key=lambda pod: (_index(pod), pod["metadata"]["name"]))
    failed = _condition(job, "Failed")
    if failed is not None:
        return _failure(job, pods, failed)
    hanging = [pod for pod in pods if _hangs(pod, now, steady_seconds)]
    if hanging:
        where = f"its node {_node(hanging[0])} does not answer"
        return Verdict(State.LOST, f"{_named(hanging[0], job)} has been deleted and does not end: {where}")
    if "deletionTimestamp" in job["metadata"]:
        return gone
    if _condition(job, "FailureTarget") is not None:
        return Verdict(State.RUNNING, "its pods are ending")
    if job["spec"].get("suspend"):
        return Verdict(State.QUEUED, f"waits in {_queue(job)} for all its pods at once", Wait.QUEUE)
    return _starting(job, pods, events) or _running(job, pods)


def _queue(job: Manifest) -> str:
    """Of a JobSet's Job the queue is not known: its label is the JobSet's."""
    name = (job["metadata"].get("labels") or {}).get("kueue.x-k8s.io/queue-name")
    return f"Kueue's queue {name}" if name else "a queue, suspended,"


def _present(job: Manifest, pods: Iterable[Manifest]) -> list[Manifest]:
    """Without those of an earlier Job of its name, and of the time before a queue suspended it and let it start again."""
    uid, began = job["metadata"]["uid"], job["status"].get("startTime")
    own = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(CONTROLLER_UID, uid) == uid]
    return [pod for pod in own if not began or not _taken_before(pod, _seconds(began))]


def _taken_before(pod: Manifest, began: float) -> bool:
    """Whether a pod was taken away before then. When it was made says nothing: the API server's clock stamps pods, the Job
    controller's the start, and that one may be ahead.
    """
    meta = pod["metadata"]
    if "deletionTimestamp" in meta:
        return _seconds(meta["deletionTimestamp"]) - float(meta.get("deletionGracePeriodSeconds") or 0) < began
    return bool(pod.get("gone")) and _seconds(meta["creationTimestamp"]) < began


def _starting(job: Manifest, pods: Sequence[Manifest], events: Sequence[Manifest]) -> Verdict | None:
    """The first thing that keeps a pod from running."""
    there = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    wanted = job["spec"].get("completions") or 1
    if len(there) < wanted:
        refused = _latest(events, job["metadata"]["uid"], ("FailedCreate",))
        missing = f"{wanted - len(there)} of its {wanted} pods could not be created"
        return _creation(refused, missing) if refused else replace(_missing(job, wanted - len(there)), look=True)
    for pod in there:
        found = _pod_waits(pod, job, events)
        if found is not None:
            return found
    return None


def _missing(job: Manifest, count: int) -> Verdict:
    return Verdict(State.WAITING, f"{count} of the pods of {job['metadata']['name']} are not there yet", Wait.START)


def _creation(message: str, missing: str) -> Verdict:
    """What the Job controller says when the API server refuses a pod."""
    words = message.removeprefix("Error creating: ")
    if "exceeded quota" in words or "failed quota" in words:
        why = f"{missing}: the namespace's quota is used up ({words}); it goes on when others end, or the quota grows"
        return Verdict(State.WAITING, why, Wait.SCHEDULE, look=True)
    if "violates PodSecurity" in words:
        why = (
            f"{missing}: the namespace's Pod Security profile refuses them ({words}); correct the settings of its pods"
        )
        return Verdict(State.REFUSED, why)
    if "is forbidden" in words:
        return Verdict(State.REFUSED, f"{missing}: the API server refuses them ({words})")
    return Verdict(State.WAITING, f"{missing}: {words}", Wait.START, look=True)


def _pod_waits(pod: Manifest, job: Manifest, events: Sequence[Manifest]) -> Verdict | None:
    if pod["status"].get("phase", "Pending") != "Pending":
        return None
    name, named = pod["metadata"]["name"], _named(pod, job)
    scheduled = _condition(pod, "PodScheduled", "False")
    if scheduled is not None:
        words = scheduled.get("message") or scheduled.get("reason") or "no reason given"
        return Verdict(State.WAITING, f"{named} cannot be scheduled: {words}{_hint(words)}", Wait.SCHEDULE, name)
    for status in pod["status"].get("containerStatuses") or []:
        waiting = status["state"].get("waiting") or {}
        reason, words = waiting.get("reason", ""), waiting.get("message") or waiting.get("reason", "")
        if reason in IMAGE_REASONS:
            why = f"the image of {named} cannot be pulled: {words}. Check its name, its digest and image_pull_secrets"
            return Verdict(State.WAITING, why, Wait.IMAGE, name)
        if reason == "CreateContainerConfigError":
            why = f"{named} cannot start: {words}. Create it, or correct env_from_secrets"
            return Verdict(State.WAITING, why, Wait.START, name)
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return Verdict(State.WAITING, f"{named} cannot start: {reason}: {words}", Wait.START, name)
    uid = pod["metadata"]["uid"]
    if mount := _latest(events, uid, MOUNT_EVENTS):
        return Verdict(State.WAITING, f"{named} cannot start: {mount}", Wait.START, name, look=True)
    if pulling := _latest(events, uid, IMAGE_EVENTS):
        return Verdict(State.WAITING, f"{named} pulls its image: {pulling}", Wait.IMAGE, name, look=True)
    if _condition(pod, "PodScheduled") is None:
        return Verdict(State.WAITING, f"{named} waits for the scheduler", Wait.SCHEDULE, name)
    return Verdict(State.WAITING, f"{named} is starting on node {_node(pod)}", Wait.START, name, look=True)


def _hint(words: str) -> str:
    """What the scheduler's words ask for."""
    if "persistentvolumeclaim" in words.lower():
        return " The claim in FT_PODS is not bound: see `kubectl describe pvc`"
    if "Insufficient nvidia.com/gpu" in words or "Insufficient amd.com/gpu" in words:
        return " No node has as many GPUs free"
    return ""


def _running(job: Manifest, pods: Sequence[Manifest]) -> Verdict:
    for pod in pods:
        running = pod["status"].get("phase") == "Running" and not _terminated(pod)
        if running and _condition(pod, "Ready", "False") is not None:
            why = f"{_named(pod, job)} is not ready: its node {_node(pod)} may not answer"
            return Verdict(State.RUNNING, why, pod=pod["metadata"]["name"])
    return Verdict(State.RUNNING, f"runs in {len(pods)} pod{'s' if len(pods) > 1 else ''}")


def _failure(job: Manifest, pods: Sequence[Manifest], condition: Manifest) -> Verdict:
    """Why a Job failed: by its pods where they are known, the one that ended first, else by its condition."""
    if condition.get("reason") == "DeadlineExceeded":
        seconds = job["spec"].get("activeDeadlineSeconds")
        why = f"ran longer than active_deadline_seconds ({seconds}) and was ended; run again to resume, or raise it"
        return Verdict(State.FAILED, why)
    for pod in pods:
        disrupted = _condition(pod, "DisruptionTarget")
        if disrupted is not None or pod["status"].get("reason") == "Evicted":
            return _disruption(pod, job, disrupted or {})
    ended = sorted(
        (pod for pod in pods if _ended_badly(pod)),
        key=lambda pod: (_finished(pod), "deletionTimestamp" in pod["metadata"]),
    )
    killed = [pod for pod in ended if _terminated(pod).get("reason") == "OOMKilled"]
    if killed:
        why = f"{_named(killed[0], job)} ran out of memory and was killed (OOMKilled; its limit: {_limit(job)})"
        return _of_pod(State.OOM, why, killed[0])
    if not ended:
        return _by_condition(condition)
    first, code = ended[0], _terminated(ended[0]).get("exitCode")
    if "deletionTimestamp" in first["metadata"] and code in (None, STOPPED, KILLED, TERMINATED):
        return _of_pod(State.STOPPED, f"{_named(first, job)} was deleted, by hand or by what drains its node", first)
    if code == STOPPED:
        return _of_pod(State.STOPPED, f"{_named(first, job)} was asked to end and saved its work", first)
    return _of_pod(State.FAILED, f"ended with exit code {code} in {_named(first, job)}", first)


def _by_condition(condition: Manifest) -> Verdict:
    """What the Job controller says of a pod that nobody has seen end, by the rules of the pod failure policy."""
    message = condition.get("message", "")
    words = f"failed, and none of its pods is left to say why ({condition.get('reason', '')}: {message})"
    if "has condition DisruptionTarget" in message:
        return Verdict(State.PREEMPTED, words, look=True)
    code = re.search(r"failed with exit code (\d+)", message)
    if code is None:
        return Verdict(State.FAILED, words, look=True)
    state = State.STOPPED if int(code[1]) == STOPPED else State.FAILED
    return Verdict(state, words, code=int(code[1]), look=True)


def _disruption(pod: Manifest, job: Manifest, condition: Manifest) -> Verdict:
    reason, own = condition.get("reason", ""), pod["status"].get("message") or ""
    if pod["status"].get("reason") == "Evicted" and ("exceeds the" in own or "exceeded its" in own):
        return _of_pod(State.FAILED, f"{_named(pod, job)} was evicted because of what it used itself: {own}", pod)
    happened = DISRUPTIONS.get(reason, f"was ended by the cluster ({reason or 'Evicted'})")
    words = own or condition.get("message") or ""
    state = State.LOST if reason in NODE_GONE else State.PREEMPTED
    return _of_pod(state, f"{_named(pod, job)} {happened}{f' ({words})' if words else ''}", pod)


def _of_pod(state: State, sentence: str, pod: Manifest) -> Verdict:
    ended = _terminated(pod)
    lines = ended.get("message") or ""
    return Verdict(state, sentence, None, pod["metadata"]["name"], ended.get("exitCode"), lines.rstrip())


def _hangs(pod: Manifest, now: float, steady_seconds: float) -> bool:
    """Whether a pod is still there well after the time at which it was to be gone."""
    if "ending_since" not in pod or pod.get("gone") or pod["status"].get("phase") in ("Succeeded", "Failed"):
        return False
    bound = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0) + HANGS_SECONDS
    return min(now - pod["ending_since"], steady_seconds) > bound


def _ended_badly(pod: Manifest) -> bool:
    return pod["status"].get("phase") == "Failed" or (
        "deletionTimestamp" in pod["metadata"] and pod["status"].get("phase") != "Succeeded"
    )


def _terminated(pod: Manifest) -> Manifest:
    for status in pod["status"].get("containerStatuses") or []:
        if status["state"].get("terminated"):
            return dict(status["state"]["terminated"])
    return {}


def _finished(pod: Manifest) -> float:
    when = _terminated(pod).get("finishedAt")
    return _seconds(when) if when else float("inf")


def _latest(events: Iterable[Manifest], uid: str, reasons: tuple[str, ...]) -> str:
    """The newest message of an object's events for one of these reasons."""
    found = [event for event in events if event["involvedObject"].get("uid") == uid and event.get("reason") in reasons]
    found.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    return str(found[-1].get("message") or found[-1]["reason"]) if found else ""


def _condition(made: Manifest, type_: str, status: str = "True") -> Manifest | None:
    for each in made.get("status", {}).get("conditions") or []:
        if each["type"] == type_ and each["status"] == status:
            return dict(each)
    return None


def _index(pod: Manifest) -> int:
    return int((pod["metadata"].get("labels") or {}).get(INDEX, 0))


def _named(pod: Manifest, job: Manifest) -> str:
    total = job["spec"].get("completions") or 1
    return f"pod {pod['metadata']['name']}" + (f" (node {_index(pod)} of {total})" if total > 1 else "")


def _node(pod: Manifest) -> str:
    return str(pod.get("spec", {}).get("nodeName") or "(none)")


def _limit(job: Manifest) -> str:
    [container, *_] = job["spec"]["template"]["spec"]["containers"]
    return str(container.get("resources", {}).get("limits", {}).get("memory", "none"))


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
