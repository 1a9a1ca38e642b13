"""Loading and saving models: safetensors only, no remote code."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ft_assets.core.artifact import Artifact
from ft_assets.core.errors import FineTuneError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def load_causal(folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True, **options
    )
    return model.eval()


def load_adapted(base: Artifact, adapter: Artifact | None, dtype: torch.dtype, trainable: bool = False) -> Any:
    """The base model with an adapter on it, or bare where there is none."""
    model = load_causal(base.folder, dtype)
    if adapter is None:
        return model
    check_base(base, adapter)
    return PeftModel.from_pretrained(model, adapter.folder, is_trainable=trainable)


def check_base(base: Artifact, adapter: Artifact) -> None:
    """Refuses an adapter that was trained on other weights.

    Raises:
        FineTuneError: names both hashes.
    """
    trained_on = json.loads(adapter.file("adapter_info.json").read_text())["base_content"]
    content = base.manifest.metrics["content_hash"]
    if trained_on != content:
        raise FineTuneError(
            f"adapter {adapter.manifest.fingerprint[:12]} was trained on base {trained_on[:12]}, "
            f"this base is {content[:12]}; an adapter fits no other base"
        )


def load_reward_start(base: Artifact, adapter: Artifact | None, dtype: torch.dtype, pad_token_id: int) -> Any:
    """The SFT model's body with a fresh one-number head, the start of a reward model."""
    model = AutoModelForSequenceClassification.from_pretrained(
        base.folder, num_labels=1, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True
    )
    model.config.pad_token_id = pad_token_id
    if adapter is not None:
        check_base(base, adapter)
        config = PeftConfig.from_pretrained(adapter.folder)
        config.task_type = None  # the adapter was trained for another head; its body fits
        model = PeftModel.from_pretrained(model, adapter.folder, config=config).merge_and_unload(safe_merge=True)
    return model


def load_reward(folder: Path, dtype: torch.dtype) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True
    ).eval()
