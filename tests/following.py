"""A launcher over a cluster of a test's own, and stages that it runs there while the test plays with the cluster."""

import itertools
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from cluster import Cluster, Script
from cluster.kinds import JOB, Object
from planned import PLACEMENT
from waiting import until

from ft_assets.core.artifact import ArtifactStore
from resources.kubernetes import following
from resources.kubernetes import launcher as kubernetes_launcher
from resources.kubernetes.client import Api
from resources.kubernetes.launcher import KubernetesLauncher
from resources.kubernetes.watch import Watch

IMAGE = "registry.example/worker@sha256:" + "0" * 64
RUN = "11111111-1111-4111-8111-111111111111"
OTHER_RUN = "22222222-2222-4222-8222-222222222222"
FINGERPRINT = "ab" * 32
GIB = 2**30
NUMBERS = itertools.count()
STEP = "step "  # what the names of threads that a launcher runs in begin with
SPEED = 10.0  # of the cluster's clock; jumps in it are a test's own


class ClusterClock:
    """The launcher's time is the cluster's."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.interrupted: set[str] = set()  # names of threads
        self.stopped = threading.Event()
        self.poll_seconds = 0.005  # of real time

    def monotonic(self) -> float:
        return self.cluster.clock.now

    time = monotonic

    def wait(self, event: threading.Event, seconds: float) -> bool:
        until_then = self.cluster.clock.now + seconds
        step = threading.current_thread().name
        while self.cluster.clock.now < until_then:
            if step in self.interrupted or (self.stopped.is_set() and step.startswith(STEP)):
                raise Interrupted
            if self.stopped.is_set():
                break
            if event.wait(self.poll_seconds):
                return True
        return event.is_set()


@dataclass
class Step:
    """A stage that a launcher runs in a thread of its own; ``error`` is what it ended with."""

    run_id: str
    clock: ClusterClock
    steps: list["Step"]  # all of its site, as Dagster's book has their runs
    said: list[str] = field(default_factory=list)
    folder: Path | None = None
    error: BaseException | None = None
    thread: threading.Thread | None = None
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED

    def context(self) -> Any:
        """What a launcher asks of Dagster's context."""
        log = logging.Logger(self.run_id)
        log.addHandler(_Heard(self.said))
        book = SimpleNamespace(
            get_run_by_id=lambda run: next((step for step in self.steps if step.run_id == run), None)
        )
        return SimpleNamespace(run_id=self.run_id, asset_key=dg.AssetKey("sft_adapter"), log=log, instance=book)

    def interrupt(self) -> None:
        """As Dagster does when the process is told to end."""
        assert self.thread is not None
        self.clock.interrupted.add(self.thread.name)

    def ends(self, seconds: float = 30) -> "Step":
        assert self.thread is not None
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"the step has not ended; it said: {self.said}"
        return self

    def fails(self) -> str:
        """The message with which it ends."""
        self.ends()
        assert self.error is not None, f"the step ended well; it said: {self.said}"
        return str(self.error)

    def ends_well(self) -> None:
        self.ends()
        assert self.error is None, repr(self.error)

    def says(self, words: str) -> None:
        until(lambda: any(words in line for line in self.said) or not self.thread.is_alive(), 90, f"{words!r}")
        assert any(words in line for line in self.said), f"{words!r} was not said, but: {self.said}, {self.error}"


class Interrupted(BaseException):
    """What Dagster raises where a step is when its process is told to end."""


class _Heard(logging.Handler):
    def __init__(self, said: list[str]):
        super().__init__()
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


