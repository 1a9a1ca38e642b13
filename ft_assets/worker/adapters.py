"""What is trained, by ``adapter.method``, and how it is saved: the one place that knows the methods.

===============  ===========================================  ============================================
method           trains                                       its artifact
===============  ===========================================  ============================================
``full``         every weight, in float32                     a model in bfloat16, with its tokenizer
``lora``         low-rank matrices on the base model          PEFT adapter
``dora``         the same and a magnitude for each column     PEFT adapter
``qlora``        low-rank matrices on the base model in NF4   PEFT adapter, for the base model as it is
``lora_8bit``    the same in LLM.int8()                       PEFT adapter, for the base model as it is
``prompt_tuning``  embeddings before the text                 PEFT adapter
===============  ===========================================  ============================================

A reward model and a classifier are saved whole whatever the method: what reads them needs no base model.
"""

import json
from typing import Any

import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ft_assets.core.artifact import Artifact, Staging
from ft_assets.core.errors import FineTuneError
from ft_assets.recipes.training import QUANTIZED_BASE
from ft_assets.worker.job import Job
from ft_assets.worker.models import (
    ADAPTER_FILES,
    check_base,
    head_modules,
    load_adapter,
    load_causal,
    load_classifier,
    load_reward,
    quantization_config,
)

PIECE = "4GB"  # of a model's weights in one file
HEAD = "score"  # what transformers calls the head of a decoder that classifies
WHOLE = ("reward_model", "classifier")  # models that give a sequence a number or a label


def policy_model(job: Job, base: Artifact, start: Artifact | None, dtype: torch.dtype, attention: str) -> Any:
    """The causal model to train: it goes on from the stage before, or starts from the base model.

    Args:
        attention: transformers' ``attn_implementation``.
    """
    adapter = job.identity["adapter"]
    kernel = {"attn_implementation": attention}
    if adapter["method"] == "full":
        return load_causal(_start_folder(base, start), torch.float32, **kernel).train()
    model = load_causal(base.folder, dtype, **kernel, **_quantized(adapter, dtype))
    if start is not None:
        check_base(base, start)
        return load_adapter(model, start, "CAUSAL_LM")
    return get_peft_model(model, _peft_config(adapter, "CAUSAL_LM"))


def reward_model(job: Job, base: Artifact, start: Artifact | None, dtype: torch.dtype, pad_token_id: int) -> Any:
    """The model of the stage before with a fresh head that gives one number, to be trained together."""
    adapter = job.identity["adapter"]
    if adapter["method"] == "full":
        model = load_reward(_start_folder(base, start), torch.float32).train()
    else:
        model = load_reward(base.folder, dtype, **_quantized(adapter, dtype, skip=[HEAD]))
    model.config.pad_token_id = pad_token_id
    if adapter["method"] == "full":
        return model
    if start is not None:
        check_base(base, start)
        return load_adapter(model, start, "SEQ_CLS", (HEAD,))
    return get_peft_model(model, _peft_config(adapter, "SEQ_CLS", [HEAD]))


def classifier_model(job: Job, base: Artifact, labels: list[str], dtype: torch.dtype, pad_token_id: int) -> Any:
    """The base model with a fresh head that chooses one of ``labels``, to be trained together."""
    adapter = job.identity["adapter"]
    if adapter["method"] == "full":
        model = load_classifier(base.folder, torch.float32, labels).train()
        model.config.pad_token_id = pad_token_id
        return model
    heads = head_modules(load_classifier(base.folder, dtype, labels, device_map="meta"))
    model = load_classifier(base.folder, dtype, labels, **_quantized(adapter, dtype, skip=heads))
    model.config.pad_token_id = pad_token_id
    return get_peft_model(model, _peft_config(adapter, "SEQ_CLS", heads))


def prepare_trained(model: Any) -> None:
    """What is trained is kept in float32 while it is: TRL casts adapters of a quantized model to bfloat16, in which small
    steps are lost. TRL's copy of the adapter, the reference, is not trained; PEFT leaves it so with virtual tokens.
    """
    for name, parameter in model.named_parameters():
        if ".ref." in name:
            parameter.requires_grad = False
        elif parameter.requires_grad:
            parameter.data = parameter.data.float()


