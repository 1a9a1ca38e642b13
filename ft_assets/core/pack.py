"""Packing: short rows joined into sequences of up to ``capacity`` tokens.

Rows of one length are alike, so what is packed are counts. A pattern of lengths that fills a sequence wholly is used for
some of the rows, then the next: the longest length there is, completed by the longest that fit, or by those that most rows
have, so that these last equally long. The first is better where long rows and short ones are to be joined, the second where
all are short: of both the one that makes fewer sequences is taken. What no pattern fills is packed best fit, the longest row
first (Johnson 1974)::

    capacity 10, lengths 6 6 5 4 4 3 2    ->    [6 4] [6 4] [5 3 2]

The time grows with the number of different lengths, hardly with the number of rows.
"""

import bisect
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# A pattern takes this share of the rows that are left, but for the last of them; and it is completed by the lengths that most
# rows have, no more than these, so that the time to find one is bounded.
SHARES = 32
COMMON = 256

Counts = NDArray[np.int64]


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
    places = [_packed(dict(waiting), len(lengths), capacity, evenly) for evenly in (False, True)]
    return min(places, key=lambda place: int(place.max(initial=-1)))


def _packed(waiting: dict[int, NDArray[np.int64]], rows: int, capacity: int, evenly: bool) -> NDArray[np.int64]:
    """The sequence of each of so many ``rows``, which are given by their length, the longest first."""
    place = np.empty(rows, np.int64)
    count = 0
    counts = {length: len(rows) for length, rows in waiting.items()}
    for pattern, times in _patterns(counts, capacity, evenly):
        for length, often in pattern.items():
            taken, waiting[length] = np.split(waiting[length], [times * often])
            place[taken] = count + np.arange(times * often) // often
        count += times
    _best_fit(waiting, capacity, place, count)
    return place


def _patterns(waiting: dict[int, int], capacity: int, evenly: bool) -> Iterator[tuple[dict[int, int], int]]:
    """Patterns, and how many times each is used, for each length from the longest on.

    Args:
        waiting: how many rows there are of each length, the longest first.
        evenly: complete by the lengths that most rows have, not by the longest.
    """
    lengths = np.array(list(waiting), np.int64)
    counts = np.array(list(waiting.values()), np.int64)
    common = _Common(lengths, counts, capacity, evenly)
    left = int(lengths @ counts)
    for longest in range(len(lengths)):
        times = int(counts[longest])
        while times:
            times = min(times, int(counts[longest]), max(1, left // capacity // SHARES))
            pattern = common.completing(longest, times)
            if pattern is None:
                times //= 2
                continue
            for at, often in pattern.items():
                counts[at] -= times * often
            left -= times * capacity
            yield {int(lengths[at]): often for at, often in pattern.items()}, times


class _Common:
    """The lengths that most rows have; ``counts`` falls as rows are taken."""

    def __init__(self, lengths: Counts, counts: Counts, capacity: int, evenly: bool):
        self.lengths, self.counts, self.capacity, self.evenly = lengths, counts, capacity, evenly
        self.number = {int(length): at for at, length in enumerate(lengths)}
        self._choose()

    def _choose(self) -> None:
        self.at = np.argsort(-self.counts, kind="stable")[:COMMON]
        self.at = self.at[self.counts[self.at] > 0]
        self.sums = _sums(self.lengths[self.at], self.capacity)

    def completing(self, longest: int, times: int) -> dict[int, int] | None:
        """How often each length, by index, stands in a pattern with the ``longest`` that makes up the capacity to the token
        and can be used so many ``times``; None where none is found.
        """
        if not self.counts[self.at].all():
            self._choose()
        pattern = Counter([longest])
        own, spare = self.lengths[self.at], self.counts[self.at] - times
        spare[self.at == longest] -= times
        left = self.capacity - int(self.lengths[longest])
        while left:
            alone = None if self.evenly else self.number.get(left)
            if alone is not None and self.counts[alone] >= times * (pattern[alone] + 1):
                pattern[alone] += 1
                return pattern
            fits = (spare >= 0) & (own <= left)
            fits[fits] = self.sums[left - own[fits]]
            if not fits.any():
                return None
            chosen = int(np.argmax(np.where(fits, spare if self.evenly else own, -1)))
            pattern[int(self.at[chosen])] += 1
            spare[chosen] -= times
            left -= int(own[chosen])
        return pattern


def _sums(lengths: Counts, capacity: int) -> NDArray[np.bool_]:
    """Whether the lengths can make up each number of tokens from 0 to ``capacity``, each as often as one likes."""
    bits, mask = 1, (1 << (capacity + 1)) - 1
    for length in lengths.tolist():
        step = length
        while step <= capacity:
            bits |= (bits << step) & mask
            step *= 2
    as_bytes = np.frombuffer(bits.to_bytes(capacity // 8 + 1, "little"), np.uint8)
    return np.unpackbits(as_bytes, bitorder="little")[: capacity + 1].astype(bool)


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
