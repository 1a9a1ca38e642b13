"""Nodes that stop answering, are drained, shut down or deleted, and what becomes of their pods."""

from cluster.api import Api
from cluster.conditions import condition, is_true, set_condition
from cluster.containers import Run
from cluster.events import Recorder
from cluster.kinds import NODE, POD, Key, Object
from cluster.kubelet import Kubelet
from cluster.loop import Loop
from cluster.rooms import tolerates
from cluster.store import Change, Store, key_of

GRACE_SECONDS = 40  # node-monitor-grace-period: without a heartbeat for that long a node is not ready
UNREACHABLE = "node.kubernetes.io/unreachable"
NOT_READY = "node.kubernetes.io/not-ready"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
DISRUPTION = "DisruptionTarget"


class Nodes:
    def __init__(self, store: Store, api: Api, loop: Loop, recorder: Recorder, kubelet: Kubelet) -> None:
        self._store, self._api, self._loop, self._recorder, self._kubelet = store, api, loop, recorder, kubelet
        self._known: dict[str, list[Object]] = {}  # the taints that each node had

    def changed(self, change: Change) -> None:
        if change.kind is NODE:
            self._loop.enqueue(self._node, key_of(change.object))
        elif change.kind is POD and "deletionTimestamp" in change.object["metadata"] and change.type != "DELETED":
            self._loop.enqueue(self._deleted_pod, key_of(change.object))

    def _deleted_pod(self, key: Key) -> None:
        pod = self._store.get(POD, *key)
        node = self._store.get(NODE, "", pod["spec"].get("nodeName", "")) if pod else None
        if pod and node and _tainted(node, OUT_OF_SERVICE) and not is_true(node, "Ready"):
            self._collect(pod, "PodGC: node is out of service")

    def _pods(self, node: str) -> list[Object]:
        return [pod for pod in self._store.all(POD) if pod["spec"].get("nodeName") == node]

    def lose(self, name: str) -> None:
        """The machine is dead: its kubelet says nothing more, and its processes are gone."""
        self._kubelet.away.add(name)
        for run in self._kubelet.runs():
            if run.pod["spec"]["nodeName"] == name:
                for process in run.processes.values():
                    process.kill()
        self._store.clock.after(GRACE_SECONDS, lambda: self._not_ready(name))

    def _not_ready(self, name: str) -> None:
        node = self._store.get(NODE, "", name)
        if node is None or name not in self._kubelet.away:
            return
        now = self._store.clock.stamp()

        def edit(made: Object) -> None:
            set_condition(made, now, "Ready", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
            taints = made["spec"].setdefault("taints", [])
            taints += [
                {"key": UNREACHABLE, "effect": effect, "timeAdded": now} for effect in ("NoSchedule", "NoExecute")
            ]

        self._store.change(NODE, node, edit)
        self._recorder.record(
            (NODE, node), "Normal", "NodeNotReady", f"Node {name} status is now: NodeNotReady", "node-controller"
        )
        for pod in self._pods(name):
            if pod["status"]["phase"] == "Running":
                self._store.change(POD, pod, lambda made: set_condition(made, now, "Ready", "False"))
                self._recorder.record((POD, pod), "Warning", "NodeNotReady", "Node is not ready", "node-controller")

    def _node(self, key: Key) -> None:
        """The taint manager: a pod goes from a NoExecute taint when its toleration's time is over."""
        node, name = self._store.get(NODE, *key), key[1]
        if node is None:
            self._known.pop(name, None)
            for pod in self._pods(name):
                self._collect(pod, "PodGC: node no longer exists")
            return
        taints = node["spec"].get("taints") or []
        new = [taint for taint in taints if taint not in self._known.get(name, [])]
        self._known[name] = taints
        for taint in new:
            for pod in self._pods(name):
                if taint["key"] == OUT_OF_SERVICE and "deletionTimestamp" in pod["metadata"]:
                    self._deleted_pod(key_of(pod))
                if taint["effect"] == "NoExecute":
                    self._evict_later(pod, taint)

    def _evict_later(self, pod: Object, taint: Object) -> None:
        toleration = tolerates(pod["spec"], taint)
        seconds = 0 if toleration is None else toleration.get("tolerationSeconds")
        if seconds is None:
            return

        def evict() -> None:
            present = self._store.get(POD, *key_of(pod))
            node = self._store.get(NODE, "", pod["spec"]["nodeName"])
            if (
                present is None
                or node is None
                or not _tainted(node, taint["key"])
                or "deletionTimestamp" in present["metadata"]
            ):
                return
            if present["metadata"]["uid"] != pod["metadata"]["uid"] or present["status"]["phase"] in (
                "Succeeded",
                "Failed",
            ):
                return
            self.disrupt(present, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")

        if seconds:
            self._store.clock.after(seconds, evict)
        else:
            evict()

    def disrupt(self, pod: Object, reason: str, message: str) -> None:
        """Marks the pod as a target of a disruption and deletes it with its own grace."""
        now = self._store.clock.stamp()
        marked = self._store.change(
            POD, pod, lambda made: set_condition(made, now, DISRUPTION, "True", reason, message)
        )
        if marked is not None:
            self._api.remove(POD, marked)

    def _collect(self, pod: Object, message: str) -> None:
        """The pod garbage collector: such a pod fails, and is deleted by force."""
        now = self._store.clock.stamp()

        def edit(made: Object) -> None:
            made["status"]["phase"] = "Failed"
            set_condition(made, now, DISRUPTION, "True", "DeletionByPodGC", message)

        over = pod["status"]["phase"] in ("Succeeded", "Failed")
        present = self._store.get(POD, *key_of(pod)) if over else self._store.change(POD, pod, edit)
        if present is not None:
            self._api.remove(POD, present, grace=0)

    def restore(self, name: str) -> None:
        """The machine is back, rebooted: what ran on it has ended, and nobody knows how."""
        self._kubelet.away.discard(name)
        node = self._store.get(NODE, "", name)
        if node is None:
            return
        now = self._store.clock.stamp()

        def edit(made: Object) -> None:
            set_condition(made, now, "Ready", "True", "KubeletReady", "kubelet is posting ready status")
            made["spec"]["taints"] = [
                taint
                for taint in made["spec"].get("taints") or []
                if taint["key"] not in (UNREACHABLE, NOT_READY, OUT_OF_SERVICE)
            ]

        self._store.change(NODE, node, edit)
        for run in self._kubelet.runs():
            if run.pod["spec"]["nodeName"] == name and run.state in ("running", "stopping"):
                self._kubelet.finish(run, 255, "Unknown")
        for pod in self._pods(name):
            self._loop.enqueue(self._kubelet.reconcile, key_of(pod))

    def shut_down(self, name: str) -> None:
        """A graceful shutdown, as a cloud takes a spot machine back: the pods end first, then the node goes."""
        why = "Pod was terminated in response to imminent node shutdown."
        for run in self._kubelet.runs():
            if run.pod["spec"]["nodeName"] == name:
                self.kubelet_ends(run, "Terminated", why, "TerminationByKubelet", why)
        self._kubelet.away.add(name)
        node = self._store.get(NODE, "", name)
        if node is not None:
            now = self._store.clock.stamp()

            def edit(made: Object) -> None:
                set_condition(made, now, "Ready", "False", "KubeletNotReady", "node is shutting down")
                taints = made["spec"].setdefault("taints", [])
                taints += [
                    {"key": NOT_READY, "effect": effect, "timeAdded": now} for effect in ("NoSchedule", "NoExecute")
                ]

            self._store.change(NODE, node, edit)

    def kubelet_ends(self, run: Run, reason: str, message: str, disruption: str, why: str) -> None:
        now = self._store.clock.stamp()
        self._store.change(POD, run.pod, lambda made: set_condition(made, now, DISRUPTION, "True", disruption, why))
        self._kubelet.fail(run, reason, message)


def _tainted(node: Object, key: str) -> bool:
    return any(taint["key"] == key for taint in node["spec"].get("taints") or [])


def new_node(name: str, capacity: dict[str, str], labels: dict[str, str], taints: list[Object], now: str) -> Object:
    node: Object = {
        **{
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "spec": {"taints": taints} if taints else {},
        },
        "status": {"capacity": capacity, "allocatable": capacity},
    }
    named = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    node["metadata"]["labels"] = {**named, **labels}
    set_condition(node, now, "Ready", "True", "KubeletReady", "kubelet is posting ready status")
    assert condition(node, "Ready")
    return node
