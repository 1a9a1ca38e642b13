"""Stages ``prepared_batch`` and ``overlap``: all that can be done with one batch alone, and so is done once.

``prepared_batch`` holds an index of the batch's rows, their tokens and their sketches; ``overlap`` the rows that share an
n-gram with the recipe's evaluation sets. A new batch costs what the batch costs.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ft_assets.core import near
from ft_assets.core.artifact import Artifact, Staging
from ft_assets.core.errors import FineTuneError
from ft_assets.core.overlap import EvaluationGrams, contaminated
from ft_assets.core.reasons import Reason, RowFault
from ft_assets.core.split import INDEX, index_row
from ft_assets.core.texts import texts
from ft_assets.worker.job import Job
from ft_assets.worker.template import IGNORED, Template
from ft_assets.worker.tokenizer import load_tokenizer, whole_texts

# Rows are worked on together up to the first bound that is met.
PIECE_ROWS = 4096
PIECE_BYTES = 16 * 2**20

IDS = pa.large_list(pa.int32())
# ``row`` points into the index: an over-long row that is cut in pieces has several.
TOKENS = {
    "cpt": {"row": pa.uint32(), "input_ids": IDS, "labels": IDS},
    "sft": {"row": pa.uint32(), "input_ids": IDS, "labels": IDS},
    "preference": {
        "row": pa.uint32(),
        "prompt": pa.large_string(),
        "prompt_ids": IDS,
        "chosen_ids": IDS,
        "rejected_ids": IDS,
        "suffix_ids": IDS,
    },
    "prompt": {"row": pa.uint32(), "prompt": pa.large_string(), "prompt_ids": IDS},
    "classification": {"row": pa.uint32(), "input_ids": IDS, "label": pa.large_string()},
}
DROPPED = {"file": pl.String, "position": pl.Int64, "row_id": pl.String, "reason": pl.String, "detail": pl.String}

Row = dict[str, Any]


@dataclass(frozen=True)
class Fitted:
    """The pieces of a row, none over-long; whether it was truncated; how many pieces went for want of a label."""

    pieces: list[Row]
    truncated: bool = False
    unlabelled: int = 0


def rows_of(file: Path) -> Iterator[list[Row]]:
    """Validated rows, :data:`PIECE_ROWS` at a time, fewer where they are long."""
    for batch in pq.ParquetFile(file).iter_batches(PIECE_ROWS):
        some = max(1, PIECE_BYTES * len(batch) // max(1, batch.nbytes))
        for start in range(0, len(batch), some):
            yield batch.slice(start, some).to_pylist()


def prepare(job: Job) -> None:
    """Makes ``prepared_batch``."""
    role, data = job.identity["role"], job.identity["data"]
    wanted = data["near_duplicates"]
    template = template_of(job, role)
    validated = job.input("rows")
    total = validated.manifest.metrics["rows_kept"]
    with job.commit() as staging, ThreadPoolExecutor(1) as beside, Batch(staging, role) as made:
        for rows in rows_of(validated.file("rows.parquet")):
            sketching = beside.submit(near.sketch, joined(rows), wanted["ngram_words"]) if wanted else None
            tokenized = tokenize(rows, role, template, data)
            fitted = [fit(one, row, role, data) for one, row in zip(tokenized, rows, strict=True)]
            made.add(rows, fitted, sketching.result() if sketching else None)
            job.progress(f"tokenizing {job.execution['key']}", made.metrics["rows_in"], total)


def template_of(job: Job, role: str) -> Template:
    """The base model's template, or the tokenizer alone where rows are texts with a label."""
    base = job.input("base_model", but=".safetensors")
    template = _template(base.folder, role != "classification")
    if role == "classification":
        _check_reach(base, template.tokenizer, job.identity["data"]["max_length"])
    return template


@lru_cache(maxsize=2)
def _template(folder: Path, chats: bool) -> Template:
    return Template(load_tokenizer(folder), chats)


def joined(rows: list[Row]) -> list[str]:
    """All the words of each row as one text."""
    return [" ".join(texts(row)) for row in rows]


