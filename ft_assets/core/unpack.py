"""Bytes of a file, unpacked where it is packed: never more at once than a few megabytes, never without an end."""

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from ft_assets.core.reasons import Reason, UnreadableRest

PACKINGS = (".gz", ".zst")
# What a file unpacks to may be this many times its size, and is not counted below the second figure.
MAX_EXPANSION = 200
EXPANSION_FREE_BYTES = 2**26
MAX_ZSTD_WINDOW_BYTES = 2**27
PIECE_BYTES = 256  # zstd packs at most 128 KiB into 4 bytes: a piece unpacks to 8 MiB at worst.


def open_plain(file: Path) -> io.BufferedReader:
    """A file's bytes, those inside of a ``.gz`` or ``.zst``.

    Reading raises :class:`UnreadableRest` where the packing is broken, but not before all that precedes has been read.
    """
    if file.suffix.lower() in PACKINGS:
        return io.BufferedReader(Bounded(_unpacked(file), file.stat().st_size))
    return file.open("rb")


class Bounded(io.RawIOBase):
    """Pieces of bytes as a stream that stops where a decompression bomb shows itself.

    What raises in the pieces is raised once all that came before has been read, and then again at every read.
    """

    def __init__(self, pieces: Iterator[bytes], packed_bytes: int):
        self.pieces = pieces
        self.left = max(EXPANSION_FREE_BYTES, MAX_EXPANSION * packed_bytes)
        self.held = memoryview(b"")
        self.failure: UnreadableRest | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        done = 0
        while done < len(buffer) and (self.held or self._more()):
            part = self.held[: len(buffer) - done]
            buffer[done : done + len(part)] = part
            self.held = self.held[len(part) :]
            done += len(part)
        if self.failure and not done:
            raise self.failure
        return done

    def _more(self) -> bool:
        if self.failure:
            return False
        try:
            piece = next(self.pieces, b"")
        except UnreadableRest as failure:
            self.failure = failure
            return False
        if len(piece) > self.left:
            self.failure = UnreadableRest(
                f"unpacks to more than {MAX_EXPANSION} times its size: a bomb, or text that repeats itself",
                reason=Reason.OVERSIZED,
            )
        self.held = memoryview(piece)[: self.left]
        self.left -= len(self.held)
        return bool(self.held)


def _unpacked(file: Path) -> Iterator[bytes]:
    """Pieces of what is packed in a file, of one stream or several one after another; none is empty.

    Raises:
        UnreadableRest: it is broken, ends too early, or something else stands behind it.
    """
    with file.open("rb") as packed:
        try:
            yield from _streams(packed, file.suffix.lower())
        except (zlib.error, zstandard.ZstdError) as error:
            raise UnreadableRest(f"the packed file is broken: {error}") from error


def _streams(packed: BinaryIO, packing: str) -> Iterator[bytes]:
    stream, piece = _unpacker(packing), packed.read(PIECE_BYTES)
    while True:
        while piece and not stream.eof:
            if data := stream.decompress(piece):
                yield data
            piece = packed.read(PIECE_BYTES) if not stream.eof else b""
        if not stream.eof:
            raise UnreadableRest("the packed file ends in the middle")
        piece = stream.unused_data or packed.read(PIECE_BYTES)
        while packing == ".gz" and piece and not piece.strip(b"\0"):  # gzip allows zeros behind a stream, as on tapes.
            piece = packed.read(PIECE_BYTES)
        if not piece:
            return
        stream = _unpacker(packing)


def _unpacker(packing: str) -> Any:
    if packing == ".gz":
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    return zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES).decompressobj()
