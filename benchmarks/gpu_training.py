"""``make bench-gpu``: tokens per second, model FLOPs utilization and peak memory on one GPU, beside plain TRL.

Random weights of real shapes from 0.1B to 8B and random rows; nothing is downloaded. ``ours`` is what the worker does where the
hardware allows it: rows packed to ``max_length``, variable-length attention, Liger kernels where installed, LoRA in one
function, checkpointing only where nothing else fits. ``trl`` is SFTTrainer as it comes: padded rows, 8 to a batch, bf16, sdpa,
checkpointing. Both train through the same SFTTrainer in the same types, and count the tokens that are no padding.
"""

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.gpu_kernels import liger_undone, probe_gradients, probe_kernels
from benchmarks.gpu_shapes import (
    PAD,
    SHAPES,
    build_model,
    flops_per_token,
    mean_context,
    no_text_tokenizer,
    peak_flops,
    quantize_nf4,
    rows,
)
from ft_assets.core.pack import pack
from ft_assets.worker import lora_linear, speed
from ft_assets.worker.packing import PackedCollator

# The most telling first, should time run out; each is measured for ours and for plain TRL.
CASES = "8B:lora 1B:lora 8B:qlora 1B:full 0.1B:full 3B:lora 0.1B:lora 3B:full 1B:qlora 3B:qlora 0.1B:qlora 8B:full"
WARM_UP = 3
# Bytes of activations per token, layer and hidden unit without checkpointing, for a first guess at the batch: an
# out-of-memory error halves it. Full training keeps its residual stream in float32.
ACTIVATIONS = {"lora": 45, "qlora": 45, "full": 90}
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@dataclass
class Row:
    """One line of the table; memory in GiB, padding as the share of all positions."""

    shape: str
    method: str
    side: str
    tokens_per_second: float | None = None
    flops_utilization: float | None = None
    peak_gib: float | None = None
    padding: float | None = None
    batch: str = ""
    loss: float | None = None
    seconds: float = 0.0
    note: str = ""

    def line(self) -> str:
        if self.tokens_per_second is None:
            return f"{self.shape:>5} {self.method:<6} {self.side:<5} {self.note}"
        used = "" if self.flops_utilization is None else f"{self.flops_utilization:.1%}"
        return (
            f"{self.shape:>5} {self.method:<6} {self.side:<5} {self.tokens_per_second:>9,.0f} tokens/s  {used:>6} of peak  "
            f"{self.peak_gib or 0:>6.1f} GiB  {self.padding or 0:>5.1%} padding  {self.batch}  {self.note}"
        )


class Counting(SFTTrainer):
    """Counts the tokens that are no padding, the same way for both sides, without waiting for the GPU."""

    text: Any = 0
    positions = 0

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.text = self.text + (inputs["input_ids"] != PAD).sum()
        self.positions += inputs["input_ids"].numel()
        return super().training_step(model, inputs, *args, **kwargs)


class Clock(TrainerCallback):
    """Times the steps after the first few, until so many seconds are over."""

    def __init__(self, seconds: float):
        self.limit = seconds
        self.trainer: Any = None
        self.started = self.ended = 0.0
        self.text = self.positions = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == WARM_UP:
            self.text, self.positions = -int(self.trainer.text), -self.trainer.positions
            _wait()
            self.started = time.perf_counter()
        elif state.global_step > WARM_UP and time.perf_counter() - self.started > self.limit:
            _wait()
            self.ended = time.perf_counter()
            self.text += int(self.trainer.text)
            self.positions += self.trainer.positions
            control.should_training_stop = True


def main() -> None:
    options = _options()
    kernels = probe_kernels(options.device, options.kernels.split(","))
    for kernel in kernels:
        print(f"attention {kernel['name']:<18} {kernel['result']}", flush=True)
    best = options.attention or speed.kernels(options.device, packed=True, zero_stage=0).attn_implementation
    error = probe_gradients(options.device, best)
    print(f"packed rows train with {best}; adapter's gradients differ from PEFT's on sdpa by {error:.2%}", flush=True)
    started, table = time.perf_counter(), []
    for case in options.cases.split():
        shape, method = case.split(":")
        pair = []
        for side in options.sides.split(","):
            if time.perf_counter() - started > options.total_seconds:
                pair.append(Row(shape, method, side, note="left out: the time for all cases is over"))
            else:
                pair.append(measure(shape, method, side, best, options))
            print(pair[-1].line(), flush=True)
        table += pair
        speeds = [row.tokens_per_second for row in pair]
        if len(speeds) == 2 and all(speeds):
            print(f"{shape:>5} {method:<6} ours / trl {speeds[0] / speeds[1]:.2f}", flush=True)
        if options.json:
            body = {
                "device": _device_name(options.device),
                "torch": torch.__version__,
                "max_length": options.max_length,
            }
            body |= {"kernels": kernels, "gradient_error": error, "rows": [asdict(row) for row in table]}
            options.json.write_text(json.dumps(body, indent=1))


