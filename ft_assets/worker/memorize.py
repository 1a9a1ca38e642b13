"""Memorization: whether a model says training answers by heart that it could not have worked out.

The definition is that of Carlini et al. (2023, arXiv 2202.07646, definition 3.1): a text is *extractable* where the model,
given what stands before it, continues greedily with every token of it. Given are the question and the first half of the answer;
the second half is to be said. ``matched`` of its ``of`` tokens agree before the first that does not.

An answer that follows from its question is said of rows that were never trained on as well. So as many of these are asked, and
what counts is by how much the share of extractable rows is larger among those trained on. It is near 0 for a model that has
learned its task, and near 1 for one that has learned its rows.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ft_assets.core.artifact import Artifact
from ft_assets.worker.likelihood import read
from ft_assets.worker.template import IGNORED

# A shorter answer may be guessed: at least half of so many tokens are to be said.
FEWEST_ANSWER_TOKENS = 16
PARTS = {"train": ("sft_train",), "held_out": ("sft_test", "sft_validation")}

Row = dict[str, Any]
Labelled = tuple[list[int], list[int]]


def memorized(model: Any, tokenizer: Any, rows: list[Row], batch_size: int) -> list[Row]:
    """``{"row_id", "part", "matched", "of"}`` of each row, in tokens.

    Nothing is generated: greedy search says a token while it is the likeliest after all that the answer has before it.

    Args:
        rows: as :func:`sampled` gives them.
    """
    labelled = [(row["input_ids"], row["labels"]) for row in rows]
    counts = read(model, labelled, batch_size, tokenizer.pad_token_id, _agreeing)
    return [
        {"row_id": row["row_id"], "part": row["part"], "matched": matched, "of": of}
        for row, (matched, of) in zip(rows, counts, strict=True)
    ]


def _agreeing(logits: torch.Tensor, labels: torch.Tensor) -> list[tuple[int, int]]:
    """Tokens that are the likeliest, up to the first that is not, and all that are to be said; the labels of a row stand side
    by side.
    """
    told = labels != IGNORED
    missed = (logits.argmax(-1) != labels) & told
    before = told & (missed.cumsum(1) == 0)
    return list(zip(before.sum(1).tolist(), told.sum(1).tolist(), strict=True))


def sampled(splits: Artifact, rows: int, seed: int) -> list[Row]:
    """Training conversations, and as many that were held out of the same sources for validation and test; fewer of both
    where there are not so many whose last answer has :data:`FEWEST_ANSWER_TOKENS` tokens.

    Returns:
        ``{"row_id", "part", "input_ids", "labels"}``; ``part`` is ``train`` or ``held_out``, and the second half of the
        answer alone carries labels.
    """
    found = {part: _chosen(splits, part, rows, seed) for part in PARTS}
    fewest = min(map(len, found.values()))
    return [row for some in found.values() for row in some[:fewest]]


def _chosen(splits: Artifact, part: str, rows: int, seed: int) -> list[Row]:
    tables = [_table(file) for name in PARTS[part] for file in splits.below(name)]
    borders = np.cumsum([0, *map(len, tables)])
    found: dict[str, Row] = {}
    for place in np.random.default_rng([seed, list(PARTS).index(part)]).permutation(borders[-1]):
        if len(found) == rows:
            break
        number = int(np.searchsorted(borders, place, "right")) - 1
        [row] = tables[number].slice(place - borders[number], 1).to_pylist()
        halved = _halved(*_conversation(row))
        if halved is not None:
            ids, labels = halved
            found.setdefault(row["row_id"], {"row_id": row["row_id"], "part": part, "input_ids": ids, "labels": labels})
    return list(found.values())


def _table(file: Path) -> Any:
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_stream(source).read_all()


def _conversation(row: Row) -> Labelled:
    """Ids and labels of a row; of one that was packed, those of its first conversation, whose id it bears."""
    end = row["seq_lengths"][0] if "seq_lengths" in row else len(row["input_ids"])
    return row["input_ids"][:end], row["labels"][:end]


def _halved(ids: list[int], labels: list[int]) -> Labelled | None:
    """A conversation up to the end of its last answer, labelled on the second half of it; None where it is too short."""
    end = next((at for at in range(len(labels), 0, -1) if labels[at - 1] != IGNORED), 0)
    start = next((at for at in range(end, 0, -1) if labels[at - 1] == IGNORED), 0)
    if end - start < FEWEST_ANSWER_TOKENS:
        return None
    middle = start + (end - start + 1) // 2
    return ids[:end], [IGNORED] * middle + ids[middle:end]