class Batch(ExitStack):
    """The files of a ``prepared_batch`` while it is made."""

    def __init__(self, staging: Staging, role: str):
        super().__init__()
        self.staging, self.role = staging, role
        self.schema = pa.schema(list(TOKENS[role].items()))
        self.metrics = {"rows_in": 0, "rows_kept": 0, "tokens": 0, "truncated": 0, "pieces_without_label": 0}
        self.index = [pl.DataFrame(schema=INDEX)]
        self.dropped: list[Row] = []
        sink = self.enter_context(pa.OSFile(str(staging.file("tokens.arrow")), "wb"))
        self.tokens = self.enter_context(pa.ipc.new_file(sink, self.schema))
        # One byte of each minimum, row after row.
        self.signatures = self.enter_context(staging.file("signatures.u8").open("wb"))

    def add(self, rows: list[Row], fitted: list[Fitted | RowFault], signatures: near.Signatures | None) -> None:
        pieces: list[Row] = []
        good: list[int] = []
        entries: list[Row] = []
        for at, (row, one) in enumerate(zip(rows, fitted, strict=True)):
            if isinstance(one, RowFault):
                place = {name: row[name] for name in ("file", "position", "row_id")}
                self.dropped.append({**place, "reason": one.reason.value, "detail": str(one)})
                continue
            pieces += [{"row": self.metrics["rows_kept"] + len(good), **piece} for piece in one.pieces]
            tokens = sum(tokens_of(piece) for piece in one.pieces)
            self.metrics["tokens"] += tokens
            self.metrics["truncated"] += one.truncated
            self.metrics["pieces_without_label"] += one.unlabelled
            good.append(at)
            entries.append(index_row({**row, "label": ""} if self.role == "prompt" else row, tokens))
        self.metrics["rows_in"] += len(rows)
        self.metrics["rows_kept"] += len(good)
        self.index.append(pl.DataFrame(entries, schema=INDEX))
        self.tokens.write_batch(pa.RecordBatch.from_pylist(pieces, schema=self.schema))
        if signatures is not None:
            self.signatures.write(np.ascontiguousarray(signatures[good]).tobytes())

    def __exit__(self, *failure: Any) -> bool | None:
        closed = super().__exit__(*failure)
        if failure[0] is None:
            pl.concat(self.index).write_ipc(self.staging.file("index.arrow"))
            pl.DataFrame(self.dropped, schema=DROPPED).write_parquet(self.staging.file("dropped.parquet"))
            self.staging.metrics = self.metrics
        return closed


def tokenize(rows: list[Row], role: str, template: Template, data: Row) -> list[Row | RowFault]:
    """Each row's tokens, not yet cut to length."""
    special = [template.special_token(texts(row)) for row in rows]
    plain = [row for row, token in zip(rows, special, strict=True) if token is None]
    of_plain = iter(_tokenized(plain, role, template, data))
    return [
        next(of_plain)
        if token is None
        else RowFault(Reason.SPECIAL_TOKENS, f"holds the model's special token {token}, which would become one")
        for token in special
    ]


def _tokenized(rows: list[Row], role: str, template: Template, data: Row) -> list[Row | RowFault]:
    if role == "cpt":
        return _documents(rows, template)
    if role == "classification":
        return _labelled(rows, template.tokenizer, data["max_length"])
    if role == "sft":
        return _conversations(rows, template, data["loss_on"])
    prompts = template.render([row["prompt"] for row in rows], add_generation_prompt=True)
    return _prompts(rows, prompts, template) if role == "prompt" else _pairs(rows, prompts, template)


def _check_reach(base: Artifact, tokenizer: Any, max_length: int) -> None:
    """Refuses texts that a model has no positions for: an encoder fails on them, or worse, does not."""
    reach = min(tokenizer.model_max_length, base.json("config.json").get("max_position_embeddings") or max_length)
    if max_length > reach:
        raise FineTuneError(f"data.max_length is {max_length}, the base model reads {reach} tokens; lower it to that")


