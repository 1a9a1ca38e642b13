"""A full disk and too little memory are said in words, whichever library noticed; anything else passes as it is."""

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from planned import PLACEMENT
from safetensors import SafetensorError

from ft_assets.core.errors import FineTuneError
from ft_assets.worker.failures import explained


@dataclass
class Work:
    scratch: Path
    stage: str = "sft_adapter"
    execution: dict[str, Any] = field(default_factory=lambda: {"placement": PLACEMENT, "memory_gib": 8.0})


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        Exception("No space left on device (os error 28)"),  # of tokenizers
    ],
)
def test_a_full_disk_is_named_with_what_is_free(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(FineTuneError, match=r"the disk of .* is full, \d+ bytes are free") as raised,
        explained(Work(tmp_path)),
    ):
        raise error
    assert str(tmp_path) in str(raised.value)
    assert "run again: it resumes" in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_said_with_the_plan_and_what_would_fit(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(FineTuneError, match=r"micro-batch 4, rows of up to 64 tokens") as raised,
        explained(Work(tmp_path)),
    ):
        raise error
    assert "Set hardware.memory_gib" in str(raised.value)


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "Permission denied"), RuntimeError("a shape is wrong"), KeyError("x")]
)
def test_other_errors_pass_as_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explained(Work(tmp_path)):
        raise error
    assert raised.value is error


def test_a_metric_nobody_measures_is_named_with_those_that_are(tmp_path: Path) -> None:
    said = "The `metric_for_best_model` training argument is set to 'eval_x', which is not found"
    with pytest.raises(FineTuneError, match="set to 'eval_x'"), explained(Work(tmp_path)):
        raise KeyError(said)
