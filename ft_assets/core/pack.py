"""Packing: short rows joined into sequences of up to ``capacity`` tokens, best fit, the longest row first.

Best-fit decreasing needs at most 11/9 of the fewest sequences possible, and 1 more (Johnson 1974). Rows of one length are
placed together, so the time grows with the number of different lengths, not with the number of rows::

    capacity 10, lengths 6 5 4 3 2    ->    [6 4] [5 3 2]
"""

import bisect
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def best_fit(lengths: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """The sequence of each row, numbered from 0 without gaps.

    Args:
        lengths: tokens of each row, 1 to ``capacity``.

    Raises:
        ValueError: a row is empty or longer than ``capacity``.
    """
    if len(lengths) and (lengths.min() < 1 or lengths.max() > capacity):
        raise ValueError(f"lengths must be 1 to {capacity}, found {lengths.min()} to {lengths.max()}")
    place = np.empty(len(lengths), np.int64)
    room: dict[int, list[int]] = {}  # Sequences by the tokens that still fit into them.
    rooms: list[int] = []  # The keys of ``room``, in order.
    count = 0
    order = np.argsort(-lengths, kind="stable")
    borders = np.flatnonzero(np.diff(lengths[order], prepend=-1, append=-1))
    for start, end in pairwise(borders):
        rows, length = order[start:end], int(lengths[order[start]])
        done = 0
        while done < len(rows):
            at = bisect.bisect_left(rooms, length)
            if at == len(rooms):
                # As many rows as fit go into each new sequence: that is what one row after the other would give.
                each = capacity // length
                fresh = -(-(len(rows) - done) // each)
                place[rows[done:]] = count + np.arange(len(rows) - done) // each
                _add(room, rooms, capacity - each * length, range(count, count + fresh - 1))
                last = len(rows) - done - each * (fresh - 1)
                _add(room, rooms, capacity - last * length, range(count + fresh - 1, count + fresh))
                count += fresh
                break
            left = rooms[at]
            taken = room[left][: len(rows) - done]
            room[left] = room[left][len(taken) :]
            if not room[left]:
                del room[left], rooms[at]
            place[rows[done : done + len(taken)]] = taken
            _add(room, rooms, left - length, taken)
            done += len(taken)
    return place


def _add(room: dict[int, list[int]], rooms: list[int], left: int, sequences: "range | list[int]") -> None:
    if left > 0 and len(sequences):
        if left not in room:
            room[left] = []
            bisect.insort(rooms, left)
        room[left].extend(sequences)
