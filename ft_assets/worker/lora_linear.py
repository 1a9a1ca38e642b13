"""A linear layer with LoRA in one function: the adapter is added by the matrix product itself.

PEFT writes the adapter's output, scales it and adds it, each a pass over an activation, and keeps a copy of the input in
the adapter's type. Here, with ``W`` frozen and ``s`` the scaling (Hu et al. 2021, arXiv 2106.09685)::

    y  = x W' + s (x A') B'            dx = dy W + s (dy B) A
    dA = s (dy B)' x                   dB = s dy' (x A')

both sums are one ``addmm`` into what is there already, and ``x`` alone is kept. An NF4 weight is dequantized for each
product, as bitsandbytes does it.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, base: Any, scaling: float) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        inner = flat @ a.t()
        bias = None if base.bias is None else base.bias.to(x.dtype)
        out = torch.nn.functional.linear(flat, _dense(base, x.dtype), bias)
        out.addmm_(inner, b.t(), alpha=scaling)
        ctx.save_for_backward(flat, a, b, inner)
        ctx.base, ctx.scaling, ctx.shape = base, scaling, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, a, b, inner = ctx.saved_tensors
        dy = gradients[0].reshape(len(flat), -1)
        through = dy @ b
        da = (through.t() @ flat).mul_(ctx.scaling)
        db = (dy.t() @ inner).mul_(ctx.scaling)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ _dense(ctx.base, dy.dtype)).addmm_(through, a, alpha=ctx.scaling).view(ctx.shape)
        return dx, da, db, None, None


def _dense(base: Any, dtype: torch.dtype) -> torch.Tensor:
    state = getattr(base.weight, "quant_state", None)
    if state is None:
        return base.weight.to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(base.weight.data, state).to(dtype)


def _forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if self.disable_adapters or self.merged or args or kwargs or self.active_adapters != ["default"]:
        return type(self).forward(self, x, *args, **kwargs)
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    a, b = self.lora_A["default"].weight, self.lora_B["default"].weight
    with torch.autocast(x.device.type, enabled=False):
        return _LoraLinear.apply(x.to(dtype), a.to(dtype), b.to(dtype), self.base_layer, self.scaling["default"])


def fuse(model: torch.nn.Module) -> int:
    """Lets each plain LoRA layer of a model compute in one function; the others stay with PEFT.

    Plain is: on a frozen linear layer of full precision or NF4, without dropout, DoRA or bias of its own. Not for ZeRO-3, which
    gathers a weight when its own module is called.

    Returns:
        How many layers were changed.
    """
    plain = [module for module in model.modules() if isinstance(module, LoraLayer) and _is_plain(module)]
    for module in plain:
        module.forward = MethodType(_forward, module)
    return len(plain)


def _is_plain(module: Any) -> bool:
    base = module.get_base_layer()
    quantized = getattr(base.weight, "quant_state", None) is not None
    return (
        isinstance(base, torch.nn.Linear)
        and (quantized or base.weight.is_floating_point())
        and not base.weight.requires_grad
        and "default" in module.lora_A
        and not module.lora_variant
        and isinstance(module.lora_dropout["default"], torch.nn.Identity)
        and module.lora_B["default"].bias is None
    )
