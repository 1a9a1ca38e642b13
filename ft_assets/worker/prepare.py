"""Stages ``prepared_batch`` and ``overlap``: all that can be done with one batch alone, and so is done once.

``prepared_batch`` holds an index of the batch's rows, their tokens and their sketches; ``overlap`` the rows that share an
n-gram with the recipe's evaluation sets. A new batch costs what the batch costs.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ft_assets.core import near
from ft_assets.core.errors import FineTuneError
from ft_assets.core.overlap import EvaluationGrams, contaminated
from ft_assets.core.reasons import Reason, RowFault
from ft_assets.core.split import INDEX, index_row
from ft_assets.core.texts import texts
from ft_assets.worker.job import Job
from ft_assets.worker.template import IGNORED, Template
from ft_assets.worker.tokenizer import load_tokenizer

PIECE_ROWS = 4096
MOST_FEW_SHOT = 64

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
}
DROPPED = {"file": pl.String, "position": pl.Int64, "row_id": pl.String, "reason": pl.String, "detail": pl.String}

Row = dict[str, Any]
Tokenized = list[Row] | RowFault


def rows_of(file: Path) -> Iterator[list[Row]]:
    """Validated rows, :data:`PIECE_ROWS` at a time."""
    for batch in pq.ParquetFile(file).iter_batches(PIECE_ROWS):
        yield batch.to_pylist()


def prepare(job: Job) -> None:
    """Makes ``prepared_batch``."""
    role, data = job.identity["role"], job.identity["data"]
    near_words = data["near_duplicates"] and data["near_duplicates"]["ngram_words"]
    template = Template(load_tokenizer(job.input("base_model").folder))
    validated = job.input("rows")
    total = validated.manifest.metrics["rows_kept"]
    index: list[pl.DataFrame] = []
    dropped: list[Row] = []
    examples: list[Row] = []
    with job.commit() as staging, ThreadPoolExecutor(1) as beside:
        sketches = Sketches(staging.folder) if near_words else None
        schema = pa.schema(list(TOKENS[role].items()))
        kept = truncated = read = 0
        with pa.OSFile(str(staging.file("tokens.arrow")), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
            for rows in rows_of(validated.file("rows.parquet")):
                sketch = beside.submit(near.sketch, [" ".join(texts(row)) for row in rows], near_words or 1)
                tokenized = tokenize(rows, role, template, data["loss_on"])
                pieces: list[Row] = []
                good: list[int] = []
                for at, (row, made) in enumerate(zip(rows, tokenized, strict=True)):
                    fitted = fit(made, row, role, data["max_length"], data["overlong"])
                    if isinstance(fitted, RowFault):
                        dropped.append(
                            {name: row[name] for name in ("file", "position", "row_id")}
                            | {"reason": fitted.reason.value, "detail": str(fitted)}
                        )
                        continue
                    truncated += data["overlong"] == "truncate" and fitted != made
                    pieces += [{"row": kept + len(good), **piece} for piece in fitted]
                    good.append(at)
                kept += len(good)
                index.append(pl.DataFrame([index_row(rows[at]) for at in good], schema=INDEX))
                out.write_batch(pa.RecordBatch.from_pylist(pieces, schema=schema))
                if sketches:
                    sketches.write(*(values[good] for values in sketch.result()))
                if role == "sft":
                    examples = sorted([*examples, *(rows[at] for at in good)], key=_row_id)[:MOST_FEW_SHOT]
                read += len(rows)
                job.progress(f"tokenizing {job.execution['key']}", read, total)
        if sketches:
            sketches.close()
        pl.concat([pl.DataFrame(schema=INDEX), *index]).write_ipc(staging.file("index.arrow"))
        pl.DataFrame(dropped, schema=DROPPED).write_parquet(staging.file("dropped.parquet"))
        staging.write_json("few_shot.json", [[row["row_id"], row["messages"]] for row in examples])
        staging.metrics = {"rows_in": read, "rows_kept": kept, "truncated": truncated}


def _row_id(row: Row) -> str:
    return str(row["row_id"])


class Sketches:
    """The rows' bands and signatures, appended to two plain files of little-endian numbers."""

    def __init__(self, folder: Path):
        self.bands = (folder / "bands.u64").open("wb")
        self.signatures = (folder / "signatures.u8").open("wb")

    def write(self, bands: np.ndarray, signatures: np.ndarray) -> None:
        self.bands.write(np.ascontiguousarray(bands, "<u8").tobytes())
        self.signatures.write(np.ascontiguousarray(signatures).tobytes())

    def close(self) -> None:
        self.bands.close()
        self.signatures.close()

    @staticmethod
    def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
        bands = np.fromfile(folder / "bands.u64", "<u8").reshape(-1, near.BANDS)
        return bands, np.fromfile(folder / "signatures.u8", np.uint8).reshape(-1, near.PERMUTATIONS)


def tokenize(rows: list[Row], role: str, template: Template, loss_on: str) -> list[Tokenized]:
    """Each row's tokens, not yet cut to length."""
    if role == "cpt":
        end = template.tokenizer.eos_token_id
        return [[_supervised([*ids, end])] for ids in template.encode([row["text"] for row in rows])]
    return _conversations(rows, template, loss_on) if role == "sft" else _pairs(rows, template)


def _supervised(ids: list[int]) -> Row:
    return {"input_ids": ids, "labels": ids}


