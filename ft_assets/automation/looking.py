"""Looks at several sources at once and waits for them for a bounded time.

A server that does not answer, a mount that hangs or a folder of a million files then costs a tick seconds, and the other
sources nothing. A look that takes longer goes on in its thread; a later tick takes its result.
"""

import threading
import time
from collections.abc import Callable, Iterable

from ft_assets.core.watching import Look


class _Looking(threading.Thread):
    def __init__(self, source: str, look: Callable[[str], Look]):
        super().__init__(name=f"look at {source}", daemon=True)
        self.source, self.look = source, look
        self.began = time.monotonic()
        self.result: Look | None = None

    def run(self) -> None:
        self.result = self.look(self.source)


class Looks:
    """At most one look at each source at a time."""

    def __init__(self, wait_seconds: float):
        self.wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._threads: dict[str, _Looking] = {}

    def take(self, sources: Iterable[str], look: Callable[[str], Look]) -> tuple[dict[str, Look], list[str]]:
        """The looks that ended in time, by source, and a sentence on each that did not."""
        threads = [self._thread(source, look) for source in sources]
        deadline = time.monotonic() + self.wait_seconds
        ended: dict[str, Look] = {}
        late: list[str] = []
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                seconds = time.monotonic() - thread.began
                late.append(f"source {thread.source}: still being listed after {seconds:.0f} s; other sources go on")
                continue
            self._forget(thread)
            if thread.result is None:
                late.append(f"source {thread.source}: could not be listed; the log of the code location says why")
            else:
                ended[thread.source] = thread.result
        return ended, late

    def _thread(self, source: str, look: Callable[[str], Look]) -> _Looking:
        with self._lock:
            if source not in self._threads:
                self._threads[source] = _Looking(source, look)
                self._threads[source].start()
            return self._threads[source]

    def _forget(self, thread: _Looking) -> None:
        with self._lock:
            if self._threads.get(thread.source) is thread:
                del self._threads[thread.source]
