"""``make bench-plan``: the plan's peak memory beside what the worker's processes had resident on this machine's CPU.

A grid of methods, stages and sizes: Llama shapes with random weights, rows of random tokens, three steps each, in the worker as the
launcher starts it. Compared is what is above an idle worker's: resident memory at its peak, less what was resident when the
libraries were imported and nothing was loaded, against the plan's peak without an idle worker's.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu_shapes import Shape
from benchmarks.memory_runs import Case, prepare, write_base
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.memory import WORKER_BYTES
from ft_assets.worker.hardware import pick_dtype
from resources.processes import worker_command
from resources.worker import worker_environment

WIDE = Shape("wide", 1024, 2816, 6, 16, 4, 8192, True)
DEEP = Shape("deep", 768, 2048, 12, 12, 12, 16384, False)
SLIM = Shape("slim", 512, 1408, 8, 8, 4, 32000, True)
GRID = (
    Case(WIDE, "full"),
    Case(WIDE, "lora", tokens=1024),
    Case(WIDE, "qlora", tokens=1024),
    Case(WIDE, "lora_8bit"),
    Case(WIDE, "dora"),
    Case(WIDE, "full", stage="policy", micro_batch=1),
    Case(WIDE, "lora", stage="reward", tokens=1024, micro_batch=1),
    Case(WIDE, "lora", dtype="bfloat16", tokens=1024),
    Case(DEEP, "full", activation_checkpointing=True),
    Case(DEEP, "full", accumulation=2, tokens=256),
    Case(DEEP, "lora", activation_checkpointing=True, tokens=1024),
    Case(DEEP, "lora", dropout=0.05),
    Case(DEEP, "lora", stage="policy", tokens=512, micro_batch=1),
    Case(DEEP, "prompt_tuning"),
    Case(SLIM, "full", tokens=256),
    Case(SLIM, "lora"),
)
BAR, UNDER = 0.10, -0.03
THREADS = 2


@dataclass
class Row:
    """One line of the table; bytes above an idle worker's."""

    case: str
    predicted: int
    measured: int
    idle: int

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1

    def line(self) -> str:
        return (
            f"{self.case:<48} predicted {self.predicted / 1e6:6.0f} MB  measured {self.measured / 1e6:6.0f}  "
            f"error {self.error:+6.1%}  (idle {self.idle / 1e6:.0f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="*", help="numbers of the grid's cases, from 0; all without")
    parser.add_argument("--json", type=Path, help="where to write the table")
    options = parser.parse_args()
    table = []
    bfloat16 = pick_dtype("cpu", "auto") is torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(GRID):
            if options.cases and number not in options.cases:
                continue
            if case.dtype == "bfloat16" and not bfloat16:
                print(
                    f"{case.name:<48} left out: this CPU has no instruction for bfloat16, and takes minutes for a step"
                )
            else:
                table.append(measure(case, Path(folder)))
                print(table[-1].line(), flush=True)
                if options.json:
                    options.json.write_text(json.dumps([vars(row) | {"error": row.error} for row in table], indent=1))
    errors = [row.error for row in table]
    print(
        f"{len(errors)} cases: error {min(errors):+.1%} to {max(errors):+.1%}, median of its size "
        f"{statistics.median(map(abs, errors)):.1%} (bar: {BAR:.0%}, and never under by more than {-UNDER:.0%})"
    )


def measure(case: Case, folder: Path) -> Row:
    """Runs a case in a worker of its own, as the launcher would.

    Raises:
        RuntimeError: it failed; says what it printed last.
    """
    base = folder / case.shape.name
    if not base.is_dir():
        write_base(case.shape, base)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        job = prepare(case, base, Path(own))
        request = Path(own) / "request.json"
        known = {name: getattr(job, name) for name in ("stage", "fingerprint", "code_version", "identity", "upstream")}
        places = {"store": {"url": job.store.root, "local": str(job.store.local)}, "cache": str(job.cache)}
        request.write_text(
            json.dumps({**known, "execution": job.execution, **places, "progress": str(job.progress_file)})
        )
        done = subprocess.run(
            worker_command(job.stage, request, 1),
            env={**os.environ, **worker_environment(1, THREADS), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        made = ArtifactStore(str(job.store.local)).lookup(job.stage, job.fingerprint)
        if done.returncode or made is None:
            raise RuntimeError(f"{case.name}: the worker ended with {done.returncode}\n{done.stderr[-3000:]}")
        predicted = case.predicted(base)
        peak, idle = (int(made.metrics[f"measured_{name}_bytes"]) for name in ("peak", "idle"))
    return Row(case.name, predicted.peak - WORKER_BYTES, peak - idle, idle)


if __name__ == "__main__":
    main()
