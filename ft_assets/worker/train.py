"""Stages ``cpt_adapter``, ``sft_adapter``, ``reward_model`` and ``policy``: TRL's trainers on DeepSpeed or one process.

An adapter stage continues the adapter of the stage before it (or starts one on the base model), so the merged model
needs the last adapter alone. The reward model starts from the SFT model with a fresh head.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, get_peft_model
from transformers import set_seed
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer

from ft_assets.core.artifact import Artifact, Staging
from ft_assets.core.errors import FineTuneError
from ft_assets.worker import checkpoints
from ft_assets.worker.callbacks import GuardLoss, ReportProgress, SignCheckpoints
from ft_assets.worker.hardware import dtype_from_name, dtype_name, pick_device, pick_dtype
from ft_assets.worker.job import Job
from ft_assets.worker.models import ADAPTER_FILES, load_adapted, load_reward, load_reward_start
from ft_assets.worker.packing import PackedCollator, refuse_bleeding
from ft_assets.worker.tokenizer import load_tokenizer
from ft_assets.worker.tracking import Tracker


class PretokenizedDPOTrainer(DPOTrainer):
    """TRL's DPO trainer over the ids that ``tokenized_splits`` made, so that every stage sees the same tokens."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


def run(job: Job) -> None:
    placement = job.execution["placement"]
    device = pick_device(job.execution["device"])
    folder = job.scratch / "checkpoints"
    world = f"{placement['processes']} processes and ZeRO {placement['zero_stage']}"
    resume = checkpoints.newest(folder, world, say=job.progress)
    wanted = dtype_name(pick_dtype(device, job.execution["dtype"]))
    dtype = resume.dtype or wanted
    if dtype != wanted:
        job.progress(f"going on in {dtype}, in which its checkpoint was made; {wanted} is for what is made anew")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    _join_ranks(placement, device)
    set_seed(job.identity["seed"])
    trainer = _build(job, placement, device, dtype_from_name(dtype), folder)
    tracker = Tracker(job, {"identity": job.identity, "placement": placement})
    trainer.add_callback(ReportProgress(job, tracker))
    trainer.add_callback(GuardLoss())
    trainer.add_callback(SignCheckpoints(dtype, resume.seconds, world))
    trainer.train(resume_from_checkpoint=str(resume.checkpoint) if resume.checkpoint else None)
    if trainer.state.global_step < trainer.state.max_steps:
        raise FineTuneError(
            f"training stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; run it again to resume"
        )
    validation = trainer.evaluate() if trainer.eval_dataset is not None and len(trainer.eval_dataset) else {}
    _save(job, trainer, dtype, resume, validation, tracker)


def _join_ranks(placement: dict[str, Any], device: str) -> None:
    """Starts the process group; with DeepSpeed on CPU its own communicator too, which nothing else initialises and
    without which ZeRO-3 believes in a single process.
    """
    if placement["zero_stage"] and device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != placement["processes"]:
        raise FineTuneError(f"the plan wants {placement['processes']} processes, {world} came: not training alone")


def deepspeed_config(
    placement: dict[str, Any], identity: dict[str, Any], device: str, dtype: str
) -> dict[str, Any] | None:
    """DeepSpeed's JSON for a placement, or None where one process needs no engine.

    On a CPU its half-precision modes stay off: as with one process, frozen weights are in ``dtype`` and what is trained in
    float32, and nothing is cast.
    """
    if not placement["zero_stage"]:
        return None
    return {
        "train_micro_batch_size_per_gpu": placement["micro_batch"],
        "gradient_accumulation_steps": placement["gradient_accumulation_steps"],
        "gradient_clipping": identity["training"]["max_grad_norm"],
        "bf16": {"enabled": device == "cuda" and dtype == "bfloat16"},
        "fp16": {"enabled": device == "cuda" and dtype == "float16"},
        "zero_optimization": {"stage": placement["zero_stage"], "stage3_gather_16bit_weights_on_model_save": True},
        "zero_allow_untested_optimizer": True,
    }


