"""What all launchers share: the request a worker reads, the words about its progress, and those about its end.

A worker's files lie in one folder per run and stage, ``runs/RUN_ID/STAGE``: ``request.json``, ``progress.jsonl``, ``output.log``.
"""

import codecs
import json
import os
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
from pydantic import Field

from ft_assets.core.advice import memory_advice
from ft_assets.core.progress import describe, last_progress
from resources.worker import GRACE_SECONDS

LOG_EVERY_SECONDS = 15.0
TAIL_LINES = 50
TAIL_BYTES = 65_536
PIECE_BYTES = 2**20
LITTLE_SPACE_BYTES = 2**30


class Launcher(dg.ConfigurableResource, ABC):
    """Starts a stage's worker and stays with it until it ends; assets know no more of where it runs.

    ``runs`` holds a folder per run; ``cache`` holds downloads. A worker that is asked to end has ``grace_seconds`` to finish
    its step and write a checkpoint. One that neither reports progress nor prints is ended after ``silent_seconds``.
    """

    runs: str
    cache: str
    grace_seconds: float = Field(default=GRACE_SECONDS, ge=0, le=3600)
    silent_seconds: float = Field(default=1800.0, gt=0)

    @abstractmethod
    def run(
        self, context: dg.AssetExecutionContext, request: dict[str, Any], processes: int | None, threads: int | None
    ) -> Path:
        """Runs one worker to its end and returns the run's folder.

        Args:
            processes: ranks under torchrun, or None for a stage that does not train (one plain process).
            threads: CPU threads per process; the cores are shared out evenly when None.

        Raises:
            WorkerFailed: it ended with an error, and then holds its last lines, or was ended for the reason given.
        """

    def write_request(self, run_id: str, request: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        """The folder of a run's stage, with the request in it as the worker reads it, and that request."""
        folder = Path(self.runs) / run_id / request["stage"]
        folder.mkdir(parents=True, exist_ok=True)
        execution = {**request["execution"], "grace_seconds": self.grace_seconds}
        told = {"execution": execution, "progress": str(folder / "progress.jsonl"), "cache": self.cache}
        request = {**request, **told}
        written = folder / f"request.{uuid4().hex}.new"  # another process may start the same step just now
        written.write_text(json.dumps(request, indent=1))
        written.replace(folder / "request.json")  # which a worker of this run, taken up again, may be reading
        return folder, request


class ProgressWords:
    """Says how far a worker is: now and then, and only what is new."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.monotonic):
        self.path, self.now = folder / "progress.jsonl", now
        self.last_time, self.last_line = now(), ""

    def say(self, context: dg.AssetExecutionContext) -> None:
        if self.now() - self.last_time <= LOG_EVERY_SECONDS:
            return
        self.last_time = self.now()
        line = describe(last_progress(self.path))
        if line and line != self.last_line:
            context.log.info(line)
            self.last_line = line


def bytes_said(folder: Path) -> int:
    """How much a worker has said so far. Sizes, not times, which a clock that steps back would falsify."""
    said = 0
    for file in (folder / "progress.jsonl", folder / "output.log"):
        with suppress(OSError):  # not there yet, or on a volume that does not answer just now
            said += file.stat().st_size
    return said


def silent_text(seconds: float, folder: Path) -> str:
    return (
        f"the worker has said nothing for {seconds:.0f} s (no step, no progress, no output), so "
        f"it was ended; see {folder / 'output.log'}, then run again to resume"
    )


class PrintedLog:
    """Prints what is added to a worker's ``output.log``, which Dagster keeps with the step's own output."""

    def __init__(self, folder: Path):
        self.log = folder / "output.log"
        self.position = 0
        with suppress(OSError):
            self.position = self.log.stat().st_size
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def show(self) -> None:
        for added in self._added():
            sys.stdout.write(self.decoder.decode(added))
        sys.stdout.flush()

    def _added(self) -> Iterator[bytes]:
        """In pieces, however much it is. What a network volume cannot show now comes the next time."""
        with suppress(OSError), self.log.open("rb") as stream:
            left = os.fstat(stream.fileno()).st_size - self.position
            stream.seek(self.position)
            while left > 0 and (piece := stream.read(min(left, PIECE_BYTES))):
                left -= len(piece)
                self.position += len(piece)
                yield piece


def failure_text(request: dict[str, Any], ended: str, killed: bool, folder: Path) -> str:
    """What ended a worker: its last lines, and what they do not tell.

    Args:
        ended: how, as a sentence without its full stop.
        killed: by SIGKILL, so that it could say nothing itself.
    """
    log = folder / "output.log"
    lines = last_lines(log)
    text = [f"{ended}. Its last {len(lines)} lines ({log}):", *lines] if lines else [ended]
    # A full disk shows as many errors (torch says "iostream error"), and cuts the log that would tell.
    for place in (folder, Path(request["store"]["url"]), Path(request["store"]["local"])):
        if place.is_dir() and shutil.disk_usage(place).free < LITTLE_SPACE_BYTES:
            text.append(f"{shutil.disk_usage(place).free / 1e6:.0f} MB are free on the disk of {place}")
            break
    execution = request["execution"]
    if killed and "placement" in execution:
        advice = memory_advice(execution["placement"], execution["memory_gib"])
        text.append(f"A process was killed (SIGKILL): by hand, or by the kernel because memory ran out. {advice}")
    return "\n".join(text)


def last_lines(log: Path) -> list[str]:
    """The end of a log, at most 50 lines of its last 64 KiB; nothing where there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
            return stream.read().decode("utf-8", "replace").splitlines()[-TAIL_LINES:]
    except OSError:  # not there, or on a volume that does not answer just now
        return []


def killed_by(code: int) -> bool:
    """Whether an exit code, of a process or as a shell or a container gives it, stands for SIGKILL."""
    return code in (-signal.SIGKILL, 128 + signal.SIGKILL)
