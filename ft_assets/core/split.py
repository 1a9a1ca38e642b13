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
answer     u64       the hash of what is learned to be said: the last turn, or the chosen answer
tokens     u32       of its pieces together, of a pair those of both sides
========== ========= ==============================================================

The part of a row depends on its prompt and the seed alone, so a new batch moves no row. Of rows that are alike the first
is kept: batches are judged one by one, each against those before it, so a batch that comes last changes nothing of what
was found before (but for a pair that it contradicts).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_assets.core import near
from ft_assets.core.errors import FineTuneError
from ft_assets.core.reasons import Reason
from ft_assets.core.row_ids import normal_id
from ft_assets.core.shingles import Hashes, mixed
from ft_assets.core.texts import normal

# Told apart from the seed of the split, so that a row's part says nothing of how often it is seen.
EPOCHS = 0xE90C45
MOST_EPOCHS = 100
PARTS = ("train", "validation", "test")
INDEX = {
    "row_id": pl.String,
    "file": pl.String,
    "position": pl.Int64,
    "key": pl.Binary,
    "prompt": pl.UInt64,
    "pair": pl.UInt64,
    "flipped": pl.Boolean,
    "answer": pl.UInt64,
    "tokens": pl.UInt32,
}
FATE = {"reason": pl.String, "detail": pl.String, "like": pl.String}
PLACES = ("row_id", "file", "position", "batch")


def content(row: dict[str, Any]) -> dict[str, Any]:
    """A validated row without its place."""
    return {name: value for name, value in row.items() if name not in PLACES}


def index_row(row: dict[str, Any], tokens: int) -> dict[str, Any]:
    """The index entry of a validated row."""
    asked = _asked(row)
    pair, flipped, answer = None, None, None
    if "chosen" in row:
        answers = [normal(row[name]) for name in ("chosen", "rejected")]
        pair, flipped, answer = _number([asked, *sorted(answers)]), answers[0] > answers[1], _number(answers[0])
    if "messages" in row:
        answer = _number(normal(row["messages"][-1]["content"]))
    return {
        **{name: row[name] for name in ("row_id", "file", "position")},
        "key": normal_id(content(row)),
        "prompt": _number(asked),
        "pair": pair,
        "flipped": flipped,
        "answer": answer,
        "tokens": tokens,
    }


def prompt_hash(row: dict[str, Any]) -> int:
    """What two rows share when they ask the same, 64 bits: the prompt's turns, or the whole of a text row. A question with
    choices asks the same as a conversation that begins with the bare question.
    """
    return _number(_asked(row))


def _asked(row: dict[str, Any]) -> Any:
    if "text" in row:
        return normal(row["text"])
    if "choices" in row:
        return [["user", normal(row["question"])]]
    turns = row["messages"][:-1] if "messages" in row else row["prompt"]
    return [[turn["role"], normal(turn["content"])] for turn in turns]


def prompt_and_answer(row: dict[str, Any]) -> tuple[str, str]:
    """What a conversation or a pair asks, as one text, and what is learned to be said."""
    turns = row["messages"][:-1] if "messages" in row else row["prompt"]
    answer: str = row["messages"][-1]["content"] if "messages" in row else row["chosen"]
    return "\n".join(turn["content"] for turn in turns), answer


def _number(value: Any) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).digest()[:8], "little")


def _points(hashes: Hashes, seed: int, salt: int = 0) -> NDArray[np.float64]:
    """A hash and a seed, read as a number in [0, 1)."""
    points: NDArray[np.float64] = mixed(hashes ^ mixed(np.full(1, seed, np.uint64)) ^ np.uint64(salt)) / 2.0**64
    return points


def part_of(prompts: Hashes, seed: int, validation: float, test: float) -> pl.Series:
    """The part of each row: the point of its prompt's hash against the shares."""
    points = _points(prompts, seed)
    codes = np.where(points < test, 2, np.where(points < test + validation, 1, 0))
    return pl.Series("part", PARTS, pl.Enum(PARTS)).gather(codes)


@dataclass(frozen=True)
class Earlier:
    """A batch that was judged before: its index with ``batch`` and :data:`FATE`, and the signatures of its rows, where
    near-duplicates are to go.
    """

    rows: pl.DataFrame
    signatures: near.Signatures | None = None


