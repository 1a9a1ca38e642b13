"""Makes rows, writes them into every container a source may come in, and looks at what is read of them."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from ft_assets.core.read import Record

Rows = list[dict[str, Any]]


def json_lines(rows: Rows) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def json_array(rows: Rows) -> bytes:
    return json.dumps(rows, ensure_ascii=False, indent=1).encode()


def table(rows: Rows, delimiter: str = ",", end: str = "\r\n") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: Rows | pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), out, **options)
    return out.getvalue()


def arrow(rows: Rows | pa.Table, form: str = "file") -> bytes:
    made, out = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), io.BytesIO()
    with {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}[form](out, made.schema) as writer:
        writer.write_table(made)
    return out.getvalue()


CONTAINERS: dict[str, Callable[[Rows], bytes]] = {
    "a.jsonl": json_lines,
    "a.ndjson": json_lines,
    "lines.json": json_lines,
    "array.json": json_array,
    "a.csv": table,
    "a.tsv": lambda rows: table(rows, "\t", "\n"),
    "a.parquet": parquet,
    "file.arrow": arrow,
    "stream.arrow": lambda rows: arrow(rows, "stream"),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, 1, mtime=0),
    ".zst": zstandard.ZstdCompressor().compress,
}


def written(folder: Path, name: str, data: bytes) -> Path:
    file = folder / name
    file.write_bytes(data)
    return file


def row(number: int, output: Any = "Yes.") -> dict[str, Any]:
    return {"instruction": f"Question {number}?", "output": output}


def kept(records: list[Record]) -> list[Any]:
    return [record.value for record in records if record.fault is None]


def faults(records: list[Record]) -> list[tuple[int, str]]:
    return [(record.position, record.fault.reason.value) for record in records if record.fault]


def numbers(records: list[Record]) -> list[int]:
    """Of rows made by :func:`row`, the numbers of those that could be read."""
    return [int(value["instruction"].split()[1][:-1]) for value in kept(records)]
