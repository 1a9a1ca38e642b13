"""Stage ``merged_model``: the last adapter folded into the base weights, checked against adapter-on-base."""

from typing import Any

import polars as pl
import torch

from ft_assets.core.errors import MissingInput
from ft_assets.worker.hardware import pick_device
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_causal, load_trained, without_peft
from ft_assets.worker.tokenizer import load_tokenizer

PARITY_ROWS = 8


def run(job: Job) -> None:
    device = pick_device(job.execution["device"])
    base = job.input("base_model")
    adapter = job.input("adapter") if job.has("adapter") else None
    tokenizer = load_tokenizer(base.folder)
    prompts = _parity_prompts(job)
    with job.commit() as staging:
        job.progress("merging the adapter into the base weights")
        # Folded in float32, then rounded once to the base's bfloat16.
        adapted = load_trained(base, adapter, torch.float32).to(device)
        before = _logits(adapted, tokenizer, prompts)
        without_peft(adapted).to(torch.bfloat16).save_pretrained(staging.folder)
        tokenizer.save_pretrained(staging.folder)
        job.progress("checking the merged weights against adapter on base")
        after = _logits(load_causal(staging.folder, torch.float32).to(device), tokenizer, prompts)
        staging.metrics = {"parity": _parity(before, after), "parity_rows": len(prompts)}


def _parity_prompts(job: Job) -> list[list[int]]:
    """Token ids of a few validation rows, else of training rows.

    Raises:
        MissingInput: the splits are gone, or hold no row to compare on.
    """
    stage, fingerprint = job.execution["splits"]
    splits = job.store.open(stage, fingerprint)
    if splits is None:
        raise MissingInput(f"{job.stage} needs {stage} {fingerprint[:12]}, which has not been made")
    for name in ("sft_validation", "sft_train", "cpt_validation", "cpt_train", "preference_train", "prompt_train"):
        for file in splits.below(name):
            frame = pl.read_ipc_stream(file)
            column = "input_ids" if "input_ids" in frame.columns else "prompt_ids"
            if frame.height:
                return [list(ids) for ids in frame[column].head(PARITY_ROWS).to_list()]
    raise MissingInput(f"{stage} {fingerprint[:12]} holds no row on which to compare the merged weights")


def _logits(model: Any, tokenizer: Any, prompts: list[list[int]]) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([ids]).to(model.device)).logits[0].float().cpu() for ids in prompts]


def _parity(before: list[torch.Tensor], after: list[torch.Tensor]) -> dict[str, float]:
    """Largest logit error, share of tokens with the same first choice, and mean KL divergence in nats."""
    left, right = torch.cat(before), torch.cat(after)
    divergence = torch.nn.functional.kl_div(
        right.log_softmax(-1), left.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    return {
        "max_logit_error": float((left - right).abs().max()),
        "token_agreement": float((left.argmax(-1) == right.argmax(-1)).float().mean()),
        "kl_nats": float(divergence),
    }
