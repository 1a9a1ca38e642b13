"""Lines of a file, none of which is ever held beyond :data:`MAX_ROW_BYTES`."""

import io
from collections.abc import Iterator

from ft_assets.core.reasons import Reason, RowFault

MAX_ROW_BYTES = 16 * 2**20
SHOWN_CHARACTERS = 2000


def lines(stream: io.BufferedReader) -> Iterator[bytes]:
    """Lines as they stand; one over the limit comes cut to it plus a byte, and the rest of it is passed over."""
    while line := stream.readline(MAX_ROW_BYTES + 1):
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            while (rest := stream.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
        yield line


def utf8(data: bytes) -> str:
    """The text of a row's bytes.

    Raises:
        RowFault: it is too long, or not UTF-8.
    """
    if len(data) > MAX_ROW_BYTES:
        raise oversized()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowFault(Reason.NOT_UTF8, f"byte {error.start} is not UTF-8") from error


def oversized(raw: str = "") -> RowFault:
    return RowFault(Reason.OVERSIZED, f"longer than {MAX_ROW_BYTES:,} bytes", raw)


def shown(data: bytes) -> str:
    """The beginning of a row for a person to read."""
    return data[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace")[:SHOWN_CHARACTERS]
