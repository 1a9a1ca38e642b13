"""Stage ``tokenized_splits``: from validated rows to token ids, labels and held-out sets.

A training row, drawn (``*`` is a supervised token; everything else carries label -100)::

    <|im_start|> user \n question <|im_end|> \n <|im_start|> assistant \n   answer <|im_end|>
                                                                           ****** **********

Prompt and answer are tokenized apart, because at inference the prompt is tokenized alone.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import polars as pl
from jinja2.exceptions import TemplateError

from ft_assets.core.errors import FineTuneError
from ft_assets.core.reasons import Reason
from ft_assets.core.split import Merged, merge, part_of, prompt_key
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_tokenizer

IGNORED = -100
TEMPLATE_SECONDS = 10
MOST_FEW_SHOT = 64
TRAINING_ROLES = ("cpt", "sft", "preference")
HELD_OUT_ROLES = ("test", "out_of_domain", "safety")


def run(job: Job) -> None:
    tokenizer = load_tokenizer(job.input("base_model").folder)
    if tokenizer.chat_template is None:
        raise FineTuneError("the base model's tokenizer has no chat template; use an instruction-tuned base")
    tokens = Tokens(tokenizer, job.identity["data"]["max_length"], job.identity["data"]["overlong"])
    held_out = {role: list(_rows(job, role)) for role in HELD_OUT_ROLES}
    evaluated = {prompt_key(row) for rows in held_out.values() for row in rows}
    with job.commit() as staging:
        parts: dict[str, dict[str, Any]] = {}
        dropped: list[dict[str, Any]] = []
        for role in TRAINING_ROLES:
            job.progress(f"tokenizing {role}")
            merged = merge(_rows(job, role), evaluated)
            split = _split(merged, role, tokens, job.identity)
            _limit(split, merged, job.identity["data"]["max_train_rows"])
            if role == "cpt":
                split = {part: _blocks(rows, tokens.max_length) for part, rows in split.items()}
            for part, rows in split.items():
                pl.DataFrame(rows, schema=SCHEMAS[role], strict=False).write_parquet(
                    staging.file(f"{role}_{part}.parquet")
                )
            parts[role] = _summary(merged, split)
            dropped += [{"role": role, **entry} for entry in merged.dropped]
            if role == "sft":
                staging.write_json("few_shot.json", _few_shot(merged, split))
        for role, rows in held_out.items():
            staging.write_json(f"eval_{role}.json", [_question(row, role) for row in rows])
            parts[role] = {"rows_in": len(rows), "rows": {"evaluation": len(rows)}, "dropped": {}}
        pl.DataFrame(dropped, schema=DROPPED_SCHEMA).write_parquet(staging.file("dropped.parquet"))
        staging.metrics = {"parts": parts, "chat_template": tokenizer.chat_template}


IDS = pl.List(pl.Int32)
SCHEMAS: dict[str, dict[str, Any]] = {
    "cpt": {"row_id": pl.String, "input_ids": IDS, "labels": IDS},
    "sft": {"row_id": pl.String, "input_ids": IDS, "labels": IDS},
    "preference": {
        "row_id": pl.String,
        "prompt": pl.String,
        "prompt_ids": IDS,
        "chosen_ids": IDS,
        "rejected_ids": IDS,
        "suffix_ids": IDS,
    },
}
DROPPED_SCHEMA = (
    dict.fromkeys(("role", "batch"), pl.String)
    | {"position": pl.Int64}
    | dict.fromkeys(("row_id", "reason", "detail"), pl.String)
)


def _rows(job: Job, role: str) -> Iterator[dict[str, Any]]:
    """Validated rows of a role, in the order of batch key and position."""
    for name in sorted(name for name in job.upstream if name.startswith(f"{role}:")):
        frame = pl.read_parquet(job.input(name).file("rows.parquet"))
        for row in frame.iter_rows(named=True):
            yield {**row, "batch": name.removeprefix(f"{role}:")}


class Tokens:
    """Turns rows into token ids with the model's own chat template."""

    def __init__(self, tokenizer: Any, max_length: int, overlong: str):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.overlong = overlong

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """The chat template's text, in transformers' sandbox and within :data:`TEMPLATE_SECONDS`."""
        try:
            with _time_limit(TEMPLATE_SECONDS):
                return str(
                    self.tokenizer.apply_chat_template(
                        messages, tokenize=False, add_generation_prompt=add_generation_prompt
                    )
                )
        except (TemplateError, TimeoutError) as error:
            raise FineTuneError(f"the chat template fails on {json.dumps(messages)[:300]}: {error}") from error

    def segments(self, messages: list[dict[str, str]]) -> Iterator[tuple[list[int], bool]]:
        """Pieces of a conversation as (token ids, is the assistant speaking), in order; joined they are the whole."""
        done = ""
        for index, turn in enumerate(messages):
            if turn["role"] != "assistant":
                continue
            before = self.render(messages[:index], add_generation_prompt=True)
            after = self.render(messages[: index + 1], add_generation_prompt=False)
            if not before.startswith(done) or not after.startswith(before):
                raise FineTuneError(
                    "the chat template does not extend a conversation turn by turn, so the assistant's "
                    "tokens cannot be told from the rest"
                )
            yield self.encode(before[len(done) :]), False
            yield self.encode(after[len(before) :]), True
            done = after

    def supervised(self, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
        """Input ids and labels, equally long; the model learns each answer up to its end-of-turn token."""
        ids: list[int] = []
        labels: list[int] = []
        for segment, speaking in self.segments(messages):
            learned = self.up_to_end(segment) if speaking else 0
            ids += segment
            labels += segment[:learned] + [IGNORED] * (len(segment) - learned)
        last = max((i for i, label in enumerate(labels) if label != IGNORED), default=-1) + 1
        return ids[:last], labels[:last]

    def up_to_end(self, segment: list[int]) -> int:
        eos = self.tokenizer.eos_token_id
        return segment.index(eos) + 1 if eos in segment else len(segment)


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _split(merged: Merged, role: str, tokens: Tokens, identity: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    shares, seed = identity["data"]["split"], identity["seed"]
    split: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for row in merged.rows:
        part = part_of(prompt_key(row), seed, shares["validation"], shares["test"])
        made = {"sft": _instruction, "preference": _preference, "cpt": _text}[role](row, tokens)
        longest = max(_length(made), default=0)
        if role != "cpt" and longest > tokens.max_length:
            if tokens.overlong == "error":
                raise FineTuneError(
                    f"{row['batch']} line {row['position']} has {longest} tokens, data.max_length is "
                    f"{tokens.max_length}; raise it, or set data.overlong: drop"
                )
            merged.drop(row, Reason.TOO_LONG, f"{longest} tokens, data.max_length is {tokens.max_length}")
        elif role == "sft" and all(label == IGNORED for label in made["labels"]):
            merged.drop(row, Reason.NO_SUPERVISED_TOKEN, "nothing in this row carries a label")
        else:
            split[part].append({**made, "row_id": row["row_id"], "batch": row["batch"], "position": row["position"]})
    return split


def _length(row: dict[str, Any]) -> list[int]:
    if "input_ids" in row:
        return [len(row["input_ids"])]
    return [len(row["prompt_ids"]) + len(row[name]) + len(row["suffix_ids"]) for name in ("chosen_ids", "rejected_ids")]


def _instruction(row: dict[str, Any], tokens: Tokens) -> dict[str, Any]:
    ids, labels = tokens.supervised(row["messages"])
    return {"input_ids": ids, "labels": labels}


def _text(row: dict[str, Any], tokens: Tokens) -> dict[str, Any]:
    ids = [*tokens.encode(row["text"]), tokens.tokenizer.eos_token_id]
    return {"input_ids": ids, "labels": ids}


def _preference(row: dict[str, Any], tokens: Tokens) -> dict[str, Any]:
    prompt = tokens.render(row["prompt"], add_generation_prompt=True)
    made: dict[str, Any] = {
        "prompt": json.dumps(row["prompt"], ensure_ascii=False),
        "prompt_ids": tokens.encode(prompt),
    }
    for name in ("chosen", "rejected"):
        whole = tokens.render(
            [*row["prompt"], {"role": "assistant", "content": row[name]}], add_generation_prompt=False
        )
        if not whole.startswith(prompt):
            raise FineTuneError("the chat template renders a prompt otherwise when an answer follows")
        answer = tokens.encode(whole[len(prompt) :])
        end = tokens.up_to_end(answer)
        made[f"{name}_ids"], made["suffix_ids"] = answer[:end], answer[end:]
    return made


def _blocks(rows: list[dict[str, Any]], length: int) -> list[dict[str, Any]]:
    """Documents joined and cut into blocks of ``length`` tokens; the last, shorter block is kept, so no token is lost."""
    stream = list(chain.from_iterable(row["input_ids"] for row in rows))
    blocks = [stream[start : start + length] for start in range(0, len(stream), length)]
    return [{"row_id": f"block-{index}", "input_ids": block, "labels": block} for index, block in enumerate(blocks)]


def _limit(split: dict[str, list[dict[str, Any]]], merged: Merged, most: int | None) -> None:
    """Keeps the first ``most`` training rows in hash order; the rest is counted as dropped."""
    if most is not None and len(split["train"]) > most:
        ordered = sorted(split["train"], key=lambda row: row["row_id"])
        split["train"] = ordered[:most]
        for row in ordered[most:]:
            merged.drop(row, Reason.OVER_LIMIT, f"data.max_train_rows is {most}")


def _summary(merged: Merged, split: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Counts of a role: rows in = documents kept + dropped; ``rows`` counts what trains (blocks for cpt)."""
    lengths = [max(_length(row)) for row in split["train"]]
    tokens = sum(sum(_length(row)) for row in split["train"])
    supervised = sum(
        sum(label != IGNORED for label in row["labels" if "labels" in row else "chosen_ids"]) for row in split["train"]
    )
    return {
        "rows_in": merged.rows_in,
        "rows_kept": merged.rows_in - len(merged.dropped),
        "rows": {part: len(rows) for part, rows in split.items()},
        "dropped": merged.counts(),
        "tokens": tokens,
        "supervised_tokens": supervised,
        "longest": max(lengths, default=0),
        "lengths": lengths,
    }


def _few_shot(merged: Merged, split: dict[str, list[dict[str, Any]]]) -> list[list[dict[str, str]]]:
    """Training conversations in hash order, as many as any recipe may put into a few-shot prompt."""
    trained = {row["row_id"] for row in split["train"]}
    rows = sorted((row for row in merged.rows if row["row_id"] in trained), key=lambda row: row["row_id"])
    return [row["messages"] for row in rows[:MOST_FEW_SHOT]]


def _question(row: dict[str, Any], role: str) -> dict[str, Any]:
    if role == "safety":
        return {"row_id": row["row_id"], "messages": row["prompt"], "expected": row["label"]}
    return {"row_id": row["row_id"], "messages": row["messages"][:-1], "expected": row["messages"][-1]["content"]}