def _start_folder(base: Artifact, start: Artifact | None) -> Any:
    if start is None:
        return base.folder
    check_base(base, start)
    return start.folder


def _quantized(adapter: dict[str, Any], dtype: torch.dtype, skip: list[str] | None = None) -> dict[str, Any]:
    if adapter["method"] not in QUANTIZED_BASE:
        return {}
    config = quantization_config(QUANTIZED_BASE[adapter["method"]], dtype)
    config.llm_int8_skip_modules = ["lm_head", *(skip or [])]
    return {"quantization_config": config}


def _peft_config(adapter: dict[str, Any], task_type: str, heads: list[str] | None = None) -> Any:
    if adapter["method"] == "prompt_tuning":
        return PromptTuningConfig(task_type=task_type, num_virtual_tokens=adapter["num_virtual_tokens"])
    settings = {key: value for key, value in adapter.items() if key != "method"}
    return LoraConfig(task_type=task_type, use_dora=adapter["method"] == "dora", modules_to_save=heads, **settings)


def save(job: Job, model: Any, tokenizer: Any, state: dict[str, Any] | None, staging: Staging) -> None:
    """Writes what was trained as safetensors, and beside it the base model it belongs to.

    Args:
        state: the weights by name, where ranks hold parts of them (ZeRO-3); None where ``model`` holds them.
    """
    base = job.input("base_model")
    info = {
        "base_content": base.manifest.metrics["content_hash"],
        "base_fingerprint": base.manifest.fingerprint,
        "method": job.identity["adapter"]["method"],
        "stage": job.stage,
    }
    staging.write_json("reward_info.json" if job.stage == "reward_model" else "adapter_info.json", info)
    if isinstance(model, PeftModel):
        _save_adapter(job, model, state, staging)
        if job.identity["adapter"]["method"] == "prompt_tuning":
            tokenizer.save_pretrained(staging.folder)  # no merged model brings it along
        if job.stage not in WHOLE:
            return
        model, state = _folded(job, base, model.config, staging), None
    if state is not None:
        tied = model.all_tied_weights_keys  # gathered from ranks, they no longer share their memory
        state = {name: weights.to(torch.bfloat16) for name, weights in state.items() if name not in tied}
    else:
        model = model.to(torch.bfloat16)
    model.config.use_cache = True
    model.save_pretrained(staging.folder, state_dict=state, max_shard_size=PIECE)
    tokenizer.save_pretrained(staging.folder)


def _save_adapter(job: Job, model: Any, state: dict[str, Any] | None, staging: Staging) -> None:
    model.save_pretrained(staging.folder, selected_adapters=["default"], state_dict=state)
    for name in ADAPTER_FILES:
        if not staging.file(name).is_file():
            raise FineTuneError(f"{job.stage}: PEFT wrote no {name}")
    config = json.loads(staging.file("adapter_config.json").read_text())
    # A path of this machine means nothing elsewhere; adapter_info.json pins the base by content.
    config["base_model_name_or_path"] = None
    staging.write_json("adapter_config.json", config)
    staging.file("README.md").unlink(missing_ok=True)


def _folded(job: Job, base: Artifact, trained: Any, staging: Staging) -> Any:
    """The adapter that was just saved, folded into the base model as it is, which was quantized while it trained."""
    unset_hf_deepspeed_config()  # or ZeRO-3 would load a part of it, and wait for the other ranks to load theirs
    if job.stage == "classifier":
        plain = load_classifier(base.folder, torch.float32, list(trained.id2label.values()))
        plain.config.pad_token_id = trained.pad_token_id
    else:
        plain = load_reward(base.folder, torch.float32)
    folded = PeftModel.from_pretrained(plain, staging.folder).merge_and_unload(safe_merge=True)
    for name in ADAPTER_FILES:
        staging.file(name).unlink()
    return folded
