"""A workload's objects come to be, each once, however often it is asked for; and go."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from ft_assets.core.errors import WorkerFailed
from resources.kubernetes.client import AWAY_SECONDS, Api, ClusterRefused, QuotaExceeded
from resources.kubernetes.objects import CONTAINER, Workload, job, jobset, service
from resources.kubernetes.watch import SELECTOR, Followed, Watch
from resources.kubernetes.workload import DOMAIN

Manifest = dict[str, Any]

RUN, STAGE = f"{DOMAIN}/run", f"{DOMAIN}/stage"
ATTEMPT, FINGERPRINT = f"{DOMAIN}/attempt", f"{DOMAIN}/fingerprint"
# The run that has taken up a Job of another's; an orphan is one that neither wants.
TAKEN_BY = f"{DOMAIN}/taken-by"
# Of a run, as Dagster names its states, while somebody may still wait for its Job.
OPEN = ("QUEUED", "NOT_STARTED", "MANAGED", "STARTING", "STARTED", "CANCELING")
GOING_SECONDS, QUOTA_SECONDS = 2.0, 15.0


class Patient(Protocol):
    """Longest waits in seconds: for a quota, and for an object of the same name to go."""

    @property
    def pending(self) -> float: ...

    @property
    def start(self) -> float: ...


def running(api: Api, load: Workload) -> list[Manifest]:
    """All Jobs of a workload's fingerprint: those that have not ended first, of them its own run's, the newest first."""
    found, _ = api.list("jobs", f"{SELECTOR},{FINGERPRINT}={load.labels[FINGERPRINT]}")

    def order(made: Manifest) -> tuple[bool, bool, int]:
        labels = made["metadata"]["labels"]
        return finished(made), labels[RUN] != load.labels[RUN], -int(labels[ATTEMPT])

    return sorted(found, key=order)


def finished(made: Manifest | None) -> bool:
    """Whether a Job has ended, or is about to."""
    if made is None or "deletionTimestamp" in made["metadata"]:
        return True
    ends = ("Complete", "Failed", "FailureTarget")
    return any(each["type"] in ends and each["status"] == "True" for each in made["status"].get("conditions") or [])


def create(
    api: Api, watch: Watch, entry: Followed, load: Workload, bounds: Patient, say: Callable[[str], object]
) -> None:
    """Makes the Job and its Service, or takes those of the same name that are this workload's.

    Raises:
        WorkerFailed: the namespace's quota for Jobs stayed used up.
        ClusterRefused: no, or one of that name is another's.
    """
    manifest, kind = (jobset(load), "jobsets") if load.in_jobset else (job(load), "jobs")
    began, never = api.clock.monotonic(), threading.Event()
    while True:
        waited = api.clock.monotonic() - began
        try:
            made = api.create(manifest)
        except QuotaExceeded as error:
            if waited >= bounds.pending:
                raise WorkerFailed(f"{load.stage}: {error}; it waited {waited:.0f} s (pending_seconds)") from error
            say(f"{load.name} waits: {error}")
            api.clock.wait(never, QUOTA_SECONDS)
            continue
        if made is not None:
            if not load.in_jobset:
                watch.take("jobs", "ADDED", made)
                create_service(api, load, made)
            return
        there = api.get(kind, load.name)
        if there is not None and "deletionTimestamp" not in there["metadata"]:
            take(api, watch, entry, load, there)
            return
        if waited >= bounds.start:
            raise WorkerFailed(f"{load.stage}: {kind} {load.name} of an earlier start is being deleted and does not go")
        api.clock.wait(never, GOING_SECONDS)


def take(api: Api, watch: Watch, entry: Followed, load: Workload, there: Manifest) -> None:
    """Goes on with the Job of this workload's name, which somebody, this process perhaps, has created."""
    if there["metadata"].get("labels", {}).get(FINGERPRINT) != load.labels[FINGERPRINT]:
        raise ClusterRefused(f"{load.name} is there already and is not for this fingerprint; delete it, and run again")
    made = api.get("jobs", load.job) if load.in_jobset else there
    if made is not None:
        take_over(api, watch, entry, made, load, load.labels[RUN])


def take_over(api: Api, watch: Watch, entry: Followed, made: Manifest, load: Workload, run_id: str) -> None:
    """Goes on with a Job that is there: of this run, or of another that makes the same. Who created it may have died before
    it created the Service.
    """
    watch.adopt(entry, made)
    if made["metadata"]["labels"][RUN] != run_id:
        api.label("jobs", entry.name, {TAKEN_BY: run_id})
    if _set_of(made) is None:
        create_service(api, load, made)


def create_service(api: Api, load: Workload, made: Manifest) -> None:
    """The Service of a Job; one that an earlier Job of its name has left is on its way out, and replaced.

    Args:
        load: what is asked for; the Job may be another run's that makes the same.

    Raises:
        ClusterRefused: no, or it conflicts with others for too long.
    """
    name, uid, labels = made["metadata"]["name"], made["metadata"]["uid"], made["metadata"]["labels"]
    settings = load.settings.model_copy(update={"job_api": "job"})
    wanted = replace(load, name=name, labels={key: labels[key] for key in load.labels}, settings=settings)
    began, never = api.clock.monotonic(), threading.Event()
    while api.create(service(wanted, uid)) is None:
        there = api.get("services", name)
        if there is not None:
            if uid in [owner["uid"] for owner in there["metadata"].get("ownerReferences") or []]:
                return
            api.delete("services", name)
        if api.clock.monotonic() - began >= AWAY_SECONDS:
            raise ClusterRefused(
                f"Service {name} could not be created: it conflicts with what others do, again and again"
            )
        api.clock.wait(never, GOING_SECONDS)


def delete(api: Api, entry: Followed, load: Workload, away_seconds: float = AWAY_SECONDS) -> None:
    """The Job that is followed, or that of ``load``, which was asked for, where nothing has been heard of it yet."""
    if entry.job is not None:
        delete_job(api, entry.job, away_seconds)
    elif entry.name == load.job:
        api.delete("jobsets" if load.in_jobset else "jobs", load.name, away_seconds)


def delete_job(api: Api, made: Manifest, away_seconds: float = AWAY_SECONDS) -> None:
    """A Job and all it owns; of one that a JobSet made, the JobSet."""
    job_set = _set_of(made)
    api.delete("jobsets" if job_set else "jobs", job_set or made["metadata"]["name"], away_seconds)


def _set_of(made: Manifest) -> str | None:
    """The JobSet that made a Job."""
    owners = made["metadata"].get("ownerReferences") or []
    return next((owner["name"] for owner in owners if owner["kind"] == "JobSet"), None)


def memory_of(made: Manifest) -> int:
    """The memory limit of a Job's pods in bytes. A server tells it in a unit of its own choice."""
    from kubernetes.utils.quantity import parse_quantity

    containers = made["spec"]["template"]["spec"]["containers"]
    [limits] = [each["resources"]["limits"] for each in containers if each["name"] == CONTAINER]
    return int(parse_quantity(limits["memory"]))
