"""Starts a worker on this machine and stays with it until it ends.

The worker reads its request from a file, reports through Dagster Pipes' message file and appends to
``progress.jsonl``; its output goes to ``output.log``. All lie in one folder per run and step.
"""

import itertools
import os
import signal
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from pydantic import Field

from ft_assets.core.errors import FineTuneError, WorkerFailed
from resources.launching import (
    Launcher,
    ProgressWords,
    bytes_said,
    failure_text,
    killed_by,
    silent_text,
)
from resources.processes import end_process_tree, process_tree, start, waiting_worker, worker_command
from resources.worker import worker_environment

POLL_SECONDS = 0.2
LOOK_EVERY_POLLS = 5


class LocalLauncher(Launcher):
    """Worker processes on this machine, under torchrun when they train.

    One with a stopped process (SIGSTOP) is ended after ``stopped_seconds``: the other processes would wait for that one
    without end.
    """

    stopped_seconds: float = Field(default=120.0, gt=0)

    def run(
        self, context: dg.AssetExecutionContext, request: dict[str, Any], processes: int | None, threads: int | None
    ) -> Path:
        _refuse_other_nodes(request)
        folder, request = self.write_request(context.run_id, request)
        with _session(context, folder) as session:
            env = {**os.environ, **worker_environment(processes, threads), **session.get_bootstrap_env_vars()}
            process = waiting_worker(folder, folder / "request.json") or start(
                worker_command(request["stage"], folder / "request.json", processes), env, folder, subprocess.DEVNULL
            )
            try:
                self._watch(context, process, folder)
            finally:
                end_process_tree(process, self.grace_seconds)
        if process.returncode != 0:
            code = process.returncode
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            ended = f"the worker of {request['stage']} {how}"
            raise WorkerFailed(failure_text(request, ended, killed_by(code), folder))
        return folder

    def _watch(self, context: dg.AssetExecutionContext, process: subprocess.Popen[bytes], folder: Path) -> None:
        """Returns when the worker has ended.

        Polls are counted, not time: who stops this process too and lets both go on has lost nothing.
        """
        words = ProgressWords(folder)
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
                before, said = said, bytes_said(folder)
                silent_polls = silent_polls + LOOK_EVERY_POLLS if said == before else 0
                if silent_polls * POLL_SECONDS >= self.silent_seconds:
                    raise WorkerFailed(silent_text(self.silent_seconds, folder))
            words.say(context)


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


def _stopped(process: subprocess.Popen[bytes]) -> list[int]:
    """Ids of the worker's processes that are stopped."""
    found = []
    for member in process_tree(process):
        with suppress(psutil.NoSuchProcess):
            if member.status() == psutil.STATUS_STOPPED:
                found.append(member.pid)
    return found
