"""Rows of a Parquet or Arrow file, read in a child process whose memory is bounded.

A footer can lie about sizes and a page can unpack to gigabytes; the reader then fails to allocate, or dies, in the child.
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ft_assets.core.reasons import UnreadableRest

CHILD_BYTES = 3 * 2**30
ROWS_AT_ONCE = 256


def read_columnar(file: Path, suffix: str) -> Iterator[dict[str, Any]]:
    """Each row as a dictionary.

    Raises:
        UnreadableRest: the file is broken, or needs more than :data:`CHILD_BYTES` to be read.
    """
    import pyarrow as pa

    command = [sys.executable, "-P", "-m", "ft_assets.core.columnar", str(file), suffix]
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
    rows = 0
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, env=environment)
        assert child.stdout is not None
        try:
            with pa.ipc.open_stream(child.stdout) as batches:
                for batch in batches:
                    for row in batch.to_pylist():
                        rows += 1
                        yield row
            broken = None
        except (pa.ArrowInvalid, OSError) as error:
            broken = error
        finally:
            child.stdout.close()
            if child.poll() is None and sys.exc_info()[0] is GeneratorExit:
                child.kill()
            status = child.wait()
        if status or broken:
            said.seek(0)
            last = said.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
            cause = last or (f"its reader ended with status {status}" if status else str(broken))
            raise UnreadableRest(f"the rest of the file cannot be read: {cause[:300]}", rows + 1)


def main(path: str, suffix: str) -> None:
    """The child: writes the rows to standard output as an Arrow stream."""
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches: Any
        if suffix == ".parquet":
            parquet = pq.ParquetFile(path, pre_buffer=False)
            schema, batches = parquet.schema_arrow, parquet.iter_batches(ROWS_AT_ONCE, use_threads=False)
        else:
            try:
                opened = pa.ipc.open_file(path)
                batches = (opened.get_batch(index) for index in range(opened.num_record_batches))
            except pa.ArrowInvalid:
                batches = opened = pa.ipc.open_stream(path)
            schema = opened.schema
        with pa.ipc.new_stream(sys.stdout.buffer, schema) as out:
            for batch in batches:
                batch.validate(full=True)
                for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                    out.write_batch(batch.slice(start, ROWS_AT_ONCE))
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


if __name__ == "__main__":
    main(*sys.argv[1:])
