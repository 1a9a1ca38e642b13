"""Starts a worker on this machine and stays with it until it ends.

The worker reads its request from a file, reports through Dagster Pipes' message file and appends to
``progress.jsonl``; its output goes to ``output.log``. All lie in one folder per run and step.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from pydantic import Field

from ft_assets.core.advice import memory_advice
from ft_assets.core.errors import FineTuneError, WorkerFailed
from ft_assets.core.progress import describe, last_progress
from resources.worker import worker_environment

POLL_SECONDS = 0.2
LOOK_EVERY_POLLS = 5
LOG_EVERY_SECONDS = 15.0
KILL_SECONDS = 5.0
TAIL_LINES = 50
LITTLE_SPACE_BYTES = 2**30
WAIT = Path("--wait")  # in the place of a request's path: it comes through standard input

# By the folder of the run and stage they are for; each runs until it is taken, or nobody can want it any more.
_waiting: dict[Path, subprocess.Popen[bytes]] = {}


class LocalLauncher(dg.ConfigurableResource):
    """Worker processes on this machine, under torchrun when they train.

    ``runs`` holds a folder per run; ``cache`` holds downloads. A worker that is asked to end has ``grace_seconds`` to finish
    its step and write a checkpoint. One with a stopped process (SIGSTOP) is ended after ``stopped_seconds``: the other
    processes would wait for that one without end. One that neither reports progress nor prints is ended after ``silent_seconds``.
    """

    runs: str
    cache: str
    grace_seconds: float = Field(default=30.0, ge=0, le=3600)
    stopped_seconds: float = Field(default=120.0, gt=0)
    silent_seconds: float = Field(default=1800.0, gt=0)

    def run(
        self, context: dg.AssetExecutionContext, request: dict[str, Any], processes: int | None, threads: int | None
    ) -> Path:
        """Runs one worker to its end and returns the run's folder.

        Args:
            processes: ranks under torchrun, or None for a stage that does not train (one plain process).
            threads: CPU threads per process; the cores are shared out evenly when None.

        Raises:
            WorkerFailed: it ended with an error, and then holds its last 50 lines, or was stopped for too long.
        """
        _refuse_other_nodes(request)
        folder: Path = Path(self.runs) / context.run_id / request["stage"]
        folder.mkdir(parents=True, exist_ok=True)
        execution = {**request["execution"], "grace_seconds": self.grace_seconds}
        told = {"execution": execution, "progress": str(folder / "progress.jsonl"), "cache": self.cache}
        request = {**request, **told}
        (folder / "request.json").write_text(json.dumps(request, indent=1))
        with _session(context, folder) as session:
            env = {**os.environ, **worker_environment(processes, threads), **session.get_bootstrap_env_vars()}
            process = _waiting_worker(folder, folder / "request.json") or _start(
                worker_command(request["stage"], folder / "request.json", processes), env, folder, subprocess.DEVNULL
            )
            try:
                self._watch(context, process, folder)
            finally:
                end_process_tree(process, self.grace_seconds)
        if process.returncode != 0:
            raise WorkerFailed(_failure_text(request, process.returncode, folder))
        return folder

    def _watch(self, context: dg.AssetExecutionContext, process: subprocess.Popen[bytes], folder: Path) -> None:
        """Returns when the worker has ended.

        Polls are counted, not time: who stops this process too and lets both go on has lost nothing.
        """
        last_log = time.monotonic()
        last_line = ""
        said, silent_polls, stopped_polls = 0, 0, 0
        for polls in itertools.count(1):
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
                return
            if polls % LOOK_EVERY_POLLS == 0:
                stopped = _stopped(process)
                stopped_polls = stopped_polls + LOOK_EVERY_POLLS if stopped else 0
                if stopped_polls * POLL_SECONDS >= self.stopped_seconds:
                    raise WorkerFailed(
                        f"process {stopped[0]} of the worker has been stopped (SIGSTOP) for {self.stopped_seconds:.0f} s, "
                        "so the worker was ended; run again to resume"
                    )
                before, said = said, _bytes_said(folder)
                silent_polls = silent_polls + LOOK_EVERY_POLLS if said == before else 0
                if silent_polls * POLL_SECONDS >= self.silent_seconds:
                    raise WorkerFailed(
                        f"the worker has said nothing for {self.silent_seconds:.0f} s (no step, no progress, no output), so "
                        f"it was ended; see {folder / 'output.log'}, then run again to resume"
                    )
            if time.monotonic() - last_log > LOG_EVERY_SECONDS:
                last_log = time.monotonic()
                line = describe(last_progress(folder / "progress.jsonl"))
                if line and line != last_line:
                    context.log.info(line)
                    last_line = line


def _refuse_other_nodes(request: dict[str, Any]) -> None:
    nodes = request["execution"].get("placement", {}).get("nodes", 1)
    if nodes > 1:
        raise FineTuneError(
            f"the plan places {request['stage']} on {nodes} nodes, and FT_LAUNCHER=local has this machine alone; set "
            "FT_LAUNCHER=kubernetes, or let hardware offer no more than one node has (counts of gpus, nodes)"
        )


@contextmanager
def _session(context: dg.AssetExecutionContext, folder: Path) -> Iterator[dg.PipesSession]:
    """A Pipes session over two files; Dagster marks parts of its own file reader as preview and says so each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesFileContextInjector(str(folder / "context.json")),
            message_reader=dg.PipesFileMessageReader(str(folder / "messages.jsonl"), cleanup_file=False),
        ) as session:
            yield session


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
        threads: as in :meth:`LocalLauncher.run`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, **worker_environment(None, threads)}
    _waiting[folder] = process = _start(worker_command(folder.name, WAIT, None), env, folder, subprocess.PIPE)
    try:
        yield
    finally:
        if _waiting.pop(folder, None) is not None:
            with process:
                process.kill()
            shutil.rmtree(folder)
            with suppress(OSError):  # another stage's files are there
                folder.parent.rmdir()


