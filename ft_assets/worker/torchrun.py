"""``python -m ft_assets.worker.torchrun PROCESSES STAGE request.json [NODES NODE HOST PORT]``: the worker under torchrun.

``PROCESSES`` ranks on this machine, or on each of several nodes, of which node 0 is at ``HOST:PORT``. It holds the lock of the
fingerprint for all ranks. Ends with its parent.
"""

import fcntl
import hashlib
import math
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import psutil

from ft_assets.core.errors import STOPPED, FineTuneError
from ft_assets.worker import nodes
from ft_assets.worker.job import Job, die_with_parent, one_at_a_time
from ft_assets.worker.nodes import MEET_SECONDS, NodeMissing, Nodes

# A rank that is left alone by the others has nothing to save; all those that stop together are done by then.
ALONE_SECONDS = 10
# Activation checkpointing gives time for memory, and so does an allocator that gives large blocks back. One that keeps them loses
# most of what was saved to holes: the inputs of layers, which stay, lie between what each layer leaves. Huge pages, where the
# kernel lends them, make up for most of the page faults.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def main(processes: str, stage: str, request: str, *where: str) -> int:
    job, group = Job.read(Path(request)), Nodes.read(list(where))
    if job.execution["placement"]["activation_checkpointing"]:
        os.environ.update(GIVE_BACK)
    stop_with_grace(job.execution["grace_seconds"])
    die_with_parent(signal.SIGTERM)
    seconds = job.execution.get("meet_seconds", MEET_SECONDS)
    run = partial(run_ranks, int(processes), group, stage, request)
    try:
        return follow_first(job, group, seconds, run) if group.index else lead(job, group, seconds, run)
    except (FineTuneError, NodeMissing) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, FineTuneError) else 1


def lead(job: Job, group: Nodes, seconds: float, run: Callable[[Path], int]) -> int:
    """Node 0's part, and that of the only one."""
    store = nodes.keep_store(group) if group.count > 1 else None
    with one_at_a_time(job) as already_made, built_extensions(job.cache):
        if already_made:
            return 0
        if store is not None:
            nodes.gather(store, group, seconds)
        job.progress("starting")
        return run(job.scratch / ".ranks")


def follow_first(job: Job, group: Nodes, seconds: float, run: Callable[[Path], int]) -> int:
    """Every other node's part."""
    store = nodes.follow(group, job, seconds)
    if store is None:
        return 0
    with built_extensions(job.cache):
        return run(job.scratch / ".ranks")


@contextmanager
def built_extensions(cache: Path) -> Iterator[None]:
    """The folder where torch keeps what DeepSpeed compiles, cleared of the locks of builds that were killed, for which
    torch would wait without end. Where another run uses it, a lock may be that one's build, and stays.

    What is compiled is for this kind of CPU alone; the cache may be shared by nodes of several.
    """
    python = f"python-{sys.version_info[0]}.{sys.version_info[1]}"
    folder = cache / "torch_extensions" / f"torch-{version('torch')}-{python}-{cpu_kind()}"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    with (folder / ".used").open("w") as used:
        with suppress(BlockingIOError):
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for lock in folder.glob("**/lock"):
                lock.unlink()
        fcntl.flock(used, fcntl.LOCK_SH)
        yield


def cpu_kind() -> str:
    """The machine's architecture and, where Linux tells, a hash of what its CPU can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    able = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(able.encode()).hexdigest()[:8]}"


def stop_with_grace(seconds: float) -> None:
    """On SIGTERM or SIGINT asks the ranks to end, which they do after the step they are in; kills those that are there
    after ``seconds``.

    torchrun's own handler would fail at a second signal, and its ranks die with it.
    """

    def ask(_number: int, _frame: FrameType | None) -> None:
        ranks = psutil.Process().children()
        if not ranks:
            sys.exit(STOPPED)
        for rank in ranks:
            rank.send_signal(signal.SIGTERM)
        signal.alarm(max(1, math.ceil(seconds)))

    def kill(_number: int, _frame: FrameType | None) -> None:
        for rank in psutil.Process().children():
            rank.kill()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGALRM, kill)


def run_ranks(processes: int, group: Nodes, stage: str, request: str, logs: Path) -> int:
    """Runs this node's ranks to their end; the exit code is that of the first rank that failed.

    It has said why itself, but of several it is quoted below what the others said when they were left alone. ``logs`` is a
    folder for torchrun's own notes. It would make one in the system's temporary folder and leave it there.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # A replaced rank cannot join a running DeepSpeed job: no restarts, the next materialization resumes.
    try:
        torchrun(
            [
                *group.torchrun(),
                "--nproc-per-node",
                str(processes),
                "--max-restarts",
                "0",
                "--signals-to-handle",
                "SIGHUP,SIGQUIT",
                "--shutdown-timeout",
                str(ALONE_SECONDS),
                "--log-dir",
                str(logs),
                "-m",
                "ft_assets.worker",
                stage,
                request,
            ]
        )
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if processes > 1 or failure.exitcode < 0:
            print(failure.message, file=sys.stderr)
        print(f"rank {rank} failed first", file=sys.stderr)
        return 128 - failure.exitcode if failure.exitcode < 0 else failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
