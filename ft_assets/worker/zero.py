"""DeepSpeed's configuration, made from the placement and the recipe; it is never kept by hand."""

from typing import Any

import torch

from ft_assets.core.errors import FineTuneError
from ft_assets.worker.job import Job


def deepspeed_config(job: Job, device: str, dtype: torch.dtype) -> dict[str, Any] | None:
    """DeepSpeed's JSON for a placement, or None where no engine is needed (ZeRO 0).

    On a CPU its half-precision modes stay off: as with one process, frozen weights are in ``dtype`` and what is trained in
    float32, and nothing is cast.

    Raises:
        FineTuneError: ``hardware.deepspeed.zero_optimization`` holds a name or a value that DeepSpeed refuses.
    """
    placement = job.execution["placement"]
    if not placement["zero_stage"]:
        return None
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": placement["micro_batch"],
        "gradient_accumulation_steps": placement["gradient_accumulation_steps"],
        "gradient_clipping": job.identity["training"]["max_grad_norm"],
        "bf16": {"enabled": device == "cuda" and dtype is torch.bfloat16},
        "fp16": {"enabled": device == "cuda" and dtype is torch.float16},
        "zero_optimization": {
            "stage": placement["zero_stage"],
            "stage3_gather_16bit_weights_on_model_save": placement["zero_stage"] == 3,
        },
        "zero_allow_untested_optimizer": True,
        # Its own Adam for offloaded states is compiled on first use; torch's runs on a CPU as it is.
        "zero_force_ds_cpu_optimizer": False,
    }
    for name in ("offload_optimizer", "offload_param"):
        if placement[name] != "none":
            config["zero_optimization"][name] = {"device": placement[name], "pin_memory": device == "cuda"}
    merged = _merged(config, job.execution["deepspeed"])
    _validate(merged)
    return merged


def _merged(config: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` laid upon ``config``, mapping by mapping."""
    both = {name: config[name] for name in over if isinstance(config.get(name), dict) and isinstance(over[name], dict)}
    return config | over | {name: _merged(inner, over[name]) for name, inner in both.items()}


def _validate(config: dict[str, Any]) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    try:
        DeepSpeedZeroConfig(**config["zero_optimization"])
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise FineTuneError(
            f"hardware.deepspeed: zero_optimization.{place} is {fault['input']!r:.80}: {fault['msg']}"
        ) from error
