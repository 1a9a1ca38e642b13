"""What is said where memory ran out: the plan's numbers, and a change that the plan itself would accept."""

import re

import pytest

from ft_assets.core.advice import memory_advice
from ft_assets.core.memory import GIB, WORKER_BYTES
from ft_assets.core.placements import MARGIN

FIXED = WORKER_BYTES + 200_000_000
ROW = 50_000_000


def placement(micro: int, accumulation: int) -> dict[str, int]:
    return {
        "gpu": "",
        "micro_batch": micro,
        "gradient_accumulation_steps": accumulation,
        "activation_checkpointing": False,
        "longest_row_tokens": 512,
        "activations_bytes": micro * ROW,
        "peak_bytes": FIXED + micro * ROW,
    }


@pytest.mark.parametrize(("micro", "accumulation", "smaller"), [(8, 1, 4), (3, 2, 2), (2, 4, 1), (5, 1, 1)])
def test_the_memory_named_gives_the_next_smaller_micro_batch_and_no_larger_one(
    micro: int, accumulation: int, smaller: int
) -> None:
    text = memory_advice(placement(micro, accumulation), 8.0)
    named = float(re.search(r"Set hardware.memory_gib: ([\d.]+)", text)[1])
    room = named * GIB * MARGIN
    per_process = micro * accumulation
    fitting = [size for size in range(1, per_process + 1) if per_process % size == 0 and FIXED + size * ROW <= room]
    assert max(fitting) == smaller
    assert f"the micro-batch is {smaller} " in text
    assert f"micro-batch {micro}, rows of up to 512 tokens, {(FIXED + micro * ROW) / GIB:.2f} GiB" in text
    assert "hardware.memory_gib 8" in text


@pytest.mark.parametrize(
    ("gpu", "name"), [("", "hardware.memory_gib"), ("h100", "memory_gib of h100 in hardware.gpus")]
)
def test_with_one_row_at_a_time_the_memory_named_allows_less_than_this_placement_wants(gpu: str, name: str) -> None:
    text = memory_advice({**placement(1, 8), "gpu": gpu}, 8.0)
    named = float(re.search(rf"Set {name}: ([\d.]+)", text)[1])
    assert FIXED + 0.7 * ROW < named * GIB * MARGIN < FIXED + ROW
