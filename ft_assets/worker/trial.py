"""Stage ``sft_trial``: an SFT of a sweep. It measures itself on the validation rows while it trains, ends early where its
identity says so, and leaves its losses instead of weights.
"""

import math
from typing import Any

from transformers import TrainerCallback

from ft_assets.core.errors import Diverged, FineTuneError
from ft_assets.core.trials import mark, marks, pruned_at
from ft_assets.worker.callbacks import KeepCheckpoints
from ft_assets.worker.checkpoints import Resume
from ft_assets.worker.job import Job
from ft_assets.worker.tracking import Tracker


def arguments(job: Job) -> dict[str, Any]:
    """The trainer's arguments that a trial has beside those of an SFT. Its validation batches are of one size in all trials
    of a sweep, as the trainer weighs batches evenly, whatever they hold.
    """
    if job.stage != "sft_trial":
        return {}
    return {
        "load_best_model_at_end": False,
        "eval_strategy": "steps",
        "eval_steps": job.identity["eval_steps"],
        "per_device_eval_batch_size": job.execution["evaluation_micro_batch"],
    }


def measured(job: Job, history: list[dict[str, Any]], max_steps: int) -> dict[int, tuple[int, float]]:
    """Step and validation loss by mark, from the trainer's log."""
    found = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    return {mark(step, max_steps, job.identity["eval_steps"]): (step, loss) for step, loss in found}


def ended_at(job: Job, found: dict[int, tuple[int, float]]) -> int | None:
    """The mark at which the trial is to end early, if there is one."""
    losses = [found[at][1] if at in found else None for at in range(marks(job.identity["eval_steps"]))]
    return pruned_at(losses, job.identity["stop_above"])


class EndEarly(TrainerCallback):
    """Ends a trial at the first mark at which it is worse than its identity allows, or no longer a number."""

    def __init__(self, job: Job, tracker: Tracker):
        self.job = job
        self.tracker = tracker

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        # Every rank has the same numbers, so all stop at the same step.
        if not math.isfinite(metrics["eval_loss"]):
            raise Diverged(f"the validation loss is {metrics['eval_loss']} at step {state.global_step}")
        self.tracker.log({"eval_loss": metrics["eval_loss"]}, step=state.global_step)
        if ended_at(self.job, measured(self.job, state.log_history, state.max_steps)) is not None:
            control.should_training_stop = True


def train(job: Job, trainer: Any, keeper: KeepCheckpoints, dtype: str, resume: Resume, tracker: Tracker) -> None:
    """Trains a trial to its end, early or not, and commits its losses.

    Raises:
        FineTuneError: there are no validation rows, or training stopped for another reason than the trial's own.
    """
    if not len(trainer.eval_dataset):
        raise FineTuneError(
            "no validation rows are left to compare trials on; give data.split.validation a larger share"
        )
    trainer.add_callback(EndEarly(job, tracker))
    diverged = ""
    try:
        trainer.train(resume_from_checkpoint=str(resume.checkpoint) if resume.checkpoint else None)
    except Diverged as error:
        diverged = str(error)
    done, total = trainer.state.global_step, trainer.state.max_steps
    found = measured(job, trainer.state.log_history, total)
    ended = None if diverged else ended_at(job, found)
    if done < total and ended is None and not diverged:
        keeper.check_finished(trainer.state)
    metrics = result(job, found, ended, done, total, diverged)
    if job.rank == 0:
        with job.commit(seconds_before=resume.seconds) as staging:
            staging.execution |= {"dtype": dtype, "resumed_from_step": resume.step}
            log = [entry for entry in trainer.state.log_history if _finite(entry) and entry["step"] <= metrics["steps"]]
            staging.write_json("history.json", log)
            staging.metrics = metrics
    tracker.finish(metrics)


def result(
    job: Job, found: dict[int, tuple[int, float]], ended: int | None, done: int, total: int, diverged: str
) -> dict[str, Any]:
    """What a trial came to, as :class:`ft_assets.core.trials.Trial` has it.

    Where it was pruned is read from its log: one that is killed between that and its commit does a step more when it
    resumes.
    """
    known = {at: entry for at, entry in found.items() if math.isfinite(entry[1]) and (ended is None or at <= ended)}
    return {
        "state": "diverged" if diverged else "complete" if ended is None else "pruned",
        "loss": None if diverged else known[max(known)][1],
        "losses": [known[at][1] if at in known else None for at in range(marks(job.identity["eval_steps"]))],
        "steps": done if ended is None else found[ended][0],
        "planned_steps": total,
        "diverged": diverged,
    }


def _finite(entry: dict[str, Any]) -> bool:
    return all(math.isfinite(value) for value in entry.values() if isinstance(value, float))
