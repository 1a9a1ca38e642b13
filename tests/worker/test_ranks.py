"""Ranks meet before they train; where one does not come, the others say which and end."""

import os
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

from ft_assets.core.errors import FineTuneError

JOIN = """
import sys
from ft_assets.core.errors import FineTuneError
from ft_assets.worker import ranks
try:
    ranks.join({"processes": int(sys.argv[1]), "zero_stage": 0}, "cpu", seconds=float(sys.argv[2]))
except FineTuneError as error:
    sys.exit(f"refused: {error}")
print("any", ranks.any_of(sys.argv[3] == "yes", False), "first", ranks.from_first(sys.argv[3]))
ranks.wait_for_all()
"""


@pytest.fixture
def start():
    """Starts rank ``rank`` of a world of two; the port is one that was free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []

    def run(rank: int, seconds: float = 60, says: str = "no", world: int = 2, planned: int = 2) -> subprocess.Popen:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", JOIN, str(planned), str(seconds), says],
                env={**os.environ, **meeting, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_what_one_rank_asks_for_all_of_them_do(start) -> None:
    both = [start(0, says="no"), start(1, says="yes")]
    said = [process.communicate(timeout=120)[0].strip() for process in both]
    assert said == ["any [True, False] first no"] * 2


def test_a_rank_that_never_comes_is_named_within_the_bound(start) -> None:
    alone = start(0, seconds=3)
    _, error = alone.communicate(timeout=60)
    assert alone.returncode == 1
    assert "refused: rank 1 of 2 did not come within 3 s" in error


def test_without_the_first_rank_the_others_end_within_the_bound(start) -> None:
    alone = start(1, seconds=3)
    _, error = alone.communicate(timeout=60)
    assert "refused: rank 1 cannot meet the others" in error


def test_fewer_processes_than_planned_do_not_train(start) -> None:
    _, error = start(0, world=1, planned=2).communicate(timeout=60)
    assert "the plan wants 2 processes, 1 came: not training alone" in error


def test_more_gpus_than_are_here_are_refused_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    from ft_assets.worker import ranks

    monkeypatch.setenv("WORLD_SIZE", "1000")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    with pytest.raises(FineTuneError, match=r"the plan wants 1000 GPUs on this machine, [0-9]+ are here"):
        ranks.join({"processes": 1000, "zero_stage": 0}, "cuda")
