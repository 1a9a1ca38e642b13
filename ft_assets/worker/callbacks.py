"""What we add around TRL's trainers: progress, a guard against silent divergence, signed checkpoints."""

import math
import signal
import time
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from ft_assets.core.errors import Diverged, FineTuneError, Stopped
from ft_assets.worker import checkpoints, ranks
from ft_assets.worker.job import Job
from ft_assets.worker.template import IGNORED
from ft_assets.worker.tracking import Tracker

SPEAK_EVERY_SECONDS = 15.0
FIRST_STEPS = 5
STEPS_BETWEEN_KILLS = 100
MOST_SHARE = 0.03
MOST_SKIPPED_STEPS = 40  # a float16 scale that starts at 2^16 is below the smallest gradient by then
MOST_NAMED_ROWS = 64


class ReportProgress(TrainerCallback):
    """Writes step, loss, tokens per second and time left to the progress file, and every log to the tracker."""

    def __init__(self, job: Job, tracker: Tracker):
        self.job = job
        self.tracker = tracker
        self.started = self.spoke = 0.0
        self.first_step = 0
        self.first_tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started, self.first_step = time.monotonic(), state.global_step
        self.first_tokens = state.num_input_tokens_seen
        self.job.progress("training", step=state.global_step, total=state.max_steps)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self.spoke > SPEAK_EVERY_SECONDS:
            self.spoke = time.monotonic()
            self.job.progress("validating", step=state.global_step, total=state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is None or "loss" not in logs or not state.is_world_process_zero:
            return
        seconds = max(1e-9, time.monotonic() - self.started)
        done = max(1, state.global_step - self.first_step)
        speed = (state.num_input_tokens_seen - self.first_tokens) / seconds
        left = seconds / done * (state.max_steps - state.global_step)
        self.job.progress(
            "training",
            step=state.global_step,
            total=state.max_steps,
            loss=float(logs["loss"]),
            tokens_per_second=round(speed, 1),
            seconds_left=round(left, 1),
        )
        self.tracker.log({**logs, "tokens_per_second": speed}, step=state.global_step)


class GuardLoss(TrainerCallback):
    """Stops a run whose loss or gradient is no longer a finite number, and names the rows of that step.

    In float16 the loss scaler tries scales that are too large, and skips the steps whose gradients are infinite; a run that
    only skips is stopped too.
    """

    def __init__(self, rows: Any):
        self.rows = rows
        self.skipped = 0

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, Any] | None = None,
        optimizer: Any = None,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        self.skipped = self.skipped + 1 if getattr(optimizer, "step_was_skipped", False) else 0
        watched = ("loss",) if 0 < self.skipped <= MOST_SKIPPED_STEPS else ("loss", "grad_norm")
        for name in watched:
            value = logs.get(name)
            if value is not None and not math.isfinite(float(value)):
                at = rows_of_step(
                    train_dataloader, state.global_step, args.gradient_accumulation_steps, args.world_size
                )
                raise Diverged(f"{name} is {value} at step {state.global_step}{_told_of_rows(self.rows, at)}")


def rows_of_step(loader: Any, step: int, accumulation: int, world: int) -> list[int]:
    """Which rows of the data set an optimizer step saw, over all ranks. The order follows from the seed and the epoch.

    Args:
        step: counted from 1.
        accumulation: batches of one rank in a step.
    """
    steps_per_epoch = math.ceil(len(loader) / accumulation)
    epoch, place = divmod(step - 1, steps_per_epoch)
    batches = getattr(loader.batch_sampler, "batch_sampler", loader.batch_sampler)  # of all ranks in turn
    if hasattr(batches.sampler, "set_epoch"):
        batches.sampler.set_epoch(epoch)
    each = accumulation * world
    return [row for batch in islice(batches, place * each, (place + 1) * each) for row in batch]