def _conversations(rows: list[Row], template: Template, loss_on: str) -> list[Tokenized]:
    segments = template.segments([row["messages"] for row in rows])
    flat = [segment.text for one in segments if not isinstance(one, RowFault) for segment in one]
    encoded = iter(template.encode(flat))
    made: list[Tokenized] = []
    for one in segments:
        if isinstance(one, RowFault):
            made.append(one)
            continue
        ids: list[int] = []
        labels: list[int] = []
        for at, segment in enumerate(one):
            piece = next(encoded)
            learns = {"assistant": segment.speaking, "completion": at == len(one) - 1, "all": True}[loss_on]
            learned = (template.up_to_end(piece) if segment.speaking else len(piece)) if learns else 0
            ids += piece
            labels += piece[:learned] + [IGNORED] * (len(piece) - learned)
        last = next((at for at in range(len(labels), 0, -1) if labels[at - 1] != IGNORED), 0)
        made.append([{"input_ids": ids[:last], "labels": labels[:last]}])
    return made


def _pairs(rows: list[Row], template: Template) -> list[Tokenized]:
    prompts = template.render([row["prompt"] for row in rows], add_generation_prompt=True)
    made: list[Row | RowFault] = [
        text if isinstance(text, RowFault) else {"prompt": json.dumps(row["prompt"], ensure_ascii=False)}
        for row, text in zip(rows, prompts, strict=True)
    ]
    asked = ["" if isinstance(text, RowFault) else text for text in prompts]
    for row, ids in zip(made, template.encode(asked), strict=True):
        if isinstance(row, dict):
            row["prompt_ids"] = ids
    for name in ("chosen", "rejected"):
        turns = [[*row["prompt"], {"role": "assistant", "content": row[name]}] for row in rows]
        whole = template.render(turns, add_generation_prompt=False)
        answers = [_answer(text, prompt) for text, prompt in zip(whole, asked, strict=True)]
        for at, ids in enumerate(template.encode(answers)):
            row, text, end = made[at], whole[at], template.up_to_end(ids)
            if isinstance(text, RowFault):
                made[at] = text
            elif isinstance(row, dict):
                row |= {f"{name}_ids": ids[:end], "suffix_ids": ids[end:]}
    return [row if isinstance(row, RowFault) else [row] for row in made]


def _answer(text: str | RowFault, prompt: str) -> str:
    if isinstance(text, RowFault):
        return ""
    if not text.startswith(prompt):
        raise FineTuneError("the chat template renders a prompt otherwise when an answer follows")
    return text[len(prompt) :]


def fit(made: Tokenized, row: Row, role: str, max_length: int, overlong: str) -> Tokenized:
    """Applies ``data.overlong`` to a row that has more than ``max_length`` tokens.

    Text is never too long: it is joined and cut into blocks later. Answers of a pair are not cut in pieces: such a pair
    is dropped under ``chunk``.

    Raises:
        FineTuneError: ``overlong`` is ``error``; names the row.
    """
    if isinstance(made, RowFault) or role == "cpt":
        return made
    [whole] = made
    longest = longest_of(whole)
    if longest > max_length:
        if overlong == "error":
            raise FineTuneError(
                f"{row['file']} row {row['position']} has {longest} tokens, data.max_length is {max_length}; raise it, or "
                "set data.overlong to drop, truncate or chunk"
            )
        if overlong == "drop" or (overlong == "chunk" and role == "preference"):
            return RowFault(Reason.TOO_LONG, f"{longest} tokens, data.max_length is {max_length}")
        made = _cut(whole, max_length, overlong)
        if not made:
            return RowFault(Reason.TOO_LONG, f"its prompt alone fills data.max_length, {max_length} tokens")
    if role == "sft":
        made = [piece for piece in made if any(label != IGNORED for label in piece["labels"])]
        if not made:
            return RowFault(Reason.NO_SUPERVISED_TOKEN, "nothing in this row carries a label")
    return made


def _cut(whole: Row, max_length: int, overlong: str) -> list[Row]:
    if "input_ids" in whole:
        starts = range(0, len(whole["input_ids"]), max_length) if overlong == "chunk" else [0]
        return [{name: ids[start : start + max_length] for name, ids in whole.items()} for start in starts]
    room = max_length - len(whole["prompt_ids"]) - len(whole["suffix_ids"])
    if room < 1:
        return []
    return [{**whole, **{name: whole[name][:room] for name in ("chosen_ids", "rejected_ids")}}]


def longest_of(piece: Row) -> int:
    """Tokens of a piece; of a pair, those of its longer side."""
    if "input_ids" in piece:
        return len(piece["input_ids"])
    answer = max(len(piece["chosen_ids"]), len(piece["rejected_ids"]))
    return len(piece["prompt_ids"]) + answer + len(piece["suffix_ids"])


def find_overlap(job: Job, evaluated: EvaluationGrams) -> None:
    """Makes ``overlap``."""
    found: list[Row] = []
    read = 0
    with job.commit() as staging:
        for rows in rows_of(job.input("rows").file("rows.parquet")):
            hits = contaminated([" ".join(texts(row)) for row in rows], evaluated)
            found += [{"row_id": rows[at]["row_id"], "place": place} for at, place in sorted(hits.items())]
            read += len(rows)
            job.progress(f"decontaminating {job.execution['key']}", read)
        schema = {"row_id": pl.String, "place": pl.String}
        pl.DataFrame(found, schema=schema).write_parquet(staging.file("overlap.parquet"))
        staging.metrics = {"rows_in": read, "rows": len(found)}
