"""What the libraries say of a full disk and of too little memory, in words that name what to do."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ft_assets.core.advice import memory_advice
from ft_assets.core.errors import FineTuneError
from ft_assets.worker.job import Job

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors and torch tell of the same with errors of their own; torch's writer names no cause at all.
FULL_WORDS = ("No space left on device", "File too large", "Disk quota exceeded")
TORCH_WRITER_WORDS = ("PytorchStreamWriter failed", "iostream error", "unexpected pos")
NO_MEMORY_WORDS = ("can't allocate memory", "CUDA out of memory", "Cannot allocate memory")


@contextmanager
def explained(job: Job) -> Iterator[None]:
    """Around training.

    Raises:
        FineTuneError: the disk is full, or memory ran out; everything else passes.
    """
    try:
        yield
    except FineTuneError:
        raise
    except KeyError as error:
        if "metric_for_best_model" not in str(error):
            raise
        raise FineTuneError(f"{job.stage}: {error.args[0]}") from error
    except Exception as error:  # tokenizers has no narrower one for a full disk
        if _no_memory(error):
            advice = memory_advice(job.execution["placement"], job.execution["memory_gib"])
            raise FineTuneError(f"{job.stage}: out of memory ({_first_line(error)}). {advice}") from error
        if _full_disk(error):
            free = shutil.disk_usage(job.scratch).free
            raise FineTuneError(
                f"{job.stage}: what was to be saved could not be written: the disk of {job.scratch} is full, "
                f"{free} bytes are free ({_first_line(error)}). "
                "Free some space and run again: it resumes from the last whole checkpoint"
            ) from error
        raise


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _no_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error) for words in NO_MEMORY_WORDS
    )


def _full_disk(error: BaseException | None) -> bool:
    """Whether the error, or one that it hides, tells of a full disk."""
    while error is not None:
        if getattr(error, "errno", None) in FULL:
            return True
        if any(words in str(error) for words in (*FULL_WORDS, *TORCH_WRITER_WORDS)):
            return True
        error = error.__cause__ or error.__context__
    return False
