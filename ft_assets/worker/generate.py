"""Batched greedy generation; the same on every contestant.

A model with learned virtual tokens (``model.virtual_ids``) reads these before each text.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from ft_assets.core.errors import FineTuneError

WORTH_CACHING = 16


@dataclass(frozen=True)
class Answer:
    """What a model said to one prompt.

    ``answer_tokens`` counts up to and with the end of the answer, ``confidence`` is the mean probability (0 to 1) that the
    model gave them, ``seconds`` what the batch took in which the prompt was answered: so long its asker waits.
    """

    text: str
    prompt_tokens: int
    answer_tokens: int
    confidence: float
    seconds: float


class ChosenProbabilities(LogitsProcessor):
    """Keeps of each step the probability of the most likely token, which greedy search chooses: one number a row."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        wide = scores.float()
        self.steps.append((wide.amax(-1) - wide.logsumexp(-1)).exp())
        return scores


def generate(
    model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int, batch_size: int, say: Callable[[int], None]
) -> list[Answer]:
    """Greedy answers, one a prompt and in the prompts' order.

    Batches are made by length to waste little padding. What all prompts begin with (the system turn, the few-shot
    examples) is computed once; padding then stands between it and the rest, masked::

        shared shared shared  pad  pad  rest
        shared shared shared  rest rest rest

    Args:
        say: called with the number of finished prompts after each batch.

    Raises:
        FineTuneError: a prompt leaves no room for the answer in the model's context.
    """
    virtual = getattr(model, "virtual_ids", [])
    ids = [[*virtual, *tokenizer(prompt, add_special_tokens=False)["input_ids"]] for prompt in prompts]
    _check_room(model, ids, max_new_tokens)
    shared = shared_prefix(ids)
    cache = _prefill(model, shared)
    order = sorted(range(len(prompts)), key=lambda index: len(ids[index]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = [ids[index] for index in chosen]
        answers |= zip(chosen, _answered(model, tokenizer, batch, shared, cache, max_new_tokens), strict=True)
        say(len(answers))
    return [answers[index] for index in range(len(prompts))]


def room(model: Any, max_new_tokens: int) -> int | None:
    """The most tokens a prompt may have, so that the answer fits into the model's context; None where it has no end."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if context is None else context - max_new_tokens - len(getattr(model, "virtual_ids", []))


def _check_room(model: Any, ids: list[list[int]], max_new_tokens: int) -> None:
    most = room(model, max_new_tokens)
    virtual = len(getattr(model, "virtual_ids", []))
    for number, row in enumerate(ids):
        if most is not None and len(row) - virtual > most:
            raise FineTuneError(
                f"prompt {number + 1} of {len(ids)} has {len(row) - virtual} tokens; with an answer of {max_new_tokens} the "
                f"model's context holds {most}. Shorten it, or lower max_new_tokens"
            )


def _answered(
    model: Any, tokenizer: Any, ids: list[list[int]], shared: list[int], cache: DynamicCache | None, max_new_tokens: int
) -> list[Answer]:
    started = time.monotonic()
    batch = _pad([row[len(shared) :] for row in ids], shared, tokenizer.pad_token_id, model.device)
    options: dict[str, Any] = {}
    if cache is not None:
        options["past_key_values"] = copy.deepcopy(cache)
        options["past_key_values"].batch_repeat_interleave(len(ids))
    probabilities = ChosenProbabilities()
    with torch.inference_mode():
        output = model.generate(
            **batch,
            **options,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList([probabilities]),
        )
    written = output[:, batch["input_ids"].shape[1] :].tolist()
    chances = torch.stack(probabilities.steps, 1).tolist()
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    seconds = time.monotonic() - started
    counts = [up_to_end(row, end_tokens(model)) for row in written]
    return [
        Answer(text, len(prompt), count, sum(chance[:count]) / count, seconds)
        for text, prompt, count, chance in zip(texts, ids, counts, chances, strict=True)
    ]


def end_tokens(model: Any) -> set[int]:
    """The tokens that end an answer."""
    found = model.generation_config.eos_token_id
    return set() if found is None else {found} if isinstance(found, int) else set(found)


def up_to_end(tokens: list[int], ends: set[int]) -> int:
    """How many tokens there are up to and with the first that ends the answer; what follows is padding."""
    return next((at + 1 for at, token in enumerate(tokens) if token in ends), len(tokens))


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