class Site:
    """A namespace with a volume, two nodes of two GPUs each, and the file that names them."""

    def __init__(self, folder: Path, cluster: Cluster, **deployment: Any):
        self.folder, self.cluster, self.clock = folder, cluster, ClusterClock(cluster)
        self.file = folder / "pods.yaml"
        self.steps: list[Step] = []
        self.deployment: dict[str, Any] = {
            "namespace": cluster.namespace,
            "claim": "home",
            "mount": str(folder / "home"),
            "image": IMAGE,
            "pending_seconds": 600,
            "preemptions": 2,
        }
        self.deploy(**deployment)
        (folder / "home").mkdir()
        self.kubeconfig = str(cluster.kubeconfig(folder / "kubeconfig"))
        self.api, self.watch = self.connect()
        for name in ("node-a", "node-b"):
            cluster.add_node(name, gpus=2)
        cluster.add_claim("home", folder / "home")

    def deploy(self, **fields: Any) -> None:
        """Writes the deployment's file, with other fields than before."""
        self.deployment |= fields
        self.file.write_text(json.dumps(self.deployment))

    def connect(self) -> tuple[Api, Watch]:
        """A connection such as another process has."""
        api = Api(self.cluster.namespace, self.kubeconfig, self.clock)
        return api, Watch(api)

    def launcher(self, **fields: Any) -> KubernetesLauncher:
        home = self.folder / "home"
        given = {"runs": str(home / "runs"), "cache": str(home / "cache"), "kubeconfig": self.kubeconfig, **fields}
        return KubernetesLauncher(pods=str(self.file), **given)

    def request(self, nodes: int = 2, fingerprint: str = FINGERPRINT, pods: dict[str, Any] | None = None) -> Any:
        placement = {
            **PLACEMENT,
            **{"processes": nodes, "nodes": nodes, "gpu": "", "gpu_resource": "nvidia.com/gpu", "gpus_per_node": 1},
            **{"node_selector": {}, "spot": False, "cpus": 2.0, "host_bytes": 4 * GIB, "node_memory_bytes": 0},
            **{"shm_bytes": GIB, "disk_bytes": GIB},
        }
        execution = {
            "partition": "tiny",
            "device": "cuda",
            "memory_gib": 8.0,
            "placement": placement,
            "pods": pods or {},
        }
        home = str(self.folder / "home")
        return {
            "stage": "sft_adapter",
            "fingerprint": fingerprint,
            "store": {"url": home, "local": home},
            "execution": execution,
        }

    def start(self, run_id: str = RUN, request: Any = None, **fields: Any) -> Step:
        step = Step(run_id, self.clock, self.steps)
        self.steps.append(step)
        given = request or self.request()
        processes = given["execution"]["placement"]["processes"]

        def run() -> None:
            try:
                step.folder = self.launcher(**fields).run(step.context(), given, processes, None)
            except BaseException as error:  # noqa: BLE001 - told by the test
                step.error = error

        step.thread = threading.Thread(target=run, name=f"{STEP}{next(NUMBERS)}", daemon=True)
        step.thread.start()
        return step

    def job(self, attempt: int = 0) -> str:
        """The name of the Job of an attempt, once it is there."""
        label = "ft-assets.dev/attempt"

        def found() -> list[str]:
            jobs = self.cluster.all(JOB)
            return [job["metadata"]["name"] for job in jobs if job["metadata"]["labels"][label] == str(attempt)]

        until(lambda: found() or self._over(), 90, f"the Job of attempt {attempt}")
        assert found(), [(step.said, step.error) for step in self.steps]
        return found()[0]

    def _over(self) -> bool:
        return not any(step.thread and step.thread.is_alive() for step in self.steps)

    def running(self, attempt: int = 0, pods: int = 2) -> list[Object]:
        """The pods of an attempt's Job, once they all run."""
        name = self.job(attempt)

        def run() -> list[Object]:
            return [pod for pod in self.cluster.pods_of(name) if pod["status"]["phase"] == "Running"]

        until(lambda: len(run()) == pods, 90, f"{pods} running pods of {name}")
        return run()

    def until_ending(self, pod: Object) -> None:
        """Returns once the launcher has heard that a pod is being deleted."""

        def heard() -> bool:
            entries = [entry for group in list(self.watch.followed.values()) for entry in group]
            return any("ending_since" in entry.pods.get(pod["metadata"]["uid"], {}) for entry in entries)

        until(heard, 90, f"the end of {pod['metadata']['name']}")

    def make_artifact(self) -> None:
        """What the worker of :meth:`request` would have committed."""
        home = self.folder / "home"
        kept = {"code_version": "1", "identity": {}, "upstream": {}}
        with ArtifactStore(str(home), home).write("sft_adapter", FINGERPRINT, **kept) as staging:
            staging.write_json("made.json", {})

    def end(self) -> None:
        """Ends every step, and so what it follows: one that is left would take a core from the tests after it."""
        self.clock.stopped.set()
        for step in self.steps:
            assert step.thread is not None
            step.thread.join(60)
            assert not step.thread.is_alive(), f"the step goes on after its test; it said: {step.said}"

    def jobs(self) -> list[str]:
        return [job["metadata"]["name"] for job in self.cluster.all(JOB)]


@contextmanager
def site(folder: Path, patch: pytest.MonkeyPatch, script: Script | None = None, **deployment: Any) -> Iterator[Site]:
    """With its clock running; pods run until told, or as ``script`` says."""
    with Cluster() as cluster:
        cluster.kubelet.script = lambda pod: script or Script()
        found = Site(folder, cluster, **deployment)
        patch.setattr(kubernetes_launcher, "connect", lambda *_: (found.api, found.watch))
        patch.setattr(following, "LATE_SECONDS", 0.0)  # what only seems to train makes no artifact
        try:
            with cluster.running_clock(SPEED):
                yield found
        finally:
            found.end()
