"""Stages ``cpt_adapter``, ``sft_adapter``, ``reward_model``, ``policy`` and ``classifier``: TRL's trainers, or transformers'
own, on DeepSpeed or one process.

An adapter stage continues the adapter of the stage before it (or starts one on the base model), so the merged model
needs the last adapter alone. The reward model starts from the SFT model with a fresh head, a classifier from the base.
"""

import os
from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import set_seed

from ft_assets.worker import adapters, checkpoints, ranks, trial
from ft_assets.worker.callbacks import GuardLoss, KeepCheckpoints, ReportProgress, UniversalOnce
from ft_assets.worker.failures import explained
from ft_assets.worker.hardware import dtype_from_name, dtype_name, pick_device, pick_dtype
from ft_assets.worker.job import Job
from ft_assets.worker.speed import measured, measured_memory, resident_bytes
from ft_assets.worker.tracking import Tracker
from ft_assets.worker.trainers import Built, build, trains_whole


def run(job: Job) -> None:
    resident_before = resident_bytes()
    placement = job.execution["placement"]
    device = pick_device(job.execution["device"])
    folder = job.scratch / "checkpoints"
    if job.has("sft_sweep"):
        job, folder = _with_best_trial(job)
    world = f"{placement['processes']} processes and ZeRO {placement['zero_stage']}"
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    ranks.join(placement, device)
    resume = ranks.from_first(checkpoints.newest(folder, world, say=job.progress) if job.rank == 0 else None)
    wanted = ranks.from_first(_dtype(job, device))
    dtype = resume.dtype or wanted
    if dtype != wanted:
        job.progress(f"going on in {dtype}, in which its checkpoint was made; {wanted} is for what is made anew")
    if resume.converted:
        job.execution["deepspeed"] = {**job.execution["deepspeed"], "checkpoint": {"load_universal": True}}
    set_seed(job.identity["seed"])
    with explained(job):
        built = build(job, device, dtype_from_name(dtype), folder)
        trainer = built.trainer
        tracker = Tracker(job, {"identity": job.identity, "placement": placement})
        keeper = KeepCheckpoints(job.execution, dtype, resume.seconds, world)
        for callback in (ReportProgress(job, tracker), GuardLoss(trainer.train_dataset), keeper):
            trainer.add_callback(callback)
        if resume.converted:
            trainer.add_callback(UniversalOnce(trainer))
        if job.stage == "sft_trial":
            trial.train(job, trainer, keeper, dtype, resume, tracker)
            return
        trainer.train(resume_from_checkpoint=str(resume.checkpoint) if resume.checkpoint else None)
        keeper.check_finished(trainer.state)
        speed = _speed(job, built, device, dtype_from_name(dtype)) | measured_memory(device, resident_before)
        validation = trainer.evaluate() if trainer.eval_dataset is not None and len(trainer.eval_dataset) else {}
        _save(job, built, dtype, resume, speed | _validation(validation), tracker)


def _dtype(job: Job, device: str) -> str:
    """What is computed in. On a CPU nothing is cast under DeepSpeed, where a whole model or head is trained in float32."""
    if device == "cpu" and job.execution["placement"]["zero_stage"] and trains_whole(job):
        return "float32"
    return dtype_name(pick_dtype(device, job.execution["dtype"]))


def _with_best_trial(job: Job) -> tuple[Job, Path]:
    """The job with the settings of its sweep's best trial, and a folder for the checkpoints made with them: a sweep made
    again may come to others.
    """
    best = job.input("sft_sweep").json("best.json")
    chosen = {"sweep_trial": best["number"], "sweep_values": best["values"]}
    settled = replace(job, identity=job.identity | best["settings"], fingerprinted=job.identity, metrics=chosen)
    return settled, job.scratch / f"of-{best['fingerprint'][:16]}" / "checkpoints"


def _speed(job: Job, built: Built, device: str, dtype: torch.dtype) -> dict[str, float]:
    log = built.trainer.state.log_history
    seconds = next(entry["train_runtime"] for entry in reversed(log) if "train_loss" in entry)
    trains_all = job.identity["adapter"]["method"] == "full"
    processes = job.execution["placement"]["processes"]
    return measured(built.counter, seconds, built.trainer.model, trains_all, device, dtype, processes)


def _validation(measures: dict[str, float]) -> dict[str, float]:
    wanted = ("eval_loss", "eval_accuracy", "eval_macro_f1", "eval_rewards/accuracies", "eval_rewards/margins")
    return {f"validation_{name.removeprefix('eval_')}": measures[name] for name in wanted if name in measures}


def _save(
    job: Job, built: Built, dtype: str, resume: checkpoints.Resume, measures: dict[str, float], tracker: Tracker
) -> None:
    trainer = built.trainer
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    metrics = {
        "steps": trainer.state.global_step,
        "first_loss": history[0]["loss"],
        "final_loss": history[-1]["loss"],
        "input_tokens": int(trainer.state.num_input_tokens_seen),
        **measures,
    }
    if trainer.args.load_best_model_at_end:
        metrics["best_step"] = trainer.state.best_global_step
    model = trainer.accelerator.unwrap_model(trainer.model)
    state = (
        trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if job.execution["placement"]["zero_stage"] == 3
        else None
    )
    if job.rank == 0:
        with job.commit(seconds_before=resume.seconds) as staging:
            staging.execution |= {"dtype": dtype, "resumed_from_step": resume.step, "kernels": asdict(built.kernels)}
            adapters.save(job, model, trainer.processing_class, state, staging)
            staging.write_json("history.json", trainer.state.log_history)
            if trainer.args.deepspeed:
                staging.write_json("deepspeed.json", trainer.args.deepspeed)
            staging.metrics = metrics | job.metrics
    tracker.finish(metrics)
