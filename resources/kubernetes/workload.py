"""From a worker's request to its pods: what the plan, the recipe and the deployment say, as one :class:`Workload`."""

from typing import Any

from resources.kubernetes.cluster import Cluster
from resources.kubernetes.names import job_name, label_value
from resources.kubernetes.objects import MANAGED_BY, Workload

GIB = 2**30
GPU_RESOURCE = "nvidia.com/gpu"
DOMAIN = "ft-assets.dev"
FINGERPRINT_LETTERS = 63
# Above what the plan predicts: a pod over its limit is killed, and the prediction may be a few percent short.
HEADROOM = 1.1
SHM_BYTES = 64 * 2**20


def workload(
    request: dict[str, Any],
    cluster: Cluster,
    *,
    run_id: str,
    asset: str,
    attempt: int,
    processes: int | None,
    threads: int | None,
    request_path: str,
    grace_seconds: float,
    environment: dict[str, str] | None = None,
    memory_factor: float = 1.0,
) -> Workload:
    """The pods of a stage.

    Args:
        request: a worker's, with ``stage``, ``fingerprint`` and ``execution`` (``partition``, ``device``, ``memory_gib``,
            ``pods`` and, of a stage that trains, ``placement``).
        processes: ranks over all nodes, or None for a stage that does not train.
        request_path: the request's file as the pods see it.
        grace_seconds: from SIGTERM to SIGKILL.
        memory_factor: memory over the plan's, after a pod ran out of it.

    Raises:
        FineTuneError: the settings cannot be pods; says what to change.
    """
    execution, stage = request["execution"], request["stage"]
    placement = execution.get("placement", {})
    settings = cluster.settings(stage, execution.get("pods", {}))
    nodes = int(placement.get("nodes", 1)) if processes is not None else 1
    shm = int(placement.get("shm_bytes", 0)) or SHM_BYTES
    own = placement.get("host_bytes") or round(execution.get("memory_gib", 8.0) * GIB / HEADROOM)
    if not placement and settings.memory_gib is not None:
        own = round(settings.memory_gib * GIB / HEADROOM)
    gpus, resource = _gpus(execution, placement, processes, nodes)
    return Workload(
        name=job_name(run_id, asset, execution["partition"], attempt),
        namespace=cluster.namespace,
        labels=labels(run_id, asset, execution["partition"], stage, request["fingerprint"], attempt),
        stage=stage,
        request=request_path,
        nodes=nodes,
        processes_per_node=None if processes is None else processes // nodes,
        threads=threads,
        gpus=gpus,
        gpu_resource=resource,
        cpus=settings.cpu or float(placement.get("cpus", 0)) or float((threads or 1) * (processes or 1) // nodes or 1),
        memory_bytes=round(own * HEADROOM * memory_factor) + shm,
        shm_bytes=shm,
        node_selector=dict(placement.get("node_selector", {})),
        settings=settings,
        cluster=cluster,
        grace_seconds=grace_seconds,
        environment=environment or {},
    )


def labels(run_id: str, asset: str, partition: str, stage: str, fingerprint: str, attempt: int) -> dict[str, str]:
    """Labels of all objects of a materialization; a fingerprint by its first 63 letters of 64."""
    named = {"run": run_id, "recipe": partition, "asset": asset, "stage": stage, "attempt": str(attempt)}
    values = {f"{DOMAIN}/{name}": label_value(value) for name, value in named.items()}
    return {**MANAGED_BY, **values, f"{DOMAIN}/fingerprint": fingerprint[:FINGERPRINT_LETTERS]}


def _gpus(execution: dict[str, Any], placement: dict[str, Any], processes: int | None, nodes: int) -> tuple[int, str]:
    """GPUs of one pod, and the resource they are: one for each rank; without offers, where the recipe says ``cuda``."""
    resource = placement.get("gpu_resource") or (GPU_RESOURCE if execution["device"] == "cuda" else "")
    return ((processes or 1) // nodes if resource else 0), resource
