"""Rows of CSV and TSV: a header that names the columns, cells in double quotes where they hold a delimiter or a line end."""

import csv
import io
from collections.abc import Iterator

from ft_assets.core.lines import MAX_ROW_BYTES, SHOWN_CHARACTERS, oversized
from ft_assets.core.reasons import Reason, RowFault, UnreadableRest

NEVER_CLOSES = "a quote is opened here that never closes"


def table_rows(stream: io.BufferedReader, delimiter: str) -> Iterator[tuple[int, dict[str, str] | RowFault]]:
    """Each row with the line on which it begins, counted from 1; lines without a cell are none.

    Raises:
        UnreadableRest: the header cannot be used, or a quote never closes.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    lines = _Lines(stream)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        start = lines.next_row()
        row: list[str] | RowFault | None
        try:
            row = next(reader, None)
        except csv.Error as error:
            row = lines.fault(error)
        except RowFault as fault:
            row = fault
        except UnreadableRest as rest:
            rest.position = rest.position or start
            raise
        if row is None:
            return
        if not row:
            continue
        if header is None:
            header = _header(row, lines.undecoded)
        else:
            yield start, row if isinstance(row, RowFault) else _cells(header, row, lines)


class _Lines:
    """Feeds a csv.reader, which asks for lines until a row is whole, and knows what that row has taken so far."""

    def __init__(self, stream: io.BufferedReader):
        self.stream = stream
        self.number = 0
        self.next_row()

    def next_row(self) -> int:
        """A new row begins; returns its line."""
        self.taken: list[str] = []
        self.bytes = 0
        self.undecoded = False
        self.start = self.number + 1
        return self.start

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self.stream.readline(MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.bytes += len(line)
        text = line.decode("utf-8", "replace")
        self.undecoded |= "\ufffd" in text and not _is_utf8(line)
        self.taken.append(text)
        if self.bytes > MAX_ROW_BYTES:
            raw = self.raw()
            self._pass_over(line)
            raise oversized(raw)
        return text

    def raw(self) -> str:
        return "".join(self.taken)[:SHOWN_CHARACTERS]

    def _pass_over(self, line: bytes) -> None:
        """Reads to the end of a row that is too long: the first line end with all quotes closed, two being one escaped."""
        quotes = sum(text.count('"') for text in self.taken)
        self.taken = []
        while quotes % 2 or not line.endswith(b"\n"):
            ended = line.endswith(b"\n")
            line = self.stream.readline(MAX_ROW_BYTES)
            if not line and quotes % 2:
                raise UnreadableRest(NEVER_CLOSES, self.start)
            if not line:
                return
            quotes += line.count(b'"')
            self.number += ended

    def fault(self, error: csv.Error) -> RowFault:
        if "unexpected end of data" in str(error):
            raise UnreadableRest(NEVER_CLOSES, self.start) from error
        until = f" (lines {self.start} to {self.number})" if self.number > self.start else ""
        return RowFault(Reason.MALFORMED, f"not CSV: {error}{until}", self.raw())


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _header(cells: list[str] | RowFault, undecoded: bool) -> list[str]:
    if isinstance(cells, RowFault):
        raise UnreadableRest(f"the header, which names the columns, is no use: {cells}", 1)
    if undecoded:
        raise UnreadableRest("the header holds bytes that are not UTF-8", 1, Reason.NOT_UTF8)
    if doubled := sorted({cell for cell in cells if cells.count(cell) > 1}):
        raise UnreadableRest(f"column {', '.join(map(repr, doubled))} is named twice in the header", 1)
    return cells


def _cells(header: list[str], cells: list[str], lines: _Lines) -> dict[str, str] | RowFault:
    if lines.undecoded:
        return RowFault(Reason.NOT_UTF8, "holds bytes that are not UTF-8", lines.raw())
    if len(cells) != len(header):
        detail = f"{len(cells)} cells, the header has {len(header)} columns"
        return RowFault(Reason.MALFORMED, detail, lines.raw())
    return dict(zip(header, cells, strict=True))