def judge(
    rows: pl.DataFrame,
    earlier: list[Earlier],
    evaluated: set[int],
    overlaps: dict[str, str],
    signatures: near.Signatures | None = None,
    threshold: float = 1.0,
) -> pl.DataFrame:
    """The rows with their fate, :data:`FATE`: the reason why a row goes, in words, and the ``row_id`` of the row that is
    kept in place of a repeat; all null where a row stays.

    Args:
        rows: the index of one batch, with ``batch``.
        earlier: the batches that come before it.
        evaluated: prompt hashes of every evaluation set.
        overlaps: rows that share an n-gram with an evaluation set, by ``row_id``, and where.
        signatures: of the rows, where near-duplicates are to go.
    """
    rows = rows.with_columns(pl.lit(None, kind).alias(name) for name, kind in FATE.items())
    before = pl.concat([each.rows for each in earlier] or [rows.clear()])
    rows = _drop_alike(rows, _equal(rows, before), Reason.EXACT_DUPLICATE, "same content as ")
    rows = without_contradictions(rows, before)
    asked = pl.col("prompt").is_in(pl.Series(sorted(evaluated), dtype=pl.UInt64).implode())
    rows = _drop(rows, asked, Reason.CONTAMINATION, pl.lit("its prompt is in an evaluation set"))
    shared = pl.col("row_id").replace_strict(overlaps, default=None, return_dtype=pl.String)
    rows = _drop(rows, shared.is_not_null(), Reason.CONTAMINATION, pl.lit("shares an n-gram with ") + shared)
    if signatures is not None:
        rows = _drop_near(rows, signatures, before, [each.signatures for each in earlier], threshold)
    return rows


def _alive() -> pl.Expr:
    return pl.col("reason").is_null()


def _drop(
    rows: pl.DataFrame, which: pl.Expr, reason: Reason, detail: pl.Expr, like: pl.Expr | None = None
) -> pl.DataFrame:
    now = which & _alive()
    values = {"reason": pl.lit(reason.value), "detail": detail, "like": pl.lit(None) if like is None else like}
    return rows.with_columns(pl.when(now).then(value).otherwise(name).alias(name) for name, value in values.items())


def _place() -> pl.Expr:
    return pl.concat_str("batch", pl.lit(" "), "file", pl.lit(" row "), pl.col("position").cast(pl.String))


def _drop_alike(rows: pl.DataFrame, known: pl.DataFrame, reason: Reason, words: str) -> pl.DataFrame:
    """Drops the rows that ``known`` names by ``at``, for the row whose ``place`` and ``id`` it gives."""
    if not known.height:
        return rows
    found = rows.with_row_index("at").join(known, on="at", how="left", maintain_order="left")
    found = _drop(found, pl.col("id").is_not_null(), reason, pl.lit(words) + pl.col("place"), pl.col("id"))
    return found.drop("at", "place", "id")


