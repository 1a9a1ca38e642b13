"""Batched greedy generation and likelihoods; the same on every contestant."""

from collections.abc import Callable
from typing import Any

import torch

from ft_assets.core.metrics import perplexity


def generate(model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int, batch_size: int,
             say: Callable[[int], None]) -> list[str]:
    """Greedy answers, one a prompt and in the prompts' order; batches are made by length to waste little padding.

    Args:
        say: called with the number of finished prompts after each batch.
    """
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(ids[index]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer.pad({"input_ids": [ids[index] for index in chosen]}, return_tensors="pt", padding_side="left")
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        with torch.inference_mode():
            output = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True,
                                    pad_token_id=tokenizer.pad_token_id)
        texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1]:], skip_special_tokens=True)
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text
        say(min(len(order), start + batch_size))
    return answers


def answer_perplexity(model: Any, rows: list[tuple[list[int], list[int]]], batch_size: int, pad_token_id: int) -> float:
    """Perplexity over supervised tokens of (input ids, labels) rows; labels of -100 do not count."""
    total, tokens = 0.0, 0
    ordered = sorted(rows, key=lambda row: len(row[0]))
    for start in range(0, len(ordered), batch_size):
        chunk = ordered[start : start + batch_size]
        length = max(len(ids) for ids, _ in chunk)
        ids = torch.tensor([row + [pad_token_id] * (length - len(row)) for row, _ in chunk])
        labels = torch.tensor([row + [-100] * (length - len(row)) for _, row in chunk])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row, _ in chunk])
        with torch.inference_mode():
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        nll = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten().to(logits.device), ignore_index=-100, reduction="sum")
        total += float(nll)
        tokens += int((labels[:, 1:] != -100).sum())
    return perplexity(total, tokens)
