"""What training makes of the hardware: kernels by capability, then tokens, operations, memory and padding as it went."""

import importlib.util
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import torch

from ft_assets.core.errors import FineTuneError
from ft_assets.worker import varlen
from ft_assets.worker.hardware import peak_flops


@dataclass(frozen=True)
class Kernels:
    """What a run computes with; recorded in its manifest. ``attn_implementation`` and ``use_liger_kernel`` are transformers'."""

    attn_implementation: str
    use_liger_kernel: bool
    fused_lora: bool


def kernels(
    device: str, packed: bool, zero_stage: int, writes: bool = True, liger: bool | Literal["auto"] = "auto"
) -> Kernels:
    """The kernels this machine has for a run.

    Packed rows take PyTorch's variable-length attention, which computes no more than each conversation's own block. LoRA in
    one function reads weights that ZeRO-3 has parted, so not there. Liger puts the forward pass of a language model in place
    of the model's own (``apply_liger_kernel_to_llama`` of liger-kernel 0.8.5), so it is for models that write alone.

    Args:
        liger: ``hardware.use_liger_kernel``.

    Raises:
        FineTuneError: Liger's kernels are wanted and are not installed; the plan's memory is that with them.
    """
    cuda = device == "cuda"
    fitting = cuda and writes and liger is not False
    there = fitting and importlib.util.find_spec("liger_kernel") is not None
    if fitting and liger is True and not there:
        raise FineTuneError(
            "hardware.use_liger_kernel is true and Liger is not installed where the worker runs: install "
            "ft-assets[worker,gpu] there, or set it to auto and plan again"
        )
    return Kernels(
        attn_implementation=varlen.register() if cuda and packed else "sdpa",
        use_liger_kernel=there,
        fused_lora=zero_stage < 3,
    )


# Prompts that stand in the rows of both sides too, and KTO's mismatched answers, which nothing is learned from.
BESIDE = ("prompt", "KL_")


class Counter:
    """Counts the tokens and the padding of each batch that a trainer takes a step on.

    The counts stay on the device until they are asked for: asking makes the CPU wait for the GPU.
    """

    def __init__(self, trainer: Any):
        self.places = 0
        self.padding: Any = 0
        self.seconds_beside = 0.0  # spent on evaluating and saving
        step = trainer.training_step
        trainer.evaluate = self._beside(trainer.evaluate)
        trainer._save_checkpoint = self._beside(trainer._save_checkpoint)

        def counted(model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
            self.add(inputs)
            return step(model, inputs, *args, **more)

        trainer.training_step = counted

    def _beside(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **more: Any) -> Any:
            started = time.monotonic()
            found = work(*args, **more)
            self.seconds_beside += time.monotonic() - started
            return found

        return timed

    def add(self, inputs: Any) -> None:
        """Adds a batch; one of an online method, which has no tokens yet, counts nothing."""
        if not isinstance(inputs, dict):
            return
        masks = [
            value for name, value in inputs.items() if name.endswith("attention_mask") and not name.startswith(BESIDE)
        ]
        if not masks and "position_ids" in inputs:
            # A packed row has no mask: its positions go up to the end of the last conversation, and are 0 after it.
            masks = [inputs["position_ids"].flip(1).cumsum(1) > 0]
        for mask in masks:
            self.places += mask.numel()
            self.padding = self.padding + (mask == 0).sum()

    @property
    def tokens(self) -> int:
        return self.places - int(self.padding)


def measured(
    counter: Counter, seconds: float, model: Any, trains_all: bool, device: str, dtype: torch.dtype, processes: int
) -> dict[str, float]:
    """Metrics of an attempt at training, from this rank's share.

    ``model_flops_utilization`` counts 6 operations per parameter and token of real text where every weight is trained, 4 with
    an adapter, for which gradients of frozen weights are not computed (arXiv 2204.02311, appendix B, without attention). What
    activation checkpointing computes again does not count.

    Args:
        seconds: of the training loop; what it spent on evaluating and saving is taken off.
        processes: ranks, each with a share of the rows.
    """
    seconds -= counter.seconds_beside
    found = {"train_seconds": seconds, "peak_memory_bytes": float(peak_memory_bytes(device))}
    if not counter.tokens or seconds <= 0:
        return found
    rate = counter.tokens / seconds
    found |= {"tokens_per_second": rate * processes, "padding_share": int(counter.padding) / counter.places}
    if peak := peak_flops(device, dtype):
        found["model_flops_utilization"] = rate * _parameters(model) * (6 if trains_all else 4) / peak
    return found


def _parameters(model: Any) -> int:
    """Parameters of a model; those that ZeRO-3 has parted or bitsandbytes packed are counted as they are whole."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        whole = state.shape.numel() if state is not None else getattr(parameter, "ds_numel", parameter.numel())
        total += int(whole)
    return total


def peak_memory_bytes(device: str) -> int:
    """The most memory this process has held: on a GPU what torch allocated there, on a CPU its resident memory."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """Memory of this process now, of its own and mapped files."""
    return int(psutil.Process().memory_info().rss)


def measured_memory(device: str, resident_before: int) -> dict[str, float]:
    """What the plan's ``peak_bytes`` of a stage is to be held against, and what of it the process takes for being there.

    ``measured_peak_bytes``: on a CPU the most resident memory; on a GPU the most that torch had allocated, with all that is held
    there and is not torch's (the driver's context: right where the process has the GPU to itself). ``measured_idle_bytes``: what
    was resident when nothing had been loaded; on a GPU that context.

    Args:
        resident_before: :func:`resident_bytes` of the worker that has imported its libraries.
    """
    peak, idle = peak_memory_bytes(device), resident_before
    if device == "cuda":
        free, whole = torch.cuda.mem_get_info()
        idle = whole - free - torch.cuda.memory_reserved()
        peak += idle
    return {"measured_peak_bytes": float(peak), "measured_idle_bytes": float(idle)}
