"""What a server fills in: of an object's metadata, of a Job, of a pod."""

from contextlib import suppress

from cluster.kinds import CLAIM, EVENT, JOB, JOB_SET, NAMESPACE, POD, SERVICE, Kind, Object
from cluster.quantities import quantity, shown

CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
JOB_NAME = "batch.kubernetes.io/job-name"
QUEUE_NAME = "kueue.x-k8s.io/queue-name"
EVICTION_SECONDS = 300  # what the DefaultTolerationSeconds plugin gives a pod on a node that is not ready
MANY = 2**31 - 1


def fill(kind: Kind, made: Object, queues: bool) -> None:
    """Writes the defaults into a new object.

    Args:
        queues: whether Kueue's webhook is there, which suspends a Job that has a queue's label.
    """
    if kind is JOB:
        _job(made, queues)
    elif kind is POD:
        fill_pod(made["spec"])
        _tolerations(made["spec"])
        made["status"] = {"phase": "Pending", "qosClass": _qos(made["spec"])}
    elif kind is JOB_SET:
        _job_set(made, queues)
    elif kind is SERVICE:
        spec = made["spec"]
        spec.setdefault("type", "ClusterIP")
        spec.setdefault("clusterIP", "10.96.0.1")
        spec.setdefault("clusterIPs", [spec["clusterIP"]])
        spec.setdefault("sessionAffinity", "None")
        for port in spec.get("ports") or []:
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port["port"])
        made["status"] = {"loadBalancer": {}}
    elif kind is CLAIM:
        made["status"] = made.get("status") or {"phase": "Pending"}
    elif kind is NAMESPACE:
        made.setdefault("spec", {"finalizers": ["kubernetes"]})
        made.setdefault("status", {"phase": "Active"})
        made["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = made["metadata"]["name"]
    elif kind is EVENT:
        made.setdefault("type", "Normal")


def fill_pod(spec: Object) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    if spec.get("serviceAccountName"):
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        image = container.get("image") or ""
        tag = image.rsplit("/", 1)[-1].partition(":")[2]
        latest = "@" not in image and tag in ("", "latest")
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        resources = container.setdefault("resources", {})
        for amounts in resources.values():
            _shorten(amounts)
        if limits := resources.get("limits"):
            resources["requests"] = {**limits, **(resources.get("requests") or {})}
        for variable in container.get("env") or []:
            if "fieldRef" in (variable.get("valueFrom") or {}):
                variable["valueFrom"]["fieldRef"].setdefault("apiVersion", "v1")


def _shorten(amounts: object) -> None:
    """Quantities in the form a server answers with: 1Gi for 1024Mi. What is none is left for validation to name."""
    for name, text in amounts.items() if isinstance(amounts, dict) else ():
        with suppress(ValueError):
            amounts[name] = shown(quantity(str(text)))


def _tolerations(spec: Object) -> None:
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(
            each.get("key") in (None, "", key) and each.get("effect") in (None, "", "NoExecute") for each in tolerations
        ):
            more = {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": EVICTION_SECONDS}
            tolerations.append(more)


def _qos(spec: Object) -> str:
    resources = [container["resources"] for container in spec.get("containers") or []]
    if not any(each.get("requests") or each.get("limits") for each in resources):
        return "BestEffort"
    whole = all(
        {"cpu", "memory"} <= set(each.get("limits") or {}) and each["limits"] == each.get("requests")
        for each in resources
    )
    return "Guaranteed" if whole else "Burstable"


def _job(made: Object, queues: bool) -> None:
    meta, spec = made["metadata"], made["spec"]
    fill_job(spec)
    if queues and QUEUE_NAME in (meta.get("labels") or {}):
        spec["suspend"] = True
    template = spec.setdefault("template", {})
    labels = template.setdefault("metadata", {}).setdefault("labels", {})
    if not spec.get("manualSelector"):
        own = {CONTROLLER_UID: meta["uid"], "controller-uid": meta["uid"]}
        labels.update({**own, JOB_NAME: meta["name"], "job-name": meta["name"]})
        spec.setdefault("selector", {"matchLabels": {CONTROLLER_UID: meta["uid"]}})
    made["status"] = {}


def fill_job(spec: Object) -> None:
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    if spec.get("parallelism") is None:
        spec["parallelism"] = 1
    if spec.get("backoffLimit") is None:
        spec["backoffLimit"] = MANY if spec.get("backoffLimitPerIndex") is not None else 6
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("manualSelector", False)
    spec.setdefault("podReplacementPolicy", "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed")
    for rule in (spec.get("podFailurePolicy") or {}).get("rules") or []:
        for pattern in rule.get("onPodConditions") or []:
            pattern.setdefault("status", "True")
    if isinstance((spec.get("template") or {}).get("spec"), dict):
        fill_pod(spec["template"]["spec"])


def _job_set(made: Object, queues: bool) -> None:
    """As JobSet's own webhook does."""
    spec = made["spec"]
    if queues and QUEUE_NAME in (made["metadata"].get("labels") or {}):
        spec["suspend"] = True
    spec.setdefault("suspend", False)
    spec.setdefault("successPolicy", {"operator": "All", "targetReplicatedJobs": []})
    spec.setdefault("startupPolicy", {"startupPolicyOrder": "AnyOrder"})
    network = spec.setdefault("network", {})
    network.setdefault("enableDNSHostnames", True)
    network.setdefault("publishNotReadyAddresses", True)
    if spec.get("failurePolicy"):
        spec["failurePolicy"].setdefault("maxRestarts", 0)
        spec["failurePolicy"].setdefault("restartStrategy", "Recreate")
    for replicated in spec.get("replicatedJobs") or []:
        replicated.setdefault("replicas", 1)
        replicated.setdefault("groupName", "default")
        job = (replicated.get("template") or {}).get("spec") or {}
        job.setdefault("completionMode", "Indexed")
        if isinstance((job.get("template") or {}).get("spec"), dict):
            job["template"]["spec"].setdefault("restartPolicy", "OnFailure")
    made["status"] = {}
