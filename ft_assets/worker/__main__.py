"""``python -m ft_assets.worker STAGE request.json``: makes one artifact.

With ``--wait`` for a path it imports what the stage needs and then reads the path from standard input; where that closes
without one, nobody needs it. Before that may come lines ``--ahead PATH``: requests that the stage's ``begin`` does ahead what it
can for.

Ends with 0 when the artifact is in the store, with 2 for something the user can mend, with 75 when it was asked to end and
can go on where it stopped, with 1 for anything else.
"""

import importlib
import json
import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import ModuleType, TracebackType

from ft_assets.core.absent import absent
from ft_assets.core.errors import STOPPED, FineTuneError, Stopped
from ft_assets.core.garbage import collect_rarely, collected_rarely
from ft_assets.core.waiting import AHEAD, WAIT
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
    "classifier": "train",
    "merged_model": "merge",
    "quantized_model": "quantize",
    "evaluation": "evaluate",
    "batch_predictions": "predict",
}
# Stages that need a tokenizer alone. transformers imports torch wherever there is one, which takes longer than their work
# on a small batch; a module that is None counts as absent. pyarrow imports pandas at the first list it is given, once and
# only to see whether it was given one of pandas' own.
WITHOUT_TORCH = ("tokenized_splits",)


def main(stage: str, request: str) -> int:
    die_with_parent()
    seconds: dict[str, float] = {}
    if request == WAIT:
        request, seconds = waited(module(stage))
        if not request:
            return 0
    job = Job.read(Path(request))
    job.started -= seconds.get(job.fingerprint, 0.0)
    sys.excepthook = noted
    try:
        if "RANK" in os.environ:
            work(stage, job)
        else:
            with one_at_a_time(job) as already_made:
                if not already_made:
                    work(stage, job)
    except FineTuneError as error:
        note_failure(f"{type(error).__name__}: {error}")
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return STOPPED if isinstance(error, Stopped) else 2
    return 0


def waited(stage: ModuleType) -> tuple[str, dict[str, float]]:
    """The path of the request, empty where there is none, and the seconds spent ahead on each fingerprint."""
    seconds: dict[str, float] = {}
    while (request := sys.stdin.readline().rstrip("\n")).startswith(AHEAD):
        job = Job.read(Path(request.removeprefix(AHEAD)))
        stage.begin(job)
        seconds[job.fingerprint] = seconds.get(job.fingerprint, 0.0) + time.monotonic() - job.started
    return request, seconds


def noted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    note_failure("".join(traceback.format_exception(kind, error, trace)))
    sys.__excepthook__(kind, error, trace)


def note_failure(text: str) -> None:
    """Tells torchrun what this rank failed of, in the form it reads."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return
    whole = Path(f"{path}.whole")
    with suppress(OSError):  # the disk is full, say; half a file would stop torchrun
        whole.write_text(json.dumps({"message": text, "timestamp": str(int(time.time()))}))
        os.replace(whole, path)


def work(stage: str, job: Job) -> None:
    job.progress("starting")
    module(stage).run(job)


def module(stage: str) -> ModuleType:
    name = f"ft_assets.worker.{MODULES[stage]}"
    if stage in WITHOUT_TORCH:
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
        collect_rarely()
        with absent("pandas"):
            import pyarrow

            pyarrow.array([[0]])
        return importlib.import_module(name)
    with collected_rarely():  # later garbage may hold tensors
        return importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
