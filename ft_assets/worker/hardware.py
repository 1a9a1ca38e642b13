"""What the chip does well: the device and the number type to compute in."""

import time

import torch

from ft_assets.core.errors import FineTuneError

PROBE = (512, 1024)


def pick_device(wanted: str) -> str:
    """``cuda`` or ``cpu``; ``auto`` takes a GPU where there is one.

    Raises:
        FineTuneError: ``cuda`` is wanted and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise FineTuneError("hardware.device is cuda and this machine has no CUDA GPU; use auto or cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def pick_dtype(device: str, wanted: str) -> torch.dtype:
    """``hardware.dtype``; for ``auto`` bfloat16 on a GPU that has it, on a CPU whichever of bfloat16 and float32 multiplies
    faster here: some chips are three times as fast in bfloat16, others slower.

    Raises:
        FineTuneError: float16 is wanted on a CPU, whose layers lack it.
    """
    if wanted == "float16" and device != "cuda":
        raise FineTuneError("hardware.dtype float16 needs a CUDA GPU; on a CPU use auto, bfloat16 or float32")
    if wanted != "auto":
        return dtype_from_name(wanted)
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    seconds = {dtype: _time_matmul(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return torch.bfloat16 if seconds[torch.bfloat16] < 0.8 * seconds[torch.float32] else torch.float32


def _time_matmul(dtype: torch.dtype) -> float:
    rows, width = PROBE
    left, right = torch.ones(rows, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    times = []
    for _ in range(6):
        started = time.perf_counter()
        torch.mm(left, right)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def dtype_from_name(name: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