def _equal(rows: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """Rows whose key came before, by ``at``, and the first that has it."""
    own = rows.with_row_index("at")
    named = [_place().alias("place"), pl.col("row_id").alias("id"), "key"]
    old = before.join(own.select("key"), on="key", how="semi", maintain_order="left").select(named)
    new = own.filter(~pl.col("key").is_first_distinct() | pl.col("key").is_in(old["key"].unique().implode()))
    of_batch = own.join(new.select("key").unique(), on="key", how="semi", maintain_order="left").select(named)
    first = pl.concat([old, of_batch]).unique("key", keep="first", maintain_order=True)
    return new.select("at", "key").join(first, on="key", how="inner").select("at", "place", "id")


def _drop_near(
    rows: pl.DataFrame,
    signatures: near.Signatures,
    before: pl.DataFrame,
    signatures_before: Sequence[near.Signatures | None],
    threshold: float,
) -> pl.DataFrame:
    """Rows that are nearly one that is kept of an earlier batch go first, then all of a cluster but its first."""
    earlier = [some for some in signatures_before if some is not None]
    assert sum(map(len, earlier)) == before.height, "each row that came before has its signature"
    alive = np.flatnonzero(rows["reason"].is_null().to_numpy())
    found = near.met(signatures[alive], earlier, threshold, before["reason"].is_null().to_numpy())
    like = before[found[found >= 0]]
    rows = _drop_alike(rows, _known(alive[found >= 0], like), Reason.NEAR_DUPLICATE, "nearly the same as ")
    alive = np.flatnonzero(rows["reason"].is_null().to_numpy())
    first = near.clusters(signatures[alive], threshold)
    repeats = np.flatnonzero(first != np.arange(len(alive)))
    known = _known(alive[repeats], rows[alive[first[repeats]]])
    return _drop_alike(rows, known, Reason.NEAR_DUPLICATE, "nearly the same as ")


def _known(at: NDArray[np.int64], like: pl.DataFrame) -> pl.DataFrame:
    named = like.select(_place().alias("place"), pl.col("row_id").alias("id"))
    return named.with_columns(pl.Series("at", at, pl.UInt32))


def without_contradictions(rows: pl.DataFrame, before: pl.DataFrame | None = None) -> pl.DataFrame:
    """Drops each preference pair that stands reversed elsewhere: both of two that contradict each other go, though one
    may have been judged before the other came.
    """
    counts = [Reason.NEAR_DUPLICATE.value, Reason.REVERSED_PAIR.value]
    standing = pl.col("pair").is_not_null() & (_alive() | pl.col("reason").is_in(counts))
    pairs = pl.concat(
        [each.filter(standing).select("pair", "flipped") for each in [rows, *([] if before is None else [before])]]
    )
    both = pairs.group_by("pair").agg(pl.col("flipped").n_unique()).filter(pl.col("flipped") > 1)["pair"]
    now = standing & pl.col("pair").is_in(both.implode())
    values = {"reason": Reason.REVERSED_PAIR.value, "detail": "stands elsewhere reversed", "like": None}
    return rows.with_columns(
        pl.when(now).then(pl.lit(value)).otherwise(name).alias(name) for name, value in values.items()
    )


def mixture_epochs(rows: pl.DataFrame, mixture: dict[str, float]) -> dict[str, float]:
    """How often an epoch sees each source of a mixture, so that the tokens of their training rows stand in the proportions
    of its weights. The source that has most for its weight is seen once, so no row is left out.

    Raises:
        FineTuneError: a source has no training rows, or would be seen more than :data:`MOST_EPOCHS` times.
    """
    training = rows.filter(_alive() & (pl.col("part") == "train"))
    source = training.select(pl.col("batch").str.split("@").list.first().alias("source"), "tokens")
    tokens = dict(source.group_by("source").agg(pl.col("tokens").cast(pl.Int64).sum()).iter_rows())
    if missing := sorted(name for name in mixture if not tokens.get(name)):
        raise FineTuneError(
            f"data.mixture names {', '.join(missing)}, of which no training row is left; take it out there "
            "and where its role names it"
        )
    wanted = {name: weight / tokens[name] for name, weight in mixture.items()}
    epochs = {name: share / min(wanted.values()) for name, share in wanted.items()}
    for name, times in epochs.items():
        if times > MOST_EPOCHS:
            raise FineTuneError(
                f"data.mixture would show {name} ({tokens[name]} tokens) {times:.0f} times in an epoch, {MOST_EPOCHS} is the "
                "most; lower its weight or add rows to it"
            )
    return epochs


def revived(rows: pl.DataFrame) -> pl.DataFrame:
    """A near-duplicate stays after all where the row that was kept in its place has gone as a reversed pair since."""
    gone = rows.filter(pl.col("reason") == Reason.REVERSED_PAIR.value)["row_id"]
    back = (pl.col("reason") == Reason.NEAR_DUPLICATE.value) & pl.col("like").is_in(gone.implode())
    return rows.with_columns(pl.when(~back).then(name).alias(name) for name in FATE)


def seen(rows: pl.DataFrame, epochs: dict[str, float], seed: int) -> pl.DataFrame:
    """The rows with ``times``, how often each is seen in an epoch; a training row that is seen in none is dropped.

    Of a source with 2.5 every row is seen twice, and those are seen once more whose content's hash and the seed, read as
    a number in [0, 1), are below 0.5: whatever else there is. Held-out rows are seen once.

    Args:
        epochs: how often by source, 1 where it does not say.
    """
    if not epochs:
        return rows.with_columns(times=pl.lit(1, pl.Int64))
    training = pl.col("part") == "train"
    source = pl.col("batch").str.split("@").list.first()
    wanted = rows.select(source.replace_strict(epochs, default=1.0, return_dtype=pl.Float64)).to_series().to_numpy()
    hashes = rows.select(pl.col("key").bin.slice(0, 8).bin.reinterpret(dtype=pl.UInt64)).to_series().to_numpy()
    times = pl.Series("times", np.floor(wanted) + (_points(hashes, seed, EPOCHS) < wanted % 1), dtype=pl.Int64)
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
