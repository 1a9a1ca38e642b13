"""A Job's pods: how one is made, which index it has, whether it has ended."""

from cluster.kinds import Object
from cluster.patching import clone

TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
LONGEST_PREFIX = 58  # of a generated name: 63 less the five letters
INDEX_FAILURES = "batch.kubernetes.io/job-index-failure-count"


def ended(pod: Object) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def failed(pod: Object, job: Object) -> bool:
    """A pod that is being deleted counts as failed at once, unless only ended ones are replaced."""
    if pod["status"]["phase"] == "Failed":
        return True
    if job["spec"]["podReplacementPolicy"] == "Failed":
        return False
    return "deletionTimestamp" in pod["metadata"] and pod["status"]["phase"] != "Succeeded"


def index_of(pod: Object) -> int:
    return int((pod["metadata"].get("annotations") or {}).get(INDEX, -1))


def new_pod(job: Object, index: int | None, index_failures: dict[int, int]) -> Object:
    template = clone(job["spec"]["template"])
    name = job["metadata"]["name"]
    meta = template.setdefault("metadata", {})
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
    meta["ownerReferences"] = [{**owner, "controller": True, "blockOwnerDeletion": True}]
    meta["finalizers"] = [*(meta.get("finalizers") or []), TRACKING]
    tail = "-" if index is None else f"-{index}-"
    meta["generateName"] = name[: LONGEST_PREFIX - len(tail)] + tail
    if index is not None:
        meta.setdefault("annotations", {})[INDEX] = str(index)
        meta.setdefault("labels", {})[INDEX] = str(index)
        if job["spec"].get("backoffLimitPerIndex") is not None:
            meta["annotations"][INDEX_FAILURES] = str(index_failures.get(index, 0))
        template["spec"]["hostname"] = f"{name}-{index}"
        source = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.labels['{INDEX}']"}}
        for container in [*template["spec"]["containers"], *(template["spec"].get("initContainers") or [])]:
            if not any(each["name"] == "JOB_COMPLETION_INDEX" for each in container.get("env") or []):
                container.setdefault("env", []).append({"name": "JOB_COMPLETION_INDEX", "valueFrom": source})
    return {"apiVersion": "v1", "kind": "Pod", **template}
