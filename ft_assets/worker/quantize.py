"""Stage ``quantized_model``: the merged model in bitsandbytes' NF4 and int8, each a folder that transformers loads."""

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from ft_assets.core.plan import weights_bytes
from ft_assets.worker.hardware import pick_device, pick_dtype
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_causal
from ft_assets.worker.tokenizer import load_tokenizer


def run(job: Job) -> None:
    merged = job.input("merged_model")
    dtype = pick_dtype(pick_device(job.execution["device"]), job.execution["dtype"])
    sizes = {"merged": weights_bytes(merged.folder)}
    with job.commit() as staging:
        for name in job.identity["formats"]:
            job.progress(f"quantizing to {name}")
            model = load_causal(merged.folder, dtype, quantization_config=quantization_config(name, dtype))
            target = staging.folder / name
            model.save_pretrained(target)
            load_tokenizer(merged.folder).save_pretrained(target)
            sizes[name] = weights_bytes(target)
        staging.metrics = {"size_bytes": sizes}


def quantization_config(name: str, dtype: torch.dtype) -> Any:
    if name == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    return BitsAndBytesConfig(load_in_8bit=True)
