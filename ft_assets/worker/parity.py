"""Whether two models that should say the same do: what they say of the same rows of the recipe, token by token.

One model is in memory at a time: of the one that is the measure its logits are kept, at most :data:`MOST_BYTES` of them.
"""

import gc
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from peft.utils.integrations import dequantize_module_weight
from safetensors import safe_open

from ft_assets.core.artifact import Artifact
from ft_assets.core.errors import FineTuneError, MissingInput
from ft_assets.worker.job import Job

MOST_TOKENS = 1024  # read by each model
LONGEST = 512  # tokens of one row: the last, where its answer is
MOST_BYTES = 512 * 2**20
IGNORED = -100
ROLES = ("sft", "cpt", "preference", "prompt")


@dataclass(frozen=True)
class Row:
    """Token ids, and for each the id it is to be or :data:`IGNORED` where nothing is learned of it."""

    ids: list[int]
    labels: list[int]


def rows_of(job: Job, most_tokens: int = MOST_TOKENS, parts: tuple[str, ...] = ("validation", "train")) -> list[Row]:
    """Rows of the first role that has any: those for validation first, then those trained on, in the splits' order, until they
    hold ``most_tokens``.

    Raises:
        MissingInput: the splits are gone, or hold no row to compare on.
    """
    stage, fingerprint = job.execution["splits"]
    splits = job.store.open(stage, fingerprint)
    if splits is None:
        raise MissingInput(f"{job.stage} needs {stage} {fingerprint[:12]}, which has not been made")
    found = rows_in(splits, most_tokens, parts)
    if not found:
        raise MissingInput(f"{stage} {fingerprint[:12]} holds no row on which to compare models")
    return found


def rows_in(splits: Artifact, most_tokens: int, parts: tuple[str, ...]) -> list[Row]:
    """Those of :func:`rows_of`, of splits that are there."""
    for role in ROLES:
        found: list[Row] = []
        room = most_tokens
        for part in parts:
            for file in splits.below(f"{role}_{part}"):
                for row in pl.read_ipc_stream(file).head(most_tokens).iter_rows(named=True):
                    whole = _row(row)
                    if room > 0 and len(whole.ids) > 1:
                        found.append(whole)
                        room -= len(whole.ids)
        if found:
            return found
    return []


def _row(row: dict[str, Any]) -> Row:
    if "input_ids" in row:
        ids = list(row["input_ids"])
        labels = list(row.get("labels") or ids)
    else:
        asked, answer = list(row["prompt_ids"]), list(row.get("chosen_ids") or [])
        ids = asked + answer
        labels = [IGNORED] * len(asked) + answer if answer else ids
    return Row(ids[-LONGEST:], labels[-LONGEST:])


