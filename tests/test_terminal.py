"""What is shown never decides over the run."""

import os
import subprocess
import sys

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
