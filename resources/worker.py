"""What a worker finds in its environment, wherever it is started."""

import os

GRACE_SECONDS = 30.0  # that a worker has to finish its step and write a checkpoint, where nobody says otherwise


def worker_environment(processes: int | None, threads: int | None, cores: int | None = None) -> dict[str, str]:
    """Threads that do not fight over cores, and an allocator that keeps its memory.

    OpenMP's threads spin while they wait, by default for milliseconds: on a busy machine each keeps the core from the
    one it waits for. A short spin costs nothing on an idle one.
    glibc hands big blocks back to the kernel at each free; a training step then spends its time in page faults.
    A worker that does not train tokenizes on all cores; one that trains may fork, which tokenizers' threads do not outlive.

    Args:
        processes: ranks that share the cores, or None for a stage that does not train.
        threads: CPU threads per process; the cores are shared out evenly when None.
        cores: of the machine that it will run on; None: of this one.
    """
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": str(threads or max(1, cores // (processes or 1))),
        "GOMP_SPINCOUNT": "20000",
        "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
        "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
        "MALLOC_TOP_PAD_": str(256 * 2**20),
        "TOKENIZERS_PARALLELISM": "true" if processes is None else "false",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "BITSANDBYTES_NOWELCOME": "1",
    }
