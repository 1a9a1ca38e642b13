"""The controllers' work queue: what a change sets off is done until nothing is left to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from cluster.kinds import Key
from cluster.store import Change, Store

MOST_STEPS = 200_000  # of one settling: controllers that undo each other's work would never end


class Controller(Protocol):
    def changed(self, change: Change) -> None: ...


class Loop:
    """Runs in whichever thread has changed something, under the store's lock, so that a test sees settled states.

    A real cluster's controllers lag behind; :meth:`held` lets a test look at the state before they have acted.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: dict[tuple[Callable[[Key], None], Key], None] = {}
        self._running = False
        self._held = 0
        self.controllers: list[Controller] = []
        self.last: list[Callable[[], bool]] = []  # asked for more work once the queue is empty
        store.listeners.append(self._changed)

    def _changed(self, change: Change) -> None:
        for controller in self.controllers:
            controller.changed(change)

    def enqueue(self, work: Callable[[Key], None], key: Key) -> None:
        self._queue[(work, key)] = None

    def settle(self) -> None:
        with self._store.changed:
            if self._running or self._held:
                return
            self._running = True
            try:
                for _ in range(MOST_STEPS):
                    if self._queue:
                        work, key = first = next(iter(self._queue))
                        del self._queue[first]
                        work(key)
                    elif not any(more() for more in self.last) and not self._queue:
                        return
                raise RuntimeError(f"the controllers found no end; next in the queue: {next(iter(self._queue), None)}")
            finally:
                self._running = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """No controller acts meanwhile: nothing is created, scheduled, run or collected."""
        with self._store.changed:
            self._held += 1
        try:
            yield
        finally:
            with self._store.changed:
                self._held -= 1
            self.settle()
