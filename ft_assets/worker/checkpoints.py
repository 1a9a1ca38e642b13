"""Checkpoints that can be trusted: one is whole when its signature file lists every other file with its hash.

The signature is written last and renamed into place, so a save that was cut short carries none and is passed over for
the checkpoint before it. Older ones go only once a newer one is signed, and never the best one so far. Folders live under the fingerprint, so other data, seeds or hyperparameters never meet them.

Anyone who can write into the folder can sign too, and DeepSpeed unpickles what it finds: its files are loaded only when
they hold what genuine ones hold.
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ft_assets.core.canonical import sha256_file
from ft_assets.core.durable import sync
from ft_assets.core.errors import FineTuneError
from ft_assets.worker import universal

SIGNATURE = "signature.json"
FIELDS = {"files", "dtype", "seconds", "world", "best"}
HASHING_THREADS = 4


def step_of(checkpoint: Path) -> int:
    """The optimizer step of a ``checkpoint-N`` folder."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def sign(
    checkpoint: Path, dtype: str, seconds: float, world: str, best: int | None = None, others: Collection[str] = ()
) -> None:
    """Writes the signature of a checkpoint that has been saved in full.

    Args:
        others: files as other ranks list them: what another node wrote, a network volume may not list here yet, though
            it opens.
        dtype: number type the run computes in; a resumed run keeps it.
        seconds: wall-clock time spent on the artifact so far.
        world: number of processes and ZeRO stage, which a checkpoint's files depend on.
        best: step of the best checkpoint so far, whose weights may be the result.
    """
    names = sorted({*listed(checkpoint), *others})
    paths = [checkpoint / name for name in names]
    for path in paths:
        sync(path)
    files = dict(zip(names, _hashes(paths), strict=True))
    temporary = checkpoint / f".{SIGNATURE}"
    temporary.write_text(json.dumps({"files": files, "dtype": dtype, "seconds": seconds, "world": world, "best": best}))
    sync(temporary)
    os.replace(temporary, checkpoint / SIGNATURE)
    sync(checkpoint)


def rotate(newest: Path, keep: int, best: int | None) -> None:
    """Removes all checkpoints but the last ``keep`` and the best one. ``newest`` has been signed."""
    folder = newest.parent
    others = [path for path in _by_step(folder) if step_of(path) not in (step_of(newest), best)]
    for checkpoint in others[keep - 1 :]:
        shutil.rmtree(checkpoint)


def _by_step(folder: Path) -> list[Path]:
    found = [
        path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name) and path.is_dir()
    ]
    return sorted(found, key=step_of, reverse=True)


def _hashes(paths: list[Path]) -> list[str]:
    """sha-256 of each file; hashing leaves the interpreter's lock, so files go side by side."""
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        return list(threads.map(sha256_file, paths))


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None where it verifies."""
    try:
        signature = json.loads((checkpoint / SIGNATURE).read_text())
        files = dict(signature["files"])
    except FileNotFoundError:
        return "it was not saved to the end"
    except (OSError, ValueError, KeyError, TypeError):
        return "its signature cannot be read"
    if set(signature) != FIELDS:
        return "another version of this code saved it"
    if strange := sorted(listed(checkpoint) - set(files)):
        return f"{strange[0]} was not saved with it"
    paths = [checkpoint / name for name in files]
    if missing := [path.name for path in paths if not path.is_file()]:
        return f"{missing[0]} is missing"
    for path, found, wanted in zip(paths, _hashes(paths), files.values(), strict=True):
        if found != wanted:
            return f"{path.name} has changed"
    best = signature["best"]
    if best is not None and best != step_of(checkpoint) and (wrong := fault(checkpoint.parent / f"checkpoint-{best}")):
        return f"of the best checkpoint so far, that of step {best}, {wrong}"
    return None


def listed(checkpoint: Path) -> set[str]:
    """Its files, but the signature and the universal form that another number of processes was given."""
    names = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    return {name for name in names if name != SIGNATURE and "universal" not in name}


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

    ``converted``: it stands there in DeepSpeed's universal form, as another number of processes saved it.
    Read once at the start: the checkpoint itself is rotated away while the run goes on.
    """

    checkpoint: Path | None = None
    step: int = 0
    dtype: str | None = None
    seconds: float = 0.0
    converted: bool = False


def newest(folder: Path, world: str, say: Callable[[str], None]) -> Resume:
    """The newest checkpoint that verifies; those that do not are named and removed. For one rank, which tells the others.

    Raises:
        FineTuneError: it was saved for another world than runs now and cannot be converted, or holds a strange pickle.
    """
    torn = []
    found = Resume()
    for checkpoint in _by_step(folder):
        wrong = fault(checkpoint)
        if wrong is None:
            found = _resume(checkpoint, world, say)
            break
        say(f"skipping {checkpoint.name}: {wrong}")
        torn.append(checkpoint)
    for checkpoint in torn:
        shutil.rmtree(checkpoint)
    if found.checkpoint:
        say(f"resuming from step {found.step}")
    return found


def _resume(checkpoint: Path, world: str, say: Callable[[str], None]) -> Resume:
    signature = json.loads((checkpoint / SIGNATURE).read_text())
    saved, step = signature["world"], step_of(checkpoint)
    for left in checkpoint.glob("*universal"):  # of a run that was converted, and unsigned
        left.unlink() if left.is_file() else shutil.rmtree(left)
    if saved != world and not universal.fits(saved, world):
        raise FineTuneError(
            f"the checkpoint at step {step} was saved with {saved}, the plan now wants {world}; only ZeRO-1 and ZeRO-2 can go "
            f"on with another number of processes. Put hardware back as it was to go on from it, or delete "
            f"{checkpoint.parent} to start over"
        )
    check_deepspeed(checkpoint)
    if saved != world:
        say(f"converting the checkpoint at step {step} of {saved} for {world}")
        universal.convert(checkpoint)
    return Resume(checkpoint, step, signature["dtype"], signature["seconds"], converted=saved != world)
