"""The nodes of one training, a pod each: they meet before torchrun starts on any, or say which did not come.

Node 0 keeps torch's store at its address from its start on, and torchrun goes on with it. The others find it, leave their
names, and start when node 0, which alone takes the fingerprint's lock, says so. While it waits for the lock they wait with
it, as the open connection tells that it is there. Where the artifact is made, they see that in the artifact store, whoever
came first.
"""

import os
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ft_assets.core.artifact import LATE_SECONDS
from ft_assets.worker.job import Job

MEET_SECONDS = 900.0  # pods of one job may start minutes apart: a node is added, an image is pulled
POLL_SECONDS = 0.5
ANSWER_SECONDS = 30.0


class NodeMissing(Exception):
    """A node of a training did not come, or went."""


@dataclass(frozen=True)
class Nodes:
    """How many there are, which one this is, and where node 0 is."""

    count: int = 1
    index: int = 0
    host: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def of_pod(cls) -> "Nodes":
        """As the pod's environment has them; a job of one pod needs none of it."""
        given = {"count": "FT_NODES", "index": "JOB_COMPLETION_INDEX", "port": "MASTER_PORT"}
        numbers = {field: int(os.environ[name]) for field, name in given.items() if os.environ.get(name)}
        return cls(host=os.environ.get("MASTER_ADDR", cls.host), **numbers)

    def words(self) -> list[str]:
        """As arguments; :meth:`read` reads them."""
        return [str(self.count), str(self.index), self.host, str(self.port)]

    @classmethod
    def read(cls, words: list[str]) -> "Nodes":
        return cls(int(words[0]), int(words[1]), words[2], int(words[3])) if words else cls()

    def torchrun(self) -> list[str]:
        """torchrun's own options."""
        if self.count == 1:
            return ["--standalone"]
        where = ["--master-addr", self.host, "--master-port", str(self.port)]
        return ["--nnodes", str(self.count), "--node-rank", str(self.index), *where]


def keep_store(nodes: Nodes) -> Any:
    """The store in which nodes meet, kept by this process, which is node 0's. torchrun takes up a store of its process at the
    same port.

    Its own name may not be known yet where it is looked up, so it is reached on loopback here.
    """
    import torch.distributed as dist

    bound = timedelta(seconds=ANSWER_SECONDS)
    return dist.TCPStore(
        "127.0.0.1", nodes.port, is_master=True, wait_for_workers=False, timeout=bound, multi_tenant=True
    )


def gather(store: Any, nodes: Nodes, seconds: float) -> None:
    """On node 0, which is about to train: waits for the others and lets them start.

    Raises:
        NodeMissing: names those that did not come within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while missing := [index for index in range(1, nodes.count) if not store.check([f"came/node/{index}"])]:
        if time.monotonic() > deadline:
            named = ", ".join(map(str, missing))
            raise NodeMissing(
                f"pod {named} of {nodes.count} did not come within {seconds:.0f} s: not training without; see why it "
                "did not start, then run again"
            )
        time.sleep(POLL_SECONDS)
    store.set("train", "yes")


def follow(nodes: Nodes, job: Job, seconds: float) -> Any:
    """On every other node: waits for node 0's word; the store to keep while training, or None where the artifact is made.

    Raises:
        NodeMissing: node 0 did not answer within ``seconds``, or went before it gave its word.
    """
    import torch.distributed as dist

    deadline = time.monotonic() + seconds
    fault = f"did not answer within {seconds:.0f} s; see why it did not start, then run again"
    while not job.is_made():
        if store := _connect(nodes):
            try:
                store.set(f"came/node/{nodes.index}", socket.gethostname())
                while not store.check(["train"]):
                    time.sleep(POLL_SECONDS)
                return store
            except dist.DistError:
                # Node 0 goes once it is made, which may be seen here that much later.
                deadline = min(deadline, time.monotonic() + LATE_SECONDS)
                fault = "went before training began; its own log says why"
        if time.monotonic() > deadline:
            raise NodeMissing(f"pod 0 of {nodes.count} ({nodes.host}:{nodes.port}) {fault}")
        time.sleep(POLL_SECONDS)
    return None


def _connect(nodes: Nodes) -> Any:
    """The store of node 0; None where nobody answers there yet, or its name is not known yet."""
    import torch.distributed as dist

    try:
        socket.create_connection(
            (nodes.host, nodes.port), POLL_SECONDS
        ).close()  # torch would log each failure at length
        bound = timedelta(seconds=ANSWER_SECONDS)
        return dist.TCPStore(nodes.host, nodes.port, is_master=False, wait_for_workers=False, timeout=bound)
    except (OSError, dist.DistError):
        return None
