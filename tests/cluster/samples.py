"""Manifests that the double's own tests send."""

from typing import Any

from cluster.kinds import Object

DISRUPTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def container(gpus: int = 0, **fields: Any) -> Object:
    resources = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
    return {"name": "worker", "image": "registry.example/worker:1", "resources": resources, **fields}


def job(
    name: str, nodes: int = 1, gpus: int = 0, pod: Object | None = None, worker: Object | None = None, **spec: Any
) -> Object:
    """An Indexed Job whose pods are never restarted."""
    template = {"restartPolicy": "Never", "containers": [container(gpus, **(worker or {}))], **(pod or {})}
    return {
        **{"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}},
        "spec": {
            **{"completions": nodes, "parallelism": nodes, "completionMode": "Indexed", "backoffLimit": 0},
            **spec,
            "template": {"spec": template},
        },
    }


def pod(name: str, gpus: int = 0, worker: Object | None = None, **spec: Any) -> Object:
    inside = {"restartPolicy": "Never", "containers": [container(gpus, **(worker or {}))], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": inside}
