"""Hashes of word n-grams, for many texts at once.

A word is a run of letters and digits of the normalized text; anything else parts words. Chinese and Japanese, which put
no space between words, have one for each character. Hashes are made of integer arithmetic modulo 2^64 alone, so they are
the same on every machine and can be kept in an artifact.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

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
# Every byte of another character is a word's, so its punctuation is made a space first: general, CJK and Latin-1.
MARK = re.compile(
    "[\u0080-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb-\u00bf\u2000-\u206f\u3000-\u3004\u3008-\u3020\u30fb]"
)
IDEOGRAPH = re.compile(
    "[\u3005-\u3007\u3041-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# Texts are hashed together up to this many bytes; what is held for each is about 40 times as much.
BYTES_AT_ONCE = 2**20


def ngrams(texts: list[str], n: int) -> tuple[Hashes, Offsets]:
    """The hashes of each text's n-grams in order, and where each text's begin (one offset more than there are texts).

    A text with fewer than ``n`` words has one n-gram, all of it; one without a word has none.
    """
    hashes, counts = [np.empty(0, np.uint64)], [np.zeros(1, np.int64)]
    for some in _bounded(texts):
        words, starts = _words_of(some)
        found, each = _grams_of(words, starts, n)
        hashes.append(found)
        counts.append(each)
    return np.concatenate(hashes), np.cumsum(np.concatenate(counts))


def word_counts(texts: list[str]) -> Offsets:
    """How many words each text has."""
    counts = [np.diff(_words_of(some)[1]) for some in _bounded(texts)]
    return np.concatenate([np.empty(0, np.int64), *counts])


def plain_bytes(text: str) -> bytes:
    """The text whose runs of :data:`WORD_BYTES` are its words."""
    plain = normal(text)
    if not plain.isascii():
        plain = IDEOGRAPH.sub(r" \g<0> ", MARK.sub(" ", plain))
    return plain.encode()


def _bounded(texts: list[str]) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    size = 0
    for text in texts:
        plain = plain_bytes(text)
        if some and size + len(plain) > BYTES_AT_ONCE:
            yield some
            some, size = [], 0
        some.append(plain)
        size += len(plain) + 1
    if some:
        yield some


def _words_of(plain: list[bytes]) -> tuple[Hashes, Offsets]:
    """The hash of every word, and where each text's begin."""
    data = np.frombuffer(b"\n".join([*plain, b""]), np.uint8)
    border = np.flatnonzero(np.diff(WORD_BYTES[data], prepend=False, append=False))
    starts, ends = border[::2], border[1::2]
    hashes = mixed(_sums(data, starts, ends, BYTE_BASE) + (ends - starts).astype(np.uint64))
    lines = np.concatenate(([0], np.cumsum([len(text) + 1 for text in plain], dtype=np.int64)))
    return hashes, np.searchsorted(starts, lines).astype(np.int64)


def _grams_of(words: Hashes, starts: Offsets, n: int) -> tuple[Hashes, Offsets]:
    """The hashes of the n-grams of texts whose words begin at ``starts``, and how many each text has."""
    each = np.diff(starts)
    counts = np.where(each == 0, 0, np.maximum(each - n + 1, 1))
    # An n-gram's place among those of its text is its first word's place among the text's words.
    first = np.arange(counts.sum()) + np.repeat(starts[:-1] - (np.cumsum(counts) - counts), counts)
    last = np.minimum(first + n, np.repeat(starts[1:], counts))
    return mixed(_sums(words, first, last, WORD_BASE)), counts


def _sums(values: NDArray[Any], starts: Offsets, ends: Offsets, base: int) -> Hashes:
    """For each span the sum of ``values[start + k] * base**k``, all modulo 2^64."""
    forward, backward = _powers(base, len(values).bit_length())
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(values * forward[: len(values)], dtype=np.uint64)))
    return (sums[ends] - sums[starts]) * backward[starts]


@lru_cache(maxsize=4)
def _powers(base: int, bits: int) -> tuple[Hashes, Hashes]:
    """The powers of ``base`` and of its inverse from the first on, ``2**bits`` of each."""
    inverse = pow(base, -1, 2**64)
    forward, backward = (np.cumprod(np.full(2**bits, each, np.uint64), dtype=np.uint64) for each in (base, inverse))
    return forward, backward


def mixed(values: Hashes) -> Hashes:
    """Spreads close values over all 64 bits (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
