"""Laws of near-duplicates: similarity is estimated within its error, and what is alike is found whatever the order."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core import near
from ft_assets.core.near import PERMUTATIONS, clusters, met, similarity, sketch

N = 3


def words(rng, count):
    return [f"w{rng.randrange(10_000)}" for _ in range(count)]


def edited(rng, text, edits):
    """The text with words replaced at places of a whole n-gram's distance, so that each costs ``N`` n-grams."""
    changed = list(text)
    for at in rng.sample(range(N, len(text) - N, N), edits):
        changed[at] = f"new{rng.randrange(10**9)}"
    return changed


def jaccard(one, other):
    grams = [{tuple(text[at : at + N]) for at in range(len(text) - N + 1)} for text in (one, other)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def pairs_of(count, edits, length=80, seed=0):
    """Texts, the second half edited copies of the first, and the exact similarity of each with its copy."""
    rng = random.Random(seed)
    first = [words(rng, length) for _ in range(count)]
    second = [edited(rng, text, edits) for text in first]
    exact = np.array([jaccard(*pair) for pair in zip(first, second, strict=True)])
    return [" ".join(text) for text in [*first, *second]], exact


def twins(count):
    return np.stack((np.arange(count), np.arange(count) + count), 1)


@pytest.mark.parametrize("edits", [0, 1, 3, 6, 12, 20])
def test_similarity_is_estimated_without_bias_and_within_its_standard_error(edits):
    texts, exact = pairs_of(400, edits)
    signatures = sketch(texts, N)
    estimates = similarity(signatures, signatures, twins(400))
    error = (exact * (1 - exact) / PERMUTATIONS) ** 0.5 + 1e-12
    scores = (estimates - exact) / error
    assert abs(scores.mean()) < 4 / 400**0.5
    assert (np.abs(scores) < 2).mean() > 0.85
    assert (estimates[exact == 1] == 1).all()


def test_texts_that_share_nothing_are_not_alike():
    texts, _ = pairs_of(400, 0)
    strangers = np.stack((np.arange(399), np.arange(399) + 1), 1)
    signatures = sketch(texts[:400], N)
    assert abs(similarity(signatures, signatures, strangers).mean()) < 0.002


@pytest.mark.parametrize(("threshold", "edits"), [(0.5, 6), (0.6, 4), (0.75, 2), (0.8, 1)])
def test_pairs_well_above_the_threshold_are_found(threshold, edits):
    texts, exact = pairs_of(600, edits)
    assert threshold + 0.1 < exact.min() < threshold + 0.15
    names = clusters(sketch(texts, N), threshold)
    assert (names[:600] == names[600:]).mean() >= 0.98


@pytest.mark.parametrize("edits", [8, 5, 3, 1])
def test_at_the_threshold_it_is_the_estimate_that_decides(edits):
    texts, exact = pairs_of(600, edits)
    threshold = float(exact[0])
    signatures = sketch(texts, N)
    names = clusters(signatures, threshold)
    alike = similarity(signatures, signatures, twins(600)) >= threshold
    assert (names[:600] == names[600:])[alike].mean() >= 0.98
    assert not (names[:600] == names[600:])[~alike].any()


@pytest.mark.parametrize(("threshold", "edits"), [(0.7, 10), (0.8, 7), (0.95, 4)])
def test_pairs_well_below_the_threshold_stay_apart(threshold, edits):
    texts, exact = pairs_of(600, edits)
    assert exact.max() < threshold - 0.1
    names = clusters(sketch(texts, N), threshold)
    assert (names[:600] == names[600:]).mean() <= 0.01
    assert (names[:600] == np.arange(600)).all(), "strangers never meet"


def test_near_duplicates_are_found_among_many_rows_of_one_template():
    """All rows share most bands, so each band is one long run in which two that are alike must still come together."""
    rng = random.Random(3)
    template = words(rng, 160)
    rows = [template + words(rng, 8) for _ in range(1500)]
    copies = [[*row[:-1], "other"] for row in rows[:300]]
    names = clusters(sketch([" ".join(row) for row in [*rows, *copies]], N), 0.97)
    assert 0.85 < jaccard(rows[0], rows[1]) < 0.92 < 0.97 < jaccard(rows[0], copies[0])
    assert (names[:300] == names[1500:]).mean() >= 0.98
    assert (names[:1500] == np.arange(1500)).mean() >= 0.98


def mixed_rows():
    """Chains of rows more and more unlike the first, on a template that makes long runs of every band."""
    rng = random.Random(5)
    template = words(rng, 60)
    rows = [template + words(rng, 12) for _ in range(60)]
    rows += [edited(rng, row, 1) for row in rows for _ in range(rng.randrange(4))]
    return [" ".join(row) for row in rows] + ["", "?!", "", "one two", "One, two"]


@given(st.randoms(use_true_random=False), st.sampled_from([0.6, 0.75, 0.9]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_which_rows_are_together_does_not_depend_on_their_order(rng, threshold):
    texts = mixed_rows()
    order = list(range(len(texts)))
    rng.shuffle(order)

    def partition(order):
        names = clusters(sketch([texts[at] for at in order], N), threshold)
        groups = {}
        for at, name in zip(order, names, strict=True):
            groups.setdefault(int(name), set()).add(at)
        return {frozenset(group) for group in groups.values()}

    assert partition(order) == partition(range(len(texts)))


def test_a_cluster_is_named_by_its_first_row():
    texts = ["a b c d e f", "x y z u v w", "a b c d e f", "x y z u v w", "A, b c d e f!"]
    assert clusters(sketch(texts, N), 0.9).tolist() == [0, 1, 0, 1, 0]


def test_a_text_without_a_word_is_like_no_other():
    assert clusters(sketch(["", "?!", "", "..."], N), 0.5).tolist() == [0, 1, 2, 3]


def test_no_rows_have_no_clusters():
    assert clusters(sketch([], N), 0.5).tolist() == []


def test_sketches_are_the_same_on_every_machine():
    """They stand in artifacts: a value that changes here wants a new CODE_VERSION of ``prepared_batch``."""
    signatures = sketch(["The quick brown fox jumps over it."], N)
    assert signatures[0, :8].tolist() == RECORDED


def test_many_equal_rows_cost_little():
    assert not clusters(np.repeat(sketch(["a b c d e f g"], N), 100_000, axis=0), 0.9).any()


def test_a_band_shared_by_all_is_not_compared_all_with_all(monkeypatch):
    asked = []
    monkeypatch.setattr(near, "similarity", lambda one, other, pairs: asked.append(len(pairs)) or np.zeros(len(pairs)))
    rows = 2000
    clusters(np.zeros((rows, PERMUTATIONS), np.uint8), 0.9)
    assert rows < sum(asked) <= PERMUTATIONS // near.band_bytes(0.9) * near.NEIGHBOURS * rows


RECORDED = [80, 156, 130, 178, 21, 5, 163, 96]


# Against rows that came earlier


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
def test_a_row_meets_the_earlier_row_it_is_alike(threshold):
    texts, _ = pairs_of(600, 1)
    signatures = sketch(texts, N)
    found = met(signatures[600:], [signatures[:600]], threshold)
    alike = similarity(signatures, signatures, twins(600)) >= threshold
    assert (found[alike] == np.flatnonzero(alike)).mean() > 0.97
    assert (found[~alike] == -1).all()


@given(st.permutations(range(40)), st.integers(1, 40))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_what_a_row_meets_does_not_hang_on_the_rows_beside_it(order, count):
    texts, _ = pairs_of(40, 3)
    signatures = sketch(texts, N)
    some = np.array(order[:count])
    assert (
        met(signatures[40:][some], [signatures[:40]], 0.7) == met(signatures[40:], [signatures[:40]], 0.7)[some]
    ).all()


def test_of_equal_earlier_rows_the_first_is_met():
    signatures = sketch(["another text of some words here", *["the same seven words as ever before"] * 5], N)
    assert met(signatures[-2:], [signatures], 0.9).tolist() == [1, 1]


def test_a_row_is_found_among_many_of_one_template():
    rng = random.Random(3)
    stem = words(rng, 100)
    many = [" ".join([*stem, *words(rng, 30)]) for _ in range(2000)]
    signatures = sketch(many, N)
    some = rng.sample(range(2000), 100)
    assert (met(signatures[some], [signatures], 0.95) == some).all()


def test_rows_without_words_meet_none_and_no_rows_meet_nothing():
    signatures = sketch(["", "?!", "a text with five words"], N)
    assert met(signatures[:2], [signatures], 0.5).tolist() == [-1, -1]
    assert met(signatures, [], 0.5).tolist() == [-1, -1, -1]
    assert met(signatures[:0], [signatures, signatures[:0]], 0.5).tolist() == []


@given(st.lists(st.integers(0, 90), max_size=4), st.integers(0, 2**32 - 1), st.sampled_from([1, 20, 10**6]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_how_earlier_rows_are_parted_changes_nothing_and_those_that_do_not_stand_are_as_if_absent(cuts, seed, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "CHUNK_ROWS", chunk)
        parted_as_one(cuts, seed)


def parted_as_one(cuts, seed):
    signatures = sketch([" ".join(row) for row in mixed_rows()], N)
    new, earlier = signatures[::3], np.delete(signatures, np.s_[::3], axis=0)
    standing = np.random.default_rng(seed).random(len(earlier)) < 0.7
    parts = np.split(earlier, sorted(cuts))
    places = np.append(np.flatnonzero(standing), -1)
    assert (met(new, parts, 0.9, standing) == places[met(new, [earlier[standing]], 0.9)]).all()


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60), st.lists(st.integers(0, 3), max_size=9)
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_clusters_that_pairs_join_are_one_under_the_least_name(pairs, rounds):
    """Against sets that are joined one pair after the other; in several rounds, as bands come."""
    names = np.arange(31)
    together = {at: {at} for at in names.tolist()}
    for part in np.array_split(np.array(pairs, np.int64).reshape(-1, 2), len(rounds) + 1):
        names = near._joined(names, part)
        for one, other in part.tolist():
            both = together[one] | together[other]
            together |= dict.fromkeys(both, both)
    assert names.tolist() == [min(together[at]) for at in range(31)]


@given(st.lists(st.integers(0, 9), max_size=40))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_small_parts_are_looked_through_together_and_large_ones_where_they_lie(sizes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "CHUNK_ROWS", 5)
        rows = np.arange(sum(sizes), dtype=np.uint8).reshape(-1, 1) * np.ones(PERMUTATIONS, np.uint8)
        parts = np.split(rows, np.cumsum(sizes)[:-1]) if sizes else []
        chunks = near._in_chunks(parts)
    assert [row.tolist() for chunk in chunks for row in chunk] == rows.tolist()
    large = [part for part in parts if len(part) >= 5]
    where = {part.__array_interface__["data"] for part in large}
    assert where <= {chunk.__array_interface__["data"] for chunk in chunks}
    assert len(chunks) <= 2 * len(large) + sum(sizes) // 5 + 1
