"""Whether two models that should say the same do: their logits on a few rows of the recipe."""

from typing import Any

import polars as pl
import torch

from ft_assets.core.errors import MissingInput
from ft_assets.worker.job import Job

ROWS = 8


def prompts(job: Job) -> list[list[int]]:
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
                return [list(ids) for ids in frame[column].head(ROWS).to_list()]
    raise MissingInput(f"{stage} {fingerprint[:12]} holds no row on which to compare the merged weights")


def logits(model: Any, rows: list[list[int]]) -> list[torch.Tensor]:
    """Of each row (tokens, vocabulary), in float32 on the CPU."""
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([ids]).to(model.device)).logits[0].float().cpu() for ids in rows]


def compared(before: list[torch.Tensor], after: list[torch.Tensor]) -> dict[str, float]:
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
