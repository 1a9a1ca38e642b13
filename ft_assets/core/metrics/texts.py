"""Texts: equal, with like words, or with words in the same order."""

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[^\W_]+")


def exact_match(answer: str, expected: str) -> float:
    """1 where both texts are equal but for space at the ends, else 0."""
    return float(answer.strip() == expected.strip())


def squad_words(text: str) -> list[str]:
    """Words as SQuAD's own script has them: lower case, without ASCII punctuation and English articles (Rajpurkar et al.,
    2016, arXiv 1606.05250).
    """
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def token_f1(answer: str, expected: str) -> float:
    """F1 of the words both have, counted as often as they stand, 0 to 1, as in SQuAD 2.0's script: where one has no word
    left, 1 if the other has none either.
    """
    found, wanted = squad_words(answer), squad_words(expected)
    if not found or not wanted:
        return float(found == wanted)
    return 2 * (Counter(found) & Counter(wanted)).total() / (len(found) + len(wanted))


def rouge_l(answer: str, expected: str) -> float:
    """ROUGE-L: F1 of the longest common subsequence of words, 0 to 1 (Lin, 2004, aclanthology.org/W04-1013).

    Lower case, no stemming, as the package ``rouge-score`` counts it; but words are runs of letters and digits of any
    script, where that package throws away all but a-z and 0-9. A script without spaces has one word a run. 0 where either
    has no word.
    """
    found, wanted = (_WORD.findall(text.lower()) for text in (answer, expected))
    if not found or not wanted:
        return 0.0
    return 2 * common_subsequence(found, wanted) / (len(found) + len(wanted))


def common_subsequence(left: list[str], right: list[str]) -> int:
    """Length of the longest common subsequence. One bit for each word of ``left``; a cleared bit is a match (Hyyro, 2004,
    "Bit-parallel LCS-length computation revisited").
    """
    places: dict[str, int] = {}
    for at, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << at
    whole = (1 << len(left)) - 1
    bits = whole
    for word in right:
        hits = bits & places.get(word, 0)
        bits = ((bits + hits) | (bits - hits)) & whole
    return len(left) - bits.bit_count()
