"""A workload's objects come to be, each once, however often it is asked for; and go."""

import threading
from collections.abc import Callable
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
    """Goes on with a Job that is there: of this run, or of another that makes the same."""
    watch.adopt(entry, made)
    if made["metadata"]["labels"][RUN] != run_id:
        api.label("jobs", entry.name, {TAKEN_BY: run_id})
    elif not load.in_jobset:
        create_service(api, load, made)


def create_service(api: Api, load: Workload, made: Manifest) -> None:
    """The Service of a Job; one that an earlier Job of its name has left is on its way out, and replaced."""
    uid = made["metadata"]["uid"]
    if api.create(service(load, uid)) is not None:
        return
    there = api.get("services", load.service)
    owners = [owner["uid"] for owner in (there or {"metadata": {}})["metadata"].get("ownerReferences") or []]
    if uid not in owners:
        api.delete("services", load.service)
        api.create(service(load, uid))


def delete(api: Api, entry: Followed, load: Workload, away_seconds: float = AWAY_SECONDS) -> None:
    """The Job that is followed, or the JobSet that has not made it yet; ``load`` is what was asked for."""
    if entry.job is not None:
        delete_job(api, entry.job, away_seconds)
    elif load.in_jobset and entry.name == load.job:
        api.delete("jobsets", load.name, away_seconds)


def delete_job(api: Api, made: Manifest, away_seconds: float = AWAY_SECONDS) -> None:
    """A Job and all it owns; of one that a JobSet made, the JobSet."""
    owners = made["metadata"].get("ownerReferences") or []
    sets = [owner["name"] for owner in owners if owner["kind"] == "JobSet"]
    api.delete("jobsets" if sets else "jobs", sets[0] if sets else made["metadata"]["name"], away_seconds)


def memory_of(made: Manifest) -> int:
    """The memory limit of a Job's pods in bytes. A server tells it in a unit of its own choice."""
    from kubernetes.utils.quantity import parse_quantity

    containers = made["spec"]["template"]["spec"]["containers"]
    [limits] = [each["resources"]["limits"] for each in containers if each["name"] == CONTAINER]
    return int(parse_quantity(limits["memory"]))
