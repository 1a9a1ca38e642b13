"""Training conversations that are near a question: what a model could be shown in place of being trained on them.

BM25 in Lucene's form (Robertson and Zaragoza, 2009, doi:10.1561/1500000019), as bm25s computes it, over words in lower case.
"""

from typing import Any

import bm25s
import numpy as np
import polars as pl

from ft_assets.core.artifact import Artifact, ArtifactStore
from ft_assets.core.errors import FineTuneError, MissingInput

Turns = list[dict[str, str]]


class Nearest:
    """An index over conversations, which are asked for by what a user says in them."""

    def __init__(self, conversations: list[Turns]):
        if not conversations:
            raise FineTuneError("no training conversation is left to retrieve; leave evaluation.retrieval out")
        self.conversations = conversations
        self.index = bm25s.BM25(method="lucene")
        self.index.index(_words([asked(turns) for turns in conversations]), show_progress=False)

    def to(self, turns: Turns, count: int) -> list[Turns]:
        """The ``count`` conversations that are nearest to a question, the nearest last; of equally near ones those that come
        first in the index.
        """
        [words] = _words([asked(turns)])
        scores = self.index.get_scores(words) if words else np.zeros(len(self.conversations))
        count = min(count, len(scores))
        least = np.partition(scores, -count)[-count]
        near = np.flatnonzero(scores >= least)
        best = near[np.argsort(-scores[near], kind="stable")][:count]
        return [self.conversations[at] for at in reversed(best.tolist())]


def asked(turns: Turns) -> str:
    """What a user says in a conversation."""
    return "\n".join(turn["content"] for turn in turns if turn["role"] == "user")


def _words(texts: list[str]) -> list[list[str]]:
    found: Any = bm25s.tokenize(texts, token_pattern=r"\b\w+\b", stopwords=[], return_ids=False, show_progress=False)
    return [list(words) for words in found]


def training_conversations(splits: Artifact, store: ArtifactStore) -> list[Turns]:
    """The conversations of the train part in the order of their row ids: rows of the recipe's ``sft`` batches without those
    that were dropped or fell into another part.

    Raises:
        MissingInput: a batch is gone.
    """
    dropped = pl.read_parquet(splits.file("dropped.parquet")).filter(pl.col("role") == "sft")
    others = [
        pl.read_ipc_stream(file, columns=["row_id"])
        for name in ("validation", "test")
        for file in splits.below(f"sft_{name}")
    ]
    held_out = pl.concat([pl.DataFrame(schema={"row_id": pl.String}), *others])
    found = []
    for role, fingerprint in splits.manifest.upstream.items():
        name, _, key = role.partition(":")
        if name != "sft":
            continue
        batch = store.open("validated_dataset", fingerprint, ("rows.parquet",))
        if batch is None:
            raise MissingInput(f"examples are taken from {key}, whose validated rows {fingerprint[:12]} are gone")
        lost = dropped.filter(pl.col("batch") == key)
        rows = pl.read_parquet(batch.file("rows.parquet"), columns=["row_id", "file", "position", "messages"])
        rows = rows.join(lost, on=["file", "position"], how="anti").join(held_out, on="row_id", how="anti")
        found.append(rows.select("row_id", "messages"))
    ordered = pl.concat(found).unique("row_id", maintain_order=True).sort("row_id")
    conversations: list[Turns] = ordered["messages"].to_list()
    return conversations
