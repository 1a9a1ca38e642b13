"""Python's collector of cyclic garbage, in processes that import much and live for one task."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

RARELY = (100_000, 50, 100)


def collect_rarely() -> None:
    """Looks for cyclic garbage rarely, and not at all when the process ends.

    By default it is looked for after each 700 new objects, and imports make millions that stay; at its end a process
    goes through all of them once more before it lets them go.
    """
    gc.set_threshold(*RARELY)
    atexit.register(gc.freeze)


@contextmanager
def collected_rarely() -> Iterator[None]:
    """The same for a while: what has been made by then is looked at no more, what is made later as usual."""
    before = gc.get_threshold()
    collect_rarely()
    yield
    gc.freeze()
    gc.set_threshold(*before)
