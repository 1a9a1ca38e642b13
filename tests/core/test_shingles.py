"""Laws of the n-gram hashes: they are what their definition says, the same on every machine and for every grouping."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ft_assets.core import shingles
from ft_assets.core.shingles import BYTE_BASE, WORD_BASE, ngrams, plain_bytes, word_counts

WORD = re.compile(rb"[a-z0-9\x80-\xff]+")
MASK = 2**64 - 1


def spread(value):
    """SplitMix64's finalizer, in whole numbers of Python."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


def word_hash(word):
    return spread(sum(byte * BYTE_BASE**at for at, byte in enumerate(word)) + len(word) & MASK)


def by_definition(text, n):
    words = [word_hash(word) for word in WORD.findall(plain_bytes(text))]
    grams = [words[at : at + n] for at in range(max(len(words) - n + 1, min(len(words), 1)))]
    return [spread(sum(word * WORD_BASE**at for at, word in enumerate(gram)) & MASK) for gram in grams]


def by_text(texts, n):
    hashes, offsets = ngrams(texts, n)
    assert offsets[0] == 0
    assert offsets[-1] == len(hashes)
    assert len(offsets) == len(texts) + 1
    return [hashes[start:end].tolist() for start, end in pairwise(offsets)]


TEXTS = st.lists(
    st.text(st.sampled_from("ab0 .\n\u00e9\u00df\u4e2d\ufb01\u200b\u2028\u201cA\u0130\U0001f600"), max_size=20),
    max_size=6,
)


@given(TEXTS, st.integers(1, 5))
@example([], 3)
@example([""], 3)
@example(["", "a", "", "a b c d", "!!", ""], 3)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_hashes_are_what_their_definition_says(texts, n):
    assert by_text(texts, n) == [by_definition(text, n) for text in texts]


@given(TEXTS, st.integers(1, 5), st.integers(1, 40))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_how_texts_are_grouped_changes_nothing(texts, n, together):
    whole = by_text(texts, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shingles, "BYTES_AT_ONCE", together)
        assert by_text(texts, n) == whole
        assert word_counts(texts).tolist() == [len(WORD.findall(plain_bytes(text))) for text in texts]


def test_hashes_are_the_same_on_every_machine():
    """They stand in artifacts: a value that changes here wants a new CODE_VERSION of ``prepared_batch``."""
    assert by_text(["The quick brown fox.", "na\u00efve \u4e2d\u6587"], 2) == RECORDED


RECORDED = [
    [2367767036592335081, 5894300621418942185, 10506137045776065482],
    [10669047748608082971, 6085628529371995296],
]


def words_of(text):
    return [word.decode() for word in WORD.findall(plain_bytes(text))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop", ["don", "t", "stop"]),
        ("Don\u2019t \u201cstop\u201d\u2014now", ["don", "t", "stop", "now"]),
        ("\uff21\uff22\uff11 \ufb01n", ["ab1", "fin"]),
        ("caf\u00e9 na\u00efve", ["caf\u00e9", "na\u00efve"]),
        ("caf\u200be\u0301", ["caf\u00e9"]),
        ("\u4eca\u5929\u3001\u5929\u6c14\u3002", ["\u4eca", "\u5929", "\u5929", "\u6c14"]),
        ("\u30ab\u30bf\u30ab\u30ca\u30fbx", ["\u30ab", "\u30bf", "\u30ab", "\u30ca", "x"]),
        ("\ud55c\uad6d\uc5b4 \ubb38\uc7a5", ["\ud55c\uad6d\uc5b4", "\ubb38\uc7a5"]),
        ("a\x00b _c_", ["a", "b", "c"]),
        (" \n\t", []),
    ],
)
def test_what_a_word_is(text, words):
    assert words_of(text) == words


def test_no_two_of_many_ngrams_share_a_hash():
    hashes, _ = ngrams([f"{a} {b}" for a in range(300) for b in range(300)], 2)
    assert len(np.unique(hashes)) == 90_000
