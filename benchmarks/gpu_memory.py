"""``python -m benchmarks.gpu_memory``: the plan's peak memory beside what one GPU held, over methods and sizes.

Random weights of real shapes from 0.1B to 8B and random rows; nothing is downloaded. Each case builds the worker's own trainer and
takes three steps; it saves nothing. Measured is the most that PyTorch had allocated at once (``max_memory_allocated``), and beside it
what the process held on the GPU that is not PyTorch's: the driver's context. The error is of both together.
"""

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback

from benchmarks.gpu_kernels import liger_undone
from benchmarks.gpu_shapes import SHAPES, Shape
from benchmarks.memory_runs import Case, prepare, write_base
from ft_assets.worker.hardware import dtype_from_name
from ft_assets.worker.trainers import build

SIZES = "0.1B 1B 3B 8B"
METHODS = "lora lora-packed lora-checkpointing qlora full dpo"
# Rows of a micro-batch, each of so many tokens.
ROWS = {"0.1B": 8, "1B": 4, "3B": 4, "8B": 2}
TOKENS = 2048


@dataclass
class Row:
    """One line of the table; bytes. ``before``, ``built`` and ``after``: allocated when a case begins, when its trainer stands and
    after its last step.
    """

    case: str
    predicted: int
    allocated: int = 0
    context: int = 0
    reserved: int = 0
    before: int = 0
    built: int = 0
    after: int = 0
    seconds: float = 0.0
    note: str = ""
    parts: dict[str, int] | None = None

    @property
    def error(self) -> float:
        return self.predicted / (self.allocated + self.context) - 1

    def line(self) -> str:
        if self.note:
            return f"{self.case:<44} predicted {self.predicted / 2**30:6.2f} GiB  {self.note}"
        return (
            f"{self.case:<44} predicted {self.predicted / 2**30:6.2f} GiB  measured "
            f"{(self.allocated + self.context) / 2**30:6.2f}  error {self.error:+6.1%}  (context {self.context / 2**30:.2f}, "
            f"reserved {self.reserved / 2**30:.2f}, before {self.before / 2**30:.2f})  {self.seconds:.0f} s"
        )


def main() -> None:
    options = _options()
    started, table = time.perf_counter(), []
    for size in options.sizes.split():
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / "base"
            write_base(SHAPES[size], base, options.device)
            for case in _cases(SHAPES[size], options):
                if time.perf_counter() - started > options.total_seconds:
                    row = Row(case.name, case.predicted(base).peak, note="left out: the time for all cases is over")
                else:
                    row = measure(case, base, Path(folder), options.device)
                table.append(row)
                print(row.line(), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(_body(table, options), indent=1))
    errors = [row.error for row in table if not row.note]
    if errors:
        print(
            f"{len(errors)} cases, error {min(errors):+.1%} to {max(errors):+.1%} (bar: 5%, and never under by more than 3%)"
        )


def _body(table: list[Row], options: argparse.Namespace) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    rows = [asdict(row) | ({} if row.note else {"error": row.error}) for row in table]
    return {"device": device, "torch": torch.__version__, "liger": _liger(options.device), "rows": rows}


def _liger(device: str) -> bool:
    return device == "cuda" and find_spec("liger_kernel") is not None


def _cases(shape: Shape, options: argparse.Namespace) -> Iterator[Case]:
    common: dict[str, Any] = {
        "tokens": options.tokens,
        "micro_batch": ROWS.get(shape.name, 2),
        "dtype": "bfloat16",
        "device": options.device,
        "liger": _liger(options.device),
    }
    for name in options.methods.split():
        method, _, extra = name.partition("-")
        own = {"stage": "policy", "method": "lora"} if method == "dpo" else {"method": method}
        if method == "dpo":
            own["micro_batch"] = max(1, common["micro_batch"] // 2)
        flags = {"packed": {"packing": True}, "checkpointing": {"activation_checkpointing": True}}.get(extra, {})
        yield Case(shape, **{**common, **own, **flags})


def measure(case: Case, base: Path, folder: Path, device: str) -> Row:
    """Three steps of a case in this process; one that the plan says does not fit is left out."""
    memory = case.predicted(base)
    row = Row(case.name, memory.peak, parts=asdict(memory))
    total = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else 2**40
    if memory.peak > total:
        row.note = f"left out: the plan says it does not fit in {total / 2**30:.0f} GiB"
        return row
    started = time.perf_counter()
    _settle(device)
    row.before = _allocated(device)
    try:
        with liger_undone(), _own_temporary_folder():
            _train(case, base, folder, row)
    except torch.OutOfMemoryError as error:
        row.note = f"out of memory: {str(error).partition('.')[0]}"
    if device == "cuda":
        row.allocated, row.reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        free, whole = torch.cuda.mem_get_info()
        row.context = whole - free - torch.cuda.memory_reserved()
    else:
        row.note = "trained on the CPU"
    row.seconds = time.perf_counter() - started
    return row


def _train(case: Case, base: Path, folder: Path, row: Row) -> None:
    job = prepare(case, base, folder)
    trainer = build(job, case.device, dtype_from_name(case.dtype), folder / "checkpoints").trainer
    trainer.remove_callback(PrinterCallback)
    trainer.args.save_strategy = "no"
    row.built = _allocated(case.device)
    trainer.train()
    row.after = _allocated(case.device)
    assert trainer.state.global_step == trainer.state.max_steps


def _allocated(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def _settle(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def _own_temporary_folder() -> Iterator[None]:
    """The worker puts temporary files into its job's folder, for as long as its process lives."""
    before = tempfile.tempdir
    try:
        yield
    finally:
        tempfile.tempdir = before


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the code, and measures nothing"
    )
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each row")
    parser.add_argument("--total-seconds", type=float, default=330, help="no case begins after so many")
    parser.add_argument("--json", type=Path, help="where to write the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
