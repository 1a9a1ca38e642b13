"""The JobSet controller: child Jobs, their headless Service, restarts, and the set's own conditions."""

from cluster.api import Api
from cluster.conditions import condition, is_true, set_condition
from cluster.events import Recorder
from cluster.kinds import JOB, JOB_SET, SERVICE, ApiError, Key, Object
from cluster.loop import Loop
from cluster.patching import clone
from cluster.store import Change, Store, key_of

PREFIX = "jobset.sigs.k8s.io"
COMPONENT = "jobset-controller"


class JobSetController:
    def __init__(self, store: Store, api: Api, loop: Loop, recorder: Recorder) -> None:
        self._store, self._api, self._loop, self._recorder = store, api, loop, recorder

    def changed(self, change: Change) -> None:
        if change.kind is JOB_SET and change.type != "DELETED":
            self._loop.enqueue(self.reconcile, key_of(change.object))
        elif change.kind is JOB:
            for owner in change.object["metadata"].get("ownerReferences") or []:
                if owner["kind"] == "JobSet":
                    self._loop.enqueue(self.reconcile, (change.object["metadata"]["namespace"], owner["name"]))

    def reconcile(self, key: Key) -> None:
        found = self._store.get(JOB_SET, *key)
        if found is None or "deletionTimestamp" in found["metadata"]:
            return
        made = clone(found)
        status = made["status"]
        jobs = [job for kind, job in self._store.owned(made["metadata"]["uid"]) if kind is JOB]
        attempt = str(status.get("restarts", 0))
        current = [job for job in jobs if job["metadata"]["labels"].get(f"{PREFIX}/restart-attempt") == attempt]
        for job in jobs:
            if not any(job is other for other in current) and "deletionTimestamp" not in job["metadata"]:
                self._api.remove(JOB, job, "Foreground")
        status["replicatedJobsStatus"] = [
            _summary(replicated["name"], current) for replicated in made["spec"].get("replicatedJobs") or []
        ]
        if is_true(made, "Completed") or is_true(made, "Failed"):
            self._end_rest(current)
        elif not self._judge(made, current):
            self._suspend(made, current)
            self._create(made, current, jobs)
        self._store.change(JOB_SET, found, lambda copy: copy.__setitem__("status", status))

    def _judge(self, made: Object, jobs: list[Object]) -> bool:
        """Whether the set has ended, or begins anew."""
        status, now = made["status"], self._store.clock.stamp()
        failed = next((job for job in jobs if is_true(job, "Failed")), None)
        if failed is not None:
            policy = made["spec"].get("failurePolicy")
            if policy and status.get("restarts", 0) < policy["maxRestarts"]:
                status["restarts"] = status.get("restarts", 0) + 1
                self._recorder.record(
                    (JOB_SET, made),
                    "Warning",
                    "Restarting",
                    f"restarting jobset, attempt {status['restarts']}",
                    COMPONENT,
                )
                key = key_of(made)
                self._loop.enqueue(self.reconcile, key)
                return True
            reason = "ReachedMaxRestarts" if policy else "FailedJobs"
            name = failed["metadata"]["name"]
            why = (
                f"jobset failed due to reaching max number of restarts (first failed job: {name})"
                if policy
                else f"jobset failed due to one or more job failures (first failed job: {name})"
            )
            self._finish(made, now, "Failed", reason, why)
            return True
        policy = made["spec"]["successPolicy"]
        wanted = [
            job
            for job in jobs
            if not policy.get("targetReplicatedJobs") or _replicated(job) in policy["targetReplicatedJobs"]
        ]
        done = [is_true(job, "Complete") for job in wanted]
        expected = sum(
            replicated["replicas"]
            for replicated in made["spec"].get("replicatedJobs") or []
            if not policy.get("targetReplicatedJobs") or replicated["name"] in policy["targetReplicatedJobs"]
        )
        if done and (any(done) if policy["operator"] == "Any" else len(done) == expected and all(done)):
            self._finish(made, now, "Completed", "AllJobsCompleted", "jobset completed successfully")
            return True
        return False

    def _finish(self, made: Object, now: str, type_: str, reason: str, message: str) -> None:
        set_condition(made, now, type_, "True", reason, message)
        made["status"]["terminalState"] = type_
        self._recorder.record(
            (JOB_SET, made), "Normal" if type_ == "Completed" else "Warning", reason, message, COMPONENT
        )
        seconds = made["spec"].get("ttlSecondsAfterFinished")
        if seconds is not None:
            self._store.clock.after(seconds, lambda: self._delete(made))

    def _delete(self, made: Object) -> None:
        present = self._store.get(JOB_SET, *key_of(made))
        if present is not None and present["metadata"]["uid"] == made["metadata"]["uid"]:
            self._api.remove(JOB_SET, present, "Foreground")

    def _end_rest(self, jobs: list[Object]) -> None:
        for job in jobs:
            if (
                not is_true(job, "Complete")
                and not is_true(job, "Failed")
                and "deletionTimestamp" not in job["metadata"]
            ):
                self._api.remove(JOB, job, "Foreground")

    def _suspend(self, made: Object, jobs: list[Object]) -> None:
        suspended, now = made["spec"]["suspend"], self._store.clock.stamp()
        if suspended:
            set_condition(made, now, "Suspended", "True", "SuspendedJobs", "jobset is suspended")
        elif condition(made, "Suspended"):
            set_condition(made, now, "Suspended", "False", "ResumeJobs", "jobset is resumed")
        for job in jobs:
            if job["spec"]["suspend"] != suspended and not is_true(job, "Complete"):
                changed = clone(job)
                changed["spec"]["suspend"] = suspended
                changed["metadata"]["generation"] += 1
                self._store.replace(JOB, changed)

    def _create(self, made: Object, current: list[Object], jobs: list[Object]) -> None:
        meta, spec = made["metadata"], made["spec"]
        subdomain = spec["network"].get("subdomain") or meta["name"]
        if spec["network"]["enableDNSHostnames"] and self._store.get(SERVICE, meta["namespace"], subdomain) is None:
            service = {"selector": {f"{PREFIX}/jobset-name": meta["name"]}, "clusterIP": "None"}
            service["publishNotReadyAddresses"] = spec["network"]["publishNotReadyAddresses"]
            self._api.create(
                SERVICE,
                meta["namespace"],
                {"metadata": {"name": subdomain, "ownerReferences": [_owner(made)]}, "spec": service},
            )
        there = {job["metadata"]["name"] for job in jobs}
        number = 0
        for replicated in spec.get("replicatedJobs") or []:
            for n in range(replicated["replicas"]):
                name = f"{meta['name']}-{replicated['name']}-{n}"
                number += 1
                if name in there:
                    continue
                try:
                    self._api.create(JOB, meta["namespace"], _job(made, replicated, n, number - 1, name, subdomain))
                except ApiError as error:
                    self._recorder.record((JOB_SET, made), "Warning", "JobCreationFailed", error.message, COMPONENT)
                    return


