"""From a worker's request to its pods: what the plan, the recipe and the deployment say, as one :class:`Workload`."""

from typing import Any

from ft_assets.core.errors import FineTuneError
from ft_assets.core.memory import GIB
from ft_assets.recipes.hardware import GPU_RESOURCE
from ft_assets.recipes.pods import PodSettings
from resources.kubernetes.cluster import Cluster
from resources.kubernetes.names import job_name, label_value
from resources.kubernetes.objects import MANAGED_BY, Workload

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
        grace_seconds: what the worker has, once it is asked to end, to finish its step and write a checkpoint.
        memory_factor: memory over the plan's, after a pod ran out of it.

    Raises:
        FineTuneError: the settings cannot be pods; says what to change.
    """
    execution, stage = request["execution"], request["stage"]
    placement = execution.get("placement", {})
    settings = cluster.settings(stage, execution.get("pods", {}))
    nodes = _nodes(placement, processes, stage)
    per_node = None if processes is None else processes // nodes
    gpus, resource = _gpus(execution, placement, settings, per_node)
    shm = int(placement.get("shm_bytes", 0)) or SHM_BYTES
    return Workload(
        name=job_name(run_id, asset, execution["partition"], attempt),
        namespace=cluster.namespace,
        labels=labels(run_id, asset, execution["partition"], stage, request["fingerprint"], attempt),
        stage=stage,
        request=request_path,
        nodes=nodes,
        processes_per_node=per_node,
        threads=threads,
        gpus=gpus,
        gpu_resource=resource,
        cpus=settings.cpu or float(placement.get("cpus", 0)) or float((threads or 1) * (per_node or 1)),
        memory_bytes=_memory(execution, placement, settings, shm, memory_factor),
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


def _nodes(placement: dict[str, Any], processes: int | None, stage: str) -> int:
    nodes = int(placement.get("nodes", 1))
    if processes is None and nodes > 1:
        raise FineTuneError(
            f"{stage} is planned on {nodes} nodes, and its trials are processes of one pod; offer hardware.gpus in counts "
            "up to per_node, too"
        )
    return nodes


def _gpus(
    execution: dict[str, Any], placement: dict[str, Any], settings: PodSettings, per_node: int | None
) -> tuple[int, str]:
    """GPUs of one pod, and the resource they are: the plan's; of a stage without one, what the recipe asks for."""
    if placement:
        resource = placement.get("gpu_resource", "")
        return (int(placement.get("gpus_per_node", per_node or 1)) if resource else 0), resource
    wanted = settings.gpus if settings.gpus is not None else int(execution["device"] == "cuda")
    return wanted, GPU_RESOURCE


def _memory(
    execution: dict[str, Any], placement: dict[str, Any], settings: PodSettings, shm: int, factor: float
) -> int:
    """Bytes of one pod, with /dev/shm, whose pages count as the pod's; never above what its node has."""
    planned = placement.get("host_bytes")
    if not planned:
        return round((settings.memory_gib or execution["memory_gib"]) * GIB * factor) + shm
    wanted = round(planned * HEADROOM * factor) + shm
    return min(wanted, placement.get("node_memory_bytes") or wanted)
