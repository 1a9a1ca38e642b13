"""A model that is small and still learns whole sentences by heart in seconds, taught by plain torch."""

import random
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

Labelled = tuple[list[int], list[int]]


def wide_model(tokenizer: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def learn(model: Any, rows: list[Labelled], epochs: int, batch_size: int = 2, learning_rate: float = 3e-3) -> Any:
    """The model after so many epochs over rows of ids and labels."""
    steps = epochs * (len(rows) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    draw = random.Random(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them wait for one another on so small a model
    for _ in range(epochs):
        order = draw.sample(rows, len(rows))
        for start in range(0, len(rows) - batch_size + 1, batch_size):
            some = order[start : start + batch_size]
            longest = max(len(ids) for ids, _ in some)
            ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in some])
            labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in some])
            model(input_ids=ids, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    torch.set_num_threads(threads)
    return model.eval()


def conversation(tokenizer: Any, question: str, answer: str) -> Labelled:
    """Ids and labels of one question with its answer, as they are trained on."""
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    before = tokenizer(asked, add_special_tokens=False)["input_ids"]
    said = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return before + said, [-100] * len(before) + said