def _replicated(job: Object) -> str:
    return job["metadata"]["labels"].get(f"{PREFIX}/replicatedjob-name", "")


def _owner(made: Object) -> Object:
    owner = {
        "apiVersion": made["apiVersion"],
        "kind": "JobSet",
        "name": made["metadata"]["name"],
        "uid": made["metadata"]["uid"],
    }
    return {**owner, "controller": True, "blockOwnerDeletion": True}


def _summary(name: str, jobs: list[Object]) -> Object:
    own = [job for job in jobs if _replicated(job) == name]
    ended = [job for job in own if is_true(job, "Complete") or is_true(job, "Failed")]
    open_ = [job for job in own if not any(job is other for other in ended)]
    pods = [(job, job["spec"].get("completions") or job["spec"]["parallelism"]) for job in open_]
    return {
        **{
            "name": name,
            "succeeded": sum(is_true(job, "Complete") for job in own),
            "failed": sum(is_true(job, "Failed") for job in own),
        },
        "active": sum(bool(job["status"].get("active")) for job in open_),
        "ready": sum(job["status"].get("ready", 0) + job["status"].get("succeeded", 0) >= count for job, count in pods),
        "suspended": sum(bool(job["spec"]["suspend"]) for job in open_),
    }


def _job(made: Object, replicated: Object, n: int, number: int, name: str, subdomain: str) -> Object:
    template = clone(replicated["template"])
    meta = template.setdefault("metadata", {})
    labels = {
        **{f"{PREFIX}/jobset-name": made["metadata"]["name"], f"{PREFIX}/jobset-uid": made["metadata"]["uid"]},
        **{
            f"{PREFIX}/replicatedjob-name": replicated["name"],
            f"{PREFIX}/replicatedjob-replicas": str(replicated["replicas"]),
        },
        **{f"{PREFIX}/job-index": str(n), f"{PREFIX}/job-global-index": str(number)},
        f"{PREFIX}/restart-attempt": str(made["status"].get("restarts", 0)),
    }
    inside = template["spec"].setdefault("template", {}).setdefault("metadata", {})
    for each in (meta, inside):
        each["labels"] = {**(each.get("labels") or {}), **labels}
        each["annotations"] = {**(each.get("annotations") or {}), **labels}
    meta |= {"name": name, "ownerReferences": [_owner(made)]}
    template["spec"]["suspend"] = made["spec"]["suspend"]
    if made["spec"]["network"]["enableDNSHostnames"]:
        template["spec"]["template"]["spec"]["subdomain"] = subdomain
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": template["spec"]}
