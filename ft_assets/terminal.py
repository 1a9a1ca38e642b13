"""What ``ft`` shows: a live progress bar on a terminal, plain lines where there is none."""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from ft_assets.core.progress import describe, last_progress

PLAIN_EVERY_SECONDS = 10.0
WIDE = 90
LONGEST_WORD = 16


class _Lines(Console):
    """A console that goes quiet when nobody reads it any more; rich would end the run."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Screen:
    """Lines on standard error, so that standard output stays for results.

    Dagster puts a file in the place of standard error while a step runs, and on a file no bar is drawn: this keeps a
    descriptor of its own.
    """

    def __init__(self) -> None:
        own = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1, encoding="utf-8", errors="replace")
        self.console = _Lines(file=own, highlight=False, soft_wrap=True)
        self.live = self.console.is_terminal
        self.asset, self.since = "", 0.0

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def started(self, asset: str, partition: str) -> None:
        self.asset, self.since = asset, time.time()
        if not self.live:
            self.say(f"{asset} [{partition}] ...")

    def finished(self, asset: str, partition: str, status: str, seconds: float, key_metric: str) -> None:
        self.say(f"{asset} [{partition}] {status} in {seconds:.1f} s: {key_metric}")

    def follow(self, run_folder: Path, done: threading.Event) -> None:
        """Shows the newest progress line below a run's folder until told to stop."""
        if self.live:
            self._follow_live(run_folder, done)
        else:
            self._follow_plain(run_folder, done)

    def _follow_live(self, run_folder: Path, done: threading.Event) -> None:
        narrow = self.console.width < WIDE
        bar = () if narrow else (BarColumn(bar_width=20),)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), *bar, TextColumn("{task.fields[numbers]}"))
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task("", total=None, numbers="")
            while not done.wait(0.3):
                progress.update(task, **self._shown(newest(run_folder), narrow))

    def _shown(self, found: dict[str, Any], narrow: bool) -> dict[str, Any]:
        """The bar's fields: the worker's newest line, or the asset alone until its worker has said something."""
        if not found or found["t"] < self.since or found["note"] == "done":
            return {"description": self.asset, "numbers": "", "completed": 0, "total": None}
        words = describe(found).split(", ")
        return {
            "description": found["stage"] if narrow and found["total"] else words[0],
            "numbers": ", ".join(words[1:]),
            "completed": found["step"],
            "total": found["total"] or None,
        }

    def _follow_plain(self, run_folder: Path, done: threading.Event) -> None:
        shown, last = "", 0.0
        while not done.wait(0.5):
            line = describe(newest(run_folder))
            if line and line != shown and time.monotonic() - last > PLAIN_EVERY_SECONDS:
                shown, last = line, time.monotonic()
                self.say("  " + line)


def newest(run_folder: Path) -> dict[str, Any]:
    """The newest progress line of any stage of a run."""
    lines = [last_progress(path) for path in run_folder.glob("*/progress.jsonl")]
    return max((line for line in lines if line), key=lambda line: float(line["t"]), default={})


def print_table(title: str, columns: list[str], rows: list[list[str]], right: tuple[str, ...] = ()) -> None:
    """A table on standard output: aligned on a terminal, a line for each cell where that is too narrow, tab-separated in a pipe."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            print("\t".join(row))
        return
    console = Console(highlight=False, markup=False, emoji=False)  # cells hold what people wrote
    if console.width < _narrowest(columns, rows, right):
        if title:
            print(title)
        for row in rows:
            print()
            for name, cell in zip(columns, row, strict=True):
                if cell:
                    print(f"{name}: {cell}" if name else cell)
        return
    table = Table(title=title, title_justify="left", header_style="bold", box=None, padding=(0, 1))
    for name in columns:
        numbers = name in right
        header = name.replace(" ", "\n") if numbers else name
        table.add_column(header, justify="right" if numbers else "left", overflow="fold", no_wrap=numbers)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _narrowest(columns: list[str], rows: list[list[str]], right: tuple[str, ...]) -> int:
    """Width at which no number is cut and no word of a few letters; longer words fold."""
    width = 0
    for name, *cells in zip(columns, *rows, strict=True):
        words = [word for cell in cells for word in cell.split() if len(word) <= LONGEST_WORD]
        width += 2 + max(map(len, [*name.split(), *(cells if name in right else words)]), default=0)
    return width
