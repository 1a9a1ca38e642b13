"""Attention over packed rows with PyTorch's own variable-length kernel: no mask, no padding between conversations.

What it makes of the positions of a batch of two packed rows::

    position_ids  0 1 2 0 1 | 0 1 2 3 0        conversations begin where a position is 0
    boundaries    0 3 5 9 10                    of both rows, laid end to end

The kernel is FlashAttention-2 as it ships within PyTorch (Dao 2023, arXiv 2307.08691), so nothing more is installed.
"""

import inspect
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

NAME = "torch_varlen"
# Before torch 2.13 the kernel takes fewer heads of keys than of queries without being told.
GROUPED = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


class _Boundaries:
    """Where conversations begin, computed once for a batch and not in each layer: it waits for the GPU."""

    def __init__(self) -> None:
        self.of: torch.Tensor | None = None
        self.starts = torch.empty(0)
        self.longest = 0

    def __call__(self, position_ids: torch.Tensor) -> tuple[torch.Tensor, int]:
        if self.of is not position_ids:
            begins = (position_ids.reshape(-1) == 0).nonzero().reshape(-1)
            end = begins.new_tensor([position_ids.numel()])
            self.starts = torch.cat([begins, end]).to(torch.int32)
            self.longest = int(self.starts.diff().max())
            self.of = position_ids
        return self.starts, self.longest


_boundaries = _Boundaries()


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each conversation, in the form in which transformers calls attention.

    Args:
        query: (rows, heads, tokens, width); keys and values may have fewer heads. Computed in the type of ``value``.
        position_ids: (rows, tokens), 0 where a conversation begins, as a row does.

    Returns:
        (rows, tokens, heads, width), and None for the weights.

    Raises:
        ValueError: there is a mask; padding would be seen as text, or the mask be left out.
    """
    if attention_mask is not None:
        raise ValueError(f"attention {NAME!r} reads positions and takes no mask")
    rows, heads, tokens, width = query.shape
    starts, longest = _boundaries(position_ids.expand(rows, -1) if len(position_ids) != rows else position_ids)
    flat = [
        states.transpose(1, 2).reshape(rows * tokens, states.shape[1], width).to(value.dtype)
        for states in (query, key, value)
    ]
    out = varlen_attn(*flat, starts, starts, longest, longest, scale=scaling, window_size=(-1, 0), **GROUPED)
    return out.reshape(rows, tokens, heads, width), None


def register() -> str:
    """Makes the kernel known to transformers; returns the name for ``attn_implementation``."""
    AttentionInterface.register(NAME, attend)
    return NAME
