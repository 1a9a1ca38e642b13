"""From a file's bytes to records: one for each row, with its position, whatever the row looks like.

The container follows from the file's name (``rows.jsonl``, ``rows.csv.gz``, ``rows.parquet``, ``page.md.zst``); what a row
means is the source's ``format`` and decided elsewhere. Nothing in a file stops the reading or makes it hold more than a
few times :data:`MAX_ROW_BYTES`: a bad row becomes a record with a fault, and so does all that follows the place from
which on a file cannot be read.
"""

import codecs
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_assets.core.columnar import SUFFIXES, read_columnar
from ft_assets.core.json_array import JsonArray
from ft_assets.core.lines import MAX_ROW_BYTES, SHOWN_CHARACTERS, lines, shown, utf8
from ft_assets.core.reasons import Reason, RowFault, UnreadableRest
from ft_assets.core.table import table_rows
from ft_assets.core.unpack import PACKINGS, open_plain

OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(slots=True)
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


Row = tuple[int, bytes | dict[str, str] | RowFault]


def read_records(file: Path, name: str) -> Iterator[Record]:
    """Every row of a file, in its order. ``name`` is the file's path inside its batch.

    Raises:
        OSError: the machine fails, not the file's content: a disk is full or broken, the file is gone.
    """
    position = 0
    try:
        for position, row in _rows(file):
            yield _record(name, position, row)
    except UnreadableRest as rest:
        position = rest.position or position + 1
        yield Record(
            name, position, None, RowFault(rest.reason, f"nothing from position {position} on is read: {rest}"), ""
        )


def _record(name: str, position: int, row: bytes | dict[str, str] | RowFault) -> Record:
    if isinstance(row, RowFault):
        return Record(name, position, None, row, row.raw)
    if isinstance(row, dict):
        return Record(name, position, row, None, size=sum(map(len, row.values())))
    try:
        return Record(name, position, decode_json(row), None, shown(row), len(row))
    except RowFault as fault:
        return Record(name, position, None, fault.bare(), shown(row))


def _rows(file: Path) -> Iterator[Row]:
    packed = file.suffix.lower() in PACKINGS
    suffix = Path(file.stem if packed else file.name).suffix.lower()
    if suffix in SUFFIXES:
        yield from enumerate(_columns(file, suffix, packed), 1)
        return
    reader = READERS.get(suffix)
    if reader is None:
        known = ", ".join([*READERS, *SUFFIXES])
        raise UnreadableRest(f"file names end in {known}, and then {' or '.join(PACKINGS)} where packed")
    with open_plain(file) as stream:
        mark = stream.peek(3)[:3]
        if mark.startswith(OTHER_MARKS):
            raise UnreadableRest("the file is UTF-16 or UTF-32; save it as UTF-8", reason=Reason.NOT_UTF8)
        if mark == codecs.BOM_UTF8:
            stream.read(3)
        yield from reader(stream)


def _columns(file: Path, suffix: str, packed: bool) -> Iterator[bytes | RowFault]:
    if not packed:
        yield from read_columnar(file, suffix)
        return
    with tempfile.NamedTemporaryFile(suffix=suffix) as plain, open_plain(file) as stream:
        while piece := stream.read1(2**20):
            plain.write(piece)
        plain.flush()
        yield from read_columnar(Path(plain.name), suffix)


def _json_lines(stream: io.BufferedReader, before: int = 0) -> Iterator[Row]:
    for number, line in enumerate(lines(stream), before + 1):
        if not line.isspace():
            yield number, line


def _json_file(stream: io.BufferedReader) -> Iterator[Row]:
    """The elements of a JSON array; a file that begins otherwise is read as JSON lines, as many of this name are."""
    before = 0
    while (held := stream.peek()).isspace():
        before += stream.read(len(held)).count(b"\n")
    space = len(held) - len(held.lstrip())
    before += stream.read(space).count(b"\n")
    if held[space : space + 1] != b"[":
        yield from _json_lines(stream, before)
        return
    stream.read(1)
    yield from enumerate(JsonArray(stream).elements(), 1)


def _document(stream: io.BufferedReader) -> Iterator[Row]:
    data = stream.read(MAX_ROW_BYTES + 1)
    try:
        yield 1, {"text": utf8(data).rstrip("\r\n")}
    except RowFault as fault:
        yield 1, RowFault(fault.reason, str(fault), shown(data))


READERS: dict[str, Callable[[io.BufferedReader], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_file,
    ".csv": lambda stream: table_rows(stream, ","),
    ".tsv": lambda stream: table_rows(stream, "\t"),
    ".txt": _document,
    ".md": _document,
}


def decode_json(row: bytes) -> dict[str, Any]:
    """A JSON object, read strictly: no key twice, no NaN, no lone surrogate, which no tokenizer can hold.

    Raises:
        RowFault: with the reason.
    """
    text = utf8(row)
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
