"""Workloads that tests share: a deployment, requests as the assets make them, and what becomes of both."""

from typing import Any

from resources.kubernetes.cluster import Cluster
from resources.kubernetes.objects import Workload
from resources.kubernetes.workload import workload

GIB = 2**30
RUN = "0b5f2f3e-6c1f-4a57-9d0e-6f3f5b0a9c11"
IMAGE = "registry.example/ft-worker@sha256:" + "ab" * 32
PLACEMENT = {
    "nodes": 1,
    "gpu_resource": "nvidia.com/gpu",
    "gpus_per_node": 1,
    "node_selector": {"gpu": "l4"},
    "cpus": 7.2,
    "host_bytes": 20 * GIB,
    "node_memory_bytes": 64 * GIB,
    "shm_bytes": GIB,
}


def cluster(**more: Any) -> Cluster:
    return Cluster.model_validate({"namespace": "training", "claim": "ft-home", "mount": "/ft", "image": IMAGE, **more})


def request(stage: str = "sft_adapter", partition: str = "support", **execution: Any) -> dict[str, Any]:
    told = {"partition": partition, "device": "auto", "memory_gib": 8.0, "pods": {}, **execution}
    return {"stage": stage, "fingerprint": "5c" * 32, "execution": told}


def made(
    asked: dict[str, Any], deployment: Cluster | None = None, processes: int | None = None, **more: Any
) -> Workload:
    words = {"run_id": RUN, "attempt": 1, "threads": None, "grace_seconds": 60.0, "asset": asked["stage"], **more}
    path = f"/ft/runs/{words['run_id']}/{asked['stage']}/request.json"
    return workload(asked, deployment or cluster(), processes=processes, request_path=path, **words)
