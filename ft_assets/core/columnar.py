"""Rows of a Parquet or Arrow file, read in a child process whose memory and time are bounded.

A footer can lie about sizes, a page can unpack to gigabytes, offsets can point outside: the child then stops or dies, and
what it has read so far stands. The child writes one line for each row, as in a JSONL file; a row that cannot be read is a
line ``!reason detail``.
"""

import errno
import io
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from ft_assets.core.lines import MAX_ROW_BYTES, lines
from ft_assets.core.reasons import Reason, RowFault, UnreadableRest
from ft_assets.core.unpack import Bounded

SUFFIXES = (".parquet", ".arrow", ".feather", ".ipc")
CHILD_BYTES = 2 * 2**30
# Seconds of processor time: these for any file, and one more for each so many of its bytes.
CHILD_SECONDS = 60
BYTES_A_SECOND = 2**18
ROWS_AT_ONCE = 256
BYTES_AT_ONCE = 32 * 2**20
GAVE_UP = 3
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGXCPU)


def read_columnar(file: Path, suffix: str) -> Iterator[bytes | RowFault]:
    """Each row as a line of JSON.

    Raises:
        UnreadableRest: the file is broken, or takes more than a child is given.
        ChildProcessError: the child ended for a cause outside the file: killed from outside, a broken installation.
    """
    size = file.stat().st_size
    seconds = CHILD_SECONDS + size // BYTES_A_SECOND
    command = [sys.executable, "-P", "-m", "ft_assets.core.columnar", str(file), suffix, str(seconds)]
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said)
        output = cast(io.BufferedReader, child.stdout)
        pieces = iter(lambda: output.read1(2**16), b"")
        try:
            for line in lines(io.BufferedReader(Bounded(pieces, size))):
                if len(line) <= MAX_ROW_BYTES and not line.endswith(b"\n"):
                    break  # Cut off by the child's death.
                yield _fault(line) if line.startswith(b"!") else line
        except (GeneratorExit, UnreadableRest):
            child.kill()
            raise
        finally:
            output.close()
            status = child.wait()
        said.seek(0)
        last = said.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
    if status == GAVE_UP:
        raise UnreadableRest(last)
    if -status in CRASHES:
        raise UnreadableRest(f"the file broke its reader ({signal.Signals(-status).name})")
    if status:
        raise ChildProcessError(f"the reader of {file.name} ended with status {status}: {last}")


def _fault(line: bytes) -> RowFault:
    reason, _, detail = line[1:].decode().rstrip("\n").partition(" ")
    return RowFault(Reason(reason), detail)


def main(path: str, suffix: str, seconds: str) -> None:
    """The child: writes the rows to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ |= {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
    import pyarrow as pa

    try:
        for batch in _batches(path, suffix):
            valid = suffix == ".parquet" or _is_valid(batch)
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                sys.stdout.buffer.writelines(_lines(batch.slice(start, ROWS_AT_ONCE), valid))
        sys.stdout.buffer.flush()
    except (pa.ArrowException, OSError, MemoryError, ValueError, OverflowError) as error:
        if getattr(error, "errno", None) not in (None, errno.EINVAL):  # EINVAL: a place outside the file is asked for.
            raise
        sys.stdout.buffer.flush()
        print(_told(error), file=sys.stderr)
        sys.exit(GAVE_UP)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300].replace("\n", " ")


def _batches(path: str, suffix: str) -> Iterator[Any]:
    import pyarrow as pa

    if suffix == ".parquet":
        yield from _parquet(path)
        return
    with pa.OSFile(path) as file:
        try:
            opened = pa.ipc.open_file(file)
        except pa.ArrowInvalid:
            file.seek(0)
            opened = pa.ipc.open_stream(file)
            _unique(opened.schema)
            yield from opened
            return
        _unique(opened.schema)
        for index in range(opened.num_record_batches):
            yield opened.get_batch(index)


def _parquet(path: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, pre_buffer=False)
    _unique(file.schema_arrow)
    for index in range(file.num_row_groups):
        group = file.metadata.row_group(index)
        if group.num_rows < 0:
            raise ValueError(f"row group {index} claims {group.num_rows} rows")
        at_once = min(ROWS_AT_ONCE, max(1, BYTES_AT_ONCE * group.num_rows // max(1, group.total_byte_size)))
        found = 0
        for batch in file.iter_batches(at_once, row_groups=[index], use_threads=False):
            found += batch.num_rows
            yield batch
        counts = [group.column(place).num_values for place in range(group.num_columns)]
        flat = [file.schema.column(place).max_repetition_level == 0 for place in range(group.num_columns)]
        if found != group.num_rows or any(one and count != found for one, count in zip(flat, counts, strict=True)):
            raise ValueError(
                f"the footer contradicts itself: row group {index} of {group.num_rows} rows, values {counts}"
            )
    if sum(file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)) != file.metadata.num_rows:
        raise ValueError(f"the footer claims {file.metadata.num_rows} rows, its row groups hold another number")


def _unique(schema: Any) -> None:
    if len(set(schema.names)) < len(schema.names):
        raise ValueError("a column name is given twice")


def _is_valid(batch: Any) -> bool:
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _lines(batch: Any, valid: bool) -> Iterator[bytes]:
    """The rows of a batch as lines; where they cannot all be read, each by itself."""
    import pyarrow as pa

    try:
        if not valid:
            batch.validate(full=True)
        rows = batch.to_pylist()
    except (pa.ArrowException, ValueError, MemoryError, OverflowError) as error:
        if batch.num_rows > 1:
            for index in range(batch.num_rows):
                yield from _lines(batch.slice(index, 1), valid)
        else:
            yield _fault_line(error)
        return
    yield from map(_line, rows)


def _fault_line(error: Exception) -> bytes:
    reason = Reason.OVERSIZED if isinstance(error, MemoryError) else Reason.MALFORMED
    if isinstance(error, UnicodeDecodeError) or "UTF8 sequence" in str(error):
        reason = Reason.NOT_UTF8
    return f"!{reason.value} {_told(error)}\n".encode("utf-8", "replace")


def _line(row: dict[str, Any]) -> bytes:
    """JSON knows no NaN and no infinity; where a table holds one, its row is left with null."""
    try:
        try:
            text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_other)
        except ValueError:
            text = json.dumps(_finite(row), ensure_ascii=False, allow_nan=False, default=_other)
    except (RecursionError, MemoryError) as error:
        return _fault_line(error)
    return text.encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _other(value: Any) -> dict[str, str]:
    """What is no JSON: bytes, times, decimals. It is named, so that nobody takes it for text."""
    return {type(value).__name__: str(value)[:100]}


if __name__ == "__main__":
    main(*sys.argv[1:])