def logits(model: Any, rows: list[Row]) -> list[torch.Tensor]:
    """Of each row (positions, vocabulary), in float32 on the CPU: of its last positions that have a next token, as many as all
    rows can keep within :data:`MOST_BYTES`.

    Raises:
        FineTuneError: one of them is no finite number.
    """
    found = []
    with torch.inference_mode():
        for some in _batches(rows):
            longest = max(len(row.ids) for row in some)
            ids = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in some], device=model.device)
            lengths = torch.tensor([[len(row.ids)] for row in some], device=model.device)
            mask = (torch.arange(longest, device=model.device) < lengths).long()
            said = model(input_ids=ids, attention_mask=mask).logits
            most = max(1, MOST_BYTES // (4 * said.shape[-1] * len(rows)))
            for row, of_row in zip(some, said, strict=True):
                # What is padded lies behind each row, where none of its tokens looks.
                found.append(of_row[: len(row.ids) - 1][-most:].float().cpu())
                if not found[-1].isfinite().all():
                    raise FineTuneError(
                        "the model's logits are no finite numbers, so its weights are broken; it is not kept"
                    )
    return found


def _batches(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows next to each other that are no more than :data:`LONGEST` tokens together, padding included: a quantized weight is
    unpacked once for all of them.
    """
    some: list[Row] = []
    for row in rows:
        if some and max(len(each.ids) for each in [*some, row]) * (len(some) + 1) > LONGEST:
            yield some
            some = []
        some.append(row)
    yield some


def weight_error(model: Any, folder: Path) -> dict[str, Any]:
    """The tensor of a model that is furthest from the one of its name in the safetensors of ``folder``: the norm of the difference
    over that of the tensor, quantized weights unpacked. It sees what a few rows cannot; it is measured before the model has
    answered, as bitsandbytes repacks its weights then.
    """
    names, modules = {name for name, _ in model.named_parameters(remove_duplicate=False)}, dict(model.named_modules())
    worst: tuple[float, str] = (0.0, "")
    with torch.inference_mode():
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt", device=str(model.device)) as weights:
                for name in sorted(weights.keys()):
                    owner, _, own = name.rpartition(".")
                    if name not in names and not (own == "weight" and hasattr(modules.get(owner), "qweight")):
                        continue
                    expected = weights.get_tensor(name).float()
                    found = _plain(modules[owner], expected) if own == "weight" else getattr(modules[owner], own)
                    error = float((found.float() - expected).norm() / expected.norm().clamp_min(1e-30))
                    worst = max(worst, (math.inf if math.isnan(error) else error, name))
    return {"weight_error": worst[0], "worst_weight": worst[1]}


def _plain(module: Any, like: torch.Tensor) -> torch.Tensor:
    """The weight of a module as numbers. One that is packed in a way of its own is asked what it makes of each unit vector."""
    if hasattr(module, "weight"):
        return dequantize_module_weight(module)
    units = torch.eye(like.shape[1], device=like.device)
    nothing = module(torch.zeros_like(units[:1]))
    return torch.cat([(module(some) - nothing).T for some in units.split(1024)], dim=1)


def freed() -> None:
    """Gives back what a model held that nothing names any more, before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def compared(rows: list[Row], before: list[torch.Tensor], after: list[torch.Tensor]) -> dict[str, Any]:
    """How far ``after`` is from ``before``, over all tokens.

    Returns:
        ``max_logit_error``, the largest difference; ``logit_error``, the root of the mean squared difference over that of the
        logits themselves, both without their mean over the vocabulary, which changes nothing; ``token_agreement``, the
        share of tokens with the same first choice; ``kl_nats``, the mean Kullback-Leibler divergence of after from before;
        ``perplexity_ratio``, after over before, of the learned tokens; ``tokens`` compared, and ``learned_tokens``.
    """
    largest = error = scale = agreed = divergence = surprise = 0.0
    tokens = learned = 0
    for row, left, right in zip(rows, before, after, strict=True):
        largest = max(largest, float((left - right).abs().max()))
        error += float(_centred(left - right).square().sum())
        scale += float(_centred(left).square().sum())
        agreed += float((left.argmax(-1) == right.argmax(-1)).sum())
        expected, found = left.log_softmax(-1), right.log_softmax(-1)
        divergence += float(torch.nn.functional.kl_div(found, expected, log_target=True, reduction="sum"))
        labels = torch.tensor(row.labels[-len(left) :])
        told = (labels != IGNORED).nonzero()[:, 0]
        surprise += float((expected - found)[told, labels[told]].sum())
        tokens, learned = tokens + len(left), learned + len(told)
    return {
        "max_logit_error": largest,
        "logit_error": math.sqrt(error / scale) if scale else math.inf,
        "token_agreement": agreed / tokens,
        "kl_nats": divergence / tokens,
        "perplexity_ratio": math.exp(min(700.0, surprise / max(1, learned))),  # e^700 is near the largest float
        "tokens": tokens,
        "learned_tokens": learned,
    }


def _centred(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.mean(-1, keepdim=True)
