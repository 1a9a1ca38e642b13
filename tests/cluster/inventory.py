"""What a cluster has: nodes, claims, Secrets, quotas, a queue; and what a test sees of it."""

import base64
from pathlib import Path

from cluster.conditions import is_true
from cluster.core import Core
from cluster.kinds import (
    CLAIM,
    CONFIG_MAP,
    EVENT,
    JOB,
    NAMESPACE,
    NODE,
    POD,
    PRIORITY_CLASS,
    QUOTA,
    SECRET,
    Kind,
    Object,
)
from cluster.nodes import new_node
from cluster.patching import clone


class Inventory(Core):
    """Things to add, and to look at; what is looked at is not to be changed."""

    def label_namespace(self, labels: dict[str, str], name: str | None = None) -> None:
        """Such as ``pod-security.kubernetes.io/enforce: restricted``."""
        with self.acting():
            found = self.api.get(NAMESPACE, "", name or self.namespace)
            self.store.change(NAMESPACE, found, lambda made: made["metadata"].setdefault("labels", {}).update(labels))

    def add_node(
        self,
        name: str,
        gpus: int = 0,
        cpu: str = "16",
        memory: str = "64Gi",
        labels: dict[str, str] | None = None,
        taints: list[Object] | None = None,
    ) -> None:
        capacity = {"cpu": cpu, "memory": memory, "pods": "110", "ephemeral-storage": "500Gi"}
        capacity |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
        self.add(NODE, new_node(name, capacity, labels or {}, taints or [], self.clock.stamp()))

    def add_claim(self, name: str, folder: Path | None = None, bound: bool = True) -> None:
        """A PersistentVolumeClaim; pods that are processes must mount it at its folder."""
        if folder is not None:
            self.kubelet.folders[(self.namespace, name)] = folder
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "100Gi"}}}
        self.add(
            CLAIM, {"metadata": {"name": name}, "spec": spec, "status": {"phase": "Bound" if bound else "Pending"}}
        )

    def bind_claim(self, name: str) -> None:
        with self.acting():
            claim = self.api.get(CLAIM, self.namespace, name)
            self.store.change(CLAIM, claim, lambda made: made["status"].update(phase="Bound"))

    def add_secret(self, name: str, **values: str) -> None:
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        self.add(SECRET, {"metadata": {"name": name}, "data": data})

    def add_config_map(self, name: str, **values: str) -> None:
        self.add(CONFIG_MAP, {"metadata": {"name": name}, "data": values})

    def add_quota(self, name: str, hard: dict[str, str]) -> None:
        self.add(QUOTA, {"metadata": {"name": name}, "spec": {"hard": hard}})

    def add_priority_class(self, name: str, value: int) -> None:
        self.add(PRIORITY_CLASS, {"metadata": {"name": name}, "value": value})

    def use_kueue(self) -> None:
        """Jobs and JobSets with a queue's label are created suspended, until :meth:`admit`."""
        self.api.queues = True

    def admit(self, name: str, kind: Kind = JOB) -> None:
        """As Kueue does when the quota is there."""
        self._suspend(name, kind, False)
        self._say(kind, name, "Started", "Admitted by clusterQueue cluster-queue")

    def preempt_workload(self, name: str, kind: Kind = JOB) -> None:
        """As Kueue does for a workload of higher priority: the Job is suspended again, its pods are deleted."""
        self._suspend(name, kind, True)
        self._say(
            kind,
            name,
            "Stopped",
            "Preempted to accommodate a workload (UID: unknown) due to prioritization in the ClusterQueue",
        )

    def _suspend(self, name: str, kind: Kind, suspended: bool) -> None:
        with self.acting():
            changed = clone(self.api.get(kind, self.namespace, name))
            changed["spec"]["suspend"] = suspended
            changed["metadata"]["generation"] += 1
            self.store.replace(kind, changed)

    def _say(self, kind: Kind, name: str, reason: str, message: str) -> None:
        with self.acting():
            self.recorder.record((kind, self.api.get(kind, self.namespace, name)), "Normal", reason, message, "kueue")

    # What is there.

    def get(self, kind: Kind, name: str) -> Object:
        """As it is now; not to be changed."""
        with self.store.changed:
            return self.api.get(kind, self.namespace if kind.namespaced else "", name)

    def all(self, kind: Kind) -> list[Object]:
        with self.store.changed:
            return self.store.all(kind, self.namespace if kind.namespaced else None)

    def pods_of(self, job: str) -> list[Object]:
        """Of a Job by name, in the order of their completion indexes and times."""
        label = "batch.kubernetes.io/job-name"
        found = [pod for pod in self.all(POD) if (pod["metadata"].get("labels") or {}).get(label) == job]
        return sorted(found, key=lambda pod: (pod["spec"].get("hostname", ""), int(pod["metadata"]["resourceVersion"])))

    def pod(self, job: str, index: int = 0) -> Object:
        """The last pod of that completion index; it must be there."""
        found = [
            pod
            for pod in self.pods_of(job)
            if pod["metadata"]["labels"].get("batch.kubernetes.io/job-completion-index", "0") == str(index)
        ]
        assert found, f"Job {job} has no pod of index {index}"
        return max(
            found,
            key=lambda pod: (
                "deletionTimestamp" not in pod["metadata"],
                pod["metadata"]["creationTimestamp"],
                int(pod["metadata"]["resourceVersion"]),
            ),
        )

    def ended(self, job: str) -> str:
        """Complete, Failed, or empty."""
        made = self.get(JOB, job)
        return next((type_ for type_ in ("Complete", "Failed") if is_true(made, type_)), "")

    def events(self, name: str = "", reason: str = "") -> list[Object]:
        found = self.all(EVENT)
        return [
            each for each in found if name in ("", each["involvedObject"]["name"]) and reason in ("", each["reason"])
        ]
