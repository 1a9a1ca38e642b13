"""Which rows train, which are held out, and which must go, over all batches of a recipe.

Everything here works on an index: a few columns for each row, made once with its batch. No text is read again.

========== ========= ==============================================================
column     type      what it is
========== ========= ==============================================================
row_id     str       the hash of the row's content
batch      str       ``source@batch``
file       str       the file inside the batch
position   int       the row's place in the file
key        bytes     the hash of its normalized content: equal keys are repeats
prompt     u64       the hash of what is asked: rows that share it share a side
pair       u64       preference only: the hash of prompt and both answers, in whatever order
flipped    bool      preference only: which of the two answers is chosen
========== ========= ==============================================================

The part of a row depends on its prompt and the seed alone, so a new batch moves no row. Of rows that are alike the first
is kept, in the order of batch key, file and position.
"""

import hashlib
import json
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_assets.core import near
from ft_assets.core.reasons import Reason
from ft_assets.core.rows import normal_id
from ft_assets.core.shingles import Hashes, mixed
from ft_assets.core.texts import normal

# Told apart from the seed of the split, so that a row's part says nothing of how often it is seen.
EPOCHS = np.uint64(0xE90C45)
PARTS = ("train", "validation", "test")
INDEX = {
    "row_id": pl.String,
    "file": pl.String,
    "position": pl.Int64,
    "key": pl.Binary,
    "prompt": pl.UInt64,
    "pair": pl.UInt64,
    "flipped": pl.Boolean,
}


def index_row(row: dict[str, Any]) -> dict[str, Any]:
    """The index entry of a validated row."""
    content = {name: value for name, value in row.items() if name not in ("row_id", "file", "position")}
    pair, flipped = None, None
    if "chosen" in row:
        answers = [normal(row[name]) for name in ("chosen", "rejected")]
        pair, flipped = _number([_asked(row), *sorted(answers)]), answers[0] > answers[1]
    return {
        **{name: row[name] for name in ("row_id", "file", "position")},
        "key": normal_id(content),
        "prompt": prompt_hash(row),
        "pair": pair,
        "flipped": flipped,
    }


def prompt_hash(row: dict[str, Any]) -> int:
    """What two rows share when they ask the same, 64 bits: the prompt's turns, or the whole of a text row."""
    return _number(_asked(row))


def _asked(row: dict[str, Any]) -> Any:
    if "text" in row:
        return normal(row["text"])
    turns = row["messages"][:-1] if "messages" in row else row["prompt"]
    return [[turn["role"], normal(turn["content"])] for turn in turns]


def _number(value: Any) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).digest()[:8], "little")


def part_of(prompts: Hashes, seed: int, validation: float, test: float) -> NDArray[np.str_]:
    """The part of each row: its prompt's hash and the seed, read as a number in [0, 1), against the shares."""
    points = mixed(prompts ^ mixed(np.full(1, seed, np.uint64))) / 2.0**64
    return np.where(points < test, "test", np.where(points < test + validation, "validation", "train"))


def judge(
    rows: pl.DataFrame,
    evaluated: set[int],
    overlaps: dict[str, str],
    signatures: near.Signatures | None = None,
    threshold: float = 1.0,
) -> pl.DataFrame:
    """The rows with ``reason``, ``detail`` and ``like`` (the row kept in place of a repeat); all null where a row stays.

    Args:
        rows: the index of all batches, in the order in which rows take precedence.
        evaluated: prompt hashes of every evaluation set.
        overlaps: rows that share an n-gram with an evaluation set, by ``row_id``, and where.
        signatures: of the rows, where near-duplicates are to go.
    """
    place = pl.concat_str("batch", pl.lit(" "), "file", pl.lit(" row "), pl.col("position").cast(pl.String))
    rows = rows.with_columns(
        pl.int_range(pl.len()).alias("order"),
        place.alias("place"),
        *(pl.lit(None, pl.String).alias(name) for name in ("reason", "detail", "like")),
    )
    first = rows.select(pl.col("order").min().over("key")).to_series().to_numpy()
    order = np.arange(rows.height)
    rows = _drop_alike(rows, first != order, first, Reason.EXACT_DUPLICATE, "same content as ")
    both = pl.col("flipped").filter(_alive()).n_unique().over("pair") > 1
    rows = _drop(rows, pl.col("pair").is_not_null() & both, Reason.REVERSED_PAIR, pl.lit("stands elsewhere reversed"))
    asked = pl.col("prompt").is_in(pl.Series(sorted(evaluated), dtype=pl.UInt64).implode())
    rows = _drop(rows, asked, Reason.CONTAMINATION, pl.lit("its prompt is in an evaluation set"))
    shared = pl.col("row_id").replace_strict(overlaps, default=None, return_dtype=pl.String)
    rows = _drop(rows, shared.is_not_null(), Reason.CONTAMINATION, pl.lit("shares an n-gram with ") + shared)
    if signatures is not None:
        rows = _drop_near(rows, signatures, threshold)
    return rows.drop("order", "place")


