"""The machinery of a cluster: its server, its controllers, its clock."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cluster.access import Access
from cluster.api import Api
from cluster.clock import Clock
from cluster.events import Recorder
from cluster.faults import Faults
from cluster.garbage import GarbageCollector
from cluster.job_sets import JobSetController
from cluster.jobs import JobController
from cluster.kinds import NAMESPACE, NODE, SERVICE_ACCOUNT, Kind, Object
from cluster.kubelet import Kubelet
from cluster.loop import Loop
from cluster.nodes import Nodes
from cluster.pod_verbs import PodVerbs
from cluster.scheduling import Scheduler
from cluster.server import Server
from cluster.store import Store
from cluster.ttl import TtlController

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

TICK_SECONDS = 0.05
THREADS_SECONDS = 0.005


class Core:
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
        self.scheduler.disrupt = self.nodes.disrupt
        self.access = Access(f"system:serviceaccount:{self.namespace}:launcher")
        self.faults = Faults()
        self.pods = PodVerbs(self.store, self.api, self.kubelet, self.nodes)
        self._server: Server | None = None
        self._port = 0
        self._ticking = threading.Event()
        self.errors: list[str] = []  # of the double itself
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
        assert not self.errors, "the API server double itself failed:\n" + "\n".join(self.errors)

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
            server.requests, server.absent = counted, self._absent
        self._absent = server.absent
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
        self.errors += server.errors

    @property
    def requests(self) -> dict[tuple[str, str], int]:
        """How often each verb was asked of each resource, ``("watch", "pods")`` say."""
        return dict(self._counted)

    def uninstall(self, kind: Kind) -> None:
        """Its API group was never installed here: JobSet's, say."""
        self._absent.add((kind.group, kind.version))

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
            while calls := self.clock.next_due(until):
                for call in calls:
                    call()
                self.loop.settle()
            self.clock.now = until
            self.store.changed.notify_all()

    def advance_until(self, condition: Callable[[], object], seconds: float, what: str, step: float = 1.0) -> None:
        """Lets time pass in steps, with other threads acting in between, until the condition holds; fails after so long."""
        until = self.clock.now + seconds
        while not condition():
            assert self.clock.now < until, f"{what} did not happen within {seconds} s of the cluster's time"
            self.advance(step)
            time.sleep(THREADS_SECONDS)

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

    def add(self, kind: Kind, body: Object, namespace: str | None = None) -> Object:
        """Creates an object as an administrator: validated, but not counted as a request."""
        with self.acting():
            return self.api.create(kind, (namespace or self.namespace) if kind.namespaced else "", body)

    def add_namespace(self, name: str, labels: dict[str, str] | None = None) -> None:
        self.add(NAMESPACE, {"metadata": {"name": name, "labels": labels or {}}})
        self.add(SERVICE_ACCOUNT, {"metadata": {"name": "default"}}, name)
