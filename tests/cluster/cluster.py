"""A whole cluster in this process, for tests: a server on the loopback interface, controllers, nodes, and its faults."""

import psutil

from cluster.containers import Script
from cluster.inventory import Inventory
from cluster.kinds import NODE, POD, Kind, Object


class Cluster(Inventory):
    """And what happens to its pods and nodes."""

    def finish(self, pod: Object, exit_code: int = 0, message: str = "", reason: str = "") -> None:
        """Its containers end by themselves."""
        with self.acting():
            self.kubelet.finish(self.kubelet.run_of(pod), exit_code, reason, message)

    def finish_job(self, job: str, exit_code: int = 0, message: str = "") -> None:
        """All its running pods end at once, before anybody can stop the last for the first's sake."""
        with self.acting():
            for pod in self.pods_of(job):
                if pod["status"]["phase"] == "Running":
                    self.kubelet.finish(self.kubelet.run_of(pod), exit_code, "", message)

    def kill_for_memory(self, pod: Object) -> None:
        """OOMKilled: the kernel kills the container, which is over its limit."""
        with self.acting():
            run = self.kubelet.run_of(pod)
            if not run.processes:
                self.kubelet.finish(run, 137, "OOMKilled")
                return
            run.reason = "OOMKilled"
        for process in run.processes.values():
            process.kill()

    def process_of(self, pod: Object, container: int = 0) -> psutil.Process:
        """The first process of one of its containers, to be killed or stopped."""
        with self.store.changed:
            run = self.kubelet.run_of(pod)
            return psutil.Process(run.processes[pod["spec"]["containers"][container]["name"]].pid)

    def evict(self, pod: Object, resource: str = "memory") -> None:
        """The kubelet evicts it, as its node runs out of memory or disk."""
        why = f"The node was low on resource: {resource}. Threshold quantity: 100Mi, available: 40Mi. "
        with self.acting():
            self.nodes.kubelet_ends(self.kubelet.run_of(pod), "Evicted", why, "TerminationByKubelet", why)
            self.recorder.record((POD, pod), "Warning", "Evicted", why, "kubelet")

    def preempt(self, pod: Object) -> None:
        """The scheduler takes its place for a more important pod."""
        with self.acting():
            self.recorder.record(
                (POD, pod), "Normal", "Preempted", "Preempted by pod unknown on node unknown", "default-scheduler"
            )
            self.nodes.disrupt(
                pod, "PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"
            )

    def print(self, pod: Object, text: str) -> None:
        """Its first container prints this."""
        with self.store.changed:
            logs, _ = self.kubelet.logs_of(pod)
            logs[pod["spec"]["containers"][0]["name"]].write(self.clock.now, text.encode())

    def log(self, pod: Object) -> str:
        with self.store.changed:
            logs, _ = self.kubelet.logs_of(pod)
            return logs[pod["spec"]["containers"][0]["name"]].text() if logs else ""

    def delete(self, kind: Kind, name: str, policy: str = "Background") -> None:
        """By somebody's hand."""
        with self.acting():
            self.api.remove(kind, self.api.get(kind, self.namespace if kind.namespaced else "", name), policy)

    def delete_by_force(self, pod: Object) -> None:
        """With a grace of 0: the object goes, whatever its node does."""
        with self.acting():
            self.api.remove(POD, self.api.get(POD, self.namespace, pod["metadata"]["name"]), grace=0)

    def lose_node(self, name: str) -> None:
        """The machine dies; the cluster notices after 40 s."""
        with self.acting():
            self.nodes.lose(name)

    def restore_node(self, name: str) -> None:
        with self.acting():
            self.nodes.restore(name)

    def shut_down_node(self, name: str) -> None:
        """The cloud takes a spot machine back: its pods end, the node is not ready any more."""
        with self.acting():
            self.nodes.shut_down(name)

    def taint_node(self, name: str, key: str, effect: str, value: str = "") -> None:
        """``node.kubernetes.io/out-of-service`` with NoExecute lets the pods of a dead node go."""
        taint = {"key": key, "effect": effect} | ({"value": value} if value else {})
        with self.acting():
            node = self.api.get(NODE, "", name)
            self.store.change(NODE, node, lambda made: made["spec"].setdefault("taints", []).append(taint))

    def cordon_node(self, name: str, on: bool = True) -> None:
        with self.acting():
            node = self.api.get(NODE, "", name)
            self.store.change(NODE, node, lambda made: made["spec"].update(unschedulable=on))

    def script_of(self, **scripts: Script) -> None:
        """What pods do by the name of their Job; others run until told."""

        def script(pod: Object) -> Script:
            labels: dict[str, str] = pod["metadata"].get("labels") or {}
            return scripts.get(labels.get("batch.kubernetes.io/job-name", ""), Script())

        self.kubelet.script = script
