"""Laws of packing: every row has one place, no sequence overflows, and few are more than half empty."""

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ft_assets.core.pack import pack


def filled(lengths, capacity):
    """Tokens of each sequence."""
    return np.bincount(pack(np.array(lengths, np.int64), capacity), weights=lengths).astype(int)


@given(st.integers(1, 60).flatmap(lambda most: st.tuples(st.lists(st.integers(1, most), max_size=80), st.just(most))))
@example(([], 5))
@example(([5], 5))
@example(([6, 5, 4, 3, 2], 10))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_tokens_are_conserved_and_no_sequence_overflows(case):
    lengths, capacity = case
    place = pack(np.array(lengths, np.int64), capacity)
    assert len(place) == len(lengths)
    sequences = np.bincount(place, weights=lengths).astype(int)
    assert sequences.sum() == sum(lengths)
    assert set(place.tolist()) == set(range(len(sequences))), "numbered without gaps"
    assert (sequences <= capacity).all()
    fewest = -(-sum(lengths) // capacity)
    assert len(sequences) <= 11 / 9 * max(fewest, sum(length > capacity // 2 for length in lengths)) * 1.5 + 1
    # Any two sequences would not have fitted into one.
    assert len(sequences) < 2 or np.sort(sequences)[:2].sum() > capacity


def test_the_drawing_holds():
    assert sorted(filled([6, 5, 4, 3, 2], 10)) == [10, 10]


@pytest.mark.parametrize("capacity", [512, 2048])
@pytest.mark.parametrize("shape", ["even", "short", "equal"])
def test_many_short_rows_fill_their_sequences(capacity, shape):
    rng = np.random.default_rng(0)
    lengths = {
        "even": rng.integers(1, capacity // 4, 20_000),
        "short": np.minimum(rng.geometric(8 / capacity, 20_000), capacity // 4),
        "equal": np.full(20_000, capacity // 4 - 1),
    }[shape]
    sequences = filled(lengths, capacity)
    assert sequences.mean() / capacity >= 0.98


def test_equal_input_gives_equal_output_and_a_row_more_moves_no_token_out():
    lengths = np.random.default_rng(1).integers(1, 300, 5000)
    assert (pack(lengths, 512) == pack(lengths.copy(), 512)).all()


@pytest.mark.parametrize("lengths", [[0], [3, 0, 2], [11], [5, -1]])
def test_a_row_that_is_empty_or_too_long_is_refused(lengths):
    with pytest.raises(ValueError, match="lengths must be 1 to 10"):
        pack(np.array(lengths, np.int64), 10)


def seconds(lengths, capacity):
    started = time.process_time()
    pack(lengths, capacity)
    return time.process_time() - started


@pytest.mark.parametrize("shape", ["even", "half and small"])
def test_time_grows_with_the_rows_and_not_faster(shape):
    rng = np.random.default_rng(2)

    def rows(count):
        if shape == "even":
            return rng.integers(1, 2049, count)
        return np.concatenate((np.full(count - 1000, 1025), rng.permutation(1000) + 1))

    small = min(seconds(rows(100_000), 2048) for _ in range(2))
    assert seconds(rows(1_000_000), 2048) < 20 * small + 0.5
