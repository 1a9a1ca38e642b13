"""A worker's view of its work: the request, the inputs, the progress it reports and the artifact it commits."""

import ctypes
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ft_assets.core.artifact import Artifact, ArtifactStore, Staging
from ft_assets.core.errors import FineTuneError, MissingInput

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "deepspeed", "tokenizers")
PR_SET_PDEATHSIG = 1


@dataclass
class Job:
    """One request: what to make (``identity`` alone decides it), from what, and how (``execution``).

    Where an input settles what the identity names by reference, ``identity`` is what came of it, ``fingerprinted`` what the
    fingerprint is of, and ``metrics`` what the manifest says of it.
    """

    stage: str
    fingerprint: str
    code_version: str
    identity: dict[str, Any]
    upstream: dict[str, list[str]]
    execution: dict[str, Any]
    store: ArtifactStore
    progress_file: Path
    cache: Path
    started: float = field(default_factory=time.monotonic)
    fingerprinted: dict[str, Any] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Job":
        return cls.of(json.loads(path.read_text()))

    @classmethod
    def of(cls, body: dict[str, Any]) -> "Job":
        return cls(
            stage=body["stage"],
            fingerprint=body["fingerprint"],
            code_version=body["code_version"],
            identity=body["identity"],
            upstream=body["upstream"],
            execution=body["execution"],
            store=ArtifactStore(body["store"]["url"], Path(body["store"]["local"])),
            progress_file=Path(body["progress"]),
            cache=Path(body["cache"]),
        )

    @property
    def rank(self) -> int:
        return int(os.environ.get("RANK", "0"))

    @property
    def scratch(self) -> Path:
        return self.store.scratch(self.fingerprint)

    def is_made(self) -> bool:
        """Whether the artifact is in the store."""
        return self.store.lookup(self.stage, self.fingerprint) is not None

    def has(self, role: str) -> bool:
        return role in self.upstream

    def input(self, role: str, but: str | None = None) -> Artifact:
        """The verified artifact of a role.

        Args:
            but: leave files of this suffix alone: weights, say, where the tokenizer is all that is wanted.

        Raises:
            MissingInput: it has not been made.
            CorruptArtifact: a file of it is not what its manifest says.
        """
        stage, fingerprint = self.upstream[role]
        only = None
        if but is not None and (manifest := self.store.lookup(stage, fingerprint)) is not None:
            only = [name for name in manifest.files if not name.endswith(but)]
        artifact = self.store.open(stage, fingerprint, only)
        if artifact is None:
            raise MissingInput(f"{self.stage} needs {stage} {fingerprint[:12]}, which has not been made")
        return artifact

    def part(self, request: dict[str, Any], **execution: Any) -> "Job":
        """The job of an artifact that is made on the way to this one's."""
        own = {name: value for name, value in self.execution.items() if name != "parts"}
        return replace(self, **request, execution=own | execution, started=time.monotonic())

    def progress(self, note: str, step: int = 0, total: int = 0, **numbers: float | None) -> None:
        """Appends one line to the progress file; rank 0 alone speaks."""
        if self.rank == 0:
            if "trial" in self.execution:
                note = f"{self.execution['trial']}, {note}"
            line = {"t": time.time(), "stage": self.stage, "note": note, "step": step, "total": total, **numbers}
            self.progress_file.parent.mkdir(parents=True, exist_ok=True)
            with self.progress_file.open("a") as stream:
                stream.write(json.dumps(line) + "\n")

    @contextmanager
    def commit(self, seconds_before: float = 0.0) -> Iterator[Staging]:
        """Stages the artifact; it is complete when the block ends without an error.

        Args:
            seconds_before: time spent on it by earlier attempts, which this one resumed.
        """
        upstream = {role: entry[1] for role, entry in self.upstream.items()}
        identity = self.identity if self.fingerprinted is None else self.fingerprinted
        with self.store.write(
            self.stage, self.fingerprint, code_version=self.code_version, identity=identity, upstream=upstream
        ) as staging:
            staging.execution = dict(self.execution)
            staging.versions = dict(library_versions())
            staging.usd_per_hour = float(self.execution.get("usd_per_hour", 0.0))
            staging.seconds_before = seconds_before + time.monotonic() - self.started
            yield staging
            self.progress("writing the artifact")
        self.progress("done")


@cache
def library_versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def one_at_a_time(job: Job) -> Iterator[bool]:
    """Waits for any other worker of this fingerprint; yields whether the artifact is there by then.

    The kernel frees the lock when its holder dies, however it dies. Partial work goes once the artifact is made, and what a
    killed holder was committing at once.

    Raises:
        FineTuneError: the volume has no locks.
    """
    with (job.scratch / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            job.progress("waiting for another worker that makes the same artifact")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise FineTuneError(
                f"{job.scratch} cannot be locked ({error.strerror}): two workers of one artifact would spoil each other's "
                "checkpoints. Mount its volume with file locks (NFS 4, or Lustre's option flock, say)"
            ) from error
        job.store.clear_staging(job.fingerprint)
        try:
            yield job.is_made()
        finally:
            if job.is_made():
                job.store.clear_scratch(job.fingerprint)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Asks the kernel (Linux) to signal this process when its parent dies, so that no worker outlives its run.

    One whose parent died before it got here has another parent than the one that ``FT_PARENT`` names. A container's first
    process has its parent outside, a runtime that may end while the container goes on.
    """
    parent = os.getppid()
    if not sys.platform.startswith("linux") or parent == 0:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != int(os.environ.pop("FT_PARENT", parent)):
        sys.exit(1)
