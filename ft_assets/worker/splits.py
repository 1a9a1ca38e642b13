"""Stage ``tokenized_splits``: from the recipe's prepared batches to what each stage trains on, and the held-out sets.

Batches are prepared one by one (:mod:`ft_assets.worker.prepare`), each once; here their indexes are joined, repeats and
contamination go, rows fall into their parts, and the tokens of what stays are copied over. The splits are Arrow files
that training maps into memory; it never holds a set whole.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ft_assets.core.artifact import Artifact, Staging
from ft_assets.core.errors import CorruptArtifact
from ft_assets.core.overlap import EvaluationGrams, evaluation_grams
from ft_assets.core.pack import pack
from ft_assets.core.rows import normal_id
from ft_assets.core.split import PARTS, judge, over_limit, part_of, prompt_hash
from ft_assets.core.texts import texts
from ft_assets.recipes.schema import HELD_OUT_ROLES, TRAINING_ROLES
from ft_assets.worker.job import Job, one_at_a_time
from ft_assets.worker.prepare import DROPPED, TOKENS, Sketches, find_overlap, prepare, rows_of
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
            kept = {normal_id(_content(row)): row for row in reversed(rows)}
            unique = [row for row in rows if kept[normal_id(_content(row))] is row]
            staging.write_json(f"eval_{role}.json", [_question(row, role) for row in unique])
            repeats = {"exact_duplicate": len(rows) - len(unique)} if len(unique) < len(rows) else {}
            summaries[role] = {"rows_in": len(rows), "rows": {"evaluation": len(unique)}, "dropped": repeats}
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
                    [" ".join(texts(row)) for row in rows],
                    [f"{row['batch']} row {row['position']}" for row in rows],
                )
                for role, rows in self.held_out.items()
            ]
            self._grams = evaluation_grams(sets, self.job.identity["data"]["decontamination"]["ngram_words"])
        return self._grams

    def _open(self, name: str, make: Callable[[Job], None]) -> Artifact:
        part = self.job.execution["parts"][name]
        execution = {**self.job.execution, "key": name.rpartition(":")[2]}
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
    data, seed = job.identity["data"], job.identity["seed"]
    names = _batches(job, role)
    prepared = {name.removeprefix(f"{role}:"): parts.prepared(name) for name in names}
    overlaps = {row: place for name in names for row, place in parts.overlaps(name).items()}
    indexes = [
        pl.read_ipc(artifact.file("index.arrow")).with_columns(pl.lit(key).alias("batch"))
        for key, artifact in prepared.items()
    ]
    lost = [
        pl.read_parquet(artifact.file("dropped.parquet")).with_columns(pl.lit(key).alias("batch"))
        for key, artifact in prepared.items()
    ]
    rows = pl.concat(indexes) if indexes else pl.DataFrame(schema={"row_id": pl.String})
    if not rows.height:
        tables = {part: _empty(role) for part in PARTS}
    else:
        near = data["near_duplicates"]
        rows = judge(rows, parts.evaluated, overlaps, _sketches(prepared) if near else None, near and near["threshold"])
        shares = data["split"]
        part = part_of(rows["prompt"].to_numpy(), seed, shares["validation"], shares["test"])
        rows = over_limit(rows.with_columns(pl.Series("part", part)), data["max_train_rows"])
        lost.append(rows.filter(pl.col("reason").is_not_null()).select([*DROPPED, "batch", "like"]))
        tables = {part: _tokens(rows, part, prepared) for part in PARTS}
    dropped = pl.concat([pl.DataFrame(schema=ALL_DROPPED), *lost], how="diagonal").with_columns(role=pl.lit(role))
    dropped = dropped.select(*ALL_DROPPED)
    summary = _summary(role, tables, rows, dropped, prepared)
    summary |= _write(role, tables, data, staging)
    if role == "sft":
        staging.write_json("few_shot.json", _few_shot(rows, prepared))
    return summary, dropped


def _sketches(prepared: dict[str, Artifact]) -> tuple[Any, Any]:
    bands, signatures = zip(*(Sketches.read(artifact.folder) for artifact in prepared.values()), strict=True)
    return np.concatenate(bands), np.concatenate(signatures)


def _empty(role: str) -> pa.Table:
    return pa.schema([("batch", pa.large_string()), ("row_id", pa.large_string()), *TOKENS[role].items()]).empty_table()


def _tokens(rows: pl.DataFrame, part: str, prepared: dict[str, Artifact]) -> pa.Table:
    """The pieces of the rows that are in a part, in the order of the index."""
    stays = (rows["reason"].is_null() & (rows["part"] == part)).to_numpy()
    tables, start = [], 0
    for key, artifact in prepared.items():
        with pa.memory_map(str(artifact.file("tokens.arrow"))) as source:
            pieces = pa.ipc.open_file(source).read_all()
        end = start + artifact.manifest.metrics["rows_kept"]
        of_row = pieces["row"].to_numpy()
        wanted = stays[start:end][of_row]
        row_ids = rows["row_id"][start:end].gather(pl.Series(of_row[wanted])).to_arrow()
        table = pieces.filter(pa.array(wanted)).combine_chunks()
        table = table.add_column(0, "row_id", row_ids.cast(pa.large_string()))
        tables.append(table.add_column(0, "batch", pa.array([key] * len(table), pa.large_string())))
        start = end
    return pa.concat_tables(tables)


def _write(role: str, tables: dict[str, pa.Table], data: Row, staging: Staging) -> Row:
    """Writes the parts as Arrow streams; training text is cut into blocks, short conversations may be packed."""
    found: Row = {"rows": {}}
    for part, table in tables.items():
        table = table.drop_columns(["batch", "row"])
        if role == "cpt":
            table = _blocks(table, data["max_length"])
        elif role == "sft" and part == "train" and data["packing"]:
            table, found["packing"] = _packed(table, data["max_length"])
            found["longest"] = int(_lengths(role, table).max()) if len(table) else 0
        file = str(staging.file(f"{role}_{part}.arrow"))
        with pa.OSFile(file, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table, max_chunksize=1024)
        found["rows"][part] = len(table)
    return found


def _flat(column: Any) -> NDArray[np.int32]:
    return np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks] or [np.empty(0, np.int32)])


def _lists(values: NDArray[np.int32], borders: NDArray[np.int64]) -> Any:
    return pa.LargeListArray.from_arrays(pa.array(borders, pa.int64()), pa.array(values, pa.int32()))


def _blocks(table: pa.Table, length: int) -> pa.Table:
    """Documents joined and cut into blocks of ``length`` tokens; the last, shorter block is kept, so no token is lost."""
    stream = _flat(table["input_ids"])
    borders = np.append(np.arange(0, len(stream), length), len(stream)) if len(stream) else np.zeros(1, np.int64)
    ids = _lists(stream, borders)
    names = pa.array([f"block-{index}" for index in range(len(ids))], pa.large_string())
    return pa.table({"row_id": names, "input_ids": ids, "labels": ids})


def _packed(table: pa.Table, capacity: int) -> tuple[pa.Table, Row]:
    """Conversations joined into sequences; ``seq_lengths`` says where in a sequence each one ends."""
    lengths = _lengths("sft", table)
    sequence = pack(lengths, capacity)
    order = np.argsort(sequence, kind="stable")
    table = table.take(pa.array(order))
    firsts = np.flatnonzero(np.diff(sequence[order], prepend=-1))
    borders = np.concatenate(([0], np.cumsum(lengths[order])))
    packed = {
        "row_id": table["row_id"].take(pa.array(firsts)),
        **{
            name: _lists(_flat(table[name]), borders[np.append(firsts, len(order))]) for name in ("input_ids", "labels")
        },
        "seq_lengths": _lists(lengths[order].astype(np.int32), np.append(firsts, len(order))),
    }
    tokens, sequences = int(lengths.sum()), len(firsts)
    efficiency = tokens / (sequences * capacity) if sequences else 1.0
    return pa.table(packed), {"conversations": len(table), "sequences": sequences, "efficiency": efficiency}


def _lengths(role: str, table: pa.Table) -> NDArray[np.int64]:
    """Tokens of each row; of a pair, those of its longer side."""

    def count(name: str) -> NDArray[np.int64]:
        lengths: NDArray[np.int64] = pa.compute.list_value_length(table[name]).to_numpy().astype(np.int64)
        return lengths

    if role != "preference":
        return count("input_ids")
    answer = np.maximum(count("chosen_ids"), count("rejected_ids"))
    return count("prompt_ids") + answer + count("suffix_ids")


def _summary(
    role: str, tables: dict[str, pa.Table], rows: pl.DataFrame, dropped: pl.DataFrame, prepared: dict[str, Artifact]
) -> Row:
    """Counts of a role. Rows in = rows kept + dropped, counted in documents; tokens are those that train."""
    train = tables["train"]
    lengths = _lengths(role, train)
    rows_in = sum(artifact.manifest.metrics["rows_in"] for artifact in prepared.values())
    tokens = int(lengths.sum())
    if role == "preference" and len(train):
        both = [np.asarray(pa.compute.list_value_length(train[name])) for name in ("chosen_ids", "rejected_ids")]
        tokens += int(np.minimum(*both).sum() + (lengths - np.maximum(*both)).sum())
    supervised = int((_flat(train["labels"]) != -100).sum()) if role != "preference" else tokens
    batches = pl.DataFrame({"batch": pl.Series(train["batch"]), "tokens": lengths})
    sources = batches.group_by(pl.col("batch").str.split("@").list.first().alias("source")).agg(pl.sum("tokens"))
    counts, edges = np.histogram(lengths, bins=HISTOGRAM_BINS) if len(lengths) else (np.empty(0), np.empty(0))
    return {
        "rows_in": rows_in,
        "rows_kept": int(rows["reason"].is_null().sum()) if "reason" in rows.columns else 0,
        "dropped": dict(sorted(dropped["reason"].value_counts().iter_rows())),
        "truncated": sum(artifact.manifest.metrics["truncated"] for artifact in prepared.values()),
        "tokens": tokens,
        "supervised_tokens": supervised,
        "tokens_by_source": dict(sources.sort("source").iter_rows()),
        "longest": int(lengths.max()) if len(lengths) else 0,
        "lengths": {"counts": counts.astype(int).tolist(), "edges": edges.tolist()},
    }


def _few_shot(rows: pl.DataFrame, prepared: dict[str, Artifact]) -> list[list[dict[str, str]]]:
    """Training conversations in hash order, as many as any recipe may put into a few-shot prompt."""
    if "reason" not in rows.columns:
        return []
    candidates = [entry for artifact in prepared.values() for entry in artifact.json("few_shot.json")]
    train = pl.col("reason").is_null() & (pl.col("part") == "train")
    wanted = pl.col("row_id").is_in([row_id for row_id, _ in candidates])
    trained = set(rows.filter(train & wanted)["row_id"])
    unique = {row_id: messages for row_id, messages in candidates if row_id in trained}
    return [unique[row_id] for row_id in sorted(unique)[:MOST_FEW_SHOT]]
