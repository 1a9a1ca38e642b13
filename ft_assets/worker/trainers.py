"""The trainer of each stage and method: TRL's own, over the ids that ``tokenized_splits`` made."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets, disable_caching
from transformers import DataCollatorWithPadding, EvalPrediction, Trainer, TrainingArguments
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from ft_assets.core.artifact import Artifact
from ft_assets.core.errors import FineTuneError
from ft_assets.core.labels import METRICS
from ft_assets.worker import lora_linear, trial
from ft_assets.worker.adapters import WHOLE, classifier_model, policy_model, prepare_trained, reward_model
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_reward
from ft_assets.worker.packing import PackedCollator, TryPacking
from ft_assets.worker.speed import Counter, Kernels, kernels
from ft_assets.worker.template import IGNORED
from ft_assets.worker.tokenizer import load_tokenizer
from ft_assets.worker.zero import deepspeed_config

NEVER = 10**9  # steps
PAIR = ("prompt_ids", "chosen_ids", "rejected_ids")
ONLINE = {"rloo": (RLOOTrainer, RLOOConfig), "grpo": (GRPOTrainer, GRPOConfig)}


class Tokenized:
    """Beside one of TRL's trainers: its rows have been tokenized, and stay as they are."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


class TokenizedDPOTrainer(Tokenized, DPOTrainer):
    """TRL's, over pairs that have been tokenized."""


class TokenizedKTOTrainer(Tokenized, KTOTrainer):
    """TRL's, over rows that have been tokenized and have their completion of another prompt."""


class TokenizedORPOTrainer(ORPOTrainer):
    """TRL's, over rows that have been tokenized."""

    def tokenize_row(self, feature: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        return _orpo_row(feature)


@dataclass(frozen=True)
class Built:
    """A trainer, what counts its tokens, and the kernels it computes with."""

    trainer: Any
    counter: Counter
    kernels: Kernels


class Stage:
    """What every trainer of a stage is made of."""

    def __init__(self, job: Job, device: str, dtype: torch.dtype, folder: Path):
        self.job, self.dtype = job, dtype
        self.base, self.splits = job.input("base_model"), job.input("tokenized_splits")
        self.start: Artifact | None = job.input("adapter") if job.has("adapter") else None
        self.tokenizer = load_tokenizer(self.base.folder)
        self.packed = job.stage in ("sft_adapter", "sft_trial") and "seq_lengths" in self.rows("sft_train").column_names
        zero_stage = job.execution["placement"]["zero_stage"]
        writes = job.stage not in WHOLE
        self.kernels = kernels(device, self.packed, zero_stage, writes, job.execution["use_liger_kernel"])
        self.arguments = training_arguments(job, device, dtype, folder)
        self.arguments["use_liger_kernel"] = self.kernels.use_liger_kernel

    def settings(self, config: Any, **own: Any) -> Any:
        """TRL's configuration. It is made before the model: with ZeRO-3, transformers then loads each weight into the parts
        that ranks hold, instead of whole into each.
        """
        return config(**{**self.arguments, **own})

    def model(self) -> Any:
        return policy_model(self.job, self.base, self.start, self.dtype, self.kernels.attn_implementation)

    def reference(self) -> Any:
        """The model of the stage before, beside the one that is trained; none where PEFT keeps a copy of the adapter."""
        return self.model().eval() if self.job.identity["adapter"]["method"] == "full" else None

    def rows(self, name: str, *columns: str) -> Dataset:
        """Rows of a part of the splits, mapped into memory; all columns where none is named."""
        shards = self.splits.below(name)
        if not shards:
            return Dataset.from_dict({name: [] for name in ("row_id", *columns)})
        rows = concatenate_datasets([Dataset.from_file(str(file)) for file in shards])
        return (
            rows.select_columns(["row_id", *columns, *({"seq_lengths"} & set(rows.column_names))]) if columns else rows
        )

    def training_rows(self, name: str, *columns: str) -> Dataset:
        rows = self.rows(f"{name}_train", *columns)
        if not len(rows):
            raise FineTuneError(
                f"{self.job.stage}: no training rows are left in {name}_train; `ft status` shows where they went"
            )
        return rows


def build(job: Job, device: str, dtype: torch.dtype, folder: Path) -> Built:
    """The trainer of a job.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: what the model computes in.
        folder: where checkpoints go.
    """
    # What ``datasets`` derives of rows belongs to this run, not beside the artifact that it read them from.
    disable_caching()
    tempfile.tempdir = str(job.scratch / ".temporary")
    Path(tempfile.tempdir).mkdir(exist_ok=True)
    stage = Stage(job, device, dtype, folder)
    if job.stage in ("cpt_adapter", "sft_adapter", "sft_trial"):
        trainer = _sft(stage)
    elif job.stage == "reward_model":
        trainer = _reward(stage)
    elif job.stage == "classifier":
        trainer = _classifier(stage)
    else:
        method = job.identity["training"]["method"]
        trainer = {"dpo": _dpo, "kto": _kto, "orpo": _orpo}.get(method, _online)(stage)
    prepare_trained(trainer.model)
    if stage.kernels.fused_lora:
        lora_linear.fuse(trainer.model)
    return Built(trainer, Counter(trainer), stage.kernels)


def trains_whole(job: Job) -> bool:
    """Whether weights that are no adapter's are trained: all of them, or those of a head."""
    return job.identity["adapter"]["method"] == "full" or job.stage in WHOLE


def training_arguments(job: Job, device: str, dtype: torch.dtype, folder: Path) -> dict[str, Any]:
    """What all trainers are told, in the names of transformers' ``TrainingArguments``."""
    training, placement, cuda = job.identity["training"], job.execution["placement"], device == "cuda"
    deepspeed = deepspeed_config(job, device, dtype)
    # On a CPU the frozen base model of an adapter is in ``dtype`` as it is; what is trained whole is in float32, and cast.
    cast = cuda or (trains_whole(job) and deepspeed is None)
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
        "optim": training["optim"],
        "seed": job.identity["seed"],
        "data_seed": job.identity["seed"],
        "use_cpu": not cuda,
        "bf16": cast and dtype is torch.bfloat16,
        "fp16": cuda and dtype is torch.float16,
        "activation_checkpointing": placement["activation_checkpointing"],
        "torch_compile": job.execution["torch_compile"],
        "full_determinism": job.execution["full_determinism"],
        "include_num_input_tokens_seen": "non_padding",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        **saving(training),
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": cuda,
        "ddp_find_unused_parameters": False,
        "deepspeed": deepspeed,
        **trial.arguments(job),
    }


