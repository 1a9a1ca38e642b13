"""Runs of the worker for the plan's memory: models of a given shape with random weights, rows of one length, a few steps."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.gpu_shapes import FIRST, Shape, build_model, no_text_tokenizer
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.lineage import Inputs, model_stages
from ft_assets.core.memory import Layout, Memory, stage_memory
from ft_assets.core.shape import read_shape
from ft_assets.core.stage import Stage
from ft_assets.recipes.schema import Recipe
from ft_assets.worker.job import Job

STEPS = 3
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
ASSETS = {"sft": "sft_adapter", "reward": "reward_model", "policy": "policy"}
CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@dataclass(frozen=True)
class Case:
    """One training. ``tokens`` is the length of each other row, and of a pair's chosen side; the others are shorter by a quarter,
    so that batches are padded as real ones are.
    """

    shape: Shape
    method: str = "lora"
    stage: str = "sft"
    tokens: int = 512
    micro_batch: int = 2
    activation_checkpointing: bool = False
    accumulation: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    dropout: float = 0.0
    optim: str = "adamw_torch_fused"
    packing: bool = False
    policy: str = "dpo"
    zero_stage: int = 0
    liger: bool = False

    @property
    def name(self) -> str:
        stage = self.policy if self.stage == "policy" else self.stage
        extras = [
            word
            for word, there in (
                ("checkpointing", self.activation_checkpointing),
                (f"dropout {self.dropout}", self.dropout),
                (f"accumulation {self.accumulation}", self.accumulation > 1),
                (self.optim, self.optim != "adamw_torch_fused"),
                ("packed", self.packing),
            )
            if there
        ]
        size = f"{self.micro_batch} x {self.tokens}"
        return " ".join([self.shape.name, stage, self.method, self.dtype, size, *extras])

    def recipe(self) -> Recipe:
        adapter: dict[str, Any] = {"method": self.method, **LORA, "lora_dropout": self.dropout}
        if self.method == "full":
            adapter = {"method": "full"}
        elif self.method == "prompt_tuning":
            adapter = {"method": "prompt_tuning", "num_virtual_tokens": 16}
        training = {
            "learning_rate": 1e-4,
            "global_batch_size": self.micro_batch * self.accumulation,
            "num_train_epochs": 1,
            "max_steps": STEPS,
            "optim": self.optim,
        }
        if self.stage == "policy":
            training |= {"method": self.policy, "beta": 0.1}
        # A recipe has a stage that writes; this one is never run.
        beside = {"policy": {**training, "method": "dpo", "beta": 0.1}} if self.stage == "reward" else {}
        role = "sft" if self.stage == "sft" else "preference"
        data = {"max_length": self.tokens, "overlong": "error", "split": {"validation": 0.0, "test": 0.0}}
        return Recipe.model_validate(
            {
                "name": "memory",
                "base_model": "base",
                "seed": 1,
                "data": {**data, "packing": self.packing, role: ["rows"], "test": ["test"]},
                "adapter": adapter,
                self.stage: training,
                **beside,
                "evaluation": {"metric": "exact_match", "few_shot": 0, "max_new_tokens": 4},
                "hardware": {"device": self.device, "dtype": self.dtype},
                "publish": {"to": "nowhere"},
            }
        )

    @property
    def rows(self) -> int:
        return self.micro_batch * self.accumulation * STEPS

    def layout(self) -> Layout:
        return Layout(
            device=self.device,
            processes=1,
            nodes=1,
            micro_batch=self.micro_batch,
            zero_stage=self.zero_stage,
            offload_optimizer="none",
            offload_param="none",
            activation_checkpointing=self.activation_checkpointing,
            liger=self.liger,
        )

    def predicted(self, base: Path) -> Memory:
        seen = {"rows": self.rows, "tokens": self.rows * self.tokens, "longest": self.tokens}
        return stage_memory(self.recipe(), self.stage, read_shape(base), seen, self.layout())


def write_base(shape: Shape, folder: Path, device: str = "cpu") -> None:
    """A model of the shape in bfloat16, with a tokenizer that knows no text."""
    build_model(shape, device, torch.bfloat16, "sdpa").save_pretrained(folder)
    tokenizer = no_text_tokenizer(shape)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)


def prepare(case: Case, base: Path, folder: Path) -> Job:
    """The job of a case, over a store in ``folder`` that holds what it reads. ``base`` is linked, not copied."""
    store = ArtifactStore(str(folder / "store"), folder / "store")
    batches = {role: {"rows@1": "rows"} for role in ("sft", "preference") if getattr(case.recipe().data, role)}
    stages = model_stages(case.recipe(), Inputs({**batches, "test": {"test@1": "test"}}, "base", "content"))
    if store.lookup("base_model", "base") is None:
        with store.write("base_model", "base", code_version="1", identity={}, upstream={}) as staging:
            staging.metrics = {"content_hash": "content"}
            for path in sorted(base.iterdir()):
                staging.file(path.name).symlink_to(path)
    splits = stages["tokenized_splits"].fingerprint
    if store.lookup("tokenized_splits", splits) is None:
        with store.write("tokenized_splits", splits, code_version="1", identity={}, upstream={}) as staging:
            part = "sft" if case.stage == "sft" else "preference"
            _write_rows(staging.file(f"{part}_train/0.arrow"), case, part)
    return _job(case, stages[ASSETS[case.stage]], store, folder)


def _job(case: Case, stage: Stage, store: ArtifactStore, folder: Path) -> Job:
    hardware = case.recipe().hardware
    placement = {
        "processes": 1,
        "micro_batch": case.micro_batch,
        "gradient_accumulation_steps": case.accumulation,
        "zero_stage": case.zero_stage,
        "offload_optimizer": "none",
        "offload_param": "none",
        "activation_checkpointing": case.activation_checkpointing,
        "longest_row_tokens": case.tokens,
        "peak_bytes": 0,
        "activations_bytes": 0,
    }
    execution = {
        "partition": "memory",
        "device": case.device,
        "dtype": case.dtype,
        "deepspeed": {},
        "torch_compile": False,
        "use_liger_kernel": "auto",
        "full_determinism": False,
        "tracker": {"mode": "disabled"},
        "memory_gib": 1000.0,
        "grace_seconds": 30.0,
        "placement": placement,
        **hardware.checkpoints(),
    }
    return Job(
        **stage.request(),
        execution=execution,
        store=store,
        progress_file=folder / "progress.jsonl",
        cache=folder / "cache",
    )


def _write_rows(file: Path, case: Case, part: str) -> None:
    random = np.random.default_rng(0)

    def ids(length: int) -> list[int]:
        return random.integers(FIRST, case.shape.vocabulary, length).tolist()

    def each() -> Iterator[dict[str, Any]]:
        for row in range(case.rows):
            shorter = case.tokens - case.tokens // 4
            if part == "sft":
                tokens = ids(shorter if row % 2 and not case.packing else case.tokens)
                packed = {"seq_lengths": [shorter, case.tokens // 4]} if case.packing else {}
                yield {"row_id": str(row), "input_ids": tokens, "labels": tokens, **packed}
            else:
                given, chosen, rejected = ids(case.tokens // 4), ids(shorter), ids(case.tokens // 2)
                sides = {"prompt_ids": given, "chosen_ids": chosen, "rejected_ids": rejected}
                yield {"row_id": str(row), **sides, "suffix_ids": []}

    table = pa.Table.from_pylist(list(each()))
    lists = [field.with_type(pa.large_list(pa.int32())) for field in table.schema if field.name != "row_id"]
    table = table.cast(pa.schema([pa.field("row_id", pa.large_string()), *lists]))
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(str(file), table.schema) as stream:
        stream.write_table(table)
