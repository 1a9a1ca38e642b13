"""A whole cluster in this process, for tests: a server on the loopback interface, controllers, nodes, and its faults."""

import base64
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cluster.access import Access
from cluster.api import Api
from cluster.clock import Clock
from cluster.conditions import is_true
from cluster.containers import Script
from cluster.events import Recorder
from cluster.faults import Faults
from cluster.garbage import GarbageCollector
from cluster.job_sets import JobSetController
from cluster.jobs import JobController, TtlController
from cluster.kinds import (
    CLAIM,
    CONFIG_MAP,
    EVENT,
    JOB,
    JOB_SET,
    NAMESPACE,
    NODE,
    POD,
    PRIORITY_CLASS,
    QUOTA,
    SECRET,
    SERVICE_ACCOUNT,
    Kind,
    Object,
)
from cluster.kubelet import Kubelet
from cluster.loop import Loop
from cluster.nodes import Nodes, new_node
from cluster.patching import clone
from cluster.pod_verbs import PodVerbs
from cluster.scheduling import Scheduler
from cluster.server import Server
from cluster.store import Store

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

TICK_SECONDS = 0.05


class Cluster:
    """Everything goes by ``clock``, which stands still but for :meth:`advance` and :meth:`running_clock`.

    Attributes:
        namespace: one that is there, with its default service account.
        kubelet: ``script``, what each pod does; ``missing_images``.
        faults, access: what goes wrong on the way to the server, and what is forbidden.
    """

    namespace = "training"

    def __init__(self, history: int = 2000, seed: int = 0) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cluster-"))
        self.clock = Clock()
        self.store = Store(self.clock, history, seed)
        self.api = Api(self.store)
        self.loop = Loop(self.store)
        self.recorder = Recorder(self.store)
        self.kubelet = Kubelet(self.store, self.api, self.loop, self.recorder, self.folder)
        self.nodes = Nodes(self.store, self.api, self.loop, self.recorder, self.kubelet)
        self.scheduler = Scheduler(self.store, self.recorder)
        self.loop.controllers += [
            GarbageCollector(self.store, self.api, self.loop),
            JobSetController(self.store, self.api, self.loop, self.recorder),
            JobController(self.store, self.api, self.loop, self.recorder),
            TtlController(self.store, self.api),
            *(self.scheduler, self.kubelet, self.nodes),
        ]
        self.loop.last.append(self.scheduler.schedule)
        self.access = Access(f"system:serviceaccount:{self.namespace}:launcher")
        self.faults = Faults()
        self.pods = PodVerbs(self.store, self.api, self.kubelet, self.nodes)
        self._server: Server | None = None
        self._port = 0
        self._ticking = threading.Event()
        self.add_namespace("default")
        self.add_namespace(self.namespace)
        self.reach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the server and every process of a container."""
        self._ticking.set()
        self.unreach()
        with self.store.changed:
            processes = [process for run in self.kubelet.runs() for process in run.processes.values()]
            self.kubelet.away |= {node["metadata"]["name"] for node in self.store.all(NODE)}
        for process in processes:
            process.kill()
        for process in processes:
            process.join(10.0)
        shutil.rmtree(self.folder, ignore_errors=True)

    # The server, and clients of it.

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def server(self) -> Server:
        assert self._server is not None, "the server is away"
        return self._server

    def reach(self) -> None:
        """The server answers, at the port it always had; what it counted is kept."""
        counted = getattr(self, "_counted", None)
        server = Server(self.store, self.api, self.loop, self.pods, self.access, self.faults, self._port)
        if counted is not None:
            server.requests = counted
        self._server, self._counted, self._port = server, server.requests, server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.02,), name="API server", daemon=True).start()

    def unreach(self) -> None:
        """Connections are refused, and the open ones break; the cluster goes on by itself."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        server.server_close()
        server.drop_connections()

    @property
    def requests(self) -> dict[tuple[str, str], int]:
        """How often each verb was asked of each resource, ``("watch", "pods")`` say."""
        return dict(self._counted)

    def forget_requests(self) -> None:
        self._counted.clear()

    def cut_watches(self) -> None:
        """Every open watch and followed log breaks, without a word."""
        with self.store.changed:
            self.server.cut += 1
            self.store.changed.notify_all()

    def expire_watches(self) -> None:
        """Every open watch ends with an ERROR event of 410, and no older version can be continued from."""
        with self.store.changed:
            self.server.expired += 1
            self.store.version += 1
            self.store.compact()

    def client(self) -> "ApiClient":
        """A client of the Python library that retries nothing by itself."""
        from kubernetes import client

        configuration = client.Configuration(host=self.url)
        configuration.retries = False
        return client.ApiClient(configuration)

    def kubeconfig(self, path: Path) -> Path:
        """Writes a file by which any client finds this cluster."""
        named = "double"
        path.write_text(
            "apiVersion: v1\nkind: Config\n"
            f"clusters: [{{name: {named}, cluster: {{server: '{self.url}'}}}}]\n"
            f"users: [{{name: {named}, user: {{token: none}}}}]\n"
            f"contexts: [{{name: {named}, context: {{cluster: {named}, user: {named}, namespace: {self.namespace}}}}}]\n"
            f"current-context: {named}\n"
        )
        return path

    # Time.

    def advance(self, seconds: float) -> None:
        """Lets so much time pass: each timer at its moment, and everything settled after each."""
        with self.store.changed:
            until = self.clock.now + seconds
            self.loop.settle()
            while (call := self.clock.next_due(until)) is not None:
                call()
                self.loop.settle()
            self.clock.now = until
            self.store.changed.notify_all()

    @contextmanager
    def running_clock(self, speed: float = 1.0) -> Iterator[None]:
        """The cluster's time passes with the real one, ``speed`` times as fast: for pods that are processes."""
        stop = threading.Event()

        def tick() -> None:
            last = time.monotonic()
            while not stop.wait(TICK_SECONDS) and not self._ticking.is_set():
                now = time.monotonic()
                self.advance((now - last) * speed)
                last = now

        thread = threading.Thread(target=tick, name="cluster's clock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @contextmanager
    def acting(self) -> Iterator[None]:
        """What a test does to the store itself is done at once, and settled."""
        with self.store.changed:
            yield
            self.loop.settle()

    # What a cluster has.

    def add(self, kind: Kind, body: Object, namespace: str | None = None) -> Object:
        """Creates an object as an administrator: validated, but not counted as a request."""
        with self.acting():
            return self.api.create(kind, (namespace or self.namespace) if kind.namespaced else "", body)

    def add_namespace(self, name: str, labels: dict[str, str] | None = None) -> None:
        self.add(NAMESPACE, {"metadata": {"name": name, "labels": labels or {}}})
        self.add(SERVICE_ACCOUNT, {"metadata": {"name": "default"}}, name)

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

    # What happens to pods and nodes.

    def finish(self, pod: Object, exit_code: int = 0, message: str = "", reason: str = "") -> None:
        """Its containers end by themselves."""
        with self.acting():
            self.kubelet.finish(self.kubelet.run_of(pod), exit_code, reason, message)

    def finish_job(self, job: str, exit_code: int = 0, message: str = "") -> None:
        """All its running pods end at once."""
        for pod in self.pods_of(job):
            if pod["status"]["phase"] == "Running":
                self.finish(pod, exit_code, message)

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
            labels: dict[str, Any] = pod["metadata"].get("labels") or {}
            return scripts.get(labels.get("batch.kubernetes.io/job-name", ""), Script())

        self.kubelet.script = script


def wait_for_close(server: Server) -> None:
    with suppress(OSError):
        server.server_close()


__all__ = ["JOB_SET", "Cluster"]
