"""Batched greedy generation and likelihoods; the same on every contestant.

A model with learned virtual tokens (``model.virtual_ids``) reads these before each text.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from ft_assets.core.statistics import perplexity

WORTH_CACHING = 16


def generate(
    model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int, batch_size: int, say: Callable[[int], None]
) -> list[str]:
    """Greedy answers, one a prompt and in the prompts' order.

    Batches are made by length to waste little padding. What all prompts begin with (the system turn, the few-shot
    examples) is computed once; padding then stands between it and the rest, masked::

        shared shared shared  pad  pad  rest
        shared shared shared  rest rest rest

    Args:
        say: called with the number of finished prompts after each batch.
    """
    virtual = getattr(model, "virtual_ids", [])
    ids = [[*virtual, *tokenizer(prompt, add_special_tokens=False)["input_ids"]] for prompt in prompts]
    shared = shared_prefix(ids)
    cache = _prefill(model, shared)
    order = sorted(range(len(prompts)), key=lambda index: len(ids[index]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = _pad([ids[index][len(shared) :] for index in chosen], shared, tokenizer.pad_token_id, model.device)
        options: dict[str, Any] = {}
        if cache is not None:
            options["past_key_values"] = copy.deepcopy(cache)
            options["past_key_values"].batch_repeat_interleave(len(chosen))
        with torch.inference_mode():
            output = model.generate(
                **batch,
                **options,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text
        say(min(len(order), start + batch_size))
    return answers


def shared_prefix(ids: list[list[int]]) -> list[int]:
    """The tokens all rows begin with, leaving each row one of its own at least; none where too few to gain from."""
    if len(ids) < 2:
        return []
    first, last = min(ids), max(ids)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    length = min(length, min(map(len, ids)) - 1)
    return first[:length] if length >= WORTH_CACHING else []


def _prefill(model: Any, shared: list[int]) -> DynamicCache | None:
    if not shared:
        return None
    with torch.inference_mode():
        cache: DynamicCache = model(
            input_ids=torch.tensor([shared], device=model.device),
            use_cache=True,
            past_key_values=DynamicCache(config=model.config),
        ).past_key_values
    return cache


def _pad(rest: list[list[int]], shared: list[int], pad: int, device: Any) -> dict[str, torch.Tensor]:
    longest = max(map(len, rest))
    ids = [shared + [pad] * (longest - len(row)) + row for row in rest]
    mask = [[1] * len(shared) + [0] * (longest - len(row)) + [1] * len(row) for row in rest]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


def answer_perplexity(model: Any, rows: list[tuple[list[int], list[int]]], batch_size: int, pad_token_id: int) -> float:
    """Perplexity over supervised tokens of (input ids, labels) rows; labels of -100 do not count.

    The head runs on supervised positions alone: over a large vocabulary the rest would cost more than the body.
    """
    total, tokens = 0.0, 0
    virtual = getattr(model, "virtual_ids", [])
    rows = [([*virtual, *ids], [-100] * len(virtual) + labels) for ids, labels in rows]
    ordered = sorted(rows, key=lambda row: len(row[0]))
    for start in range(0, len(ordered), batch_size):
        chunk = ordered[start : start + batch_size]
        length = max(len(ids) for ids, _ in chunk)
        ids = torch.tensor([row + [pad_token_id] * (length - len(row)) for row, _ in chunk], device=model.device)
        labels = torch.tensor([row + [-100] * (length - len(row)) for _, row in chunk], device=model.device)[:, 1:]
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row, _ in chunk], device=model.device)
        wanted = labels != -100
        with torch.inference_mode():
            hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
            logits = model.get_output_embeddings()(hidden[wanted]).float()
        total += float(torch.nn.functional.cross_entropy(logits, labels[wanted], reduction="sum"))
        tokens += int(wanted.sum())
    return perplexity([total], [tokens], 1, 0).mean
