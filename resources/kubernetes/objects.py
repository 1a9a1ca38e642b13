"""The Kubernetes objects of one materialization, as plain dictionaries: pure functions of a :class:`Workload`.

An Indexed Job, a pod for each node, and a headless Service that gives each pod a name before it is ready. The Job is
created first and the Service after it, owned by it: whatever becomes of the orchestrator, deleting the Job leaves nothing.

The Job never replaces a pod: a rank that starts alone cannot join a running training. Who watches it makes a new Job
(attempt + 1), which resumes. Its pod failure policy gives each end a reason of its own in the Job's condition.
"""

import math
from dataclasses import dataclass
from typing import Any

from ft_assets.core.errors import STOPPED
from ft_assets.recipes.hardware import GPU_RESOURCE
from ft_assets.recipes.pods import PodSettings
from resources.kubernetes.cluster import HOME, Cluster
from resources.kubernetes.names import master_port
from resources.worker import worker_environment

Manifest = dict[str, Any]

CONTAINER = "worker"
REPLICATED_JOB = "n"
MANAGED_BY = {"app.kubernetes.io/managed-by": "ft-assets"}
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
JOBSET_API = "jobset.x-k8s.io/v1alpha2"
USERS_FAULT = 2
END_SECONDS = 15
MIB = 2**20


@dataclass(frozen=True)
class Workload:
    """One materialization as pods. Memory in bytes, for one node's pod; times in seconds.

    ``processes_per_node`` is None for a stage that does not train; ``request`` is a path in the pods. ``environment`` is
    what the launcher adds, and holds no secrets.
    """

    name: str
    namespace: str
    labels: dict[str, str]
    stage: str
    request: str
    nodes: int
    processes_per_node: int | None
    threads: int | None
    gpus: int
    gpu_resource: str
    cpus: float
    memory_bytes: int
    shm_bytes: int
    node_selector: dict[str, str]
    settings: PodSettings
    cluster: Cluster
    grace_seconds: float
    environment: dict[str, str]

    @property
    def service(self) -> str:
        """Name of the headless Service, and so the subdomain of its pods."""
        return self.name

    @property
    def in_jobset(self) -> bool:
        return self.settings.job_api == "jobset"

    @property
    def job(self) -> str:
        """Name of the Job whose pods these are: its own, or that which JobSet's controller makes."""
        return f"{self.name}-{REPLICATED_JOB}-0" if self.in_jobset else self.name

    @property
    def suspend(self) -> bool:
        """Whether it is created suspended, for Kueue to admit all its pods at once."""
        return self.settings.queue_name is not None

    @property
    def pod_grace_seconds(self) -> int:
        """From SIGTERM to SIGKILL: what the worker has, and then torchrun to end its ranks and say what became of them."""
        return math.ceil(self.grace_seconds) + END_SECONDS

    @property
    def pod_selector(self) -> str:
        return f"{JOB_NAME_LABEL}={self.job}"


def objects(workload: Workload, owner_uid: str | None = None) -> list[Manifest]:
    """All objects of a workload, in the order in which they are created."""
    if workload.in_jobset:
        return [jobset(workload)]
    return [job(workload), service(workload, owner_uid)]


def job(workload: Workload) -> Manifest:
    """An Indexed Job (batch/v1), suspended where Kueue is to admit it."""
    spec = {**_job_spec(workload), "ttlSecondsAfterFinished": workload.cluster.ttl_seconds_after_finished}
    if workload.suspend:
        spec["suspend"] = True
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(workload), "spec": spec}


def jobset(workload: Workload) -> Manifest:
    """The same Job as the only one of a JobSet, whose controller makes the Service, too."""
    template = {"metadata": {"labels": _labels(workload)}, "spec": _job_spec(workload)}
    spec: Manifest = {
        "replicatedJobs": [{"name": REPLICATED_JOB, "replicas": 1, "template": template}],
        "network": {"enableDNSHostnames": True, "subdomain": workload.service, "publishNotReadyAddresses": True},
        "failurePolicy": {"maxRestarts": 0},
        "ttlSecondsAfterFinished": workload.cluster.ttl_seconds_after_finished,
    }
    if workload.suspend:
        spec["suspend"] = True
    return {"apiVersion": JOBSET_API, "kind": "JobSet", "metadata": _metadata(workload), "spec": spec}


def service(workload: Workload, owner_uid: str | None = None) -> Manifest:
    """A headless Service for the pods' names; owned by the Job where its uid is known."""
    metadata: Manifest = {"name": workload.service, "namespace": workload.namespace, "labels": _labels(workload)}
    if owner_uid is not None:
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": workload.name, "uid": owner_uid}
        metadata["ownerReferences"] = [owner]
    port = master_port(workload.name)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {JOB_NAME_LABEL: workload.job},
            "ports": [{"name": "rendezvous", "port": port, "targetPort": port, "protocol": "TCP"}],
        },
    }