def measure(shape: str, method: str, side: str, attention: str, options: argparse.Namespace) -> Row:
    """One case; smaller batches, then checkpointing, where memory does not suffice for ours."""
    row = Row(shape, method, side)
    started = time.perf_counter()
    for batch, checkpointing in _attempts(shape, method, side, options):
        try:
            with liger_undone():
                _train(row, batch, checkpointing, attention, options)
        except torch.OutOfMemoryError:
            row.note = f"out of memory with {batch} rows"
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
        if row.tokens_per_second:
            row.note = ""
            break
    row.seconds = time.perf_counter() - started
    return row


def _attempts(shape: str, method: str, side: str, options: argparse.Namespace) -> Iterator[tuple[int, bool]]:
    """Rows in a batch, and whether activations are computed again."""
    if side == "trl":
        yield 8, True
        return
    size = SHAPES[shape]
    per_row = ACTIVATIONS[method] * size.hidden * size.layers * options.max_length
    weights = size.multiplied * {"lora": 2, "qlora": 0.6, "full": 16}[method] * (1.1 if size.tied else 1.07)
    free = torch.cuda.mem_get_info()[0] if options.device == "cuda" else 8 * 2**30
    batch = int(np.clip((0.8 * free - weights) / per_row, 0, options.most_rows))
    while batch:
        yield batch, False
        batch //= 2
    yield 2, True


def _train(row: Row, batch: int, checkpointing: bool, attention: str, options: argparse.Namespace) -> None:
    shape, ours = SHAPES[row.shape], row.side == "ours"
    texts = rows(shape, options.rows, options.max_length)
    dtype = torch.float32 if row.method == "full" else torch.bfloat16
    model: Any = build_model(shape, options.device, dtype, attention if ours else "sdpa")
    if row.method == "qlora":
        quantize_nf4(model, options.device)
    if row.method != "full":
        model = get_peft_model(model, LoraConfig(**LORA))
    fused = lora_linear.fuse(model) if ours and row.method != "full" else 0
    liger = ours and options.device == "cuda" and find_spec("liger_kernel") is not None
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Counting(
            model=model,
            processing_class=no_text_tokenizer(shape),
            train_dataset=Dataset.from_list(_packed(texts, options.max_length) if ours else _plain(texts)),
            data_collator=PackedCollator(PAD) if ours else None,
            callbacks=[clock],
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=batch,
                gradient_checkpointing=checkpointing,
                use_liger_kernel=liger,
                max_length=options.max_length,
                dataset_kwargs={"skip_prepare_dataset": True},
                max_steps=1_000_000,
                use_cpu=options.device == "cpu",
                save_strategy="no",
                logging_steps=1 if ours else 10,
                dataloader_num_workers=4 if ours and options.device == "cuda" else 0,
                report_to=[],
                disable_tqdm=True,
            ),
        )
        trainer.remove_callback(PrinterCallback)
        clock.trainer = trainer
        trainer.train()
    seconds = clock.ended - clock.started
    row.tokens_per_second = clock.text / seconds
    row.padding = 1 - clock.text / clock.positions
    row.loss = next((entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry), None)
    if peak := peak_flops():
        per_token = flops_per_token(shape, row.method, mean_context(map(len, texts)))
        row.flops_utilization = row.tokens_per_second * per_token / peak
    if options.device == "cuda":
        row.peak_gib = torch.cuda.max_memory_allocated() / 2**30
    extras = ", ".join(
        word
        for word, there in (("checkpointing", checkpointing), ("liger", liger), (f"{fused} fused LoRA layers", fused))
        if there
    )
    row.batch = f"{batch} rows, {trainer.state.global_step - WARM_UP} steps, {extras}"


def _plain(texts: list[list[int]]) -> list[dict[str, list[int]]]:
    return [{"input_ids": ids, "labels": ids} for ids in texts]


def _packed(texts: list[list[int]], max_length: int) -> list[dict[str, list[int]]]:
    places = pack(np.array([len(ids) for ids in texts]), max_length)
    together: dict[int, list[list[int]]] = {}
    for place, ids in zip(places.tolist(), texts, strict=True):
        together.setdefault(place, []).append(ids)
    return [
        {"input_ids": ids, "labels": ids, "seq_lengths": [len(text) for text in group]}
        for group in together.values()
        for ids in [[token for text in group for token in text]]
    ]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--cases", default=CASES, help="SHAPE:METHOD, in order")
    parser.add_argument("--sides", default="ours,trl")
    parser.add_argument("--seconds", type=float, default=20, help="timed for each case, after the first steps")
    parser.add_argument("--total-seconds", type=float, default=1800, help="no case begins after so many")
    parser.add_argument("--max-length", type=int, default=4096, help="tokens")
    parser.add_argument("--rows", type=int, default=4096, help="conversations")
    parser.add_argument("--most-rows", type=int, default=16, help="the most packed rows in a batch")
    parser.add_argument("--kernels", default="torch_varlen,sdpa,flash_attention_2,flash_attention_3")
    parser.add_argument("--attention", help="the kernel for ours; otherwise what the worker takes")
    parser.add_argument("--json", type=Path, help="where to write the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
