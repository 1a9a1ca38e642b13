"""``python -m ft_assets.worker STAGE request.json``: makes one artifact.

Ends with 0 when the artifact is in the store, with 2 for something the user can mend, with 75 when it was asked to end and
can go on where it stopped, with 1 for anything else.
"""

import importlib
import os
import sys
from pathlib import Path

from ft_assets.core.errors import STOPPED, FineTuneError, Stopped
from ft_assets.worker.job import Job, die_with_parent, one_at_a_time

MODULES = {
    "base_model": "base_model",
    "tokenized_splits": "splits",
    "cpt_adapter": "train",
    "sft_sweep": "sweep",
    "sft_trial": "train",
    "sft_adapter": "train",
    "reward_model": "train",
    "policy": "train",
    "merged_model": "merge",
    "quantized_model": "quantize",
    "evaluation": "evaluate",
}
# Stages that need a tokenizer alone. transformers imports torch wherever there is one, which takes longer than their work
# on a small batch; a module that is None counts as absent.
WITHOUT_TORCH = ("tokenized_splits",)


def main(stage: str, request: Path) -> int:
    die_with_parent()
    job = Job.read(request)
    try:
        if "RANK" in os.environ:
            work(stage, job)
        else:
            with one_at_a_time(job) as already_made:
                if not already_made:
                    work(stage, job)
    except FineTuneError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return STOPPED if isinstance(error, Stopped) else 2
    return 0


def work(stage: str, job: Job) -> None:
    job.progress("starting")
    if stage in WITHOUT_TORCH:
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    importlib.import_module(f"ft_assets.worker.{MODULES[stage]}").run(job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
