"""The elements of a JSON array, one after another, however long the array is."""

import io
import re
from collections.abc import Iterator

from ft_assets.core.lines import MAX_ROW_BYTES, oversized, shown
from ft_assets.core.reasons import RowFault, UnreadableRest

SPACE = b" \t\r\n"
STRING_OR_SIGN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{\]},"]', re.DOTALL)
REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+("?)', re.DOTALL)


class JsonArray:
    """Walks an array whose opening bracket has been read, holding about one element at a time.

    An element ends at the comma or bracket that follows it at its own depth; whether it is JSON is for others to say. One
    that is too long is passed over, and is a fault.
    """

    def __init__(self, stream: io.BufferedReader):
        self.stream = stream
        self.buffer = b""
        self.at = 0

    def elements(self) -> Iterator[bytes | RowFault]:
        """Raises :class:`UnreadableRest` where the array does not end as it should."""
        while True:
            sign = self._skip(SPACE + b",")
            if sign == b"]":
                self.at += 1
                if self._skip(SPACE):
                    raise UnreadableRest("something stands behind the end of the JSON array")
                return
            if not sign:
                raise UnreadableRest("the file ends inside its JSON array")
            yield self._element()

    def _skip(self, what: bytes) -> bytes:
        """Passes over what may stand between elements; returns the first byte after it, none at the end of the file."""
        while True:
            held = self.buffer[self.at : self.at + 4096]
            if rest := held.lstrip(what):
                self.at += len(held) - len(rest)
                return rest[:1]
            self.at += len(held)
            if self.at == len(self.buffer) and not self._more():
                return b""

    def _more(self) -> bool:
        """Reads as much again as is held, so that the time for one element stays linear in its length."""
        held = self.buffer[self.at :]
        piece = self.stream.read1(max(2**16, len(held)))
        self.buffer, self.at = held + piece, 0
        return bool(piece)

    def _element(self) -> bytes | RowFault:
        depth, inside, seen, fault = 0, False, self.at, None
        while True:
            seen, depth, inside, ended = self._scan(seen, depth, inside)
            if seen - self.at > MAX_ROW_BYTES and fault is None:
                fault = oversized(shown(self.buffer[self.at : self.at + MAX_ROW_BYTES]))
            if fault is not None:
                self.at = seen
            if not ended:
                seen -= self.at
                if self._more():
                    continue
                if depth or inside:
                    raise UnreadableRest("the file ends inside an element of its JSON array, or a quote never closes")
            element, self.at = self.buffer[self.at : seen], seen
            return fault or element

    def _scan(self, at: int, depth: int, inside: bool) -> tuple[int, int, bool, bool]:
        """Goes through what is held, from ``at`` on, of an element of which ``depth`` brackets and perhaps a string are open.

        Returns how far it came, what is open there, and whether the element ends there.
        """
        if inside:
            rest = REST_OF_STRING.match(self.buffer, at)
            assert rest is not None, "it matches nothing, too"
            at, inside = rest.end(), not rest[1]
        if inside:
            return at, depth, True, False
        for mark in STRING_OR_SIGN.finditer(self.buffer, at):
            sign = mark[0]
            if sign == b'"':  # A string that does not end in what has been read so far.
                return self._scan(mark.end(), depth, True)
            if sign in (b"[", b"{"):
                depth += 1
            elif depth:
                depth -= sign in (b"]", b"}")
            elif sign in (b"]", b","):  # A brace that closes nothing belongs to a malformed element.
                return mark.start(), 0, False, True
        return len(self.buffer), depth, False, False
