"""What we add around TRL's trainers: progress, a guard against silent divergence, signed checkpoints."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ft_assets.core.errors import Diverged
from ft_assets.worker import checkpoints
from ft_assets.worker.job import Job
from ft_assets.worker.tracking import Tracker


class ReportProgress(TrainerCallback):
    """Writes step, loss, tokens per second and time left to the progress file, and every log to the tracker."""

    def __init__(self, job: Job, tracker: Tracker):
        self.job = job
        self.tracker = tracker
        self.started = 0.0
        self.first_step = 0
        self.first_tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started, self.first_step = time.monotonic(), state.global_step
        self.first_tokens = state.num_input_tokens_seen
        self.job.progress("training", step=state.global_step, total=state.max_steps)

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
    """Stops a run whose loss or gradient is no longer a finite number."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(float(value)):
                raise Diverged(
                    f"{name} is {value} at step {state.global_step}; lower learning_rate or max_grad_norm, "
                    "or look at the rows of this step"
                )


class SignCheckpoints(TrainerCallback):
    """Signs each checkpoint once it is on disk in full."""

    def __init__(self, dtype: str, seconds_before: float, world: str):
        self.dtype = dtype
        self.world = world
        self.seconds_before = seconds_before
        self.started = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()  # every rank has written its part
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            checkpoints.sign(folder, self.dtype, self.seconds_before + time.monotonic() - self.started, self.world)