def _alive() -> pl.Expr:
    return pl.col("reason").is_null()


def _drop(rows: pl.DataFrame, which: pl.Expr, reason: Reason, detail: pl.Expr) -> pl.DataFrame:
    now = which & _alive()
    return rows.with_columns(
        pl.when(now).then(pl.lit(reason.value)).otherwise("reason").alias("reason"),
        pl.when(now).then(detail).otherwise("detail").alias("detail"),
    )


def _drop_alike(
    rows: pl.DataFrame, which: NDArray[np.bool_], kept: NDArray[np.int64], reason: Reason, words: str
) -> pl.DataFrame:
    like = {name: pl.Series(rows[column].gather(kept)) for name, column in (("place", "place"), ("id", "row_id"))}
    now = pl.Series(which) & rows["reason"].is_null()
    return rows.with_columns(
        pl.when(now).then(pl.lit(reason.value)).otherwise("reason").alias("reason"),
        pl.when(now).then(pl.lit(words) + like["place"]).otherwise("detail").alias("detail"),
        pl.when(now).then(like["id"]).otherwise("like").alias("like"),
    )


def _drop_near(rows: pl.DataFrame, signatures: near.Signatures, threshold: float) -> pl.DataFrame:
    alive = np.flatnonzero(rows["reason"].is_null().to_numpy())
    kept = np.arange(rows.height)
    kept[alive] = alive[near.clusters(signatures[alive], threshold)]
    return _drop_alike(rows, kept != np.arange(rows.height), kept, Reason.NEAR_DUPLICATE, "nearly the same as ")


def seen(rows: pl.DataFrame, epochs: dict[str, float], seed: int) -> pl.DataFrame:
    """The rows with ``times``, how often each is seen in an epoch; a training row that is seen in none is dropped.

    Of a source with 2.5 every row is seen twice, and those are seen once more whose content's hash and the seed, read as
    a number in [0, 1), are below 0.5: whatever else there is. Held-out rows are seen once.

    Args:
        epochs: how often by source, 1 where it does not say.
    """
    training = pl.col("part") == "train"
    source = pl.col("batch").str.split("@").list.first()
    wanted = rows.select(source.replace_strict(epochs, default=1.0, return_dtype=pl.Float64)).to_series().to_numpy()
    hashes = np.frombuffer(b"".join(key[:8] for key in rows["key"]), "<u8")
    points = mixed(hashes ^ mixed(np.full(1, seed, np.uint64) ^ EPOCHS)) / 2.0**64
    times = pl.Series("times", np.floor(wanted) + (points < wanted % 1), dtype=pl.Int64)
    rows = rows.with_columns(pl.when(training).then(times).otherwise(1).alias("times"))
    detail = pl.format("data.epochs is {} for {}", pl.Series(wanted), source)
    return _drop(rows, training & (pl.col("times") == 0), Reason.NOT_SAMPLED, detail)


def over_limit(rows: pl.DataFrame, most: int | None) -> pl.DataFrame:
    """Keeps the first ``most`` training rows in hash order and drops the rest with its reason."""
    if most is None:
        return rows
    training = rows.filter(_alive() & (pl.col("part") == "train"))
    spare = pl.col("row_id").is_in(training.sort("row_id")["row_id"][most:].implode()) & (pl.col("part") == "train")
    return _drop(rows, spare, Reason.OVER_LIMIT, pl.lit(f"data.max_train_rows is {most}"))
