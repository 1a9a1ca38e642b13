"""Near-duplicates: MinHash signatures of word n-grams, and the clusters of rows that are alike.

A signature is made once, with its batch; finding clusters over all batches needs the signatures alone. Broder 1997 for
MinHash; bands as in Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4; Li and Koenig 2010 for
keeping one byte of each value.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_assets.core.shingles import Hashes, mixed, ngrams

PERMUTATIONS = 128
SEED = 42
NO_WORD = 0xFF  # every byte of the signature of a text without a word
MOST_BAND_BYTES = 8
# Of rows exactly as alike as the threshold, the share that meet in a band.
MEETING = 0.98
# Rows that share a band are compared with so many that follow them in it: all with all in a band of few rows.
NEIGHBOURS = 3
CHUNK_ROWS = 2**15

Signatures = NDArray[np.uint8]


def sketch(texts: list[str], ngram_words: int) -> Signatures:
    """For each text one byte of each of its :data:`PERMUTATIONS` minima."""
    import rensa

    grams, offsets = ngrams(texts, ngram_words)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(grams, offsets.astype(np.uint64), PERMUTATIONS, SEED)
    minima = np.array(matrix.to_rows(), np.uint32).reshape(len(texts), PERMUTATIONS)
    signatures = (minima & 0xFF).astype(np.uint8)
    signatures[np.diff(offsets) == 0] = NO_WORD
    return signatures


def clusters(signatures: Signatures, threshold: float) -> NDArray[np.int64]:
    """The cluster of each row: rows are linked when they share a band and are at least ``threshold`` alike.

    Each cluster is named by the index of its first row, so that a row alone is its own, as is one without a word. Which
    rows are together does not depend on their order. Of a band that more than :data:`NEIGHBOURS` rows share (all of one
    template, say) each row is compared with its neighbours alone; the rows are ordered by the bands that follow, so like
    comes to stand by like, and otherwise in each band.
    """
    names = np.arange(len(signatures))
    width = band_bytes(threshold)
    content = _content(signatures)
    for band in range(PERMUTATIONS // width):
        rows, run = _shared(signatures, band, width, content)
        for step in range(1, NEIGHBOURS + 1):
            one, other = rows[:-step], rows[step:]
            asked = (run[:-step] == run[step:]) & (names[one] != names[other])
            pairs = np.stack((one[asked], other[asked]), 1)
            names = _joined(names, pairs[similarity(signatures, signatures, pairs) >= threshold])
    return names


def met(
    signatures: Signatures, earlier: Sequence[Signatures], threshold: float, standing: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """For each row one of ``earlier``, counted through all parts and rows, that shares a band with it and is at least
    ``threshold`` alike, else -1.

    As in :func:`clusters`, of many earlier rows in one band those that come next to a row are compared with it. What is
    found for a row hangs on ``earlier`` alone, not on the rows beside it.

    Args:
        standing: which of the earlier rows count, all where None.
    """
    width = band_bytes(threshold)
    chunks = _in_chunks(earlier)
    places = _sharing(signatures, chunks, width)
    if standing is not None:
        places = places[standing[places]]
    few = _rows_at(chunks, places)
    found = np.full(len(signatures), len(places))
    for band in range(PERMUTATIONS // width):
        new = _in_band(signatures, _keys(few, band, width), band, width)
        rows = _in_band(few, _keys(signatures[new], band, width), band, width)
        for pairs in _next_to(signatures, new, few, rows, band, width):
            alike = pairs[similarity(signatures, few, pairs) >= threshold]
            np.minimum.at(found, alike[:, 0], alike[:, 1])
    return np.append(places, -1)[found]


def _in_chunks(parts: Sequence[Signatures]) -> list[Signatures]:
    """The same rows in fewer parts: small ones are joined, as each is looked through apart; large ones are not copied."""
    chunks: list[list[Signatures]] = []
    rows = CHUNK_ROWS
    for part in parts:
        if rows >= CHUNK_ROWS or len(part) >= CHUNK_ROWS:
            chunks.append([])
            rows = 0
        chunks[-1].append(part)
        rows += len(part)
    return [chunk[0] if len(chunk) == 1 else np.concatenate(chunk) for chunk in chunks]


def _sharing(signatures: Signatures, earlier: Sequence[Signatures], width: int) -> NDArray[np.int64]:
    """Which earlier rows share a band with one of the rows, in order; looked for on all cores, where they lie."""
    starts = np.cumsum([0, *map(len, earlier)])

    def of_band(band: int) -> NDArray[np.int64]:
        keys = _keys(signatures, band, width)
        found = [_in_band(some, keys, band, width) + start for some, start in zip(earlier, starts, strict=False)]
        return np.concatenate([starts[:0], *found])

    with ThreadPoolExecutor(os.cpu_count()) as cores:
        return np.unique(np.concatenate(list(cores.map(of_band, range(PERMUTATIONS // width)))))


def _keys(signatures: Signatures, band: int, width: int) -> pl.Series:
    return pl.Series(_band(signatures, band, width)).unique().implode()


def _in_band(signatures: Signatures, keys: pl.Series, band: int, width: int) -> NDArray[np.int64]:
    """The rows whose band is one of ``keys``."""
    return np.flatnonzero(pl.Series(_band(signatures, band, width)).is_in(keys).to_numpy())


def _rows_at(parts: Sequence[Signatures], places: NDArray[np.int64]) -> Signatures:
    """The rows of several parts, counted through, that stand at ``places``, which are in order."""
    starts = np.cumsum([0, *map(len, parts)])
    cuts = np.split(places, np.searchsorted(places, starts[1:]))
    found = [some[cut - start] for some, cut, start in zip(parts, cuts, starts, strict=False)]
    return np.concatenate([np.empty((0, PERMUTATIONS), np.uint8), *found])


def _next_to(
    signatures: Signatures,
    new: NDArray[np.int64],
    earlier: Signatures,
    rows: NDArray[np.int64],
    band: int,
    width: int,
) -> Iterator[NDArray[np.int64]]:
    """Pairs of a ``new`` row and one of the earlier ``rows`` that share the band, as near as they come in the bands' order."""
    new = new[_has_words(signatures[new])]
    # Of equal rows the first comes next to the row that is compared with them.
    rows = rows[_has_words(earlier[rows])][::-1]
    both = np.concatenate((earlier[rows], signatures[new]))
    order = np.lexsort(_order_in_band(both, band, width, _content(both)))
    keys = _band(both, band, width)[order]
    is_old = order < len(rows)
    places, olds = np.flatnonzero(~is_old), np.flatnonzero(is_old)
    after = np.searchsorted(olds, places)
    for step in range(-NEIGHBOURS, NEIGHBOURS):
        at = after + step
        inside = (at >= 0) & (at < len(olds))
        one, other = places[inside], olds[at[inside]]
        same = keys[one] == keys[other]
        yield np.stack((new[order[one[same]] - len(rows)], rows[order[other[same]]]), 1)


