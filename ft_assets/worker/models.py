"""Loading models: safetensors only, no remote code. An artifact that was trained is an adapter or, with ``full``, a model."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig, GgufConfig

from ft_assets.core.artifact import Artifact
from ft_assets.core.errors import FineTuneError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def load_causal(folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True, **options
    )
    return model.eval()


def load_form(folder: Path, dtype: torch.dtype) -> Any:
    """A merged model or any of its quantized forms, as its users load it. What a GGUF file holds is unpacked to ``dtype``."""
    file = next(folder.glob("*.gguf"), None)
    if file is None:
        return load_causal(folder, dtype)
    return load_causal(folder, dtype, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True))


def load_reward(folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    """A model that gives one number for a sequence; without a head of its own it gets a fresh one."""
    return _load_with_head(folder, dtype, num_labels=1, **options)


def load_classifier(folder: Path, dtype: torch.dtype, labels: list[str] | None = None, **options: Any) -> Any:
    """A model that gives a sequence one of ``labels``, with a fresh head where it has none for as many; without ``labels``
    one that was saved with its own.
    """
    if labels is not None:
        options |= {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: number for number, label in enumerate(labels)},
            "problem_type": "single_label_classification",
            "ignore_mismatched_sizes": True,
        }
    return _load_with_head(folder, dtype, **options)


def head_modules(model: Any) -> list[str]:
    """The modules of a classifying model that make a label of what its body has read: all beside the body, and its pooler,
    which few base models bring along.

    Raises:
        FineTuneError: the architecture does not tell its body from its head.
    """
    body = model.base_model_prefix
    if not hasattr(model, body):
        raise FineTuneError(
            f"{type(model).__name__} has no part {body!r}, so its head cannot be told; use another base"
        )
    beside = [name for name, part in model.named_children() if name != body and any(True for _ in part.parameters())]
    return beside + ([f"{body}.pooler"] if getattr(model.base_model, "pooler", None) is not None else [])


def _load_with_head(folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=dtype,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        **options,
    ).eval()


def quantization_config(name: str, dtype: torch.dtype) -> Any:
    """bitsandbytes' settings for ``nf4`` (with double quantization) or ``int8``; ``dtype`` is what NF4 computes in."""
    if name == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    return BitsAndBytesConfig(load_in_8bit=True)


def is_adapter(artifact: Artifact) -> bool:
    return ADAPTER_FILES[0] in artifact.manifest.files


def load_trained(base: Artifact, trained: Artifact | None, dtype: torch.dtype) -> Any:
    """What a training stage made, ready to answer: its adapter on the base model, its whole model, or the base alone."""
    if trained is None:
        return load_causal(base.folder, dtype)
    check_base(base, trained)
    if not is_adapter(trained):
        return load_causal(trained.folder, dtype)
    return PeftModel.from_pretrained(load_causal(base.folder, dtype), trained.folder)


def without_peft(model: Any) -> Any:
    """The model as transformers alone runs it: the adapter folded into its weights; virtual tokens as rows of the input
    embedding, whose ids are then ``model.virtual_ids``, to be put before those of each text.
    """
    if not isinstance(model, PeftModel):
        return model
    if not model.peft_config["default"].is_prompt_learning:
        return model.merge_and_unload(safe_merge=True).eval()
    plain, learned = model.get_base_model(), model.get_prompt(batch_size=1)[0].detach()
    table = plain.get_input_embeddings()
    size, width = table.weight.shape
    wider = torch.nn.Embedding(size + len(learned), width, device=table.weight.device, dtype=table.weight.dtype)
    with torch.no_grad():
        wider.weight.copy_(torch.cat([table.weight, learned.to(table.weight)]))
    plain.set_input_embeddings(wider)
    plain.virtual_ids = list(range(size, size + len(learned)))
    return plain.eval()


def check_base(base: Artifact, trained: Artifact) -> None:
    """Refuses an adapter that was trained on other weights.

    Raises:
        FineTuneError: names both hashes.
    """
    trained_on = json.loads(trained.file("adapter_info.json").read_text())["base_content"]
    content = base.manifest.metrics["content_hash"]
    if trained_on != content:
        raise FineTuneError(
            f"adapter {trained.manifest.fingerprint[:12]} was trained on base {trained_on[:12]}, "
            f"this base is {content[:12]}; an adapter fits no other base"
        )


def load_adapter(model: Any, adapter: Artifact, task_type: str, heads: tuple[str, ...] = ()) -> Any:
    """An adapter on a model, to be trained on.

    Args:
        heads: modules of the model that are trained whole beside the adapter, which was made without them.

    Raises:
        FineTuneError: the adapter holds weights that the model has no place for.
    """
    config = PeftConfig.from_pretrained(adapter.folder)
    config.task_type, config.inference_mode = task_type, False
    weights = load_file(adapter.file(ADAPTER_FILES[1]))
    if heads:
        config.modules_to_save = list(heads)
        weights |= {f"base_model.model.{head}.weight": model.get_submodule(head).weight.detach() for head in heads}
    adapted = get_peft_model(model, config)
    strange = set_peft_model_state_dict(adapted, weights).unexpected_keys
    if strange and not config.is_prompt_learning:  # PEFT sets virtual tokens by hand, and then calls them unexpected
        raise FineTuneError(
            f"adapter {adapter.manifest.fingerprint[:12]} has {len(strange)} weights that the base model has no place "
            f"for, {strange[0]} among them"
        )
    return adapted