def _told_of_rows(rows: Any, at: list[int]) -> str:
    seen = rows.select(at)
    labels = seen["labels"] if "labels" in rows.column_names else []
    if len(labels) and all(label == IGNORED for row in labels for label in row):
        why, remedy = ": no token of its rows is supervised", "look at data.loss_on and these rows"
    else:
        why, remedy = "", "lower learning_rate or max_grad_norm, or look at the rows of this step"
    names = seen["row_id"] if "row_id" in rows.column_names else [f"number {row}" for row in at]
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - MOST_NAMED_ROWS} more" if len(names) > MOST_NAMED_ROWS else ""
    packed = " (of packed rows the first)" if "seq_lengths" in rows.column_names else ""
    return f"{why}; {remedy}{packed}: {', '.join(names[:MOST_NAMED_ROWS])}{more}"


class KeepCheckpoints(TrainerCallback):
    """Says when a checkpoint is due, signs it once it is on disk in full, and only then lets an older one go.

    One is due every so many steps or minutes as the recipe says. Where it does not, the first is after :data:`FIRST_STEPS`,
    the others as often as loses least where a run is killed every :data:`STEPS_BETWEEN_KILLS` on the average, which is every
    sqrt(2 * seconds of a save * seconds between kills) seconds (Young 1974, Communications of the ACM 17(9)), but not so often
    that saving takes more than :data:`MOST_SHARE` of the time. And one is due when SIGTERM asks the run to end: then the step
    is finished, and training ends after its checkpoint. All ranks do so at the same step.
    """

    def __init__(self, execution: dict[str, Any], dtype: str, seconds_before: float, world: str):
        self.every_steps = execution["checkpoint_every_steps"]
        self.every_minutes = execution["checkpoint_every_minutes"]
        self.keep = execution["keep_checkpoints"]
        self.dtype = dtype
        self.world = world
        self.seconds_before = seconds_before
        self.started = self.step_ended = self.saved = time.monotonic()
        self.saved_step, self.save_seconds = 0, 0.0
        self.asked = self.stopped = False
        self.handler: Any = signal.SIG_DFL

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.handler = signal.signal(signal.SIGTERM, self._ask)
        self.saved, self.saved_step = time.monotonic(), state.global_step

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        signal.signal(signal.SIGTERM, self.handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step_ended = time.monotonic()
        self.stopped, due = ranks.any_of(self.asked, self._due(state.global_step))
        if self.stopped or due:
            control.should_save = True
        if self.stopped:
            control.should_training_stop = True

    def check_finished(self, state: Any) -> None:
        """After training.

        Raises:
            Stopped: SIGTERM ended it.
            FineTuneError: something else did.
        """
        step, steps = state.global_step, state.max_steps
        if step < steps and self.stopped:
            raise Stopped(
                f"stopped by SIGTERM at step {step} of {steps}; its checkpoint is written, run again to resume"
            )
        if step < steps:
            raise FineTuneError(f"training stopped at step {step} of {steps}; run it again to resume")

    def _due(self, step: int) -> bool:
        passed = self.step_ended - self.saved
        if self.every_steps is None and self.every_minutes is None:
            return self._due_by_cost(step - self.saved_step, passed)
        by_step = self.every_steps is not None and step % self.every_steps == 0
        return by_step or (self.every_minutes is not None and passed >= 60 * self.every_minutes)

    def _due_by_cost(self, steps: int, passed: float) -> bool:
        if not self.save_seconds:
            return steps >= FIRST_STEPS
        return (
            steps * passed >= 2 * self.save_seconds * STEPS_BETWEEN_KILLS and passed * MOST_SHARE >= self.save_seconds
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        ranks.wait_for_all()  # every rank has written its part
        others = {name for names in ranks.from_all(checkpoints.listed(folder)) for name in names}
        if state.is_world_process_zero:
            seconds = self.seconds_before + time.monotonic() - self.started
            checkpoints.sign(folder, self.dtype, seconds, self.world, state.best_global_step, others)
            checkpoints.rotate(folder, self.keep, state.best_global_step)
        ranks.wait_for_all()  # none leaves before the signature is there
        self.saved, self.saved_step = time.monotonic(), state.global_step
        self.save_seconds = self.saved - self.step_ended


class UniversalOnce(TrainerCallback):
    """After a start from a converted checkpoint: the best one, loaded at the end, is in DeepSpeed's own form again."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.deepspeed._config.load_universal_checkpoint = False
