"""Near-duplicates: MinHash signatures of word n-grams, and the clusters of rows that are alike.

A signature is made once, with its batch; finding clusters over all batches needs the signatures alone. Broder 1997 for
MinHash; bands as in Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4; Li and Koenig 2010 for
keeping one byte of each value.
"""

import numpy as np
from numpy.typing import NDArray

from ft_assets.core.shingles import Hashes, mixed, ngrams

PERMUTATIONS = 126
SEED = 42
# Rows of a band: with 21 bands of 6 two rows 0.8 alike meet in one with probability 0.998, 0.5 alike with 0.28.
BAND_ROWS = 6
BANDS = PERMUTATIONS // BAND_ROWS

Signatures = NDArray[np.uint8]


def sketch(texts: list[str], ngram_words: int) -> tuple[Hashes, Signatures]:
    """For each text the hashes of its :data:`BANDS` bands, and one byte of each of its :data:`PERMUTATIONS` minima.

    A text without a word gets bands of its own number, so that it is like no other.
    """
    import rensa

    grams, offsets = ngrams(texts, ngram_words)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(grams, offsets.astype(np.uint64), PERMUTATIONS, SEED)
    minima = np.array(matrix.to_rows(), np.uint32).reshape(len(texts), PERMUTATIONS)
    weights = mixed(np.arange(1, BAND_ROWS + 1, dtype=np.uint64)) | np.uint64(1)
    bands = mixed((minima.reshape(-1, BANDS, BAND_ROWS).astype(np.uint64) * weights).sum(axis=2, dtype=np.uint64))
    bands[np.diff(offsets) == 0] = 0
    return bands, (minima & 0xFF).astype(np.uint8)


def clusters(bands: Hashes, signatures: Signatures, threshold: float) -> NDArray[np.int64]:
    """The cluster of each row: rows are linked when they share a band and are at least ``threshold`` alike.

    Each cluster is named by the index of its first row, so that a row alone is its own.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(bands)
    links = [_alike(bands[:, band], signatures, threshold) for band in range(BANDS)] if count else []
    pairs = np.concatenate(links) if links else np.empty((0, 2), np.int64)
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)
    named: NDArray[np.int64] = first[labels].astype(np.int64)
    return named


def _alike(keys: Hashes, signatures: Signatures, threshold: float) -> NDArray[np.int64]:
    """Pairs of rows with one key, each row with the first and with the one before it, that are alike."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = np.concatenate(([False], ordered[1:] == ordered[:-1])) & (ordered != 0)
    later = np.flatnonzero(same)
    runs = np.maximum.accumulate(np.where(same, 0, np.arange(len(keys))))
    pairs = np.unique(
        np.concatenate(
            (np.stack((order[runs[later]], order[later]), 1), np.stack((order[later - 1], order[later]), 1))
        ),
        axis=0,
    )
    return pairs[similarity(signatures, pairs) >= threshold]


def similarity(signatures: Signatures, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of pairs of rows; one byte of two different minima is equal once in 256."""
    equal = np.empty(len(pairs))
    for start in range(0, len(pairs), 2**16):
        some = pairs[start : start + 2**16]
        equal[start : start + 2**16] = (signatures[some[:, 0]] == signatures[some[:, 1]]).mean(axis=1)
    result: NDArray[np.float64] = (equal - 1 / 256) / (1 - 1 / 256)
    return result
