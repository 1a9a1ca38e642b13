"""Jobs that nobody waits for any more: their Dagster run has ended, or is not known."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from resources.kubernetes.client import Api
from resources.kubernetes.creating import OPEN, RUN, STAGE, TAKEN_BY, delete_job, finished
from resources.kubernetes.watch import SELECTOR


@dataclass(frozen=True)
class Orphan:
    """``known`` is False where Dagster's book has none of its runs: another instance's, perhaps."""

    job: str
    run: str
    stage: str
    age_seconds: float
    known: bool
    why: str


def orphans(api: Api, status_of: Callable[[str], str | None], older_than_seconds: float) -> list[Orphan]:
    """The Jobs of a namespace that have not ended and are not wanted, oldest first.

    Args:
        status_of: a run's status as Dagster names it (``STARTED``), or None where it has no such run.
        older_than_seconds: younger Jobs are left alone: a run's record may lag behind its Job.
    """
    jobs, _ = api.list("jobs", f"{SELECTOR},{RUN}")
    found = []
    for job in jobs:
        age = api.clock.time() - datetime.fromisoformat(job["metadata"]["creationTimestamp"]).timestamp()
        labels = job["metadata"]["labels"]
        runs = [labels[name] for name in (RUN, TAKEN_BY) if labels.get(name)]
        states = [status_of(run) for run in runs]
        if finished(job) or age < older_than_seconds or any(state in OPEN for state in states):
            continue
        known = any(state is not None for state in states)
        why = f"its run is {states[0] or 'gone'}" if known else "no run of this Dagster instance"
        found.append(Orphan(job["metadata"]["name"], runs[0], labels.get(STAGE, ""), age, known, why))
    return sorted(found, key=lambda orphan: -orphan.age_seconds)


def sweep(api: Api, found: list[Orphan]) -> None:
    """Deletes them, with their pods and Services; checkpoints stay."""
    for orphan in found:
        job = api.get("jobs", orphan.job)
        if job is not None:
            delete_job(api, job)
