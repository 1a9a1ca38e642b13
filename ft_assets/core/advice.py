"""What to change where a stage's memory did not suffice, from the numbers of its plan."""

import math
from typing import Any

from ft_assets.core.memory import GIB
from ft_assets.core.plan import MARGIN


def memory_advice(placement: dict[str, Any], memory_gib: float) -> str:
    """The plan's numbers and the smallest change that would fit.

    Args:
        placement: a stage's entry of the training plan; its ``peak_bytes`` is for one process.
        memory_gib: the recipe's ``hardware.memory_gib``, from which the micro-batch follows.
    """
    micro, peak = placement["micro_batch"], placement["peak_bytes"]
    planned = (
        f"The plan: micro-batch {micro}, rows of up to {placement['longest_row_tokens']} tokens, "
        f"{peak / GIB:.2f} GiB at most of hardware.memory_gib {memory_gib:g}. "
    )
    if micro > 1:
        half = _next_smaller(micro, micro * placement["gradient_accumulation_steps"])
        fits = peak - placement["activations_bytes"] * (micro - half) // micro
        # To be allowed for this micro-batch and no larger one.
        smaller = math.ceil(fits / GIB / MARGIN * 100) / 100
        return planned + f"Set hardware.memory_gib: {smaller:g}, and the micro-batch is {half} ({fits / GIB:.2f} GiB)"
    if not placement["activation_checkpointing"]:
        return planned + "One row at a time did not fit: set hardware.activation_checkpointing: true"
    return planned + (
        f"One row at a time did not fit: set data.max_length below {placement['longest_row_tokens']}, "
        "or use more processes with zero_stage: 3, or a smaller base_model"
    )


def _next_smaller(micro: int, per_process: int) -> int:
    """The next smaller micro-batch that divides the batch of one process."""
    return max(size for size in range(1, micro) if per_process % size == 0)
