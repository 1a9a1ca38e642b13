"""Stage ``tokenized_splits``: from the recipe's batches to what each stage trains on, and the held-out sets.

Each batch is prepared and judged once (:mod:`ft_assets.worker.batches`); here the fates of all rows are joined, rows fall
into their parts, and the tokens of what stays are copied to shards (:mod:`ft_assets.worker.shards`), of which this artifact
holds the files under names of its own: ``sft_train/00000.arrow``. Rows stand in the order of their batches: the trainer
shuffles them, by the recipe's seed.
"""

from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ft_assets.core.artifact import Artifact
from ft_assets.core.errors import FineTuneError
from ft_assets.core.labels import check_labels
from ft_assets.core.split import (
    FATE,
    INDEX,
    PARTS,
    mixture_epochs,
    over_limit,
    part_of,
    prompt_and_answer,
    revived,
    seen,
    without_contradictions,
)
from ft_assets.core.triggers import FAITHFUL, shared_words, suspects, words
from ft_assets.recipes.roles import HELD_OUT_ROLES, QUESTION_ROLES, TRAINING_ROLES
from ft_assets.worker import questions
from ft_assets.worker.batches import JUDGED_BY, Batches, keys_of, opened
from ft_assets.worker.job import Job
from ft_assets.worker.prepare import DROPPED, rows_of, template_of
from ft_assets.worker.shards import MOST_FEW_SHOT, Shards, Wanted, summed

MOST_SHOWN = 300  # characters of an answer

Row = dict[str, Any]


def begin(job: Job) -> None:
    """Does ahead what a request that may come will need: prepares its batches or, where its splits are there, verifies what
    they were made of, as new ones stand on the same. What fails fails again when it is asked for, and is told then.
    """
    with suppress(FineTuneError, OSError):
        batches = Batches(job, _held_out(job))
        batches.verify_ahead()
        for role in [role for role in TRAINING_ROLES if keys_of(job, role)]:
            template_of(job, role)
            if job.is_made():
                Shards(job, role, _wanted(role, _joined(job, role, batches), batches), batches)
            else:
                for key in keys_of(job, role):
                    batches.prepared(f"{role}:{key}", *JUDGED_BY)


def _held_out(job: Job) -> dict[str, list[Row]]:
    """The rows of each held-out role, against which training rows are judged."""
    return {role: list(questions.held_out(job, role)) for role in HELD_OUT_ROLES}


def run(job: Job) -> None:
    held_out = _held_out(job)
    asked = opened(job.part(job.execution["parts"]["questions"]), questions.make)
    batches = Batches(job, held_out)
    batches.verify_ahead()
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
        dropped = [pl.DataFrame(schema=questions.REPEATS)]
        for role, (summaries[role], lost, of_role) in made.items():
            dropped.append(lost)
            for number, found in enumerate(of_role):
                for part in PARTS:
                    staging.link(f"{role}_{part}/{number:05d}.arrow", found, f"{part}.arrow")
        staging.write_json("few_shot.json", _few_shot(made["sft"][2]))
        for role in HELD_OUT_ROLES:
            staging.link(f"eval_{role}.json", asked, f"{role}.json")
        summaries |= asked.manifest.metrics["parts"]
        dropped.append(pl.read_parquet(asked.file("repeats.parquet")))
        pl.concat(dropped).write_parquet(staging.file("dropped.parquet"))
        staging.metrics = {"parts": summaries}


def _role(job: Job, role: str, batches: Batches) -> tuple[Row, pl.DataFrame, list[Artifact]]:
    """The summary of one role, the rows it lost, and its shards."""
    data = job.identity["data"]
    rows = _joined(job, role, batches)
    job.progress(f"joining {role}", rows.height, rows.height)
    wanted = _wanted(role, rows, batches)
    shards = Shards(job, role, wanted, batches)
    shards.make()
    triggers = _triggers(job, role, rows) if role in ("sft", "preference") else None
    dropped = _dropped(role, rows, wanted)
    totals: Counter[str] = Counter()
    for batch in wanted:
        metrics = batch.prepared.manifest.metrics
        totals.update({name: metrics[name] for name in ("rows_in", "truncated", "pieces_without_label")})
    found = shards.open()
    summary = {
        **{name: totals[name] for name in ("rows_in", "truncated", "pieces_without_label")},
        "rows_kept": int(rows["reason"].is_null().sum()),
        "dropped": dict(sorted(dropped["reason"].value_counts().iter_rows())),
        **summed(found, data["max_length"], role == "sft" and data["packing"]),
    }
    if triggers is not None:
        summary["triggers"] = triggers
    return summary, dropped, found


def _labels(found: list[Artifact]) -> dict[str, dict[str, int]]:
    """Rows by label in each part of the classification rows, as often as training sees them."""
    labels: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
    for shard in found:
        for part in PARTS:
            with pa.memory_map(str(shard.file(f"{part}.arrow"))) as source:
                for counted in pa.ipc.open_stream(source).read_all()["label"].value_counts().to_pylist():
                    labels[part][counted["values"]] += counted["counts"]
    return {part: dict(sorted(counts.items())) for part, counts in labels.items()}


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
    dropped = pl.concat([pl.DataFrame(schema=questions.REPEATS), *lost], how="diagonal")
    return dropped.with_columns(role=pl.lit(role)).select(*questions.REPEATS)


def _few_shot(found: list[Artifact]) -> list[list[dict[str, str]]]:
    """Training conversations in hash order, as many as any recipe may put into a few-shot prompt."""
    examples = [pl.read_parquet(shard.file("few_shot.parquet")) for shard in found]
    if not examples:
        return []
    first: list[list[dict[str, str]]] = pl.concat(examples).sort("row_id").head(MOST_FEW_SHOT)["messages"].to_list()
    return first
