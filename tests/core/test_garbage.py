"""Laws of the collector in short-lived processes."""

import gc
import subprocess
import sys

from conftest import ROOT

from ft_assets.core.garbage import collected_rarely

COUNTS = """
import atexit, gc, sys
sys.path.insert(0, {root!r})
from ft_assets.core.garbage import collect_rarely
if {rarely}:
    collect_rarely()
runs = []
gc.callbacks.append(lambda phase, info: runs.append(info["generation"]) if phase == "stop" else None)
kept = [[] for _ in range(300_000)]
print(len(runs), flush=True)
"""
AT_THE_END = """
import atexit, gc, sys
sys.path.insert(0, {root!r})
from ft_assets.core.garbage import collect_rarely
atexit.register(lambda: print(gc.get_freeze_count() > 0))
collect_rarely()
atexit.register(lambda: print(gc.get_freeze_count() > 0))
"""


def said(code: str, **values: object) -> list[str]:
    command = [sys.executable, "-c", code.format(root=str(ROOT), **values)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_process_that_collects_rarely_does_so_a_hundredth_as_often() -> None:
    often, rarely = (int(said(COUNTS, rarely=value)[0]) for value in (False, True))
    assert often > 300
    assert rarely <= often / 100


def test_what_is_left_at_the_end_is_not_looked_through_again() -> None:
    """Handlers of the end run in the opposite order."""
    assert said(AT_THE_END) == ["False", "True"]


def test_after_a_while_of_rare_collections_they_are_as_before() -> None:
    before = gc.get_threshold()
    try:
        with collected_rarely():
            assert gc.get_threshold()[0] > before[0]
        assert gc.get_threshold() == before
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
