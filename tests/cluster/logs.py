"""What containers print, kept with the time of each line."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.clock import stamp


@dataclass
class Log:
    """Of one run of one container; ``ended`` once it prints no more."""

    lines: list[tuple[float, bytes]] = field(default_factory=list)
    ended: bool = False
    grown: threading.Condition = field(default_factory=threading.Condition)

    def write(self, now: float, data: bytes) -> None:
        with self.grown:
            for line in data.splitlines(keepends=True):
                if self.lines and not self.lines[-1][1].endswith(b"\n"):
                    self.lines[-1] = (self.lines[-1][0], self.lines[-1][1] + line)
                else:
                    self.lines.append((now, line))
            self.grown.notify_all()

    def end(self) -> None:
        with self.grown:
            self.ended = True
            self.grown.notify_all()

    def text(self) -> str:
        with self.grown:
            return b"".join(line for _, line in self.lines).decode("utf-8", "replace")

    def read(self, first: int) -> list[tuple[float, bytes]]:
        """Whole lines from this number on, and the torn last one once nothing can follow."""
        with self.grown:
            found = self.lines[first:]
            if found and not self.ended and not found[-1][1].endswith(b"\n"):
                found = found[:-1]
            return found

    def first_of_tail(self, tail: int | None, since: float) -> int:
        """The number of the first line that is asked for."""
        with self.grown:
            first = next((n for n, (when, _) in enumerate(self.lines) if when >= since), len(self.lines))
            return first if tail is None else max(first, len(self.lines) - tail)

    def follow(self, first: int) -> Iterator[list[tuple[float, bytes]]]:
        """Lines as they come, until the container has ended; an empty list every second in between."""
        while True:
            with self.grown:
                found = self.read(first)
                if not found and not self.ended:
                    self.grown.wait(1.0)
                    found = self.read(first)
                last = self.ended and first + len(found) >= len(self.lines)
            first += len(found)
            yield found
            if last:
                return


def shown(lines: list[tuple[float, bytes]], timestamps: bool) -> bytes:
    if not timestamps:
        return b"".join(line for _, line in lines)
    return b"".join(f"{stamp(when)[:-1]}.000000000Z ".encode() + line for when, line in lines)
