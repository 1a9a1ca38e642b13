"""Which attention kernels keep packed conversations apart, how fast they are, and whether fused training learns the same."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers.models.llama import modeling_llama

from benchmarks.gpu_shapes import FIRST, PAD, Shape, build_model
from ft_assets.core.errors import FineTuneError
from ft_assets.worker import lora_linear, varlen
from ft_assets.worker.packing import PackedCollator, refuse_bleeding

LENGTHS = (700, 64, 1500, 300, 1000, 500)
REPEATS = 5


def probe_kernels(device: str, names: list[str]) -> list[dict[str, Any]]:
    """For each attention kernel: whether it can be had and honours positions, and the seconds of a forward and backward pass
    over two packed rows through two layers as wide as an 8B model's (a CPU gets a small one).
    """
    varlen.register()
    shape = _narrow(device)
    found: list[dict[str, Any]] = []
    for name in names:
        try:
            model = build_model(shape, device, torch.bfloat16, name)
            for count in (1, 2):
                refuse_bleeding(model, count)
            seconds = _time(model, shape)
        except (ImportError, ValueError, NotImplementedError) as error:
            found.append({"name": name, "result": f"not here: {str(error).splitlines()[0]:.120}"})
        except FineTuneError as error:
            found.append({"name": name, "result": f"lets conversations see each other: {error}"})
        else:
            found.append({"name": name, "result": f"honours positions, {seconds * 1e3:.2f} ms", "seconds": seconds})
    return found


def probe_gradients(device: str, attention: str) -> float:
    """The adapter's gradients with ``attention``, LoRA in one function and Liger kernels, against PEFT's on sdpa: the norm of
    what differs, of the norm of what is right.
    """
    shape, gradients = _narrow(device), []
    for kernel, fused in (("sdpa", False), (attention, True)):
        torch.manual_seed(0)
        adapted = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
        model: Any = get_peft_model(build_model(shape, device, torch.bfloat16, kernel), adapted)
        if fused and not lora_linear.fuse(model):
            raise FineTuneError("no LoRA layer was fused")
        with liger_undone():
            if fused and device == "cuda":
                _liger(model)
            _loss(model, _batch(shape, device)).backward()
        gradients.append(torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None]))
    right, ours = gradients
    return float((ours - right).norm() / right.norm())


@contextmanager
def liger_undone() -> Iterator[None]:
    """Liger puts its functions in the place of transformers' own, for every model made later; here they are put back."""
    before = dict(vars(modeling_llama))
    try:
        yield
    finally:
        vars(modeling_llama).update(before)


def _narrow(device: str) -> Shape:
    if device == "cpu":
        return Shape("probe", 64, 128, 2, 4, 2, 512, False)
    return Shape("probe", 4096, 14336, 2, 32, 8, 32000, False)


def _batch(shape: Shape, device: str) -> dict[str, torch.Tensor]:
    lengths = LENGTHS if device == "cuda" else tuple(length // 16 for length in LENGTHS)
    generator = torch.Generator().manual_seed(1)
    rows = [
        {
            "input_ids": (ids := torch.randint(FIRST, shape.vocabulary, (sum(part),), generator=generator).tolist()),
            "labels": ids,
            "seq_lengths": list(part),
        }
        for part in (lengths[:3], lengths[3:])
    ]
    return {name: values.to(device) for name, values in PackedCollator(PAD)(rows).items()}


def _loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.autocast(batch["input_ids"].device.type, torch.bfloat16):
        loss: torch.Tensor = model(**batch, use_cache=False).loss
    return loss


def _time(model: Any, shape: Shape) -> float:
    """Seconds of one forward and backward pass, the best of a few."""
    batch = _batch(shape, model.device.type)
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        _loss(model, batch).backward()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def _liger(model: Any) -> None:
    from transformers.integrations.liger import apply_liger_kernel
    from transformers.utils import is_liger_kernel_available

    if is_liger_kernel_available():
        apply_liger_kernel(model, {"fused_linear_cross_entropy": False})
