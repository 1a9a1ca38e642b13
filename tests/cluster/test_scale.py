"""Many nodes and many Jobs: what the double costs."""

import psutil
import pytest
from kubernetes import client

from cluster import Cluster, Script
from cluster.samples import job

NODES, JOBS = 1000, 200
MEGABYTES = 60


@pytest.mark.slow
def test_a_thousand_nodes_and_two_hundred_jobs(cluster: Cluster) -> None:
    before = psutil.Process().memory_info().rss
    for n in range(NODES):
        cluster.add_node(f"n{n}", gpus=8)
    cluster.kubelet.script = lambda pod: Script(running_seconds=600)
    batch = client.BatchV1Api(cluster.client())
    for n in range(JOBS):
        batch.create_namespaced_job(cluster.namespace, job(f"j{n}", nodes=8, gpus=8))
    ended: list[int] = []
    for _ in range(3):
        cluster.advance(601)
        ended.append(sum(cluster.ended(f"j{n}") == "Complete" for n in range(JOBS)))
    assert ended == [NODES // 8, JOBS, JOBS]
    assert psutil.Process().memory_info().rss - before < MEGABYTES * 1e6