def _labelled(rows: list[Row], tokenizer: Any, max_length: int) -> list[Row | RowFault]:
    made: list[Row | RowFault] = []
    for row, ids in zip(rows, whole_texts(tokenizer, [row["text"] for row in rows]), strict=True):
        if not ids:
            made.append(RowFault(Reason.EMPTY, "the tokenizer makes no token of it"))
            continue
        cut = whole_texts(tokenizer, [row["text"]], max_length)[0] if len(ids) > max_length else ids
        made.append({"input_ids": ids, "label": row["label"], "cut_ids": cut})
    return made


def _documents(rows: list[Row], template: Template) -> list[Row | RowFault]:
    end = template.tokenizer.eos_token_id
    if end is None:
        raise FineTuneError("the base model's tokenizer has no eos_token to end a text with")
    documents = [[*ids, end] for ids in template.encode([row["text"] for row in rows])]
    return [{"input_ids": ids, "labels": ids} for ids in documents]


def _conversations(rows: list[Row], template: Template, loss_on: str) -> list[Row | RowFault]:
    segments = template.segments([row["messages"] for row in rows])
    whole = [one for one in segments if not isinstance(one, RowFault)]
    firsts = iter(template.encode([one[0].text for one in whole]))
    others = iter(template.encode_next([segment.text for one in whole for segment in one[1:]]))
    made: list[Row | RowFault] = []
    for one in segments:
        if isinstance(one, RowFault):
            made.append(one)
            continue
        ids: list[int] = []
        labels: list[int] = []
        for at, segment in enumerate(one):
            piece = next(others if at else firsts)
            last = at == len(one) - 1
            learns = {"assistant": segment.speaking, "completion": last, "all": True}[loss_on]
            # What a template puts after the end of a turn is no answer, but part of the whole.
            whole_piece = loss_on == "all" and not last
            learned = (len(piece) if whole_piece else template.up_to_end(piece)) if learns else 0
            ids += piece
            labels += piece[:learned] + [IGNORED] * (len(piece) - learned)
        end = next((at for at in range(len(labels), 0, -1) if labels[at - 1] != IGNORED), 0)
        made.append({"input_ids": ids[:end], "labels": labels[:end]})
    return made


def _prompts(rows: list[Row], prompts: list[str | RowFault], template: Template) -> list[Row | RowFault]:
    return [
        text
        if isinstance(text, RowFault)
        else {"prompt": json.dumps(row["prompt"], ensure_ascii=False), "prompt_ids": ids}
        for row, text, ids in zip(rows, prompts, template.encode(_asked(prompts)), strict=True)
    ]


def _asked(prompts: list[str | RowFault]) -> list[str]:
    return ["" if isinstance(text, RowFault) else text for text in prompts]


def _pairs(rows: list[Row], prompts: list[str | RowFault], template: Template) -> list[Row | RowFault]:
    asked = _asked(prompts)
    made = _prompts(rows, prompts, template)
    for name in ("chosen", "rejected"):
        turns = [[*row["prompt"], {"role": "assistant", "content": row[name]}] for row in rows]
        whole = template.render(turns, add_generation_prompt=False)
        answers = [_answer(text, prompt) for text, prompt in zip(whole, asked, strict=True)]
        for at, ids in enumerate(template.encode_next(answers)):
            row, text, end = made[at], whole[at], template.up_to_end(ids)
            if isinstance(text, RowFault):
                made[at] = text
            elif isinstance(row, dict):
                row |= {f"{name}_ids": ids[:end], "suffix_ids": ids[end:]}
    return made


def _answer(text: str | RowFault, prompt: str) -> str:
    if isinstance(text, RowFault):
        return ""
    if not text.startswith(prompt):
        raise FineTuneError("the chat template renders a prompt otherwise when an answer follows")
    return text[len(prompt) :]


