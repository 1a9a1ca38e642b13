"""``python -m ft_assets.worker.pod STAGE REQUEST``: what runs in a pod, as its first process.

``REQUEST`` is the path of a request on a shared volume, or its URL in a bucket. Kubernetes and the launcher say the rest in
the environment: ``FT_PROCESSES_PER_NODE`` (ranks in this pod; empty for a stage that does not train), ``FT_NODES``,
``JOB_COMPLETION_INDEX``, ``MASTER_ADDR``, ``MASTER_PORT``.

Copies the worker's output to the pod's log and to ``output.log`` beside the request (``output-N.log`` of pod N > 0), passes
SIGTERM on, reaps what others leave, and when the worker fails leaves its last lines as the termination message. Ends with the
worker's code, or 128 and the number of the signal that ended it.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from ft_assets.core.errors import STOPPED, FineTuneError
from ft_assets.worker.mirror import mirrored
from ft_assets.worker.nodes import Nodes

TAIL_LINES = 50
TAIL_BYTES = 4096  # Kubernetes keeps no more of a termination message
LAST_WORDS_SECONDS = 5.0
TERMINATION_LOG = "/dev/termination-log"


def main(stage: str, request: str) -> int:
    nodes = Nodes.of_pod()
    attendant = Attendant()
    try:
        with ExitStack() as stack:
            path = Path(request)
            if "://" in request:
                if nodes.count > 1:
                    raise FineTuneError(
                        f"{stage}: {nodes.count} pods, and no shared volume: each writes a part of every checkpoint. Set "
                        "`claim` in the file of FT_PODS to a volume that all pods can write, or plan for one node"
                    )
                path = stack.enter_context(mirrored(request))
            log = path.with_name(f"output-{nodes.index}.log" if nodes.index else "output.log")
            code = attendant.run(command(stage, path, nodes), log)
    except (FineTuneError, OSError) as error:
        print(error, flush=True)
        attendant.said = str(error).encode()
        code = 2 if isinstance(error, FineTuneError) else 1
    if code:
        leave_message(attendant.said)
    return code


def command(stage: str, request: Path, nodes: Nodes) -> list[str]:
    processes = os.environ.get("FT_PROCESSES_PER_NODE")
    if not processes:
        return [sys.executable, "-m", "ft_assets.worker", stage, str(request)]
    return [sys.executable, "-m", "ft_assets.worker.torchrun", processes, stage, str(request), *nodes.words()]


class Attendant:
    """Runs one command as a container's first process has to: nobody else hears signals or reaps orphans there."""

    def __init__(self) -> None:
        self.said = b""
        self.asked = False
        self.process: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if self.process is not None and self.process.returncode is None:
            os.kill(self.process.pid, signal.SIGTERM)

    def run(self, words: list[str], log: Path) -> int:
        """Its exit code; one that was asked to end before it could handle that counts as stopped."""
        own = {"env": environment(), "stdin": subprocess.DEVNULL, "start_new_session": True}
        with log.open("ab", buffering=0) as file:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **own)  # type: ignore[call-overload]
            assert self.process is not None
            if self.asked:
                self.process.terminate()
            copying = threading.Thread(target=self._copy, args=(self.process.stdout, file), daemon=True)
            copying.start()
            code = reap_until(self.process)
            copying.join(LAST_WORDS_SECONDS)  # what a descendant holds open never ends
        if self.asked and code == -signal.SIGTERM:
            return STOPPED
        return 128 - code if code < 0 else code

    def _copy(self, source: BinaryIO, log: BinaryIO) -> None:
        """To the log and this process's output, as far as each can be written (a disk may be full)."""
        sinks = [log, sys.stdout.buffer]
        while chunk := os.read(source.fileno(), 65_536):
            self.said = (self.said + chunk)[-4 * TAIL_BYTES :]
            for sink in list(sinks):
                try:
                    sink.write(chunk)
                    sink.flush()
                except OSError as error:
                    sinks.remove(sink)
                    self.said += f"\n(output is not written any more: {error})\n".encode()


def reap_until(process: subprocess.Popen[bytes]) -> int:
    """Reaps every child, orphans that came to this process too, until ``process`` has ended; its return code."""
    while True:
        pid, status = os.wait()
        if pid == process.pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode


def environment() -> dict[str, str]:
    """The pod's, with places that can be written where the root file system cannot, and a name for a user without one."""
    folder = Path(tempfile.gettempdir()) / "ft-assets"
    places = {"XDG_CACHE_HOME": "cache", "TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
    places |= {"MPLCONFIGDIR": "matplotlib"}
    own = {name: str(folder / place) for name, place in places.items()}
    given = dict(os.environ)
    if not os.access(os.path.expanduser("~"), os.W_OK):
        home = folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        given["HOME"] = str(home)
    return {"USER": "worker", **own, **given}


def leave_message(said: bytes) -> None:
    """The termination message: the last lines, as many as Kubernetes keeps."""
    path = os.environ.get("FT_TERMINATION_LOG") or TERMINATION_LOG
    if not os.path.exists(os.path.dirname(path)) or (path == TERMINATION_LOG and not os.path.exists(path)):
        return
    Path(path).write_bytes(last_lines(said))


def last_lines(said: bytes) -> bytes:
    """Whole lines from the end, at most :data:`TAIL_LINES` and :data:`TAIL_BYTES`; of a longer line its end, as UTF-8."""
    text = b"\n".join(said.rstrip().split(b"\n")[-TAIL_LINES:])
    cut = text[-TAIL_BYTES:]
    if len(cut) < len(text) and b"\n" in cut:
        cut = cut.partition(b"\n")[2]
    return cut.decode("utf-8", "ignore").encode()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
