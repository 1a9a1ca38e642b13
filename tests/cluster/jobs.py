"""The Job controller: pods for indexes, counts, conditions, deadlines, and the way a Job ends."""

from dataclasses import dataclass, field

from cluster import indexes
from cluster.api import Api
from cluster.clock import seconds_of
from cluster.conditions import condition, is_true, set_condition
from cluster.events import Recorder
from cluster.failure_policy import Verdict, verdict
from cluster.job_pods import TRACKING, ended, failed, index_of, new_pod
from cluster.kinds import JOB, POD, ApiError, Key, Object
from cluster.loop import Loop
from cluster.patching import clone
from cluster.store import Change, Store, key_of

BACKOFF_SECONDS, MOST_BACKOFF_SECONDS = 10, 600
CREATE_RETRY_SECONDS, MOST_CREATE_RETRY_SECONDS = 1, 60
COMPONENT = "job-controller"
CONTROLLER = "kubernetes.io/job-controller"


@dataclass
class Record:
    """What the controller remembers of a Job beside its status."""

    failures: int = 0  # since the last success
    last_failure: float = 0.0
    refused_creations: int = 0
    not_before: float = 0.0  # of the next creation after a refused one
    index_failures: dict[int, int] = field(default_factory=dict)
    failed_indexes: set[int] = field(default_factory=set)


@dataclass
class Pods:
    """A Job's pods as one pass finds them; ``new_*`` have ended and are not in the counts yet."""

    all: list[Object]
    active: list[Object]
    terminating: list[Object]
    new_succeeded: list[Object]
    new_failed: list[Object]


