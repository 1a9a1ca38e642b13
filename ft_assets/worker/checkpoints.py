"""Checkpoints that can be trusted: one is whole when its signature file lists every other file with its hash.

The signature is written last and renamed into place, so a save that was cut short carries none and is passed over for
the checkpoint before it. Folders live under the fingerprint, so other data, seeds or hyperparameters never meet them.

Anyone who can write into the folder can sign too, and DeepSpeed unpickles what it finds: its files are loaded only when
they hold what genuine ones hold.
"""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ft_assets.core.canonical import sha256_file
from ft_assets.core.errors import FineTuneError

SIGNATURE = "signature.json"
FIELDS = {"files", "dtype", "seconds", "world"}


def step_of(checkpoint: Path) -> int:
    """The optimizer step of a ``checkpoint-N`` folder."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def sign(checkpoint: Path, dtype: str, seconds: float, world: str) -> None:
    """Writes the signature of a checkpoint that has been saved in full.

    Args:
        dtype: number type the run computes in; a resumed run keeps it.
        seconds: wall-clock time spent on the artifact so far.
        world: number of processes and ZeRO stage, which a checkpoint's files depend on.
    """
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != SIGNATURE:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            files[path.relative_to(checkpoint).as_posix()] = sha256_file(path)
    temporary = checkpoint / f".{SIGNATURE}"
    temporary.write_text(json.dumps({"files": files, "dtype": dtype, "seconds": seconds, "world": world}))
    os.replace(temporary, checkpoint / SIGNATURE)


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None where it verifies."""
    try:
        signature = json.loads((checkpoint / SIGNATURE).read_text())
        files = signature["files"]
    except FileNotFoundError:
        return "it was not saved to the end"
    except (ValueError, KeyError):
        return "its signature cannot be read"
    if set(signature) != FIELDS:
        return "another version of this code saved it"
    for name, digest in files.items():
        try:
            found = sha256_file(checkpoint / name)
        except FileNotFoundError:
            return f"{name} is missing"
        if found != digest:
            return f"{name} has changed"
    return None


def check_deepspeed(checkpoint: Path) -> None:
    """Loads DeepSpeed's files with torch's restricted unpickler, which knows tensors and the few types allowed here.

    Nothing is read into memory but the pickles themselves.

    Raises:
        FineTuneError: a file holds something else, or the pointer leads out of the checkpoint.
    """
    pointer = checkpoint / "latest"
    if not pointer.is_file():
        return
    refusal = f"which no checkpoint of ours does: it is not loaded. Find out who wrote it, then delete {checkpoint}"
    if pointer.read_text().strip() != f"global_step{step_of(checkpoint)}":
        raise FineTuneError(f"{pointer} names {pointer.read_text()[:100]!r}, {refusal}")
    import torch
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    allowed = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    for path in sorted(checkpoint.glob("global_step*/**/*")):
        if path.is_file():
            try:
                with torch.serialization.safe_globals(allowed):
                    torch.load(path, weights_only=True, mmap=True, map_location="cpu")
            except (pickle.UnpicklingError, RuntimeError, ValueError) as error:
                said = str(error).strip().partition("\n")[0][:300]
                raise FineTuneError(f"{path} holds more than tensors and settings ({said}), {refusal}") from error


@dataclass(frozen=True)
class Resume:
    """Where a run starts: nowhere yet, or from a checkpoint, with what the run so far had settled and spent.

    Read once at the start: the checkpoint itself is rotated away while the run goes on.
    """

    checkpoint: Path | None = None
    step: int = 0
    dtype: str | None = None
    seconds: float = 0.0


def newest(folder: Path, world: str, say: Callable[[str], None]) -> Resume:
    """The newest checkpoint that verifies; those that do not are named and removed.

    Raises:
        FineTuneError: it was saved by another number of processes or ZeRO stage than runs now, or holds a strange pickle.
    """
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        wrong = fault(checkpoint)
        if wrong is None:
            signature = json.loads((checkpoint / SIGNATURE).read_text())
            if signature["world"] != world:
                raise FineTuneError(
                    f"the checkpoint at step {step_of(checkpoint)} was saved with {signature['world']}, the plan now "
                    f"wants {world}. Put hardware back as it was to go on from it, or delete {folder} to start over"
                )
            check_deepspeed(checkpoint)
            say(f"resuming from step {step_of(checkpoint)}")
            return Resume(checkpoint, step_of(checkpoint), signature["dtype"], signature["seconds"])
        say(f"skipping {checkpoint.name}: {wrong}")
        while checkpoint.exists():  # every rank comes by here, so each finds files gone that another took away
            with suppress(FileNotFoundError):
                shutil.rmtree(checkpoint)
    return Resume()
