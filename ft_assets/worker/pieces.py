"""The tokenized pieces of some batches of a role, and the files of a split that are written from them.

Pieces stay in the batches' files, mapped into memory; what is written is gathered a few million tokens at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ft_assets.core.artifact import Artifact
from ft_assets.core.pack import pack
from ft_assets.worker.prepare import TOKENS
from ft_assets.worker.template import IGNORED

TOKENS_AT_ONCE = 2**22
ROWS_OF_A_CHUNK = 1024

Numbers = NDArray[np.int64]


class Pieces:
    """All pieces in the order of their rows; each has its row's place among the rows of all batches, the number of its
    batch, ``lengths`` in tokens (of a pair, the longer side) and ``tokens`` in all (of a pair, both sides).
    """

    def __init__(self, role: str, prepared: list[Artifact]):
        self.role = role
        self.chunks: list[Any] = []
        rows: list[Numbers] = [np.empty(0, np.int64)]
        batches: list[Numbers] = [np.empty(0, np.int64)]
        first = 0
        for number, artifact in enumerate(prepared):
            with pa.memory_map(str(artifact.file("tokens.arrow"))) as source:
                table = pa.ipc.open_file(source).read_all()
            self.chunks += table.to_batches()
            rows.append(table["row"].to_numpy().astype(np.int64) + first)
            batches.append(np.full(len(table), number))
            first += artifact.manifest.metrics["rows_kept"]
        self.row, self.batch = np.concatenate(rows), np.concatenate(batches)
        self.starts = np.cumsum([0, *(len(chunk) for chunk in self.chunks)])
        if role == "preference":
            prompt, chosen, rejected, suffix = (
                self._count(name) for name in ("prompt_ids", "chosen_ids", "rejected_ids", "suffix_ids")
            )
            self.lengths = prompt + np.maximum(chosen, rejected) + suffix
            self.tokens = 2 * (prompt + suffix) + chosen + rejected
        else:
            self.lengths = self.tokens = self._count("prompt_ids" if role == "prompt" else "input_ids")

    def _count(self, name: str) -> Numbers:
        found = [pc.list_value_length(chunk[name]).to_numpy() for chunk in self.chunks]
        return np.concatenate([np.empty(0, np.int64), *found]).astype(np.int64)

    def of_rows(self, times: Numbers) -> Numbers:
        """The pieces of each row of the index as often as ``times`` says: all once, then all that come again."""
        wanted = times[self.row]
        passes = [np.flatnonzero(wanted > seen) for seen in range(int(wanted.max(initial=0)))]
        return np.concatenate([np.empty(0, np.int64), *passes])

    def take(self, at: Numbers) -> pa.Table:
        """Pieces by number, in the order given."""
        chunk = np.searchsorted(self.starts, at, "right") - 1
        order = np.argsort(chunk, kind="stable")
        used, begin = np.unique(chunk[order], return_index=True)
        groups = np.split(at[order], begin[1:])
        parts = [
            self.chunks[number].take(pa.array(group - self.starts[number]))
            for number, group in zip(used, groups, strict=False)
        ]
        schema = pa.schema(list(TOKENS[self.role].items()))
        return pa.Table.from_batches(parts, schema).combine_chunks().take(pa.array(np.argsort(order)))


@dataclass
class Written:
    """What a file of a split holds: rows, the tokens of the longest, and labels."""

    rows: int = 0
    longest: int = 0
    supervised: int = 0


def write(file: Path, tables: Iterator[pa.Table]) -> Written:
    """Writes tables as one Arrow stream."""
    found = Written()
    with pa.OSFile(str(file), "wb") as sink:
        table = next(tables)
        with pa.ipc.new_stream(sink, table.schema) as out:
            while table is not None:
                out.write_table(table, max_chunksize=ROWS_OF_A_CHUNK)
                found.rows += len(table)
                if "input_ids" in table.column_names and len(table):
                    lengths = pc.list_value_length(table["input_ids"])
                    found.longest = max(found.longest, pc.max(lengths).as_py())
                    labels = "labels" in table.column_names
                    found.supervised += int((_flat(table["labels"]) != IGNORED).sum()) if labels else len(table)
                table = next(tables, None)
    return found


def plain(pieces: Pieces, at: Numbers, row_ids: Any) -> Iterator[pa.Table]:
    """Each piece a row."""
    for some in _bounded(at, pieces.lengths[at]):
        table = pieces.take(some)
        yield table.drop_columns(["row"]).add_column(0, "row_id", _ids(pieces, some, row_ids))


def blocks(pieces: Pieces, at: Numbers, length: int) -> Iterator[pa.Table]:
    """Documents joined and cut into blocks of ``length`` tokens; the last, shorter block is kept, so no token is lost."""
    rest, count = np.empty(0, np.int32), 0
    chunks = _bounded(at, pieces.lengths[at])
    for number, some in enumerate(chunks):
        stream = np.concatenate((rest, _flat(pieces.take(some)["input_ids"])))
        full = len(stream) if number == len(chunks) - 1 else len(stream) // length * length
        ids = _lists(stream[:full], np.append(np.arange(0, full, length), full) if full else np.zeros(1, np.int64))
        names = pa.array([f"block-{count + index}" for index in range(len(ids))], pa.large_string())
        yield pa.table({"row_id": names, "input_ids": ids, "labels": ids})
        rest, count = stream[full:], count + len(ids)


def packed(pieces: Pieces, at: Numbers, row_ids: Any, sequence: Numbers) -> Iterator[pa.Table]:
    """Conversations joined into sequences; ``seq_lengths`` says where in a sequence each one ends."""
    at = at[np.argsort(sequence, kind="stable")]
    sizes = np.bincount(sequence, minlength=1 if not len(at) else 0)
    begins = np.cumsum(sizes) - sizes
    tokens = np.add.reduceat(pieces.lengths[at], begins) if len(at) else np.zeros(1, np.int64)
    for some in _bounded(np.arange(len(sizes) if len(at) else 0), tokens):
        first = begins[some[0]] if len(some) else 0
        last = begins[some[-1]] + sizes[some[-1]] if len(some) else 0
        members = at[first:last]
        firsts = np.append(begins[some] - first, last - first)
        table, lengths = pieces.take(members), pieces.lengths[members]
        borders = np.concatenate(([0], np.cumsum(lengths)))[firsts]
        yield pa.table(
            {
                "row_id": _ids(pieces, members[firsts[:-1]], row_ids),
                **{name: _lists(_flat(table[name]), borders) for name in ("input_ids", "labels")},
                "seq_lengths": _lists(lengths.astype(np.int32), firsts),
            }
        )


def sequences(pieces: Pieces, at: Numbers, capacity: int) -> tuple[Numbers, dict[str, int]]:
    """The sequence of each conversation, and how many there are of both."""
    sequence = pack(pieces.lengths[at], capacity)
    count = int(sequence.max(initial=-1)) + 1
    return sequence, {"conversations": len(at), "sequences": count}


def _bounded(at: Numbers, tokens: Numbers) -> list[Numbers]:
    """``at`` in runs of about :data:`TOKENS_AT_ONCE` tokens; one run, if an empty one, at least."""
    full = np.cumsum(tokens) // TOKENS_AT_ONCE if len(at) else np.empty(0, np.int64)
    return np.split(at, np.flatnonzero(np.diff(full)) + 1)


def _ids(pieces: Pieces, at: Numbers, row_ids: Any) -> Any:
    return row_ids.gather(pieces.row[at]).to_arrow().cast(pa.large_string())


def _flat(column: Any) -> NDArray[np.int32]:
    return np.concatenate([np.empty(0, np.int32), *(chunk.flatten().to_numpy() for chunk in column.chunks)])


def _lists(values: NDArray[np.int32], borders: Numbers) -> Any:
    return pa.LargeListArray.from_arrays(pa.array(borders, pa.int64()), pa.array(values, pa.int32()))