def fit(made: Row | RowFault, row: Row, role: str, data: Row) -> Fitted | RowFault:
    """Applies ``data.overlong`` to a row that has more than ``max_length`` tokens, and refuses one that teaches nothing.

    Text is never too long: it is joined and cut into blocks later. Answers of a pair are not cut in pieces: such a pair
    is dropped under ``chunk``. A prompt is never cut: what it asks may stand at its end.

    Raises:
        FineTuneError: ``overlong`` is ``error``; names the row.
    """
    if isinstance(made, RowFault):
        return made
    if role == "cpt":
        return Fitted([made])
    max_length, overlong = data["max_length"], data["overlong"]
    longest = longest_of(made)
    pieces = [made]
    if longest > max_length:
        if overlong == "error":
            raise FineTuneError(
                f"{row['file']} row {row['position']} has {longest} tokens, data.max_length is {max_length}; raise it, or "
                f"set data.overlong to drop, truncate{'' if role == 'classification' else ' or chunk'}"
            )
        if overlong == "drop" or (overlong == "chunk" and role == "preference"):
            return RowFault(Reason.TOO_LONG, f"{longest} tokens, data.max_length is {max_length}")
        pieces = _cut(made, max_length, overlong)
        if not pieces:
            return RowFault(Reason.TOO_LONG, f"its prompt alone fills data.max_length, {max_length} tokens")
    cut = " in what data.max_length leaves of it" if longest > max_length else ""
    if role in ("prompt", "classification"):
        return Fitted(pieces, truncated=longest > max_length)
    if role == "preference":
        if pieces[0]["chosen_ids"] == pieces[0]["rejected_ids"]:
            return RowFault(Reason.CHOSEN_EQUALS_REJECTED, f"both answers have the same tokens{cut}")
        return Fitted(pieces, truncated=longest > max_length)
    # The first token of a piece is predicted from nothing, so its label teaches nothing.
    labelled = [piece for piece in pieces if any(label != IGNORED for label in piece["labels"][1:])]
    if not labelled:
        return RowFault(Reason.NO_SUPERVISED_TOKEN, f"nothing carries a label{cut}")
    return Fitted(labelled, longest > max_length and overlong == "truncate", len(pieces) - len(labelled))


def _cut(whole: Row, max_length: int, overlong: str) -> list[Row]:
    if "label" in whole:
        return [{**whole, "input_ids": whole["cut_ids"]}]
    if "input_ids" in whole:
        starts = range(0, len(whole["input_ids"]), max_length) if overlong == "chunk" else [0]
        return [{name: ids[start : start + max_length] for name, ids in whole.items()} for start in starts]
    room = max_length - len(whole["prompt_ids"]) - len(whole.get("suffix_ids", ()))
    if room < 1:
        return []
    return [{**whole, **{name: whole[name][:room] for name in ("chosen_ids", "rejected_ids")}}]


def longest_of(piece: Row) -> int:
    """Tokens of a piece; of a pair, those of its longer side."""
    if "chosen_ids" not in piece:
        return len(piece["input_ids"] if "input_ids" in piece else piece["prompt_ids"])
    answer = max(len(piece["chosen_ids"]), len(piece["rejected_ids"]))
    return len(piece["prompt_ids"]) + answer + len(piece["suffix_ids"])


def tokens_of(piece: Row) -> int:
    """Tokens that training sees of a piece; of a pair, those of both sides."""
    if "chosen_ids" not in piece:
        return longest_of(piece)
    answers = len(piece["chosen_ids"]) + len(piece["rejected_ids"])
    return 2 * (len(piece["prompt_ids"]) + len(piece["suffix_ids"])) + answers


def find_overlap(job: Job, evaluated: EvaluationGrams) -> None:
    """Makes ``overlap``."""
    found: list[Row] = []
    read = 0
    with job.commit() as staging:
        for rows in rows_of(job.input("rows").file("rows.parquet")):
            hits = contaminated(joined(rows), evaluated)
            found += [{"row_id": rows[at]["row_id"], "place": place} for at, place in sorted(hits.items())]
            read += len(rows)
            job.progress(f"decontaminating {job.execution['key']}", read)
        schema = {"row_id": pl.String, "place": pl.String}
        pl.DataFrame(found, schema=schema).write_parquet(staging.file("overlap.parquet"))
        staging.metrics = {"rows_in": read, "rows": len(found)}
