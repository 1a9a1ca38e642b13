"""Decontamination: training rows that hold a word n-gram of an evaluation set."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ft_assets.core.shingles import Hashes, ngrams, word_counts
from ft_assets.core.texts import normal

# An n-gram in more rows of a set than this, and in more than this share of them, is the set's wording ("Answer the
# following question ..."), which a training row may share without knowing any answer.
TEMPLATE_ROWS = 3
TEMPLATE_SHARE = 0.05


@dataclass(frozen=True)
class EvaluationGrams:
    """The n-grams of evaluation rows: sorted hashes, and the place of the first row that holds each."""

    hashes: Hashes
    places: list[str]
    ngram_words: int


def evaluation_grams(sets: Iterable[tuple[str, list[str], list[str]]], ngram_words: int) -> EvaluationGrams:
    """Collects the n-grams of every set, given as its name, its texts and the place of each text.

    Texts shorter than an n-gram give none: their prompts are compared whole elsewhere. A text that is repeated counts
    once, so that repeats make no wording.
    """
    hashes, places = [np.empty(0, np.uint64)], [np.empty(0, object)]
    for name, all_texts, all_places in sets:
        unique = {normal(text): where for text, where in zip(reversed(all_texts), reversed(all_places), strict=True)}
        texts, where = list(reversed(unique)), list(reversed(unique.values()))
        grams, offsets = ngrams(texts, ngram_words)
        rows = np.repeat(np.arange(len(texts)), np.diff(offsets))
        full = word_counts(texts)[rows] >= ngram_words
        pairs = np.unique(np.stack((grams[full], rows[full].astype(np.uint64)), 1), axis=0)
        found, first, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
        own = (counts <= TEMPLATE_ROWS) | (counts <= TEMPLATE_SHARE * len(texts))
        hashes.append(found[own])
        places.append(np.array([f"{name} {where[row]}" for row in pairs[first[own], 1]], object))
    every, first = np.unique(np.concatenate(hashes), return_index=True)
    return EvaluationGrams(every, list(np.concatenate(places)[first]), ngram_words)


def contaminated(texts: list[str], evaluated: EvaluationGrams) -> dict[int, str]:
    """The texts that share an n-gram with an evaluation row, by index, and that row's place."""
    if not len(evaluated.hashes):
        return {}
    grams, offsets = ngrams(texts, evaluated.ngram_words)
    at = np.minimum(np.searchsorted(evaluated.hashes, grams), len(evaluated.hashes) - 1)
    hits = np.flatnonzero(evaluated.hashes[at] == grams)
    # Hits are in the order of the rows; the first of a row names the place.
    rows, first = np.unique(np.searchsorted(offsets, hits, "right") - 1, return_index=True)
    return {int(row): evaluated.places[at[hit]] for row, hit in zip(rows, hits[first], strict=True)}
