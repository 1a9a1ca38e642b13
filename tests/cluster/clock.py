"""The cluster's time: it stands still until a test advances it."""

import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime

START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


class Clock:
    """Seconds since the epoch, and what is to happen at a later one."""

    def __init__(self) -> None:
        self.now = START
        self._number = itertools.count()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Calls once that much later; what it is for may be gone by then, so the callee looks."""
        heapq.heappush(self._timers, (self.now + max(0.0, seconds), next(self._number), call))

    def next_due(self, until: float) -> list[Callable[[], None]]:
        """Takes the first timer due by then and all of the same moment, and moves the time to it."""
        if not self._timers or self._timers[0][0] > until:
            return []
        when = self._timers[0][0]
        self.now = max(self.now, when)
        calls = []
        while self._timers and self._timers[0][0] == when:
            calls.append(heapq.heappop(self._timers)[2])
        return calls

    def stamp(self) -> str:
        return stamp(self.now)


def stamp(seconds: float) -> str:
    """As in metadata: whole seconds in UTC."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
