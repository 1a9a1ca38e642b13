"""What the chip does well: the device, the number type to compute in, and how fast it multiplies."""

import re
import time

import torch

from ft_assets.core.errors import FineTuneError

# Rows and width of a matrix product that a CPU is timed with. A chip that has no instruction for bfloat16 takes a second for
# the large one, and is found out by the small one.
SMALL_PROBE, PROBE = (64, 256), (512, 1024)
# Dense bfloat16 operations per second from NVIDIA's data sheets (without sparsity), by a part of the device's name.
PEAK_FLOPS = {
    "B200": 2.25e15,
    "H200": 9.89e14,
    "H100 PCIe": 7.56e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "L4": 1.21e14,
    "A10": 1.25e14,
}


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
    return torch.bfloat16 if _faster_in_bfloat16() else torch.float32


def _faster_in_bfloat16() -> bool:
    if matmul_flops(torch.bfloat16, SMALL_PROBE) < 0.5 * matmul_flops(torch.float32, SMALL_PROBE):
        return False
    return matmul_flops(torch.bfloat16) > 1.25 * matmul_flops(torch.float32)


def peak_flops(device: str, dtype: torch.dtype) -> float | None:
    """Operations per second that utilization is measured against: a GPU's data sheet, half of it in float32; on a CPU a matrix
    product as it runs here; None for a GPU that is not in :data:`PEAK_FLOPS`.
    """
    if device == "cpu":
        return matmul_flops(dtype)
    name = torch.cuda.get_device_name()
    found = next((flops for part, flops in PEAK_FLOPS.items() if re.search(rf"\b{part}\b", name)), None)
    return found and found / (2 if dtype is torch.float32 else 1)


def matmul_flops(dtype: torch.dtype, probe: tuple[int, int] = PROBE) -> float:
    """Operations per second of a small matrix product on this CPU, the best of five."""
    rows, width = probe
    left, right = torch.ones(rows, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    times = []
    for _ in range(6):
        started = time.perf_counter()
        torch.mm(left, right)
        times.append(time.perf_counter() - started)
    return 2 * rows * width * width / min(times[1:])


def dtype_from_name(name: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
