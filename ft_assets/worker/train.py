"""Stages ``cpt_adapter``, ``sft_adapter``, ``reward_model`` and ``policy``: TRL's trainers on DeepSpeed or one process.

An adapter stage continues the adapter of the stage before it (or starts one on the base model), so the merged model
needs the last adapter alone. The reward model starts from the SFT model with a fresh head.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from ft_assets.core.errors import FineTuneError
from ft_assets.worker import adapters, checkpoints, trial
from ft_assets.worker.callbacks import GuardLoss, ReportProgress, SignCheckpoints
from ft_assets.worker.hardware import dtype_from_name, dtype_name, pick_device, pick_dtype
from ft_assets.worker.job import Job
from ft_assets.worker.tracking import Tracker
from ft_assets.worker.trainers import build


def run(job: Job) -> None:
    placement = job.execution["placement"]
    device = pick_device(job.execution["device"])
    folder = job.scratch / "checkpoints"
    if job.has("sft_sweep"):
        job, folder = _with_best_trial(job)
    world = f"{placement['processes']} processes and ZeRO {placement['zero_stage']}"
    resume = checkpoints.newest(folder, world, say=job.progress)
    wanted = dtype_name(pick_dtype(device, job.execution["dtype"]))
    dtype = resume.dtype or wanted
    if dtype != wanted:
        job.progress(f"going on in {dtype}, in which its checkpoint was made; {wanted} is for what is made anew")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    _join_ranks(placement, device)
    set_seed(job.identity["seed"])
    trainer = build(job, device, dtype_from_name(dtype), folder)
    tracker = Tracker(job, {"identity": job.identity, "placement": placement})
    trainer.add_callback(ReportProgress(job, tracker))
    trainer.add_callback(GuardLoss())
    trainer.add_callback(SignCheckpoints(dtype, resume.seconds, world))
    if job.stage == "sft_trial":
        trial.train(job, trainer, dtype, resume, tracker)
        return
    trainer.train(resume_from_checkpoint=str(resume.checkpoint) if resume.checkpoint else None)
    if trainer.state.global_step < trainer.state.max_steps:
        raise FineTuneError(
            f"training stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; run it again to resume"
        )
    validation = trainer.evaluate() if trainer.eval_dataset is not None and len(trainer.eval_dataset) else {}
    _save(job, trainer, dtype, resume, validation, tracker)


def _with_best_trial(job: Job) -> tuple[Job, Path]:
    """The job with the settings of its sweep's best trial, and a folder for the checkpoints made with them: a sweep made
    again may come to others.
    """
    best = job.input("sft_sweep").json("best.json")
    chosen = {"sweep_trial": best["number"], "sweep_values": best["values"]}
    settled = replace(job, identity=job.identity | best["settings"], fingerprinted=job.identity, metrics=chosen)
    return settled, job.scratch / f"of-{best['fingerprint'][:16]}" / "checkpoints"


def _join_ranks(placement: dict[str, Any], device: str) -> None:
    """Starts the process group; with DeepSpeed on CPU its own communicator too, which nothing else initialises and
    without which ZeRO-3 believes in a single process.
    """
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if placement["zero_stage"] and device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != placement["processes"]:
        raise FineTuneError(f"the plan wants {placement['processes']} processes, {world} came: not training alone")


def _save(
    job: Job, trainer: Any, dtype: str, resume: checkpoints.Resume, validation: dict[str, float], tracker: Tracker
) -> None:
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    metrics = {
        "steps": trainer.state.global_step,
        "first_loss": history[0]["loss"],
        "final_loss": history[-1]["loss"],
        "input_tokens": int(trainer.state.num_input_tokens_seen),
        **{
            f"validation_{key.removeprefix('eval_')}": value
            for key, value in validation.items()
            if key in ("eval_loss", "eval_accuracy", "eval_rewards/accuracies", "eval_rewards/margins")
        },
    }
    model = trainer.accelerator.unwrap_model(trainer.model)
    state = (
        trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if job.execution["placement"]["zero_stage"] == 3
        else None
    )
    if job.rank == 0:
        with job.commit(seconds_before=resume.seconds) as staging:
            staging.execution |= {"dtype": dtype, "resumed_from_step": resume.step}
            adapters.save(job, model, trainer.processing_class, state, staging)
            staging.write_json("history.json", trainer.state.log_history)
            if trainer.args.deepspeed:
                staging.write_json("deepspeed.json", trainer.args.deepspeed)
            staging.metrics = metrics | job.metrics
    tracker.finish(metrics)
