"""Hashes of word n-grams, for many texts at once.

A word is a run of letters and digits of the normalized text; anything else parts words. Hashes are made of integer
arithmetic modulo 2^64 alone, so they are the same on every machine and can be kept in an artifact.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ft_assets.core.texts import normal

Hashes = NDArray[np.uint64]
Offsets = NDArray[np.int64]
# Odd, so that they have an inverse modulo 2^64; else arbitrary.
BYTE_BASE = 0x9E3779B97F4A7C15
WORD_BASE = 0xC2B2AE3D27D4EB4F
WORD_BYTES = np.zeros(256, bool)
WORD_BYTES[[*range(ord("a"), ord("z") + 1), *range(ord("0"), ord("9") + 1), *range(0x80, 0x100)]] = True


def ngrams(texts: list[str], n: int) -> tuple[Hashes, Offsets]:
    """The hashes of each text's n-grams in order, and where each text's begin (one offset more than there are texts).

    A text with fewer than ``n`` words has one n-gram, all of it; one without a word has none.
    """
    words, starts = word_hashes(texts)
    ends = np.repeat(starts[1:], np.diff(starts))
    at = np.arange(len(words))
    total = np.zeros(len(words), np.uint64)
    factor = 1
    for offset in range(n):
        factor = factor * WORD_BASE % 2**64
        reach = np.flatnonzero(at + offset < ends)
        total[reach] += words[reach + offset] * np.uint64(factor)
    first = np.zeros(len(words), bool)
    first[starts[:-1][np.diff(starts) > 0]] = True
    whole = (at + n <= ends) | first
    counts = np.concatenate(([0], np.cumsum(whole)))
    return mixed(total[whole]), counts[starts]


def word_hashes(texts: list[str]) -> tuple[Hashes, Offsets]:
    """The hash of every word, and where each text's begin."""
    plain = [normal(text).encode() for text in texts]
    data = np.frombuffer(b"\n".join([*plain, b""]), np.uint8)
    inside = WORD_BYTES[data]
    border = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    starts, ends = border[::2], border[1::2]
    forward, backward = _powers(len(data).bit_length())
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(data * forward[: len(data)], dtype=np.uint64)))
    hashes = mixed((sums[ends] - sums[starts]) * backward[starts] + (ends - starts).astype(np.uint64))
    lines = np.concatenate(([0], np.cumsum([len(text) + 1 for text in plain], dtype=np.int64)))
    return hashes, np.searchsorted(starts, lines).astype(np.int64)


@cache
def _powers(bits: int) -> tuple[Hashes, Hashes]:
    """The powers of :data:`BYTE_BASE` and of its inverse, ``2**bits`` of each."""
    inverse = pow(BYTE_BASE, -1, 2**64)
    forward, backward = (
        np.cumprod(np.full(2**bits, base, np.uint64), dtype=np.uint64) for base in (BYTE_BASE, inverse)
    )
    return forward, backward


def mixed(values: Hashes) -> Hashes:
    """Spreads close values over all 64 bits (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