def _metadata(workload: Workload) -> Manifest:
    queue = {QUEUE_LABEL: workload.settings.queue_name} if workload.settings.queue_name else {}
    return {"name": workload.name, "namespace": workload.namespace, "labels": {**_labels(workload), **queue}}


def _labels(workload: Workload) -> dict[str, str]:
    return {**(workload.settings.labels or {}), **workload.labels}


def _job_spec(workload: Workload) -> Manifest:
    return {
        "completions": workload.nodes,
        "parallelism": workload.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(workload.suspend),
        "activeDeadlineSeconds": workload.settings.active_deadline_seconds,
        "template": pod_template(workload),
    }


def _failure_policy(queued: bool) -> Manifest:
    """FailJob for each: ``Ignore`` would replace the lost pod alone.

    A queue that takes a Job's quota back suspends it, and its pods end with 75: with a rule for that, the controller would
    fail the suspended Job.
    """

    def ends_with(code: int) -> Manifest:
        exits = {"containerName": CONTAINER, "operator": "In", "values": [code]}
        return {"action": "FailJob", "onExitCodes": exits}

    disrupted = {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    stopped = [] if queued else [ends_with(STOPPED)]
    return {"rules": [disrupted, *stopped, ends_with(USERS_FAULT)]}


def pod_template(workload: Workload) -> Manifest:
    """The template of each node's pod; passes the restricted Pod Security Standard."""
    settings, cluster = workload.settings, workload.cluster
    spec: Manifest = {
        "restartPolicy": "Never",
        "subdomain": workload.service,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": workload.pod_grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": cluster.run_as_user,
            "runAsGroup": cluster.run_as_user,
            "fsGroup": cluster.run_as_user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(workload)],
        "volumes": _volumes(workload),
        "nodeSelector": {**(settings.node_selector or {}), **workload.node_selector},
        "tolerations": _tolerations(workload),
        "affinity": settings.affinity,
        "priorityClassName": settings.priority_class_name,
        "runtimeClassName": settings.runtime_class_name,
        "serviceAccountName": settings.service_account_name,
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets or []],
    }
    metadata: Manifest = {"labels": _labels(workload)}
    if settings.annotations:
        metadata["annotations"] = dict(settings.annotations)
    return {"metadata": metadata, "spec": {name: value for name, value in spec.items() if value not in (None, {}, [])}}


def _container(workload: Workload) -> Manifest:
    resources: Manifest = {"cpu": _cpu(workload.cpus), "memory": _mebibytes(workload.memory_bytes)}
    if workload.gpus:
        resources[workload.gpu_resource] = str(workload.gpus)
    return {
        "name": CONTAINER,
        "image": workload.settings.image,
        "command": ["python", "-m", "ft_assets.worker.pod", workload.stage, workload.request],
        "env": _environment(workload),
        # The same requested as allowed: quality of service Guaranteed, the last to be evicted when a node runs short.
        "resources": {"requests": resources, "limits": dict(resources)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": workload.cluster.read_only_root,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "home", "mountPath": workload.cluster.mount},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "user", "mountPath": HOME},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def _volumes(workload: Workload) -> list[Manifest]:
    return [
        {"name": "home", "persistentVolumeClaim": {"claimName": workload.cluster.claim}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "user", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _mebibytes(workload.shm_bytes)}},
    ]


def _tolerations(workload: Workload) -> list[Manifest]:
    """The settings', and the taint that keeps pods without GPUs off nodes with some."""
    given = [entry.model_dump(exclude_none=True) for entry in workload.settings.tolerations or []]
    taint = GPU_RESOURCE if workload.gpu_resource.startswith("nvidia.com/") else workload.gpu_resource
    of_gpus = {"key": taint, "operator": "Exists", "effect": "NoSchedule"}
    return given + ([of_gpus] if workload.gpus and of_gpus not in given else [])


def variables(workload: Workload) -> dict[str, str]:
    """The environment of a pod but for what comes from Secrets and from Kubernetes."""
    return {
        **worker_environment(workload.processes_per_node, workload.threads, max(1, math.floor(workload.cpus))),
        **workload.cluster.env,
        "HOME": HOME,
        "USER": "ft",  # Torch asks for the user's name, and no file in the image knows this number.
        "TMPDIR": "/tmp",
        "FT_NODES": str(workload.nodes),
        "FT_PROCESSES_PER_NODE": "" if workload.processes_per_node is None else str(workload.processes_per_node),
        "MASTER_ADDR": f"{workload.job}-0.{workload.service}",
        "MASTER_PORT": str(master_port(workload.name)),
        **workload.environment,
    }


def _environment(workload: Workload) -> list[Manifest]:
    secret = workload.settings.env_from_secrets or {}
    plain = [{"name": name, "value": value} for name, value in variables(workload).items() if name not in secret]
    return plain + [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": entry.secret, "key": entry.key}}}
        for name, entry in secret.items()
    ]


def _cpu(cores: float) -> str:
    return f"{math.ceil(cores * 1000)}m"


def _mebibytes(size: int) -> str:
    return f"{math.ceil(size / MIB)}Mi"