def _arguments(job: Job, placement: dict[str, Any], device: str, dtype: torch.dtype, folder: Path) -> dict[str, Any]:
    training, cuda = job.identity["training"], device == "cuda"
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": placement["micro_batch"],
        "gradient_accumulation_steps": placement["gradient_accumulation_steps"],
        "per_device_eval_batch_size": placement["micro_batch"],
        "learning_rate": training["learning_rate"],
        "num_train_epochs": training["num_train_epochs"],
        "max_steps": training["max_steps"] or -1,
        "warmup_steps": training["warmup_steps"],
        "lr_scheduler_type": training["lr_scheduler_type"],
        "weight_decay": training["weight_decay"],
        "max_grad_norm": training["max_grad_norm"],
        "seed": job.identity["seed"],
        "data_seed": job.identity["seed"],
        "use_cpu": not cuda,
        "bf16": cuda and dtype is torch.bfloat16,
        "fp16": cuda and dtype is torch.float16,
        "gradient_checkpointing": False,
        "include_num_input_tokens_seen": "non_padding",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": job.execution["checkpoint_every_steps"],
        "save_total_limit": 2,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": cuda,
        "ddp_find_unused_parameters": False,
        "deepspeed": deepspeed_config(placement, job.identity, device, dtype_name(dtype)),
    }


def _build(job: Job, placement: dict[str, Any], device: str, dtype: torch.dtype, folder: Path) -> Any:
    base = job.input("base_model")
    tokenizer = load_tokenizer(base.folder)
    arguments = _arguments(job, placement, device, dtype, folder)
    start = job.input("adapter") if job.has("adapter") else None
    if job.stage in ("cpt_adapter", "sft_adapter"):
        return _sft_trainer(job, base, start, dtype, tokenizer, arguments)
    if job.stage == "reward_model":
        return _reward_trainer(job, base, start, dtype, tokenizer, arguments)
    if job.identity["training"]["method"] == "dpo":
        return _dpo_trainer(job, base, start, dtype, tokenizer, arguments)
    return _rloo_trainer(job, base, start, dtype, tokenizer, arguments)


def _lora(job: Job, task_type: str) -> LoraConfig:
    adapter = {key: value for key, value in job.identity["adapter"].items() if key != "method"}
    if task_type == "SEQ_CLS" and adapter["target_modules"] == "all-linear":
        return LoraConfig(task_type=task_type, modules_to_save=["score"], **adapter)
    return LoraConfig(task_type=task_type, **adapter)


def _policy_model(job: Job, base: Artifact, start: Artifact | None, dtype: torch.dtype) -> Any:
    """The model to train: the adapter so far on its base, or a fresh adapter."""
    model = load_adapted(base, start, dtype, trainable=True)
    if start is None:
        model = get_peft_model(model, _lora(job, "CAUSAL_LM"))
    if dtype is not torch.float32:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model


def _rows(job: Job, name: str, *columns: str) -> Dataset:
    shards = job.input("tokenized_splits").below(name)
    rows = concatenate_datasets([Dataset.from_file(str(file)) for file in shards]) if shards else Dataset.from_dict({})
    if name.endswith("_train") and not len(rows):
        raise FineTuneError(f"{job.stage}: no training rows are left in {name}; `ft status` shows where they went")
    return rows.select_columns([*columns, *({"seq_lengths"} & set(rows.column_names))])


def _sft_trainer(
    job: Job, base: Artifact, start: Artifact | None, dtype: torch.dtype, tokenizer: Any, arguments: dict[str, Any]
) -> Any:
    part = "cpt" if job.stage == "cpt_adapter" else "sft"
    model, train = _policy_model(job, base, start, dtype), _rows(job, f"{part}_train", "input_ids", "labels")
    if "seq_lengths" in train.column_names:
        refuse_bleeding(model, arguments["per_device_train_batch_size"])
        model.config.use_cache = False
    return SFTTrainer(
        model=model,
        processing_class=tokenizer,
        data_collator=PackedCollator(tokenizer.pad_token_id) if "seq_lengths" in train.column_names else None,
        args=SFTConfig(
            **arguments,
            max_length=None,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            eos_token=tokenizer.eos_token,
        ),
        train_dataset=train,
        eval_dataset=_rows(job, f"{part}_validation", "input_ids", "labels"),
    )


