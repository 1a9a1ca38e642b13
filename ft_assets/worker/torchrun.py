"""``python -m ft_assets.worker.torchrun PROCESSES STAGE request.json``: the worker under torchrun on one machine.

Holds the lock of the fingerprint for all ranks, and ends with its parent.
"""

import signal
import sys
from pathlib import Path

from ft_assets.worker.job import Job, die_with_parent, one_at_a_time


def main(processes: str, stage: str, request: str) -> None:
    die_with_parent(signal.SIGTERM)
    job = Job.read(Path(request))
    with one_at_a_time(job) as already_made:
        if already_made:
            return
        job.progress("starting")
        sys.exit(run_ranks(processes, stage, request, job.scratch / ".ranks"))


def run_ranks(processes: str, stage: str, request: str, logs: Path) -> int:
    """Runs the ranks to their end; the exit code is that of the first rank that failed, which has said why itself.

    ``logs`` is a folder for torchrun's own notes. It would make one in the system's temporary folder and leave it there.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # A replaced rank cannot join a running DeepSpeed job: no restarts, the next materialization resumes.
    try:
        torchrun(
            [
                "--standalone",
                "--nproc-per-node",
                processes,
                "--max-restarts",
                "0",
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
        print(f"rank {rank} failed first", file=sys.stderr)
        return 128 - failure.exitcode if failure.exitcode < 0 else failure.exitcode
    return 0


if __name__ == "__main__":
    main(*sys.argv[1:4])