def band_bytes(threshold: float) -> int:
    """How many bytes of the signature make a band: the more, the fewer rows meet that are not alike."""

    def meeting(width: int) -> float:
        return 1 - (1 - threshold**width) ** (PERMUTATIONS // width)

    return max(width for width in range(1, MOST_BAND_BYTES + 1) if meeting(width) >= MEETING)


def _band(signatures: Signatures, band: int, width: int) -> Hashes:
    """One band of every row, as a number."""
    count = PERMUTATIONS // width
    start = band % count * width
    padded = np.zeros((len(signatures), 8), np.uint8)
    padded[:, :width] = signatures[:, start : start + width]
    numbers: Hashes = padded.view("<u8").ravel()
    return numbers


def _shared(signatures: Signatures, band: int, width: int, content: Hashes) -> tuple[NDArray[np.int64], Hashes]:
    """The rows that share a band with another, like by like, and each one's band."""
    keys = _band(signatures, band, width)
    _, at, counts = np.unique(keys, return_inverse=True, return_counts=True)
    rows = np.flatnonzero((counts[at] > 1) & _has_words(signatures))
    order = np.lexsort(_order_in_band(signatures[rows], band, width, content[rows]))
    return rows[order], keys[rows[order]]


def _order_in_band(signatures: Signatures, band: int, width: int, content: Hashes) -> list[Hashes]:
    """Sort keys, the last first, that bring rows of one band together, like by like."""
    return [content, *(_band(signatures, band + step, width) for step in (3, 2, 1, 0))]


def _content(signatures: Signatures) -> Hashes:
    """A hash of each whole signature."""
    content = np.zeros(len(signatures), np.uint64)
    for band in range(PERMUTATIONS // 8):
        content = mixed(content + _band(signatures, band, 8))
    return content


def _has_words(signatures: Signatures) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (signatures != NO_WORD).any(axis=1)
    return found


def _joined(names: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The clusters' names once the rows of each pair are in one.

    The least name spreads along the pairs: each cluster takes the least of its neighbours' names, then that of whose name it
    took, until no pair has two (the labels of Shiloach and Vishkin 1982). scipy has this too; its import alone takes as long
    as judging a small batch.
    """
    if not len(pairs):
        return names
    nodes, at = np.unique(names[pairs], return_inverse=True)
    one, other = at.reshape(-1, 2).T
    least = np.arange(len(nodes))
    while (least[one] != least[other]).any():
        ends = least[one], least[other]
        for end in ends:
            np.minimum.at(least, end, np.minimum(*ends))
        while (least[least] != least).any():
            least = least[least]
    renamed = np.arange(len(names))
    renamed[nodes] = nodes[least]
    result: NDArray[np.int64] = renamed[names]
    return result


def similarity(one: Signatures, other: Signatures, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of a row of ``one`` and a row of ``other``, pair by pair; one byte of two different
    minima is equal once in 256.
    """
    equal: NDArray[np.float64] = np.empty(len(pairs))
    for start in range(0, len(pairs), 2**16):
        some = pairs[start : start + 2**16]
        equal[start : start + 2**16] = (one[some[:, 0]] == other[some[:, 1]]).mean(axis=1)
    return (equal - 1 / 256) / (1 - 1 / 256)
