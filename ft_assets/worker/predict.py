"""Stage ``batch_predictions``: a model's answer to every row of a batch, chunk by chunk.

A finished chunk is kept under the fingerprint, so a kill loses one at most. Chunks are cut from the rows alone, and each is
worked on by itself: what was cut short and gone on with ends as what was done in one go.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_assets.core.artifact import Artifact, Staging
from ft_assets.core.reasons import RowFault
from ft_assets.worker.asking import Asked, Prompt, open_asked
from ft_assets.worker.classify import probabilities
from ft_assets.worker.generate import generate
from ft_assets.worker.hardware import dtype_name
from ft_assets.worker.job import Job
from ft_assets.worker.prepare import rows_of
from ft_assets.worker.tokenizer import whole_texts

CHUNK_ROWS = 256
TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
PLACE = [("row_id", pa.string()), ("file", pa.string()), ("position", pa.int64())]
ANSWERED = pa.schema(
    [
        *PLACE,
        ("prompt", TURNS),
        ("expected", pa.string()),
        ("answer", pa.string()),
        ("confidence", pa.float64()),
        ("prompt_tokens", pa.int64()),
        ("answer_tokens", pa.int64()),
        ("cut_short", pa.bool_()),
        ("model", pa.string()),
    ]
)
LABELLED = pa.schema(
    [
        *PLACE,
        ("text", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("probabilities", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))),
        ("prompt_tokens", pa.int64()),
        ("cut_short", pa.bool_()),
        ("model", pa.string()),
    ]
)

Row = dict[str, Any]
Say = Callable[[int], None]
Predict = Callable[[list[Row], Say], tuple[list[Row], list[Row]]]


def run(job: Job) -> None:
    rows = job.input("rows")
    chunks = _Chunks(job, rows.manifest.metrics["rows_kept"])
    for number, chunk in enumerate(_chunked(rows.file("rows.parquet"))):
        chunks.make(number, chunk)
    with job.commit(chunks.seconds_before) as staging:
        counts = _write(chunks, rows, staging)
        spent = chunks.seconds_before + chunks.seconds
        done = counts["predicted"]
        staging.metrics = {
            **counts,
            "rows_per_second": done / spent if done else 0.0,
            "tokens_per_second": counts["answer_tokens"] / spent if done else 0.0,
            "answering_seconds": spent,
        }
        staging.execution |= {"dtype": chunks.dtype, "chunks": chunks.count, "resumed_chunks": chunks.found}


def _chunked(file: Path) -> Iterator[list[Row]]:
    rows = chain.from_iterable(rows_of(file))
    while chunk := list(islice(rows, CHUNK_ROWS)):
        yield chunk


class _Chunks:
    """The finished chunks of a batch; the model is loaded when the first is to be made."""

    def __init__(self, job: Job, total: int):
        self.job, self.total = job, total
        self.predict: Predict | None = None
        self.count = self.found = self.rows = 0
        self.seconds = self.seconds_before = 0.0
        self.dtype = ""

    def _place(self, number: int) -> Path:
        return self.job.scratch / f"chunk-{number:06d}.json"

    def make(self, number: int, chunk: list[Row]) -> None:
        body = kept(self._place(number))
        if body is not None:
            self.found += 1
            self.seconds_before += body["seconds"]
        else:
            if self.predict is None:
                self.job.progress("loading the model")
                self.predict = self._opened()
            started = time.monotonic()
            predicted, refused = self.predict(chunk, self._say)
            seconds = time.monotonic() - started
            self.seconds += seconds
            keep(self._place(number), {"predicted": predicted, "refused": refused, "seconds": seconds})
        self.count += 1
        self.rows += len(chunk)
        self._say(0)

    def _opened(self) -> Predict:
        asked = open_asked(self.job)
        self.dtype = dtype_name(asked.model.dtype)
        classifies = "max_length" in self.job.identity
        return _Labels(self.job, asked) if classifies else _Answers(self.job, asked)

    def _say(self, done: int) -> None:
        spent = {"rows_per_second": self.rows / self.seconds} if self.seconds else {}
        self.job.progress("predicting", step=self.rows + done, total=self.total, **spent)

    def __iter__(self) -> Iterator[dict[str, list[Row]]]:
        for number in range(self.count):
            body = kept(self._place(number))
            assert body is not None, "it was just written or read"
            yield body


class _Answers:
    """Answers of a model that writes."""

    def __init__(self, job: Job, asked: Asked):
        self.job, self.asked = job, asked
        self.most = job.identity["max_new_tokens"]

    def __call__(self, rows: list[Row], say: Say) -> tuple[list[Row], list[Row]]:
        prompts = self.asked.prompts([row["prompt"] for row in rows], self.most)
        refused = [
            _refused(row, fault) for row, fault in zip(rows, prompts, strict=True) if isinstance(fault, RowFault)
        ]
        asked = [(row, prompt) for row, prompt in zip(rows, prompts, strict=True) if isinstance(prompt, Prompt)]
        model, tokenizer = self.asked.model, self.asked.tokenizer
        texts = [prompt.text for _, prompt in asked]
        answers = generate(model, tokenizer, texts, self.most, self.job.execution["batch_size"], say) if texts else []
        predicted = [
            {
                **_place(row),
                "prompt": row["prompt"],
                "expected": row["label"],
                "answer": answer.text,
                "confidence": answer.confidence,
                "prompt_tokens": answer.prompt_tokens,
                "answer_tokens": answer.answer_tokens,
                "cut_short": answer.answer_tokens >= self.most,
            }
            for (row, _), answer in zip(asked, answers, strict=True)
        ]
        return predicted, refused


class _Labels:
    """Labels of a classifier. A text is read as far as ``max_length`` tokens go."""

    def __init__(self, job: Job, asked: Asked):
        self.job, self.asked = job, asked
        self.max_length = job.identity["max_length"]
        self.labels = [asked.model.config.id2label[at] for at in range(asked.model.config.num_labels)]

    def __call__(self, rows: list[Row], say: Say) -> tuple[list[Row], list[Row]]:
        tokenizer, texts = self.asked.tokenizer, [row["text"] for row in rows]
        lengths = [len(ids) for ids in whole_texts(tokenizer, texts)]
        ids = whole_texts(tokenizer, texts, self.max_length)
        shares = probabilities(self.asked.model, tokenizer, ids, self.job.execution["batch_size"], say)
        predicted = []
        for row, length, share in zip(rows, lengths, shares, strict=True):
            best = max(range(len(share)), key=share.__getitem__)
            predicted.append(
                {
                    **_place(row),
                    "text": row["text"],
                    "label": self.labels[best],
                    "probability": share[best],
                    "probabilities": [
                        {"label": label, "probability": one} for label, one in zip(self.labels, share, strict=True)
                    ],
                    "prompt_tokens": length,
                    "cut_short": length > self.max_length,
                }
            )
        return predicted, []


def _place(row: Row) -> Row:
    return {name: row[name] for name, _ in PLACE}


def _refused(row: Row, fault: RowFault) -> Row:
    shown = json.dumps(row["prompt"], ensure_ascii=False)[:2000]
    place = {"file": row["file"], "position": row["position"]}
    return {**place, "reason": fault.reason.value, "detail": str(fault), "row": shown}


def _write(chunks: _Chunks, rows: Artifact, staging: Staging) -> dict[str, Any]:
    """Predictions as Parquet and as JSONL, and every row that has none with its reason, validation's first."""
    schema = LABELLED if "max_length" in chunks.job.identity else ANSWERED
    model = chunks.job.upstream["model"][1]
    before = pq.ParquetFile(rows.file("quarantine.parquet"))
    reasons = Counter(rows.manifest.metrics["reasons"])
    counts = {"predicted": 0, "quarantined": before.metadata.num_rows}
    counts |= {"prompt_tokens": 0, "answer_tokens": 0, "cut_short": 0}
    with ExitStack() as files:
        table = files.enter_context(pq.ParquetWriter(staging.file("predictions.parquet"), schema, compression="zstd"))
        lines = files.enter_context(staging.file("predictions.jsonl").open("w", encoding="utf-8"))
        left = files.enter_context(pq.ParquetWriter(staging.file("quarantine.parquet"), before.schema_arrow))
        for piece in before.iter_batches():
            left.write_batch(piece)
        for body in chunks:
            predicted = [{**row, "model": model} for row in body["predicted"]]
            table.write_table(pa.Table.from_pylist(predicted, schema=schema))
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in predicted)
            refused = [{"source": "", **row} for row in body["refused"]]
            left.write_table(pa.Table.from_pylist(refused, schema=before.schema_arrow))
            reasons.update(row["reason"] for row in refused)
            counts["predicted"] += len(predicted)
            counts["quarantined"] += len(refused)
            for name in ("prompt_tokens", "answer_tokens", "cut_short"):
                counts[name] += sum(row.get(name, 0) for row in predicted)
    return {"rows_in": rows.manifest.metrics["rows_in"], **counts, "reasons": dict(sorted(reasons.items()))}


def keep(path: Path, body: dict[str, Any]) -> None:
    """Writes a finished chunk under the hash of its text."""
    text = json.dumps(body, ensure_ascii=False)
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8")
    unfinished.replace(path)


def kept(path: Path) -> dict[str, Any] | None:
    """What :func:`keep` wrote; None where there is nothing, or not what was written: it is made again then."""
    try:
        digest, _, text = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if hashlib.sha256(text).hexdigest().encode() != digest:
        return None
    found: dict[str, Any] = json.loads(text)
    return found
