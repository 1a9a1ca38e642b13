"""Stage ``questions``: the held-out sets as every contestant is asked them, each row once. No training row has a part in it."""

from collections.abc import Iterator
from typing import Any

import polars as pl

from ft_assets.core.reasons import Reason
from ft_assets.core.row_ids import normal_id
from ft_assets.core.split import content
from ft_assets.recipes.roles import HELD_OUT_ROLES
from ft_assets.worker.batches import keys_of
from ft_assets.worker.job import Job
from ft_assets.worker.prepare import DROPPED, rows_of

PLACE = ("batch", "file", "position", "row_id")
REPEATS = {"role": pl.String, "batch": pl.String, **DROPPED, "like": pl.String}

Row = dict[str, Any]


def make(job: Job) -> None:
    """Writes ``ROLE.json`` for each held-out role, and ``repeats.parquet``, the rows that stand there already."""
    parts, repeats = {}, [pl.DataFrame(schema=REPEATS)]
    with job.commit() as staging:
        for role in HELD_OUT_ROLES:
            rows = list(held_out(job, role))
            unique, lost = _without_repeats(rows, role)
            staging.write_json(f"{role}.json", [_question(row, role) for row in unique])
            dropped = {Reason.EXACT_DUPLICATE.value: lost.height} if lost.height else {}
            parts[role] = {"rows_in": len(rows), "rows": {"evaluation": len(unique)}, "dropped": dropped}
            repeats.append(lost)
        pl.concat(repeats).write_parquet(staging.file("repeats.parquet"))
        staging.metrics = {"parts": parts}


def held_out(job: Job, role: str) -> Iterator[Row]:
    """The validated rows of a held-out role with their ``batch``, in the order in which they take precedence."""
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
            detail = f"same content as {kept['batch']} {kept['file']} row {kept['position']}"
            told = {"role": role, "reason": Reason.EXACT_DUPLICATE.value, "detail": detail, "like": kept["row_id"]}
            lost.append({name: row[name] for name in PLACE} | told)
    return list(first.values()), pl.DataFrame(lost, schema=REPEATS)


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
