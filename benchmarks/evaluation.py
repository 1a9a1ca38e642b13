"""``python -m benchmarks.evaluation``: how fast contestants answer, against transformers' ``generate`` on one row after another.

The demo's held-out questions go to the embedded model in float32 on the CPU, bare and after five examples, by both ways in
turn. Prints rows per second of each, their ratio (target at least 3) and how many answers are the same. ``--rows N`` and
``--batch-size N`` set how many.
"""

import argparse
import subprocess
import sys
import time
from typing import Any

import torch

from ft_assets.core.recipe_run import stages_of
from ft_assets.worker.answers import with_examples
from ft_assets.worker.generate import generate
from ft_assets.worker.models import load_causal
from ft_assets.worker.template import rendered
from ft_assets.worker.tokenizer import load_tokenizer
from resources.environment import catalog, settings

EXAMPLES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    given = parser.parse_args()
    subprocess.run(
        [sys.executable, "-m", "ft_assets.cli", "run", "demo", "--until", "tokenized_splits"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    found = settings()
    known = catalog(found)
    run = stages_of(known, known.recipe("demo"), found.open_store())
    folder = run.artifact("base_model").folder
    model, tokenizer = load_causal(folder, torch.float32), load_tokenizer(folder)
    rows = run.artifact("questions").json("test.json")[: given.rows]
    shown = run.artifact("tokenized_splits").json("few_shot.json")[:EXAMPLES]
    most = run.recipe.evaluation.max_new_tokens or 0
    print(
        f"{len(rows)} rows, batches of {given.batch_size}, {most} new tokens at most, {torch.get_num_threads()} threads"
    )
    for name, examples in (("zero-shot", []), (f"{EXAMPLES} examples", shown)):
        prompts = [rendered(tokenizer, with_examples(row["messages"], examples), True) for row in rows]
        compare(name, model, tokenizer, prompts, most, given.batch_size)


def compare(name: str, model: Any, tokenizer: Any, prompts: list[str], most: int, batch_size: int) -> None:
    generate(model, tokenizer, prompts[:1], 2, 1, lambda done: None)  # what happens once happens before
    started = time.monotonic()
    answers = generate(model, tokenizer, prompts, most, batch_size, lambda done: None)
    ours = len(prompts) / (time.monotonic() - started)
    print(f"{name}: {ours:.2f} rows/s; now row by row ...", flush=True)
    started = time.monotonic()
    alone = [one_row(model, tokenizer, prompt, most) for prompt in prompts]
    plain = len(prompts) / (time.monotonic() - started)
    same = sum(answer.text == text for answer, text in zip(answers, alone, strict=True))
    print(
        f"{name}: {ours:.2f} rows/s, row by row {plain:.2f} rows/s, {ours / plain:.1f} times as fast (target at least 3); "
        f"{same} of {len(prompts)} answers are the same",
        flush=True,
    )


def one_row(model: Any, tokenizer: Any, prompt: str, most: int) -> str:
    """What transformers answers to one prompt."""
    batch = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        output = model.generate(**batch, max_new_tokens=most, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    text: str = tokenizer.decode(output[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


if __name__ == "__main__":
    main()
