"""From a file's bytes to records: one for each row, with its position, whatever the row looks like.

The container follows from the file's name (``rows.jsonl``, ``rows.csv.gz``, ``rows.parquet``, ``page.md.zst``); what a row
means is the source's ``format`` and decided elsewhere. Nothing in a file stops the reading or makes it hold more than
about :data:`MAX_ROW_BYTES`: a bad row becomes a record with a fault, a file that cannot be read on one last such record.
"""

import codecs
import csv
import gzip
import io
import json
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from ft_assets.core.columnar import read_columnar
from ft_assets.core.reasons import Reason, RowFault, UnreadableRest

MAX_ROW_BYTES = 16 * 2**20
MAX_EXPANSION = 200
EXPANSION_FREE_BYTES = 2**30
MAX_ZSTD_WINDOW_BYTES = 2**27
SHOWN_CHARACTERS = 2000
UTF8_MARK = codecs.BOM_UTF8
OTHER_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
BROKEN_FILE = (OSError, EOFError, zlib.error, zstandard.ZstdError)


@dataclass(frozen=True)
class Record:
    """One row of a file.

    ``position`` counts from 1: the line where a row of JSONL, CSV or TSV begins, else the row's place in the file. Either
    ``value`` holds the row's fields or ``fault`` says why there are none; ``raw`` is the row as it stood, cut short, and
    ``size`` about how much of memory it takes, in bytes.
    """

    file: str
    position: int
    value: dict[str, Any] | None
    fault: RowFault | None
    raw: str | None = None
    size: int = 0

    def shown(self) -> str:
        """The row for a person to read, at most :data:`SHOWN_CHARACTERS` long."""
        text = self.raw if self.raw is not None else json.dumps(self.value, ensure_ascii=False, default=str)
        return text.encode("utf-8", "replace").decode()[:SHOWN_CHARACTERS]


Row = tuple[int, str | bytes | dict[str, Any] | RowFault]


def read_records(file: Path, name: str) -> Iterator[Record]:
    """Every row of a file, in its order. ``name`` is the file's path inside its batch."""
    position = 0
    try:
        for position, row in _rows(file):
            yield _record(name, position, row)
    except UnreadableRest as error:
        yield Record(name, error.position or position + 1, None, RowFault(error.reason, str(error)), "")
    except BROKEN_FILE as error:
        detail = f"the rest of the file cannot be read: {error}"
        yield Record(name, position + 1, None, RowFault(Reason.UNREADABLE, detail), "")