def _reward_trainer(
    job: Job, base: Artifact, start: Artifact | None, dtype: torch.dtype, tokenizer: Any, arguments: dict[str, Any]
) -> Any:
    def whole(row: dict[str, Any]) -> dict[str, Any]:
        return {name: row["prompt_ids"] + row[name] + row["suffix_ids"] for name in ("chosen_ids", "rejected_ids")}

    def rows(part: str) -> Dataset:
        columns = ("prompt_ids", "chosen_ids", "rejected_ids", "suffix_ids")
        return _rows(job, f"preference_{part}", *columns).map(whole, remove_columns=["prompt_ids", "suffix_ids"])

    model = load_reward_start(base, start, dtype, tokenizer.pad_token_id)
    return RewardTrainer(
        model=model,
        processing_class=tokenizer,
        args=RewardConfig(**arguments, max_length=None),
        train_dataset=rows("train"),
        eval_dataset=rows("validation"),
        peft_config=_lora(job, "SEQ_CLS"),
    )


def _dpo_trainer(
    job: Job, base: Artifact, start: Artifact | None, dtype: torch.dtype, tokenizer: Any, arguments: dict[str, Any]
) -> Any:
    def rows(part: str) -> Dataset:
        return _rows(job, f"preference_{part}", "prompt_ids", "chosen_ids", "rejected_ids")

    return PretokenizedDPOTrainer(
        model=_policy_model(job, base, start, dtype),
        processing_class=tokenizer,
        args=DPOConfig(**arguments, beta=job.identity["training"]["beta"], max_length=None),
        train_dataset=rows("train"),
        eval_dataset=rows("validation"),
    )


def _rloo_trainer(
    job: Job, base: Artifact, start: Artifact | None, dtype: torch.dtype, tokenizer: Any, arguments: dict[str, Any]
) -> Any:
    training = job.identity["training"]
    rows = _rows(job, f"{job.identity['rows']}_train", "prompt")
    prompts = [{"prompt": json.loads(row["prompt"])} for row in rows]
    return RLOOTrainer(
        model=_policy_model(job, base, start, dtype),
        processing_class=tokenizer,
        reward_funcs=load_reward(job.input("reward_model").folder, dtype),
        reward_processing_classes=tokenizer,
        args=RLOOConfig(
            **arguments,
            beta=training["beta"],
            num_generations=training["num_generations"],
            max_completion_length=training["max_completion_length"],
            temperature=training["temperature"],
        ),
        train_dataset=Dataset.from_list(prompts),
    )


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
            _save_model(job, model, trainer.processing_class, state, staging)
            staging.write_json("history.json", trainer.state.log_history)
            if trainer.args.deepspeed:
                staging.write_json("deepspeed.json", trainer.args.deepspeed)
            staging.metrics = metrics
    tracker.finish(metrics)


def _save_model(job: Job, model: Any, tokenizer: Any, state: dict[str, Any] | None, staging: Staging) -> None:
    base = job.input("base_model")
    info = {
        "base_content": base.manifest.metrics["content_hash"],
        "base_fingerprint": base.manifest.fingerprint,
        "stage": job.stage,
    }
    staging.write_json("adapter_info.json" if job.stage != "reward_model" else "reward_info.json", info)
    if job.stage == "reward_model":
        merged = model.merge_and_unload(safe_merge=True).to(torch.bfloat16)
        merged.save_pretrained(staging.folder)
        tokenizer.save_pretrained(staging.folder)
        return
    model.save_pretrained(staging.folder, selected_adapters=["default"], state_dict=state)
    for name in ADAPTER_FILES:
        if not staging.file(name).is_file():
            raise FineTuneError(f"{job.stage}: PEFT wrote no {name}")
    config = json.loads(staging.file("adapter_config.json").read_text())
    # A path of this machine means nothing elsewhere; adapter_info.json pins the base by content.
    config["base_model_name_or_path"] = None
    staging.write_json("adapter_config.json", config)
    staging.file("README.md").unlink(missing_ok=True)
