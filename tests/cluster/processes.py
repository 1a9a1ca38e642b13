"""A container's command as a process of this machine."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "FT_CLUSTER_CONTAINER"  # in the environment of every process of a container
IMAGE_ENVIRONMENT = ("PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "HF_HUB_OFFLINE")


class Process:
    """One run of a container; its end is reported from a thread of its own, once."""

    def __init__(
        self,
        command: list[str],
        env: dict[str, str],
        folder: Path,
        printed: Callable[[bytes], None],
        ended: Callable[[int], None],
        mark: str,
    ) -> None:
        self._mark = mark
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        image = {name: os.environ[name] for name in IMAGE_ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            command,
            env={"PATH": path, "HOME": str(folder), **image, **env, MARK: mark},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._printed, self._ended = printed, ended
        self._thread = threading.Thread(target=self._stay, name=f"container {mark}", daemon=True)

    def start(self) -> None:
        """Begins to report; apart from the making, so that the end cannot be told before the beginning."""
        self._thread.start()

    def _stay(self) -> None:
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        code = self._process.wait()
        self.kill()  # a container ends with its first process
        reader.join(5.0)
        self._ended(code if code >= 0 else 128 - code)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe, suppress(ValueError):
            while data := pipe.read1(65536):  # type: ignore[attr-defined]
                self._printed(data)

    @property
    def pid(self) -> int:
        return self._process.pid

    def terminate(self) -> None:
        """SIGTERM to the first process alone, as a container's runtime does."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to all that came of it, whatever sessions they made for themselves."""
        while found := [process for process in psutil.process_iter() if self._ours(process)]:
            for process in found:
                with suppress(psutil.Error):
                    process.kill()
            time.sleep(0.01)  # psutil's own waiting would take the exit code from who waits for it

    def _ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self._mark
        return False

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)
