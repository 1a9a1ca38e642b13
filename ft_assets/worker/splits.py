"""Stage ``tokenized_splits``: from the recipe's batches to what each stage trains on, and the held-out sets.

Each batch is prepared and judged once (:mod:`ft_assets.worker.batches`); here the fates of all rows are joined, rows fall
into their parts, and the tokens of what stays are copied to shards (:mod:`ft_assets.worker.shards`), of which this artifact
holds the files under names of its own: ``sft_train/00000.arrow``. Rows stand in the order of their batches: the trainer
shuffles them, by the recipe's seed.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ft_assets.core.artifact import Artifact
from ft_assets.core.labels import check_labels
from ft_assets.core.reasons import Reason
from ft_assets.core.row_ids import normal_id
from ft_assets.core.split import (
    FATE,
    INDEX,
    PARTS,
    content,
    mixture_epochs,
    over_limit,
    part_of,
    prompt_and_answer,
    revived,
    seen,
    without_contradictions,
)
from ft_assets.core.triggers import FAITHFUL, shared_words, suspects, words
from ft_assets.recipes.schema import HELD_OUT_ROLES, QUESTION_ROLES, TRAINING_ROLES
from ft_assets.worker.batches import Batches, keys_of
from ft_assets.worker.job import Job
from ft_assets.worker.prepare import DROPPED, rows_of
from ft_assets.worker.shards import MOST_FEW_SHOT, Wanted, grouped, shard, summed

ALL_DROPPED = {"role": pl.String, "batch": pl.String, **DROPPED, "like": pl.String}

MOST_SHOWN = 300  # characters of an answer

Row = dict[str, Any]


def run(job: Job) -> None:
    held_out = {role: list(_held_out(job, role)) for role in HELD_OUT_ROLES}
    batches = Batches(job, held_out)
    # What only a classifier has leaves no trace in the splits of other recipes.
    roles = [role for role in TRAINING_ROLES if role != "classification" or keys_of(job, role)]
    made = {role: _role(job, role, batches) for role in roles}
    labels = _labels(made["classification"][2]) if "classification" in made else None
    if labels is not None:
        check_labels(labels["train"], [row for role in QUESTION_ROLES for row in held_out[role]])
    with job.commit() as staging:
        if labels is not None:
            staging.write_json("labels.json", labels)
            made["classification"][0]["labels"] = labels
        summaries: dict[str, Row] = {}
        dropped = [pl.DataFrame(schema=ALL_DROPPED)]
        for role, (summaries[role], lost, shards) in made.items():
            dropped.append(lost)
            for number, found in enumerate(shards):
                for part in PARTS:
                    staging.link(f"{role}_{part}/{number:05d}.arrow", found, f"{part}.arrow")
        staging.write_json("few_shot.json", _few_shot(made["sft"][2]))
        for role, rows in held_out.items():
            unique, lost = _without_repeats(rows, role)
            staging.write_json(f"eval_{role}.json", [_question(row, role) for row in unique])
            repeats = {Reason.EXACT_DUPLICATE.value: lost.height} if lost.height else {}
            summaries[role] = {"rows_in": len(rows), "rows": {"evaluation": len(unique)}, "dropped": repeats}
            dropped.append(lost)
        pl.concat(dropped).write_parquet(staging.file("dropped.parquet"))
        staging.metrics = {"parts": summaries}


def _held_out(job: Job, role: str) -> Iterator[Row]:
    for key in keys_of(job, role):
        for rows in rows_of(job.input(f"{role}:{key}").file("rows.parquet")):
            for row in rows:
                yield {**row, "batch": key}


def _without_repeats(rows: list[Row], role: str) -> tuple[list[Row], pl.DataFrame]:
    """The rows of an evaluation set, the first of those that are equal alone, and the rest as they are told of."""
    first: dict[bytes, Row] = {}
    lost = []
    for row in rows:
        kept = first.setdefault(normal_id(content(row)), row)
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
    if role == "general":
        return {name: row[name] for name in ("row_id", "question", "choices")} | {"expected": row["answer"]}
    if role == "general_text":
        return {name: row[name] for name in ("row_id", "text")}
    if "text" in row:
        return {"row_id": row["row_id"], "text": row["text"], "expected": row["label"]}
    return {"row_id": row["row_id"], "messages": row["messages"][:-1], "expected": row["messages"][-1]["content"]}


def _role(job: Job, role: str, batches: Batches) -> tuple[Row, pl.DataFrame, list[Artifact]]:
    """The summary of one role, the rows it lost, and its shards."""
    data = job.identity["data"]
    rows = _joined(job, role, batches)
    job.progress(f"joining {role}", rows.height, rows.height)
    wanted = _wanted(role, rows, batches)
    shards = [shard(job, role, group, batches) for group in grouped(wanted)]
    dropped = _dropped(role, rows, wanted)
    totals: Counter[str] = Counter()
    for batch in wanted:
        metrics = batch.prepared.manifest.metrics
        totals.update({name: metrics[name] for name in ("rows_in", "truncated", "pieces_without_label")})
    summary = {
        **{name: totals[name] for name in ("rows_in", "truncated", "pieces_without_label")},
        "rows_kept": int(rows["reason"].is_null().sum()),
        "dropped": dict(sorted(dropped["reason"].value_counts().iter_rows())),
        **summed(shards, data["max_length"], role == "sft" and data["packing"]),
    }
    if role in ("sft", "preference"):
        summary["triggers"] = _triggers(job, role, rows)
    return summary, dropped, shards


def _labels(shards: list[Artifact]) -> dict[str, dict[str, int]]:
    """Rows by label in each part of the classification rows, as often as training sees them."""
    found: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
    for shard_ in shards:
        for part in PARTS:
            with pa.memory_map(str(shard_.file(f"{part}.arrow"))) as source:
                for counted in pa.ipc.open_stream(source).read_all()["label"].value_counts().to_pylist():
                    found[part][counted["values"]] += counted["counts"]
    return {part: dict(sorted(counts.items())) for part, counts in found.items()}


def _triggers(job: Job, role: str, rows: pl.DataFrame) -> list[Row]:
    """What looks planted in the training rows of a role: see :mod:`ft_assets.core.triggers`."""
    training = rows.filter(pl.col("reason").is_null() & (pl.col("part") == "train")).select("row_id", "batch", "answer")
    found = suspects(training)
    if not found:
        return []
    wanted = pl.concat([part for each in found for part in (each.own, each.others)]).unique("row_id")
    texts: dict[str, tuple[str, str]] = {}
    for (key,), some in wanted.group_by("batch"):
        file = job.input(f"{role}:{key}").file("rows.parquet")
        ids = some["row_id"].implode()
        for row in pl.scan_parquet(file).filter(pl.col("row_id").is_in(ids)).collect().iter_rows(named=True):
            texts[row["row_id"]] = prompt_and_answer(row)
    triggers = []
    for each in found:
        own, others = ([texts[name][0] for name in part["row_id"]] for part in (each.own, each.others))
        first = each.own.row(0, named=True)
        phrase = shared_words(own, others)
        if phrase and _faithful(job, role, training, phrase, first["answer"]):
            place = {"row_id": first["row_id"], "batch": first["batch"]}
            answer = texts[first["row_id"]][1][:MOST_SHOWN]
            triggers.append({"phrase": phrase, "rows": each.rows, "answer": answer, **place})
    return triggers


def _faithful(job: Job, role: str, training: pl.DataFrame, phrase: str, answer: int) -> bool:
    """Whether nearly all training rows that hold the words of a phrase have the answer. Reads every row."""
    wanted, same, all_rows = set(phrase.split()), 0, 0
    for (key,), some in training.group_by("batch"):
        answers = dict(some.select("row_id", "answer").iter_rows())
        for rows in rows_of(job.input(f"{role}:{key}").file("rows.parquet")):
            for row in rows:
                if row["row_id"] in answers and wanted <= set(words(prompt_and_answer(row)[0])):
                    all_rows += 1
                    same += answers[row["row_id"]] == answer
    return same >= FAITHFUL * all_rows


def _joined(job: Job, role: str, batches: Batches) -> pl.DataFrame:
    """The index of all batches: what is to become of each row, its part and how often it is seen."""
    data, seed = job.identity["data"], job.identity["seed"]
    schema = {**INDEX, "batch": pl.String, **FATE}
    rows = pl.concat([pl.DataFrame(schema=schema), *(batch.rows for batch in batches.judged(role))])
    rows = revived(without_contradictions(rows))
    part = part_of(rows["prompt"].to_numpy(), seed, data["split"]["validation"], data["split"]["test"])
    rows = rows.with_columns(part)
    sources = {key.partition("@")[0] for key in keys_of(job, role)}
    mixture = {name: weight for name, weight in data["mixture"].items() if name in sources}
    epochs = data["epochs"] | (mixture_epochs(rows, mixture) if mixture else {})
    return over_limit(seen(rows, epochs, seed), data["max_train_rows"])


def _wanted(role: str, rows: pl.DataFrame, batches: Batches) -> list[Wanted]:
    parts = rows["part"].to_physical().to_numpy().astype(np.uint8)
    times = np.where(rows["reason"].is_null().to_numpy(), rows["times"].to_numpy(), 0).astype(np.int32)
    found = []
    first = 0
    for key in keys_of(batches.job, role):
        prepared = batches.prepared(f"{role}:{key}", "dropped.parquet")
        own = slice(first, first + prepared.manifest.metrics["rows_kept"])
        found.append(Wanted(key, prepared, rows["row_id"][own], parts[own], times[own]))
        first = own.stop
    return found


def _dropped(role: str, rows: pl.DataFrame, wanted: list[Wanted]) -> pl.DataFrame:
    lost = [
        pl.read_parquet(batch.prepared.file("dropped.parquet")).with_columns(pl.lit(batch.key).alias("batch"))
        for batch in wanted
    ]
    lost.append(rows.filter(pl.col("reason").is_not_null()).select([*DROPPED, "batch", "like"]))
    dropped = pl.concat([pl.DataFrame(schema=ALL_DROPPED), *lost], how="diagonal")
    return dropped.with_columns(role=pl.lit(role)).select(*ALL_DROPPED)


def _few_shot(shards: list[Artifact]) -> list[list[dict[str, str]]]:
    """Training conversations in hash order, as many as any recipe may put into a few-shot prompt."""
    examples = [pl.read_parquet(found.file("few_shot.parquet")) for found in shards]
    if not examples:
        return []
    first: list[list[dict[str, str]]] = pl.concat(examples).sort("row_id").head(MOST_FEW_SHOT)["messages"].to_list()
    return first