def saving(training: dict[str, Any]) -> dict[str, Any]:
    """When the trainer itself saves: at its end, and at each evaluation where the best weights are wanted."""
    if training["metric_for_best_model"] is None:
        return {"save_strategy": "steps", "save_steps": NEVER}
    # The trainer takes the mean of its batches' losses: of one row each, it does not hang on the micro-batch.
    every = {
        "eval_steps": training["eval_steps"],
        "save_steps": training["eval_steps"],
        "per_device_eval_batch_size": 1,
    }
    best = {"load_best_model_at_end": True, "metric_for_best_model": training["metric_for_best_model"]}
    return {"save_strategy": "steps", "eval_strategy": "steps", **every, **best}


def _sft(stage: Stage) -> Any:
    part = "cpt" if stage.job.stage == "cpt_adapter" else "sft"
    settings = stage.settings(
        SFTConfig,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        eos_token=stage.tokenizer.eos_token,
    )
    model, train = stage.model(), stage.training_rows(part, "input_ids", "labels")
    if stage.packed:
        model.config.use_cache = False
    return SFTTrainer(
        model=model,
        processing_class=stage.tokenizer,
        data_collator=PackedCollator(stage.tokenizer.pad_token_id) if stage.packed else None,
        callbacks=[TryPacking()] if stage.packed else None,
        args=settings,
        train_dataset=train,
        eval_dataset=stage.rows(f"{part}_validation", "input_ids", "labels"),
    )


def _reward(stage: Stage) -> Any:
    def whole(rows: Dataset) -> Dataset:
        return rows.map(_whole_row, remove_columns=["prompt_ids", "suffix_ids"]) if len(rows) else rows

    # Before the settings: PEFT copies the fresh head, of which ZeRO-3 would have left each rank a part.
    model = reward_model(stage.job, stage.base, stage.start, stage.dtype, stage.tokenizer.pad_token_id)
    return RewardTrainer(
        model=model,
        processing_class=stage.tokenizer,
        args=stage.settings(RewardConfig, max_length=None),
        train_dataset=whole(stage.training_rows("preference", *PAIR, "suffix_ids")),
        eval_dataset=whole(stage.rows("preference_validation", *PAIR, "suffix_ids")),
    )


def _whole_row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row["prompt_ids"] + row[name] + row["suffix_ids"] for name in ("chosen_ids", "rejected_ids")}


def _classifier(stage: Stage) -> Any:
    # An encoder counts its positions from the left, so that padding before a text would move them.
    stage.tokenizer.padding_side = "right"
    labels = sorted(stage.splits.json("labels.json")["train"])
    numbers = {label: number for number, label in enumerate(labels)}

    def numbered(rows: Dataset) -> Dataset:
        # A rare label may have fallen to validation alone, which the metrics of the splits tell.
        known = rows.filter(numbers.__contains__, input_columns="label") if len(rows) else rows
        if not len(known):
            return known
        made = known.map(lambda row: {"labels": numbers[row["label"]]}, remove_columns="label")
        return made.rename_column("labels", "label")  # under the first name the guard would take it for tokens' labels

    # Before the settings, as for a reward model.
    model = classifier_model(stage.job, stage.base, labels, stage.dtype, stage.tokenizer.pad_token_id)
    return Trainer(
        model=model,
        processing_class=stage.tokenizer,
        args=stage.settings(TrainingArguments, label_names=["labels"]),
        data_collator=DataCollatorWithPadding(stage.tokenizer),
        train_dataset=numbered(stage.training_rows("classification", "input_ids", "label")),
        eval_dataset=numbered(stage.rows("classification_validation", "input_ids", "label")),
        compute_loss_func=_loss_of_labels,
        compute_metrics=_measures_of_labels,
    )


