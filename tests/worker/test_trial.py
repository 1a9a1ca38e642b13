"""Laws of a trial: it ends early at the same step however often it is interrupted, and one that diverges has no loss."""

import json
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ft_assets.core.errors import Diverged, FineTuneError
from ft_assets.worker import trial
from ft_assets.worker.callbacks import KeepCheckpoints
from ft_assets.worker.checkpoints import Resume
from ft_assets.worker.job import Job
from ft_assets.worker.tracking import Tracker

IDENTITY = {"eval_steps": 0.25, "stop_above": [None, 2.0, 2.0, None]}


def measurement(step, loss):
    return {"step": step, "eval_loss": loss, "epoch": 1.0}


class Steps:
    """A trainer that logs a loss at each step and a validation loss every second one."""

    def __init__(self, losses, rows=3, fails=None):
        self.losses, self.fails, self.eval_dataset = losses, fails, [None] * rows
        self.state = SimpleNamespace(log_history=[], global_step=0, max_steps=2 * len(losses))
        self.control = SimpleNamespace(should_training_stop=False)

    def add_callback(self, callback):
        self.callback = callback

    def train(self, resume_from_checkpoint=None):
        while self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            self.state.global_step += 1
            step = self.state.global_step
            if step == self.fails:
                raise Diverged(f"loss is nan at step {step}")
            self.state.log_history.append({"step": step, "loss": 3.0})
            if step % 2 == 0:
                loss = self.losses[step // 2 - 1]
                self.state.log_history.append(measurement(step, loss))
                self.callback.on_evaluate(None, self.state, self.control, {"eval_loss": loss})


class Silent:
    def log(self, numbers, step=None):
        pass

    def finish(self, summary):
        pass


@pytest.fixture
def job(tmp_path):
    (tmp_path / "request.json").write_text(
        json.dumps(
            {
                "stage": "sft_trial",
                "fingerprint": "f" * 64,
                "code_version": "1",
                "identity": IDENTITY,
                "upstream": {},
                "execution": {"trial": "trial 1 of 1"},
                "store": {"url": str(tmp_path), "local": str(tmp_path)},
                "progress": str(tmp_path / "progress.jsonl"),
                "cache": str(tmp_path),
            }
        )
    )
    return Job.read(tmp_path / "request.json")


def trained(job, trainer):
    keeping = {"checkpoint_every_steps": None, "checkpoint_every_minutes": None, "keep_checkpoints": 2}
    keeper = KeepCheckpoints(keeping, "float32", 0.0, "1 processes and ZeRO 0")
    trial.train(job, trainer, keeper, "float32", Resume(), Silent())
    return job.store.open("sft_trial", job.fingerprint)


def test_a_trial_above_what_is_allowed_ends_there(job):
    trainer = Steps([9.0, 2.5, 1.0, 1.0])
    found = trained(job, trainer)
    assert trainer.state.global_step == 4
    assert {name: found.manifest.metrics[name] for name in ("state", "loss", "losses", "steps")} == {
        "state": "pruned",
        "loss": 2.5,
        "losses": [9.0, 2.5, None, None],
        "steps": 4,
    }


def test_a_trial_that_resumes_after_its_end_has_the_same_result(job):
    trainer = Steps([9.0, 2.5, 1.0, 1.0])
    trainer.state.global_step = 4
    trainer.state.log_history = [measurement(2, 9.0), {"step": 4, "loss": 3.0}, measurement(4, 2.5)]
    found = trained(job, trainer)
    assert trainer.state.global_step > 4, "a resumed trainer asks nobody before it has done a step"
    assert (found.manifest.metrics["state"], found.manifest.metrics["steps"]) == ("pruned", 4)
    assert found.manifest.metrics["losses"] == [9.0, 2.5, None, None]
    assert max(entry["step"] for entry in found.json("history.json")) == 4


def test_a_trial_that_is_good_enough_goes_to_its_end(job):
    found = trained(job, Steps([9.0, 1.5, 2.5, 3.0])).manifest.metrics
    assert (found["state"], found["loss"], found["steps"]) == ("complete", 3.0, 8), "its least loss counts on the way"


@pytest.mark.parametrize(
    "trainer", [Steps([9.0, 1.0, 1.0, 1.0], fails=3), Steps([9.0, math.nan, 1.0, 1.0])], ids=["loss", "validation"]
)
def test_a_trial_that_diverges_is_told_and_has_no_loss(job, trainer):
    found = trained(job, trainer).manifest.metrics
    assert (found["state"], found["loss"], found["losses"]) == ("diverged", None, [9.0, None, None, None])
    assert "nan" in found["diverged"]


def test_a_trial_that_was_stopped_from_outside_is_not_committed(job):
    trainer = Steps([9.0, 1.0, 1.0, 1.0])
    trainer.train = lambda resume_from_checkpoint=None: None
    with pytest.raises(FineTuneError, match="step 0 of 8; run it again to resume"):
        trained(job, trainer)
    assert job.store.lookup("sft_trial", job.fingerprint) is None


def test_without_validation_rows_no_trial_starts(job):
    with pytest.raises(FineTuneError, match=r"data\.split\.validation"):
        trained(job, Steps([1.0], rows=0))


def test_trials_of_a_sweep_are_one_group_of_runs(job, monkeypatch):
    begun = []
    stub = SimpleNamespace(init=lambda **settings: begun.append(settings), Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    tracker = {"mode": "offline", "project": "p", "folder": "f"}
    for number in (1, 2):
        own = {"partition": "r", "tracker": tracker, "trial": f"trial {number} of 2", "group": "r sft_sweep abc"}
        Tracker(replace(job, fingerprint=str(number) * 64, execution=own), {})
    assert {run["group"] for run in begun} == {"r sft_sweep abc"}
    assert len({run["id"] for run in begun}) == len({run["name"] for run in begun}) == 2
