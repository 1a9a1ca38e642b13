"""What is shown never decides over the run."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress

import pytest
from conftest import ROOT

SPEAKING = """
from ft_assets.terminal import Screen
screen = Screen()
for _ in range(3):
    screen.say("a line")
print("went on")
"""


def test_a_run_goes_on_when_nobody_reads_its_lines() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", SPEAKING], cwd=ROOT, stdout=subprocess.PIPE, stderr=writer, text=True)
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, "went on\n")


def test_lines_reach_a_file() -> None:
    done = subprocess.run([sys.executable, "-c", SPEAKING], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "a line\n" * 3


SHOWN = """
from ft_assets.terminal import print_table
print_table("a plan", ["stage", "reason", "peak GiB", "USD"], [["sft", "x" * 90, "12.34", "1,234.5678"]] * 2, right=("peak GiB", "USD"))
"""


@pytest.mark.parametrize("columns", [80, 40, 38, 37, 20])
def test_no_number_is_cut_on_a_narrow_terminal(columns: int) -> None:
    """A table where it has room, else a line for each cell."""
    found = on_a_terminal(SHOWN, columns)
    assert found.count("1,234.5678") == found.count("12.34") == 2
    assert ("USD: 1,234.5678" in found) == (columns == 20)


WRITTEN = """
from ft_assets.terminal import print_table
print_table("releases", ["release", "", "notes"], [["0123", "champion", "taken back: [/b] :smile: [red]"]])
"""


@pytest.mark.parametrize("columns", [80, 12])
def test_what_people_wrote_is_shown_as_it_is(columns: int) -> None:
    found = on_a_terminal(WRITTEN, columns)
    assert "[/b] :smile: [red]" in found
    assert ": champion" not in found


def on_a_terminal(code: str, columns: int) -> str:
    """What a program writes to a terminal of so many columns."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    started = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=its, stdout=its, env=env)
    os.close(its)
    found = b""
    with suppress(OSError):  # how a terminal says that nobody writes any more
        while piece := os.read(ours, 65_536):
            found += piece
    os.close(ours)
    assert started.wait() == 0
    return found.decode()
