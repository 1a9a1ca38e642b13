"""Laws of workers that stand by: asked ahead as long as they wait, and no longer."""

import os
import sys
from pathlib import Path

import pytest
from waiting import until

from ft_assets.core.waiting import AHEAD
from resources import processes
from resources.processes import ask_ahead, standing_by, stands_by, waiting_worker

ECHOES = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


@pytest.fixture
def echoing(tmp_path, monkeypatch):
    """The folder of a worker that says what it is told."""
    monkeypatch.setattr(processes, "worker_command", lambda *_: [sys.executable, "-c", ECHOES])
    folder = tmp_path / "run" / "tokenized_splits"
    with standing_by(folder, None):
        yield folder


def said(folder: Path) -> list[str]:
    return (folder / "output.log").read_text().splitlines()


def test_a_worker_that_waits_is_told_what_to_begin_with_and_then_its_request(echoing):
    for number in (1, 2):
        ask_ahead(echoing, {"number": number})
    process = waiting_worker(echoing, echoing / "request.json")
    assert process.wait(60) == 0
    *ahead, request = said(echoing)
    files = [Path(line.removeprefix(AHEAD)) for line in ahead]
    assert [file.read_text() for file in files] == ['{"number": 1}', '{"number": 2}']
    assert request == str(echoing / "request.json")


def test_one_that_was_taken_or_is_not_there_is_told_nothing(echoing, tmp_path):
    assert stands_by(echoing)
    process = waiting_worker(echoing, echoing / "request.json")
    assert not stands_by(echoing)
    for folder in (echoing, tmp_path / "another"):
        ask_ahead(folder, {})
    assert process.wait(60) == 0
    assert said(echoing) == [str(echoing / "request.json")]
    assert sorted(os.listdir(echoing)) == ["output.log"]


def test_one_that_died_is_told_nothing_and_fails_nobody(echoing):
    [process] = processes._waiting.values()
    process.kill()
    until(lambda: process.poll() is not None, 60, "the worker's end")
    ask_ahead(echoing, {})
    assert waiting_worker(echoing, echoing / "request.json") is None
