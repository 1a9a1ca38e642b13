"""Verifying artifacts before they are asked for, in a thread: hashing leaves Python's lock to the work that goes on."""

import os
import threading
from collections.abc import Collection, Iterable
from contextlib import suppress

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.location import access_errors

VERIFYING = "verifying ahead"  # the thread's name
NICE = 10  # it takes the cores that nobody else wants
# Stage, fingerprint and the files that are wanted, all where None.
Wanted = tuple[str, str, Collection[str] | None]


def verify_ahead(store: ArtifactStore, wanted: Iterable[Wanted]) -> threading.Thread:
    """Starts to verify the artifacts that are there, one after another, so that opening one later in this process costs
    nothing, or the rest of its hash. What is wrong with one is told by whoever opens it.
    """

    def verify() -> None:
        with suppress(OSError):  # a system may have no priorities of threads
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        for stage, fingerprint, only in wanted:
            with suppress(*access_errors()):
                store.open(stage, fingerprint, only)

    thread = threading.Thread(target=verify, name=VERIFYING, daemon=True)
    thread.start()
    return thread
