"""Checkpoints of another number of processes, through DeepSpeed's universal format.

For ZeRO-1 and 2. For ZeRO-3 DeepSpeed 0.19 gives all parameter groups one Adam step count and the first group's settings,
and what is trained from there drifts: such a checkpoint is refused.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from ft_assets.core.errors import FineTuneError

CONVERTED_STAGES = ("1", "2")


def fits(saved: str, wanted: str) -> bool:
    """Whether a checkpoint of one world (``N processes and ZeRO K``) can be made fit for another."""
    stages = {world.rpartition(" ")[2] for world in (saved, wanted)}
    return len(stages) == 1 and stages <= set(CONVERTED_STAGES)


def convert(checkpoint: Path) -> None:
    """Writes the universal form beside the other files of a checkpoint, whose pickles have been looked through.

    Raises:
        FineTuneError: DeepSpeed's converter failed; holds its last words.
    """
    saved = checkpoint / (checkpoint / "latest").read_text().strip()
    target = saved.with_name(f"{saved.name}_universal")
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    folders = ["--input_folder", str(saved), "--output_folder", str(target)]
    workers = ["--num_extract_workers", "1", "--num_merge_workers", "1"]
    done = subprocess.run([*command, *folders, *workers], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FineTuneError(
            f"{checkpoint.name} could not be converted for another number of processes: {done.stderr.strip()[-500:]}. "
            "Put hardware back as it was to go on from it"
        )
