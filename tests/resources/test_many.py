"""Hundreds of stages on a thousand nodes: what is asked of the API server, and kept in memory, grows with their number alone."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import Cluster, Script
from cluster.kinds import JOB
from following import Site
from waiting import until

from resources.kubernetes import following
from resources.kubernetes import launcher as kubernetes_launcher

NODES, PODS_OF_A_JOB = 1000, 8
TRAINING_SECONDS = 1800.0
STEP_SECONDS = 60.0


@dataclass
class Played:
    """What one process asked and kept for ``jobs`` stages at once."""

    jobs: int
    requests: Counter[tuple[str, str]]
    kept_bytes: int
    seconds: float

    def each(self, verb: str, resource: str) -> float:
        return self.requests[(verb, resource)] / self.jobs


def play(folder: Path, patch: pytest.MonkeyPatch, jobs: int) -> Played:
    """All at once, each in 8 pods of a whole node; who finds no room waits until others have ended."""
    folder.mkdir()
    with Cluster(history=100_000) as cluster:
        cluster.kubelet.script = lambda pod: Script(running_seconds=TRAINING_SECONDS)
        site = Site(folder, cluster, pending_seconds=86_400)
        site.clock.poll_seconds = 0.25
        for number in range(NODES):
            cluster.add_node(f"node-{number}", gpus=1)
        patch.setattr(kubernetes_launcher, "connect", lambda *_: (site.api, site.watch))
        patch.setattr(following, "LATE_SECONDS", 0.0)
        began = cluster.clock.now
        steps = [
            site.start(
                f"{n:08}-0000-4000-8000-000000000000",
                site.request(PODS_OF_A_JOB, f"{n:08}".ljust(64, "0")),
                silent_seconds=86_400,
            )
            for n in range(jobs)
        ]
        until(lambda: len(cluster.all(JOB)) == jobs, 300, f"{jobs} Jobs")
        cluster.advance(STEP_SECONDS)
        until(
            lambda: all("runs in" in step.said[-1] or "cannot" in step.said[-1] for step in steps if step.said),
            60,
            "words",
        )
        with site.watch.lock:
            entries = [entry for group in site.watch.followed.values() for entry in group]
            kept = sum(len(json.dumps([entry.job, list(entry.pods.values())])) for entry in entries)

        def over() -> bool:
            cluster.advance(STEP_SECONDS)
            return not any(step.thread.is_alive() for step in steps)

        until(over, 400, "the end of all")
        assert [step.error for step in steps if step.error] == []
        site.clock.stopped.set()
        return Played(jobs, Counter(cluster.requests), kept, cluster.clock.now - began)


@pytest.mark.slow
def test_requests_and_memory_are_flat_for_each_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (play(tmp_path / str(jobs), monkeypatch, jobs) for jobs in (25, 200))
    for played in (few, many):
        print(played, sum(played.requests.values()) / played.jobs)
    for verb, resource in (("create", "jobs"), ("create", "services"), ("list", "jobs")):
        assert many.each(verb, resource) <= few.each(verb, resource)
    assert many.requests[("watch", "pods")] <= 2 * many.seconds / 240 + 2
    assert sum(many.requests.values()) / many.jobs <= 6
    assert many.kept_bytes / many.jobs <= 1.1 * few.kept_bytes / few.jobs
