"""Stage ``split_shard``: what training reads of some batches that follow one another, as Arrow files that it maps into memory.

A shard is known by its batches and by what is wanted of each row, so that new data rewrites the shard it falls into, the
last as a rule, and no other.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_assets.core.ahead import verify_ahead
from ft_assets.core.artifact import Artifact, Staging
from ft_assets.core.split import PARTS
from ft_assets.core.stage import make_stage
from ft_assets.worker.batches import Batches, opened
from ft_assets.worker.job import Job
from ft_assets.worker.pieces import Numbers, Pieces, Written, blocks, packed, plain, sequences, write

# A shard is closed when its batches have so many tokens.
SHARD_TOKENS = 2**22
# Row lengths are told in 32 bins up to ``max_length`` and as many above, the last with all that are longer still.
BINS = 32
MOST_FEW_SHOT = 64

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """A batch and what is wanted of its rows: ``parts`` (index into ``PARTS``) and how many ``times`` each is seen, 0 for
    one that is dropped.
    """

    key: str
    prepared: Artifact
    row_ids: pl.Series
    parts: NDArray[np.uint8]
    times: NDArray[np.int32]

    def digest(self) -> str:
        return hashlib.sha256(self.parts.tobytes() + self.times.astype("<i4").tobytes()).hexdigest()


def grouped(batches: list[Wanted]) -> list[list[Wanted]]:
    """Batches that follow one another, together until they have :data:`SHARD_TOKENS`."""
    groups: list[list[Wanted]] = []
    tokens = SHARD_TOKENS
    for batch in batches:
        if tokens >= SHARD_TOKENS:
            groups.append([])
            tokens = 0
        groups[-1].append(batch)
        tokens += batch.prepared.manifest.metrics["tokens"]
    return groups


class Shards:
    """The shards of a role's batches. Those that are there are verified beside what the caller does until it opens them."""

    def __init__(self, job: Job, role: str, wanted: list[Wanted], batches: Batches):
        self.job, self.role, self.batches = job, role, batches
        self.groups = [(_part(job, role, group), group) for group in grouped(wanted)]
        verify_ahead(job.store, [(own.stage, own.fingerprint, None) for own, _ in self.groups])

    def make(self) -> None:
        """Makes those that are not there."""
        for own, group in self.groups:
            if not own.is_made():
                self._opened(own, group)

    def open(self) -> list[Artifact]:
        return [self._opened(own, group) for own, group in self.groups]

    def _opened(self, own: Job, group: list[Wanted]) -> Artifact:
        def make(own: Job) -> None:
            whole = [self.batches.prepared(f"{self.role}:{batch.key}", "tokens.arrow") for batch in group]
            _make(own, group, Pieces(self.role, whole), self.job)

        return opened(own, make)


def _part(job: Job, role: str, group: list[Wanted]) -> Job:
    data = job.identity["data"]
    identity = {
        "role": role,
        "max_length": data["max_length"],
        "packing": role == "sft" and data["packing"],
        "selection": {batch.key: batch.digest() for batch in group},
    }
    upstream = {
        f"prepared:{batch.key}": (batch.prepared.manifest.stage, batch.prepared.manifest.fingerprint) for batch in group
    }
    return job.part(make_stage("split_shard", identity, upstream).request())


def _make(job: Job, group: list[Wanted], pieces: Pieces, splits: Job) -> None:
    row_ids = pl.concat([batch.row_ids for batch in group])
    parts = np.concatenate([batch.parts for batch in group])
    times = np.concatenate([batch.times for batch in group])
    with job.commit() as staging:
        staging.metrics = {"rows": {}}
        for code, part in enumerate(PARTS):
            job.progress(f"writing {job.identity['role']} {part} of {group[0].key} to {group[-1].key}")
            at = pieces.of_rows(np.where(parts == code, times, 0))
            written, packing = _write(job, part, pieces, at, row_ids, staging)
            staging.metrics["rows"][part] = written.rows
            if part == "train":
                repeated = int(np.maximum(times[parts == code] - 1, 0).sum())
                staging.metrics |= packing | {"repeated": repeated} | _trained(job, pieces, at, written, group)
        if pieces.role == "sft":
            _few_shot(splits, group).write_parquet(staging.file("few_shot.parquet"))