def _waiting_worker(folder: Path, request: Path) -> subprocess.Popen[bytes] | None:
    """The worker that waits for this folder's request, which it gets; None where there is none, or it has ended."""
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


def _start(command: list[str], env: dict[str, str], folder: Path, stdin: int) -> subprocess.Popen[bytes]:
    with (folder / "output.log").open("ab") as output:
        return subprocess.Popen(
            command,
            env={**env, "FT_PARENT": str(os.getpid())},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=stdin,
            start_new_session=True,  # a terminal's interrupt is for this process, which asks the worker to end
        )


def _bytes_said(folder: Path) -> int:
    """Sizes, not times, which a clock that steps back would falsify."""
    files = (folder / "progress.jsonl", folder / "output.log")
    return sum(file.stat().st_size for file in files if file.is_file())


def _stopped(process: subprocess.Popen[bytes]) -> list[int]:
    """Ids of the worker's processes that are stopped."""
    found = []
    for member in _tree(process):
        with suppress(psutil.NoSuchProcess):
            if member.status() == psutil.STATUS_STOPPED:
                found.append(member.pid)
    return found


def _tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
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
    tree = _tree(process)
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


def _failure_text(request: dict[str, Any], code: int, folder: Path) -> str:
    """What ended a worker: its last lines, and what they do not tell."""
    log = folder / "output.log"
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    lines = log.read_bytes().decode("utf-8", "replace").splitlines()[-TAIL_LINES:]
    text = [f"the worker of {request['stage']} {ended}. Its last {len(lines)} lines ({log}):", *lines]
    # A full disk shows as many errors (torch says "iostream error"), and cuts the log that would tell.
    for place in (folder, Path(request["store"]["url"]), Path(request["store"]["local"])):
        if place.is_dir() and shutil.disk_usage(place).free < LITTLE_SPACE_BYTES:
            text.append(f"{shutil.disk_usage(place).free / 1e6:.0f} MB are free on the disk of {place}")
            break
    execution = request["execution"]
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL) and "placement" in execution:
        advice = memory_advice(execution["placement"], execution["memory_gib"])
        text.append(f"A process was killed (SIGKILL): by hand, or by the kernel because memory ran out. {advice}")
    return "\n".join(text)