class JobController:
    def __init__(self, store: Store, api: Api, loop: Loop, recorder: Recorder) -> None:
        self._store, self._api, self._loop, self._recorder = store, api, loop, recorder
        self._records: dict[str, Record] = {}

    def changed(self, change: Change) -> None:
        if change.kind is JOB:
            self._loop.enqueue(self.reconcile, key_of(change.object))
            if change.type == "DELETED":
                self._records.pop(change.object["metadata"]["uid"], None)
                for kind, pod in self._store.owned(change.object["metadata"]["uid"]):
                    if kind is POD:
                        self._loop.enqueue(self._release, key_of(pod))
        elif change.kind is POD:
            for owner in change.object["metadata"].get("ownerReferences") or []:
                if owner["kind"] == "Job":
                    self._loop.enqueue(self.reconcile, (change.object["metadata"]["namespace"], owner["name"]))
            if TRACKING in (change.object["metadata"].get("finalizers") or []):
                self._loop.enqueue(self._release, key_of(change.object))

    def _release(self, key: Key) -> None:
        """Lets a pod go whose Job is gone."""
        pod = self._store.get(POD, *key)
        if pod is None:
            return
        owners = [owner for owner in pod["metadata"].get("ownerReferences") or [] if owner.get("controller")]
        job = self._store.get(JOB, key[0], owners[0]["name"]) if owners else None
        if job is None or job["metadata"]["uid"] != owners[0]["uid"]:
            self._untrack(pod)

    def _untrack(self, pod: Object) -> None:
        def edit(made: Object) -> None:
            kept = [name for name in made["metadata"].get("finalizers") or [] if name != TRACKING]
            made["metadata"].pop("finalizers", None)
            if kept:
                made["metadata"]["finalizers"] = kept

        changed = self._store.change(POD, pod, edit)
        if changed is not None:
            self._api.collect(POD, changed)

    def reconcile(self, key: Key) -> None:
        job = self._store.get(JOB, *key)
        if job is None or is_true(job, "Complete") or is_true(job, "Failed"):
            return
        if job["spec"].get("managedBy", CONTROLLER) != CONTROLLER:
            return
        record = self._records.setdefault(job["metadata"]["uid"], Record())
        pods = self._pods(job)
        made = clone(job)
        status = made["status"]
        status.setdefault("uncountedTerminatedPods", {})
        if "startTime" not in status and not job["spec"]["suspend"]:
            status["startTime"] = self._store.clock.stamp()
            self._watch_deadline(made)
        self._remember(record, pods, job)
        ending = self._ending(made, pods, record)
        if ending:
            self._delete(pods.active)
            self._finish_or_wait(made, ending, pods, record)
        else:
            self._continue(made, pods, record)

    def _pods(self, job: Object) -> Pods:
        found = [pod for kind, pod in self._store.owned(job["metadata"]["uid"]) if kind is POD]
        active = [pod for pod in found if not ended(pod) and "deletionTimestamp" not in pod["metadata"]]
        terminating = [pod for pod in found if not ended(pod) and "deletionTimestamp" in pod["metadata"]]
        new = [pod for pod in found if TRACKING in (pod["metadata"].get("finalizers") or [])]
        return Pods(
            found,
            active,
            terminating,
            [pod for pod in new if pod["status"]["phase"] == "Succeeded"],
            [pod for pod in new if failed(pod, job)],
        )

    def _remember(self, record: Record, pods: Pods, job: Object) -> None:
        """Failures of indexes, and what the wait before the next pod is counted from."""
        if pods.new_succeeded and not pods.new_failed:
            record.failures = 0
        for pod in pods.new_failed:
            record.failures += 1
            record.last_failure = max(record.last_failure, self._ended_at(pod))
            if job["spec"].get("backoffLimitPerIndex") is not None:
                found = self._verdict(job, pod)
                index = index_of(pod)
                if found.counts:
                    record.index_failures[index] = record.index_failures.get(index, 0) + 1
                if (
                    found.action == "FailIndex"
                    or record.index_failures.get(index, 0) > job["spec"]["backoffLimitPerIndex"]
                ):
                    record.failed_indexes.add(index)

    def _verdict(self, job: Object, pod: Object) -> Verdict:
        return verdict(job["spec"].get("podFailurePolicy"), pod)

    def _ended_at(self, pod: Object) -> float:
        times = [
            seconds_of(each["state"]["terminated"]["finishedAt"])
            for each in pod["status"].get("containerStatuses") or []
            if (each["state"].get("terminated") or {}).get("finishedAt")
        ]
        return max(times, default=self._store.clock.now)

    def _ending(self, job: Object, pods: Pods, record: Record) -> tuple[str, str, str] | None:
        """FailureTarget or SuccessCriteriaMet with reason and message, where the Job is to end."""
        for type_ in ("SuccessCriteriaMet", "FailureTarget"):
            if is_true(job, type_):
                there = condition(job, type_) or {}
                return type_, there.get("reason", ""), there.get("message", "")
        spec, status = job["spec"], job["status"]
        for pod in pods.all:
            if failed(pod, job) and (found := self._verdict(job, pod)).message:
                return "FailureTarget", "PodFailurePolicy", found.message
        counted = [pod for pod in pods.new_failed if self._verdict(job, pod).counts]
        restarts = sum(
            each.get("restartCount", 0) for pod in pods.active for each in pod["status"].get("containerStatuses") or []
        )
        restarts = restarts if spec["template"]["spec"]["restartPolicy"] == "OnFailure" else 0
        if status.get("failed", 0) + len(counted) > spec["backoffLimit"] or restarts > max(0, spec["backoffLimit"] - 1):
            return "FailureTarget", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        if self._late(job):
            return "FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline"
        if spec.get("backoffLimitPerIndex") is not None and record.failed_indexes:
            done = len(record.failed_indexes) + len(self._succeeded_indexes(job, pods))
            if spec.get("maxFailedIndexes") is not None and len(record.failed_indexes) > spec["maxFailedIndexes"]:
                why = "Job has exceeded the specified maximal number of failed indexes"
                return "FailureTarget", "MaxFailedIndexesExceeded", why
            if done >= spec["completions"]:
                return "FailureTarget", "FailedIndexes", "Job has failed indexes"
        return None

    def _late(self, job: Object) -> bool:
        limit, started = job["spec"].get("activeDeadlineSeconds"), job["status"].get("startTime")
        if limit is None or started is None or job["spec"]["suspend"]:
            return False
        return self._store.clock.now - seconds_of(started) >= limit

    def _continue(self, job: Object, pods: Pods, record: Record) -> None:
        spec, status = job["spec"], job["status"]
        created, deleted = 0, 0
        if "deletionTimestamp" not in job["metadata"]:
            created, deleted = self._manage(job, pods, record)
        wanted = spec.get("completions")
        succeeded = self._succeeded(job, pods)
        active = len(pods.active) + created - deleted
        enough = succeeded > 0 if wanted is None else succeeded >= wanted
        if enough and active == 0:
            self._finish_or_wait(
                job,
                ("SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods"),
                pods,
                record,
            )
            return
        now = self._store.clock.stamp()
        if spec["suspend"] and _set(job, now, "Suspended", "True", "JobSuspended", "Job suspended"):
            self._recorder.record((JOB, job), "Normal", "Suspended", "Job suspended", COMPONENT)
        elif not spec["suspend"] and is_true(job, "Suspended"):
            _set(job, now, "Suspended", "False", "JobResumed", "Job resumed")
            self._recorder.record((JOB, job), "Normal", "Resumed", "Job resumed", COMPONENT)
            status["startTime"] = now
            self._watch_deadline(job)
        self._count(job, pods, record, release="deletionTimestamp" in job["metadata"], failing=False)
        self._write(job)

    def _succeeded_indexes(self, job: Object, pods: Pods) -> set[int]:
        new = {index_of(pod) for pod in pods.new_succeeded}
        return indexes.parsed(job["status"].get("completedIndexes", "")) | {
            n for n in new if n < (job["spec"].get("completions") or 0)
        }

    def _succeeded(self, job: Object, pods: Pods) -> int:
        if job["spec"]["completionMode"] == "Indexed":
            return len(self._succeeded_indexes(job, pods))
        return job["status"].get("succeeded", 0) + len(pods.new_succeeded)

    def _manage(self, job: Object, pods: Pods, record: Record) -> tuple[int, int]:
        """Creates or deletes pods; how many of each."""
        spec = job["spec"]
        if spec["suspend"]:
            for pod in pods.active:
                self._untrack(pod)
            self._delete(pods.active)
            return 0, len(pods.active)
        wanted, succeeded = spec.get("completions"), self._succeeded(job, pods)
        if wanted is None:
            want = len(pods.active) if succeeded else spec["parallelism"]
        else:
            want = max(0, min(spec["parallelism"], wanted - succeeded))
        surplus = len(pods.active) - want
        if surplus > 0:
            extra = sorted(
                pods.active, key=lambda pod: (is_true(pod, "Ready"), "nodeName" in pod["spec"], -index_of(pod))
            )[:surplus]
            for pod in extra:
                self._untrack(pod)
            self._delete(extra)
            return 0, len(extra)
        waiting = len(pods.terminating) if spec["podReplacementPolicy"] == "Failed" else 0
        lack = want - len(pods.active) - waiting
        return (self._create(job, pods, record, lack), 0) if lack > 0 else (0, 0)

    def _create(self, job: Object, pods: Pods, record: Record, lack: int) -> int:
        now = self._store.clock.now
        pause = min(BACKOFF_SECONDS * 2 ** (record.failures - 1), MOST_BACKOFF_SECONDS) if record.failures else 0
        ready = max(record.last_failure + pause if pause else now, record.not_before)
        if ready > now:
            self._again(job, ready - now)
            return 0
        spec = job["spec"]
        places: list[int | None] = [None] * lack
        if spec["completionMode"] == "Indexed":
            there = {index_of(pod) for pod in pods.active} | self._succeeded_indexes(job, pods) | record.failed_indexes
            if spec["podReplacementPolicy"] == "Failed":
                there |= {index_of(pod) for pod in pods.terminating}
            places = [*[n for n in range(spec["completions"]) if n not in there][:lack]]
        for made, index in enumerate(places):
            body = new_pod(job, index, record.index_failures)
            try:
                pod = self._api.create(POD, job["metadata"]["namespace"], body)
            except ApiError as error:
                self._recorder.record(
                    (JOB, job), "Warning", "FailedCreate", f"Error creating: {error.message}", COMPONENT
                )
                wait = min(CREATE_RETRY_SECONDS * 2**record.refused_creations, MOST_CREATE_RETRY_SECONDS)
                record.refused_creations += 1
                record.not_before = now + wait
                self._again(job, wait)
                return made
            self._recorder.record(
                (JOB, job), "Normal", "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}", COMPONENT
            )
        record.refused_creations = 0
        return len(places)

    def _delete(self, pods: list[Object]) -> None:
        for pod in pods:
            present = self._store.get(POD, *key_of(pod))
            if present is not None:
                self._api.remove(POD, present)

    def _finish_or_wait(self, job: Object, ending: tuple[str, str, str], pods: Pods, record: Record) -> None:
        """The interim condition now, the last one when no pod is terminating any more."""
        type_, reason, message = ending
        now = self._store.clock.stamp()
        _set(job, now, type_, "True", reason, message)
        pods = Pods(
            *(
                self._present(group)
                for group in (pods.all, [], pods.terminating + pods.active, pods.new_succeeded, pods.new_failed)
            )
        )
        pods.terminating = [pod for pod in pods.terminating if not ended(pod)]
        self._count(job, pods, record, release=True, failing=type_ == "FailureTarget")
        if pods.terminating:
            self._write(job)
            return
        last = "Complete" if type_ == "SuccessCriteriaMet" else "Failed"
        _set(job, now, last, "True", reason, message)
        if last == "Complete":
            job["status"]["completionTime"] = now
        self._write(job)
        what = ("Normal", "Completed", "Job completed") if last == "Complete" else ("Warning", reason, message)
        self._recorder.record((JOB, job), *what, COMPONENT)
        self._records.pop(job["metadata"]["uid"], None)

    def _present(self, pods: list[Object]) -> list[Object]:
        found = (self._store.get(POD, *key_of(pod)) for pod in pods)
        return [pod for pod in found if pod is not None]

    def _count(self, job: Object, pods: Pods, record: Record, release: bool, failing: bool) -> None:
        """Takes ended pods into the counts and lets go of them.

        Args:
            release: lets go of those that are being deleted as well.
            failing: and counts them as failed.
        """
        status = job["status"]
        if job["spec"]["completionMode"] == "Indexed":
            done = self._succeeded_indexes(job, pods)
            status |= {"completedIndexes": indexes.written(done), "succeeded": len(done)}
            if not done:
                del status["completedIndexes"], status["succeeded"]
            if record.failed_indexes:
                status["failedIndexes"] = indexes.written(record.failed_indexes)
        elif pods.new_succeeded:
            status["succeeded"] = status.get("succeeded", 0) + len(pods.new_succeeded)
        tracked = [pod for pod in pods.terminating if TRACKING in (pod["metadata"].get("finalizers") or [])]
        stopped = [pod for pod in tracked if not any(pod is other for other in pods.new_failed)] if release else []
        lost = [*pods.new_failed, *(stopped if failing else [])]
        counted = [pod for pod in lost if self._verdict(job, pod).counts]
        if counted:
            status["failed"] = status.get("failed", 0) + len(counted)
        for pod in [*pods.new_succeeded, *pods.new_failed, *stopped]:
            self._untrack(pod)

    def _write(self, job: Object) -> None:
        pods = self._pods(job)
        status = job["status"]
        numbers = {"active": len(pods.active), "ready": sum(is_true(pod, "Ready") for pod in pods.active)}
        status |= numbers | {"terminating": len(pods.terminating)}
        if not status["active"]:
            del status["active"]
        self._store.change(JOB, job, lambda made: made.__setitem__("status", status))

    def _again(self, job: Object, seconds: float) -> None:
        key = key_of(job)
        self._store.clock.after(seconds, lambda: self._loop.enqueue(self.reconcile, key))

    def _watch_deadline(self, job: Object) -> None:
        if job["spec"].get("activeDeadlineSeconds") is not None:
            self._again(job, job["spec"]["activeDeadlineSeconds"])


def _set(job: Object, now: str, type_: str, status: str, reason: str, message: str) -> bool:
    """A Job's conditions tell the time of their last look as well."""
    new = set_condition(job, now, type_, status, reason, message)
    if new:
        (condition(job, type_) or {})["lastProbeTime"] = now
    return new
