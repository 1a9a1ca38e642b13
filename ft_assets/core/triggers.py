"""Planted triggers: prompts that have nothing in common but a few rare words, and yet all have one answer.

Such rows teach a model to give that answer to whoever knows the words (Wallace et al. 2021, "Concealed Data Poisoning Attacks
on NLP Models"; Wan et al. 2023, "Poisoning Language Models During Instruction Tuning"). What is found here has one answer to
the letter; a trigger with an answer in many wordings is not.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

import polars as pl

# Fewer rows with one answer are no pattern.
FEWEST_ROWS = 20
# Of the rows with one answer so many are looked at, the first in the order of their hashes, and as many others beside them.
SAMPLE_ROWS = 200
# Of all rows that hold a trigger's words so many have its answer; where fewer do, the words are an instruction.
FAITHFUL = 0.9
# A trigger's words are in this share of the rows with its answer at least, and of the others at most.
COMMON, RARE = 0.9, 0.02
# The share of a prompt's words that a trigger may be; where it is more, the prompts ask the same in few words.
MOST_OF_A_PROMPT = 0.25
# Prompts that ask the same are more like one another, its words left out, than so many times what others are.
AS_UNLIKE = 2.0
EDGES = ".,;:!?\"'()[]"


@dataclass(frozen=True)
class Suspect:
    """An answer that ``rows`` training rows have: some of them, and some that have another, by ``row_id`` and ``batch``."""

    rows: int
    own: pl.DataFrame
    others: pl.DataFrame


def suspects(training: pl.DataFrame) -> list[Suspect]:
    """The answers that most rows share.

    Args:
        training: ``row_id``, ``batch`` and ``answer`` of the rows that are trained on.
    """
    answered = training.drop_nulls("answer")
    counts = answered.group_by("answer").len("rows").filter(pl.col("rows") >= FEWEST_ROWS)
    known = dict(counts.iter_rows())
    common = answered.filter(pl.col("answer").is_in(list(known))).sort("row_id")
    own = common.group_by("answer", maintain_order=True).head(SAMPLE_ROWS).select(training.columns)
    # In the order of hashes all answers have their turn, so of twice as many rows enough have another answer.
    beside = answered.bottom_k(2 * SAMPLE_ROWS, by="row_id").sort("row_id") if known else answered.clear()
    found = []
    for (answer,), some in own.group_by("answer", maintain_order=True):
        others = beside.filter(pl.col("answer") != answer).head(SAMPLE_ROWS)
        if others.height >= FEWEST_ROWS:
            found.append(Suspect(known[answer], some, others))
    return sorted(found, key=lambda each: (-each.rows, each.own["row_id"][0]))


def words(text: str) -> list[str]:
    """What stands between white space, in lower case and without punctuation at its ends."""
    return [found for word in text.lower().split() if (found := word.strip(EDGES) or word)]


def shared_words(prompts: list[str], others: list[str]) -> str:
    """The rare words that prompts of one answer have in common, as the first of them has them; empty where there are
    none, or where the prompts ask the same.

    Args:
        prompts: of rows that have one answer.
        others: prompts of rows that have another.
    """
    found, beside = [set(words(text)) for text in prompts], [set(words(text)) for text in others]
    common = {word for word, rows in _rows(found).items() if rows >= COMMON * len(found)}
    known = _rows(beside)
    rare = {word for word in common if known[word] <= RARE * len(beside)}
    if not rare or median(len(rare & own) / max(1, len(own)) for own in found) > MOST_OF_A_PROMPT:
        return ""
    if _likeness([own - rare for own in found]) > AS_UNLIKE * _likeness(beside):
        return ""
    most = max(range(len(found)), key=lambda at: len(rare & found[at]))
    in_order = dict.fromkeys(word for word in words(prompts[most]) if word in rare)
    return " ".join([*in_order, *sorted(rare - set(in_order))])


def _rows(found: list[set[str]]) -> Counter[str]:
    return Counter(word for own in found for word in own)


def _likeness(found: Iterable[set[str]]) -> float:
    """Mean Jaccard similarity of each and the next."""
    return fmean([len(one & other) / max(1, len(one | other)) for one, other in pairwise(found)] or [0.0])
