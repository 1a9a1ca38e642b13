"""Worker processes on this machine: started for a request or ahead of it, and ended. No Dagster."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from ft_assets.core.waiting import AHEAD, WAIT
from resources.worker import worker_environment

KILL_SECONDS = 5.0

# By the folder of the run and stage they are for; each runs until it is taken, or nobody can want it any more.
_waiting: dict[Path, subprocess.Popen[bytes]] = {}
_taking = threading.Lock()


def worker_command(stage: str, request: Path, processes: int | None) -> list[str]:
    if processes is None:
        return [sys.executable, "-m", "ft_assets.worker", stage, str(request)]
    return [sys.executable, "-m", "ft_assets.worker.torchrun", str(processes), stage, str(request)]


@contextmanager
def standing_by(folder: Path, threads: int | None) -> Iterator[None]:
    """Keeps a worker ready whose imports, which take longer than a small batch's work, are done before its request is known.

    A launcher in this process takes it for the run whose folder this is. One that nobody took is ended.

    Args:
        folder: where the run's launcher will have the stage's files, ``runs/RUN_ID/STAGE``; of a stage that does not train.
        threads: as in :meth:`resources.launching.Launcher.run`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, **worker_environment(None, threads)}
    _waiting[folder] = process = start(worker_command(folder.name, Path(WAIT), None), env, folder, subprocess.PIPE)
    try:
        yield
    finally:
        with _taking:
            taken = _waiting.pop(folder, None) is None
        if not taken:
            with process:
                process.kill()
            shutil.rmtree(folder)
            with suppress(OSError):  # another stage's files are there
                folder.parent.rmdir()


def stands_by(folder: Path) -> bool:
    """Whether the worker that was started for this folder has not been taken yet."""
    return folder in _waiting


def ask_ahead(folder: Path, request: dict[str, Any]) -> None:
    """Has the worker that stands by for this folder do what it can of a request before it gets it; nothing where it has
    been taken, or has ended.
    """
    file = folder / f"ahead.{uuid4().hex}.json"
    with _taking, suppress(BrokenPipeError):
        process = _waiting.get(folder)
        if process is not None and process.stdin is not None:
            file.write_text(json.dumps(request))
            process.stdin.write(f"{AHEAD}{file}\n".encode())
            process.stdin.flush()


def waiting_worker(folder: Path, request: Path) -> subprocess.Popen[bytes] | None:
    """The worker that waits for this folder's request, which it gets; None where there is none, or it has ended."""
    with _taking:
        process = _waiting.pop(folder, None)
    if process is None or process.stdin is None:
        return None
    try:
        with process.stdin as pipe:
            pipe.write(f"{request}\n".encode())
    except BrokenPipeError:  # what it died of, the one that is started in its place tells
        process.wait()
        return None
    return process


def start(command: list[str], env: dict[str, str], folder: Path, stdin: int) -> subprocess.Popen[bytes]:
    with (folder / "output.log").open("ab") as output:
        return subprocess.Popen(
            command,
            env={**env, "FT_PARENT": str(os.getpid())},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=stdin,
            start_new_session=True,  # a terminal's interrupt is for this process, which asks the worker to end
        )


def process_tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The worker's processes, descendants first; none where it has ended."""
    try:
        return [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        return []


def end_process_tree(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Asks the worker to end (SIGTERM), waits, and kills what is left of it and its descendants.

    torchrun's ranks are sessions of their own, so the process group is not enough.
    """
    if process.poll() is not None:
        return
    tree = process_tree(process)
    _signal(tree[-1], signal.SIGTERM)
    for member in tree:
        _signal(member, signal.SIGCONT)  # one that is stopped hears of it only when it goes on
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace_seconds + KILL_SECONDS if grace_seconds else 0)  # torchrun kills its ranks itself
    for member in tree:
        _signal(member, signal.SIGKILL)
    process.wait()


def _signal(member: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        member.send_signal(number)
