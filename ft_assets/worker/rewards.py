"""What the graph's own reward model thinks of answers: one number each, of which only differences mean something."""

from typing import Any

import torch

from ft_assets.core.errors import FineTuneError
from ft_assets.core.reasons import RowFault
from ft_assets.worker.hardware import pick_device, pick_dtype
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_reward
from ft_assets.worker.template import Template

Row = dict[str, Any]


def rewards(job: Job, tokenizer: Any, records: list[Row]) -> list[float]:
    """The reward of each answer, in the records' order, by the artifact that is the job's ``reward_model``.

    Question and answer are put into tokens as the pairs were that it was trained on.

    Args:
        tokenizer: that of the base model.
        records: ``{"row_id", "messages", "answer"}``; the messages end with the user's turn.

    Raises:
        FineTuneError: the chat template fails on a conversation, or a reward is not finite; names the row.
    """
    device = pick_device(job.execution["device"])
    dtype = pick_dtype(device, job.execution["dtype"])
    model = load_reward(job.input("reward_model").folder, dtype).to(device)
    ids = conversations(tokenizer, records)
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    found = [0.0] * len(ids)
    batch_size = job.execution["batch_size"]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        for at, reward in zip(chosen, _scored(model, [ids[at] for at in chosen], tokenizer.pad_token_id), strict=True):
            found[at] = reward
        job.progress("judging answers", step=min(start + batch_size, len(order)), total=len(order))
    for record, reward in zip(records, found, strict=True):
        if not torch.isfinite(torch.tensor(reward)):
            raise FineTuneError(
                f"the reward of row {record['row_id']} is {reward}: the reward model is broken, or computes in a number type "
                "that is too narrow; set hardware.dtype to bfloat16 or float32"
            )
    return found


def conversations(tokenizer: Any, records: list[Row]) -> list[list[int]]:
    """Token ids of each question with its answer, up to what the chat template puts after that."""
    template = Template(tokenizer)
    prompts = template.render([record["messages"] for record in records], add_generation_prompt=True)
    turns = [[*record["messages"], {"role": "assistant", "content": record["answer"]}] for record in records]
    wholes = template.render(turns, add_generation_prompt=False)
    asked, said = [], []
    for record, prompt, whole in zip(records, prompts, wholes, strict=True):
        for text in (prompt, whole):
            if isinstance(text, RowFault):
                raise FineTuneError(f"row {record['row_id']}: {text}")
        asked.append(str(prompt))
        said.append(str(whole)[len(str(prompt)) :])
    both = zip(template.encode(asked), template.encode_next(said), strict=True)
    return [[*question, *answer] for question, answer in both]


def _scored(model: Any, rows: list[list[int]], pad: int) -> list[float]:
    """Padding is on the right: the model takes what it knows at the last token that is none."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device)
    with torch.inference_mode():
        scores: list[float] = model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
    return scores
