"""Packing: short rows joined into sequences of up to ``capacity`` tokens.

Rows of one length are alike, so what is packed are counts: a pattern of lengths that fills a sequence wholly is used as often
as the rows last, then the next. What no pattern fills is packed best fit, the longest row first (Johnson 1974)::

    capacity 10, lengths 6 6 5 4 4 3 2    ->    [6 4] [6 4] [5 3 2]

The time grows with the number of different lengths, hardly with the number of rows.
"""

import bisect
from collections import Counter
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def pack(lengths: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """The sequence of each row, numbered from 0 without gaps; the same for the same lengths.

    Args:
        lengths: tokens of each row, 1 to ``capacity``.

    Raises:
        ValueError: a row is empty or longer than ``capacity``.
    """
    if len(lengths) and (lengths.min() < 1 or lengths.max() > capacity):
        raise ValueError(f"lengths must be 1 to {capacity}, found {lengths.min()} to {lengths.max()}")
    order = np.argsort(-lengths, kind="stable")
    borders = np.flatnonzero(np.diff(lengths[order], prepend=-1, append=-1))
    waiting = {int(lengths[order[start]]): order[start:end] for start, end in pairwise(borders)}
    place = np.empty(len(lengths), np.int64)
    count = 0
    while pattern := _pattern({length: len(rows) for length, rows in waiting.items()}, capacity):
        times = min(len(waiting[length]) // often for length, often in pattern.items())
        for length, often in pattern.items():
            taken, waiting[length] = np.split(waiting[length], [times * often])
            place[taken] = count + np.arange(times * often) // often
            if not len(waiting[length]):
                del waiting[length]
        count += times
    _best_fit(waiting, capacity, place, count)
    return place


def _pattern(counts: dict[int, int], capacity: int) -> dict[int, int] | None:
    """Lengths, and how often each, that make up ``capacity`` to the token, the longest first; None where there are none.

    Bit ``n`` of ``sums`` says whether the lengths can make up ``n``, each as often as one likes. As each is there a limited
    number of times only, a pattern may be missed when few rows are left.
    """
    sums, mask = 1, (1 << (capacity + 1)) - 1
    for length in counts:
        step = length
        while step <= capacity:
            sums |= (sums << step) & mask
            step *= 2
    if not sums >> capacity & 1:
        return None
    pattern: Counter[int] = Counter()
    left = capacity
    for length in sorted(counts, reverse=True):
        while length <= left and pattern[length] < counts[length] and sums >> (left - length) & 1:
            pattern[length] += 1
            left -= length
    return +pattern if not left else None


def _best_fit(waiting: dict[int, NDArray[np.int64]], capacity: int, place: NDArray[np.int64], count: int) -> None:
    """Each row into the fullest sequence it fits into, else into a new one, numbered from ``count`` on."""
    open_sequences: list[tuple[int, int]] = []  # Tokens that still fit, and the sequence; in order.
    for length, rows in waiting.items():
        for row in rows:
            at = bisect.bisect_left(open_sequences, (length, -1))
            if at < len(open_sequences):
                left, place[row] = open_sequences.pop(at)
            else:
                left, place[row] = capacity, count
                count += 1
            if left > length:
                bisect.insort(open_sequences, (left - length, int(place[row])))