def _record(name: str, position: int, row: str | bytes | dict[str, Any] | RowFault) -> Record:
    if isinstance(row, RowFault):
        return Record(name, position, None, row, row.raw)
    if isinstance(row, dict):
        return Record(name, position, row, None, size=sum(len(str(value)) for value in row.values()))
    raw = row if isinstance(row, str) else row[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace")
    try:
        return Record(name, position, decode_json(row), None, raw[:SHOWN_CHARACTERS], len(row))
    except RowFault as fault:
        return Record(name, position, None, fault, raw[:SHOWN_CHARACTERS])


def _rows(file: Path) -> Iterator[Row]:
    *_, packing = ["", *file.suffixes]
    packed = packing in (".gz", ".zst")
    suffix = Path(file.stem).suffix if packed else packing
    if suffix in (".parquet", ".arrow", ".feather", ".ipc"):
        yield from _columns(file, packed)
        return
    reader = READERS.get(suffix)
    if reader is None:
        known = ", ".join([*READERS, ".parquet", ".arrow"])
        raise UnreadableRest(f"file names end in {known}, and then .gz or .zst where compressed; found {file.name}")
    with _open(file) as stream:
        mark = stream.peek(3)[:3]
        if other := next((name for start, name in OTHER_MARKS.items() if mark.startswith(start)), None):
            raise UnreadableRest(f"the file is {other}; save it as UTF-8", reason=Reason.NOT_UTF8)
        if mark == UTF8_MARK:
            stream.read(3)
        yield from reader(stream)


def _open(file: Path) -> io.BufferedReader:
    if file.suffix == ".gz":
        return io.BufferedReader(_Unpacked(cast(BinaryIO, gzip.open(file)), file.stat().st_size))
    if file.suffix == ".zst":
        unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
        stream = unpacker.stream_reader(file.open("rb"), read_across_frames=True, closefd=True)
        return io.BufferedReader(_Unpacked(cast(BinaryIO, stream), file.stat().st_size))
    return file.open("rb")


class _Unpacked(io.RawIOBase):
    """A decompressed stream that stops where a decompression bomb shows itself."""

    def __init__(self, stream: BinaryIO, packed_bytes: int):
        self.stream = stream
        self.most = max(EXPANSION_FREE_BYTES, MAX_EXPANSION * packed_bytes)
        self.bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        self.bytes += len(data)
        if self.bytes > self.most:
            raise UnreadableRest(
                f"unpacks to more than {self.most:,} bytes, {MAX_EXPANSION} times what it is packed: not read on",
                reason=Reason.OVERSIZED,
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


def _columns(file: Path, packed: bool) -> Iterator[Row]:
    if not packed:
        yield from enumerate(read_columnar(file, file.suffix), 1)
        return
    with tempfile.NamedTemporaryFile(suffix=Path(file.stem).suffix) as plain, _open(file) as stream:
        while piece := stream.read(2**20):
            plain.write(piece)
        plain.flush()
        yield from enumerate(read_columnar(Path(plain.name), Path(file.stem).suffix), 1)


def _lines(stream: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; one over the limit comes cut to it plus a byte, and the rest of it is passed over."""
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            while (rest := stream.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
        yield number, line


def _json_lines(stream: io.BufferedReader) -> Iterator[Row]:
    for number, line in _lines(stream):
        if line.strip():
            yield number, line


def _document(stream: io.BufferedReader) -> Iterator[Row]:
    data = stream.read(MAX_ROW_BYTES + 1)
    try:
        yield 1, {"text": _utf8(data).rstrip("\r\n")}
    except RowFault as fault:
        yield 1, RowFault(fault.reason, str(fault), data[:SHOWN_CHARACTERS].decode("utf-8", "replace"))


def _utf8(data: bytes) -> str:
    if len(data) > MAX_ROW_BYTES:
        raise RowFault(Reason.OVERSIZED, f"longer than {MAX_ROW_BYTES:,} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowFault(Reason.NOT_UTF8, f"byte {error.start} is not UTF-8") from error


def _json_file(stream: io.BufferedReader) -> Iterator[Row]:
    """The elements of a JSON array; a file that begins otherwise is read as JSON lines, as many of this name are."""
    while (start := stream.peek(1)[:1]).isspace():
        stream.read(1)
    if start == b"[":
        stream.read(1)
        yield from _Array(stream).elements()
    else:
        yield from _json_lines(stream)


class _Array:
    """Walks a JSON array whose opening bracket has been read, holding about one element at a time."""

    MARKS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{\]},"]', re.DOTALL)

    def __init__(self, stream: io.BufferedReader):
        self.stream = stream
        self.buffer = b""
        self.at = 0
        self.ended = False

    def elements(self) -> Iterator[Row]:
        position = 0
        while True:
            start = self._skip_space(b", " if position else b" ")
            if start == b"]":
                self.at += 1
                if self._skip_space(b""):
                    raise UnreadableRest("something stands after the end of the JSON array", position + 1)
                return
            if not start:
                raise UnreadableRest("the file ends inside its JSON array", position + 1)
            position += 1
            end = self._end(position)
            yield position, self.buffer[self.at : end]
            self.at = end

    def _skip_space(self, also: bytes) -> bytes:
        while True:
            rest = self.buffer[self.at : self.at + 4096].lstrip(b" \t\r\n" + also)
            if rest:
                self.at += len(self.buffer[self.at : self.at + 4096]) - len(rest)
                return rest[:1]
            self.at = min(self.at + 4096, len(self.buffer))
            if self.at == len(self.buffer) and not self._more():
                return b""

    def _more(self) -> bool:
        """Reads as much again as is held, so that the time for one element stays linear in its length."""
        piece = self.stream.read(max(2**16, len(self.buffer) - self.at))
        self.buffer = self.buffer[self.at :] + piece
        self.at = 0
        return bool(piece)

    def _end(self, position: int) -> int:
        """Where the element that begins at ``at`` ends: before the comma or bracket that closes it."""
        while True:
            depth = 0
            for mark in self.MARKS.finditer(self.buffer, self.at):
                sign = mark[0]
                if sign == b'"':  # A string that does not end in what has been read so far.
                    break
                if sign in (b"[", b"{"):
                    depth += 1
                elif sign in (b"]", b"}"):
                    depth -= 1
                if depth < 0 or (sign == b"," and not depth):
                    return mark.start()
            if len(self.buffer) - self.at > MAX_ROW_BYTES:
                raise UnreadableRest(
                    f"an element of the JSON array is longer than {MAX_ROW_BYTES:,} bytes, or has a quote or bracket that "
                    "never closes: the rest of the file was not read",
                    position,
                    Reason.OVERSIZED,
                )
            if not self._more():
                raise UnreadableRest("the file ends inside an element of its JSON array", position)


def _table(delimiter: str) -> Callable[[io.BufferedReader], Iterator[Row]]:
    def rows(stream: io.BufferedReader) -> Iterator[Row]:
        csv.field_size_limit(MAX_ROW_BYTES)
        reader = csv.reader(_text_lines(stream), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield start, _csv_fault(error, start)
                continue
            if cells is None:
                return
            if header is None:
                header = _header(cells, start)
            elif cells:
                yield start, _cells(header, cells)

    return rows


def _text_lines(stream: io.BufferedReader) -> Iterator[str]:
    for number, line in _lines(stream):
        if len(line) > MAX_ROW_BYTES:
            raise UnreadableRest(f"line {number} is longer than {MAX_ROW_BYTES:,} bytes", number, Reason.OVERSIZED)
        yield line.decode("utf-8", "surrogateescape")


def _csv_fault(error: csv.Error, start: int) -> RowFault:
    if "unexpected end of data" in str(error) or "field larger" in str(error):
        raise UnreadableRest(f"the quote opened in the row at line {start} never closes", start) from error
    return RowFault(Reason.MALFORMED, f"not CSV: {error}", "")


def _header(cells: list[str], start: int) -> list[str]:
    if doubled := sorted({cell for cell in cells if cells.count(cell) > 1}):
        raise UnreadableRest(f"column {', '.join(map(repr, doubled))} is named twice in the header", start)
    return cells


def _cells(header: list[str], cells: list[str]) -> dict[str, Any] | RowFault:
    raw = ",".join(cells)
    try:
        raw.encode()
    except UnicodeEncodeError:
        return RowFault(Reason.NOT_UTF8, "holds bytes that are not UTF-8", raw[:SHOWN_CHARACTERS])
    if len(cells) != len(header):
        detail = f"{len(cells)} cells, the header has {len(header)} columns"
        return RowFault(Reason.MALFORMED, detail, raw[:SHOWN_CHARACTERS])
    return dict(zip(header, cells, strict=True))


READERS: dict[str, Callable[[io.BufferedReader], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_file,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".txt": _document,
    ".md": _document,
}


def decode_json(row: bytes | str) -> dict[str, Any]:
    """A JSON object, read strictly: no key twice, no NaN, no lone surrogate, which no tokenizer can hold.

    Raises:
        RowFault: with the reason.
    """
    text = row if isinstance(row, str) else _utf8(row)
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise RowFault(Reason.MALFORMED, "nested too deeply") from error
    except UnicodeEncodeError as error:
        raise RowFault(Reason.MALFORMED, "holds a lone surrogate, which is no character") from error
    except ValueError as error:
        raise RowFault(Reason.MALFORMED, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RowFault(Reason.WRONG_TYPE, f"a JSON object is wanted, found {type(value).__name__}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {twice!r} given twice")
    return row


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