def _write(
    job: Job, part: str, pieces: Pieces, at: Numbers, row_ids: pl.Series, staging: Staging
) -> tuple[Written, Metrics]:
    """Writes one part: text cut into blocks, training conversations packed where the recipe says so."""
    packing: Metrics = {}
    length = job.identity["max_length"]
    if pieces.role == "cpt":
        tables = blocks(pieces, at, length)
    elif job.identity["packing"] and part == "train":
        sequence, packing["packing"] = sequences(pieces, at, length)
        tables = packed(pieces, at, row_ids, sequence)
    else:
        tables = plain(pieces, at, row_ids)
    return write(staging.file(f"{part}.arrow"), tables), packing


def _few_shot(splits: Job, group: list[Wanted]) -> pl.DataFrame:
    """The training conversations that come first in hash order: of all shards' the first become few-shot examples."""
    found = []
    for batch in group:
        trained = batch.row_ids.filter(pl.Series((batch.times > 0) & (batch.parts == PARTS.index("train"))))
        first = trained.bottom_k(MOST_FEW_SHOT)
        file = splits.input(f"sft:{batch.key}").file("rows.parquet")
        wanted = pl.scan_parquet(file).filter(pl.col("row_id").is_in(first.implode()))
        found.append(wanted.select("row_id", "messages").collect())
    return pl.concat(found).unique("row_id").sort("row_id").head(MOST_FEW_SHOT)


def _trained(job: Job, pieces: Pieces, at: Numbers, written: Written, group: list[Wanted]) -> Metrics:
    """What training will see in an epoch. Tokens are those of the documents; ``longest`` is that of the rows as they are
    written.
    """
    tokens, lengths = pieces.tokens[at], pieces.lengths[at]
    by_source: Counter[str] = Counter()
    of_batch = np.bincount(pieces.batch[at], weights=tokens, minlength=len(group)).astype(int).tolist()
    for batch, count in zip(group, of_batch, strict=True):
        by_source[batch.key.partition("@")[0]] += count
    supervised = int(tokens.sum()) if pieces.role == "preference" else written.supervised
    most = 2 * job.identity["max_length"]
    counts, _ = np.histogram(np.minimum(lengths, most), bins=2 * BINS, range=(0, most))
    return {
        "tokens": int(tokens.sum()),
        "supervised_tokens": supervised,
        "tokens_by_source": {source: count for source, count in by_source.items() if count},
        "longest": written.longest or int(lengths.max(initial=0)),
        "lengths": counts.astype(int).tolist(),
    }


def summed(shards: list[Artifact], max_length: int, packing: bool) -> Metrics:
    """What the shards of a role hold together."""
    each = [found.manifest.metrics for found in shards]
    by_source: Counter[str] = Counter()
    for metrics in each:
        by_source.update(metrics["tokens_by_source"])
    counts = np.sum([metrics["lengths"] for metrics in each], axis=0, dtype=int) if each else np.zeros(0, int)
    shown = int(np.flatnonzero(counts).max(initial=-1)) + 1
    found: Metrics = {
        "rows": {part: sum(metrics["rows"][part] for metrics in each) for part in PARTS},
        **{name: sum(metrics[name] for metrics in each) for name in ("repeated", "tokens", "supervised_tokens")},
        "tokens_by_source": dict(sorted(by_source.items())),
        "longest": max((metrics["longest"] for metrics in each), default=0),
        "lengths": {
            "counts": counts[:shown].tolist(),
            "edges": (np.arange(shown + 1) * max_length / BINS).tolist() if shown else [],
        },
    }
    if packing:
        conversations, count = (
            sum(metrics["packing"][name] for metrics in each) for name in ("conversations", "sequences")
        )
        efficiency = found["tokens"] / (count * max_length) if count else 1.0
        found["packing"] = {"conversations": conversations, "sequences": count, "efficiency": efficiency}
    return found