def _loss_of_labels(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
    """Cross entropy over all rows of a step. Heads of transformers take the mean of each micro-batch, which the trainer, told
    that they take ``num_items_in_batch``, neither divides by the accumulation nor averages over ranks.
    """
    total = torch.nn.functional.cross_entropy(outputs["logits"].float(), labels, reduction="sum")
    return total / num_items_in_batch


def _measures_of_labels(found: EvalPrediction) -> dict[str, float]:
    scores = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
    return {name: measure(scores.argmax(-1), found.label_ids) for name, measure in METRICS.items()}


def _dpo(stage: Stage) -> Any:
    return _against_reference(stage, TokenizedDPOTrainer, DPOConfig, lambda pairs: pairs)


def _kto(stage: Stage) -> Any:
    return _against_reference(stage, TokenizedKTOTrainer, KTOConfig, unpaired)


def _against_reference(stage: Stage, trainer: Any, config: Any, rows_of: Callable[[Dataset], Dataset]) -> Any:
    settings = stage.settings(config, beta=stage.job.identity["training"]["beta"], max_length=None)
    return trainer(
        model=stage.model(),
        ref_model=stage.reference(),
        processing_class=stage.tokenizer,
        args=settings,
        train_dataset=rows_of(stage.training_rows("preference", *PAIR)),
        eval_dataset=rows_of(stage.rows("preference_validation", *PAIR)),
    )


def unpaired(pairs: Dataset) -> Dataset:
    """Each pair as a desirable and an undesirable row, and beside each the answer of the pair before, which fits another
    prompt: from those KTO estimates how far the policy has moved (arXiv 2402.01306, section 4.1).

    TRL rotates answers inside a micro-batch, where a pair's other answer would meet its own prompt.
    """

    def two(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {
            "row_id": [],
            "prompt_ids": [],
            "completion_ids": [],
            "KL_completion_ids": [],
            "label": [],
        }
        for row_id, prompt, chosen, rejected, index in zip(
            *(batch[name] for name in ("row_id", *PAIR)), indices, strict=True
        ):
            before = pairs[index - 1]
            rows["row_id"] += [row_id, row_id]
            rows["prompt_ids"] += [prompt, prompt]
            rows["completion_ids"] += [chosen, rejected]
            rows["KL_completion_ids"] += [before["chosen_ids"], before["rejected_ids"]]
            rows["label"] += [True, False]
        return rows

    return pairs.map(two, with_indices=True, batched=True, remove_columns=pairs.column_names) if len(pairs) else pairs


def _orpo(stage: Stage) -> Any:
    # Rows fit data.max_length; TRL takes 512 where it is not told, and nothing is cut after this.
    settings = stage.settings(
        ORPOConfig, beta=stage.job.identity["training"]["beta"], max_length=stage.job.identity["max_length"]
    )
    model = stage.model()
    # By this name transformers counts the tokens it has seen; of a pair, those of the chosen side.
    model.main_input_name = "chosen_input_ids"
    return TokenizedORPOTrainer(
        model=model,
        processing_class=stage.tokenizer,
        args=settings,
        train_dataset=stage.training_rows("preference", *PAIR),
        eval_dataset=stage.rows("preference_validation", *PAIR),
    )


def _orpo_row(row: dict[str, Any]) -> dict[str, Any]:
    prompt = row["prompt_ids"]
    made = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side in ("chosen", "rejected"):
        ids = prompt + row[f"{side}_ids"]
        made[f"{side}_input_ids"] = ids
        made[f"{side}_attention_mask"] = [1] * len(ids)
        made[f"{side}_labels"] = [IGNORED] * len(prompt) + row[f"{side}_ids"]
    return made


def _online(stage: Stage) -> Any:
    training = stage.job.identity["training"]
    trainer, config = ONLINE[training["method"]]
    named = ("beta", "num_generations", "max_completion_length", "temperature")
    # It counts the tokens of prompts and answers itself.
    counting = {"include_num_input_tokens_seen": "no"}
    settings = stage.settings(config, **counting, **{name: training[name] for name in named})
    rows = stage.training_rows(stage.job.identity["rows"], "prompt")
    return trainer(
        model=stage.model(),
        processing_class=stage.tokenizer,
        reward_funcs=load_reward(stage.job.input("reward_model").folder, stage.dtype),
        reward_processing_classes=stage.tokenizer,
        args=settings,
        train_dataset=Dataset.from_list(
            [{"prompt": json.loads(row["prompt"]), "row_id": row["row_id"]} for row in rows]
        ),
    )
