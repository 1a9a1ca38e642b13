"""Stage ``tokenized_splits``: from the recipe's prepared batches to what each stage trains on, and the held-out sets.

Batches are prepared one by one (:mod:`ft_assets.worker.prepare`), each once; here their indexes are joined, repeats and
contamination go, rows fall into their parts, and the tokens of what stays are copied over. The splits are Arrow files
that training maps into memory; it never holds a set whole. Rows stand in the order of their batches: the trainer shuffles
them, by the recipe's seed.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from ft_assets.core.artifact import Artifact, Staging
from ft_assets.core.errors import CorruptArtifact
from ft_assets.core.overlap import EvaluationGrams, evaluation_grams
from ft_assets.core.reasons import Reason
from ft_assets.core.rows import normal_id
from ft_assets.core.split import INDEX, PARTS, judge, over_limit, part_of, prompt_hash, seen
from ft_assets.recipes.schema import HELD_OUT_ROLES, TRAINING_ROLES
from ft_assets.worker.job import Job, one_at_a_time
from ft_assets.worker.pieces import Numbers, Pieces, Written, blocks, packed, plain, sequences, write
from ft_assets.worker.prepare import DROPPED, find_overlap, joined, prepare, rows_of, signatures_of
from ft_assets.worker.tokenizer import load_tokenizer

MOST_FEW_SHOT = 64
ALL_DROPPED = {"role": pl.String, "batch": pl.String, **DROPPED, "like": pl.String}
HISTOGRAM_BINS = 32

Row = dict[str, Any]


def run(job: Job) -> None:
    held_out = {role: list(_held_out(job, role)) for role in HELD_OUT_ROLES}
    parts = Parts(job, held_out)
    with job.commit() as staging:
        summaries: dict[str, Row] = {}
        dropped = [pl.DataFrame(schema=ALL_DROPPED)]
        for role in TRAINING_ROLES:
            job.progress(f"joining {role}")
            summary, lost = _role(job, role, parts, staging)
            summaries[role] = summary
            dropped.append(lost)
        for role, rows in held_out.items():
            unique, lost = _without_repeats(rows, role)
            staging.write_json(f"eval_{role}.json", [_question(row, role) for row in unique])
            repeats = {Reason.EXACT_DUPLICATE.value: lost.height} if lost.height else {}
            summaries[role] = {"rows_in": len(rows), "rows": {"evaluation": len(unique)}, "dropped": repeats}
            dropped.append(lost)
        pl.concat(dropped).write_parquet(staging.file("dropped.parquet"))
        template = load_tokenizer(job.input("base_model").folder).chat_template
        staging.metrics = {"parts": summaries, "chat_template": template}


def _held_out(job: Job, role: str) -> Iterator[Row]:
    for name in _batches(job, role):
        for rows in rows_of(job.input(name).file("rows.parquet")):
            for row in rows:
                yield {**row, "batch": name.removeprefix(f"{role}:")}


def _batches(job: Job, role: str) -> list[str]:
    return sorted(name for name in job.upstream if name.startswith(f"{role}:"))


def _content(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("row_id", "file", "position", "batch")}


def _without_repeats(rows: list[Row], role: str) -> tuple[list[Row], pl.DataFrame]:
    """The rows of an evaluation set, the first of those that are equal alone, and the rest as they are told of."""
    first: dict[bytes, Row] = {}
    lost = []
    for row in rows:
        kept = first.setdefault(normal_id(_content(row)), row)
        if kept is not row:
            place = {name: row[name] for name in ("batch", "file", "position", "row_id")}
            detail = f"same content as {kept['batch']} {kept['file']} row {kept['position']}"
            lost.append(
                place | {"role": role, "reason": Reason.EXACT_DUPLICATE.value, "detail": detail, "like": kept["row_id"]}
            )
    return list(first.values()), pl.DataFrame(lost, schema=ALL_DROPPED)


def _question(row: Row, role: str) -> Row:
    if role == "safety":
        return {"row_id": row["row_id"], "messages": row["prompt"], "expected": row["label"]}
    return {"row_id": row["row_id"], "messages": row["messages"][:-1], "expected": row["messages"][-1]["content"]}


class Parts:
    """The artifacts that each batch has of its own; one that is missing or corrupt is made on the way."""

    def __init__(self, job: Job, held_out: dict[str, list[Row]]):
        self.job = job
        self.held_out = held_out
        self.evaluated = {prompt_hash(row) for rows in held_out.values() for row in rows}
        self._grams: EvaluationGrams | None = None

    def prepared(self, name: str) -> Artifact:
        return self._open(f"prepared:{name}", prepare)

    def overlaps(self, name: str) -> dict[str, str]:
        """Rows of a batch that share an n-gram with an evaluation set, by ``row_id``."""
        if f"overlap:{name}" not in self.job.execution["parts"]:
            return {}
        artifact = self._open(f"overlap:{name}", lambda job: find_overlap(job, self._evaluation_grams()))
        found = pl.read_parquet(artifact.file("overlap.parquet"))
        return dict(zip(found["row_id"], found["place"], strict=True))

    def _evaluation_grams(self) -> EvaluationGrams:
        if self._grams is None:
            sets = [
                (
                    role,
                    joined(rows),
                    [f"{row['batch']} row {row['position']}" for row in rows],
                )
                for role, rows in self.held_out.items()
            ]
            self._grams = evaluation_grams(sets, self.job.identity["data"]["decontamination"]["ngram_words"])
        return self._grams

    def _open(self, name: str, make: Callable[[Job], None]) -> Artifact:
        part = self.job.execution["parts"][name]
        execution = {key: value for key, value in self.job.execution.items() if key != "parts"}
        execution["key"] = name.rpartition(":")[2]
        job = replace(self.job, **part, execution=execution, started=time.monotonic())
        for _ in range(2):
            try:
                if (found := job.store.open(job.stage, job.fingerprint)) is not None:
                    return found
            except CorruptArtifact as error:
                job.progress(f"{error}; making it again")
                job.store.set_aside(job.stage, job.fingerprint)
            with one_at_a_time(job) as already_made:
                if not already_made:
                    make(job)
        raise CorruptArtifact(f"{job.stage} {job.fingerprint[:12]} is corrupt again right after it was made")


def _role(job: Job, role: str, parts: Parts, staging: Staging) -> tuple[Row, pl.DataFrame]:
    """Writes the parts of one role; returns its summary and the rows it lost."""
    names = _batches(job, role)
    prepared = {name.removeprefix(f"{role}:"): parts.prepared(name) for name in names}
    overlaps = {row: place for name in names for row, place in parts.overlaps(name).items()}
    rows = _judged(job, prepared, overlaps, parts.evaluated)
    lost = [
        pl.read_parquet(artifact.file("dropped.parquet")).with_columns(pl.lit(key).alias("batch"))
        for key, artifact in prepared.items()
    ]
    lost.append(rows.filter(pl.col("reason").is_not_null()).select([*DROPPED, "batch", "like"]))
    dropped = pl.concat([pl.DataFrame(schema=ALL_DROPPED), *lost], how="diagonal").with_columns(role=pl.lit(role))
    dropped = dropped.select(*ALL_DROPPED)
    summary = {
        "rows_in": sum(artifact.manifest.metrics["rows_in"] for artifact in prepared.values()),
        "rows_kept": int(rows["reason"].is_null().sum()),
        "dropped": dict(sorted(dropped["reason"].value_counts().iter_rows())),
        **{
            name: sum(artifact.manifest.metrics[name] for artifact in prepared.values())
            for name in ("truncated", "pieces_without_label")
        },
        **_write(role, rows, prepared, job.identity["data"], staging),
    }
    if role == "sft":
        staging.write_json("few_shot.json", _few_shot(job, rows))
    return summary, dropped


def _judged(job: Job, prepared: dict[str, Artifact], overlaps: dict[str, str], evaluated: set[int]) -> pl.DataFrame:
    """The joined index: what is to become of each row."""
    data, seed = job.identity["data"], job.identity["seed"]
    indexes = [
        pl.read_ipc(artifact.file("index.arrow")).with_columns(pl.lit(key).alias("batch"))
        for key, artifact in prepared.items()
    ]
    rows = pl.concat([pl.DataFrame(schema={**INDEX, "batch": pl.String}), *indexes])
    alike = data["near_duplicates"]
    signatures = np.concatenate([signatures_of(each) for each in prepared.values()]) if alike and prepared else None
    rows = judge(rows, evaluated, overlaps, signatures, alike["threshold"] if alike else 1.0)
    part = part_of(rows["prompt"].to_numpy(), seed, data["split"]["validation"], data["split"]["test"])
    rows = rows.with_columns(pl.Series("part", part, dtype=pl.String))
    return over_limit(seen(rows, data["epochs"], seed), data["max_train_rows"])


def _write(role: str, rows: pl.DataFrame, prepared: dict[str, Artifact], data: Row, staging: Staging) -> Row:
    """Writes the parts of a role and counts what training will see in an epoch.

    Training text is cut into blocks; training conversations may be packed. Tokens are those of the documents;
    ``longest`` is that of the rows as they are written.
    """
    pieces = Pieces(role, list(prepared.values()))
    found: Row = {"rows": {}}
    for part in PARTS:
        stays = (rows["reason"].is_null() & (rows["part"] == part)).to_numpy()
        times = np.where(stays, rows["times"].to_numpy(), 0)
        at = pieces.of_rows(times)
        if role == "cpt":
            tables = blocks(pieces, at, data["max_length"])
        elif role == "sft" and part == "train" and data["packing"]:
            sequence, found["packing"] = sequences(pieces, at, data["max_length"])
            tables = packed(pieces, at, rows["row_id"], sequence)
        else:
            tables = plain(pieces, at, rows["row_id"])
        written = write(staging.file(f"{role}_{part}.arrow"), tables)
        found["rows"][part] = written.rows
        if part == "train":
            found["repeated"] = int(np.maximum(times - 1, 0).sum())
            found |= _trained(pieces, at, written, list(prepared))
    return found


def _trained(pieces: Pieces, at: Numbers, written: Written, batches: list[str]) -> Row:
    """Tokens of an epoch, by source and length."""
    tokens, lengths = pieces.tokens[at], pieces.lengths[at]
    of_batch = np.bincount(pieces.batch[at], weights=tokens, minlength=len(batches)).astype(int)
    by_source: dict[str, int] = {}
    for key, count in zip(batches, of_batch, strict=True):
        source = key.partition("@")[0]
        by_source[source] = by_source.get(source, 0) + int(count)
    counts, edges = np.histogram(lengths, bins=HISTOGRAM_BINS) if len(lengths) else (np.empty(0), np.empty(0))
    is_pair = pieces.role == "preference"
    return {
        "tokens": int(tokens.sum()),
        "supervised_tokens": int(tokens.sum()) if is_pair else written.supervised,
        "tokens_by_source": {source: count for source, count in sorted(by_source.items()) if count},
        "longest": int(lengths.max(initial=0)) if is_pair else written.longest,
        "lengths": {"counts": counts.astype(int).tolist(), "edges": edges.tolist()},
    }


def _few_shot(job: Job, rows: pl.DataFrame) -> list[list[dict[str, str]]]:
    """Training conversations in hash order, as many as any recipe may put into a few-shot prompt."""
    train = rows.filter(pl.col("reason").is_null() & (pl.col("part") == "train"))
    chosen = train.select("row_id", "batch").sort("row_id").head(MOST_FEW_SHOT)
    found: dict[str, list[dict[str, str]]] = {}
    for key in sorted(set(chosen["batch"])):
        file = job.input(f"sft:{key}").file("rows.parquet")
        wanted = pl.scan_parquet(file).filter(pl.col("row_id").is_in(chosen["row_id"].implode()))
        found |= dict(wanted.select("row_id", "messages").collect().iter_rows())
    return [found[row_id] for row_id in chosen["row_id"]]
