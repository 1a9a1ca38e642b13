"""Two pods of a rank each, as processes: the model is the one that two ranks on one machine make, whatever happens to a pod."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from pods import Job, prepare
from splitting import Splitter
from waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pods"), pytest.mark.timeout(900)]
STEPS = 40
EVERY = {"checkpoint_every_steps": 5}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Splitter:
    return prepare(tmp_path_factory.mktemp("ready"), tiny_base, STEPS)


Start = Callable[..., Job]


@pytest.fixture
def job(ready: Splitter, tmp_path: Path) -> Iterator[Start]:
    """Makes a job in a store of its own; its pods end with the test."""
    made: list[Job] = []

    def make(**changes: Any) -> Job:
        folder = tmp_path / str(len(made))
        shutil.copytree(ready.folder, folder)
        made.append(Job(Splitter(folder, ready.base, ready.settings), "run", **{**EVERY, **changes}))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def plain(ready: Splitter, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What two ranks under torchrun on one machine make."""
    folder = tmp_path_factory.mktemp("plain") / "copy"
    shutil.copytree(ready.folder, folder)
    alone = Job(Splitter(folder, ready.base, ready.settings), "run", **EVERY)
    words = [sys.executable, "-m", "ft_assets.worker.torchrun", "2", "sft_adapter", str(alone.path)]
    done = subprocess.run(words, env=alone.environment(0), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return alone.weights()


def test_two_pods_make_what_two_ranks_of_one_machine_make(job: Start, plain: bytes) -> None:
    two = job()
    assert two.run() == [0, 0], two.said()
    assert two.weights() == plain
    assert two.steps() == list(range(1, STEPS + 1))
    assert "'loss'" in (two.folder / "output.log").read_text()
    assert (two.folder / "output-1.log").is_file()
    assert not list((two.splitter.folder / "store" / ".scratch").iterdir())


def test_once_it_is_made_both_pods_end_well_in_whatever_order_they_come(job: Start, plain: bytes) -> None:
    two = job()
    assert two.run() == [0, 0], two.said()
    for order in ((0, 1), (1, 0)):
        for index in order:
            assert two.wait(two.start(index), 60) == 0, two.said()
    assert two.weights() == plain


def test_a_pod_that_does_not_come_is_named_within_the_bound(job: Start) -> None:
    alone = job(meet_seconds=2.0)
    assert alone.wait(alone.start(0), 60) == 1
    assert "pod 1 of 2 did not come within 2 s" in alone.message(0).read_text()
    other = job(meet_seconds=2.0)
    assert other.wait(other.start(1), 60) == 1
    assert f"pod 0 of 2 (127.0.0.1:{other.port}) did not answer within 2 s" in other.message(1).read_text()


def test_the_termination_message_ends_with_what_the_rank_said_that_failed_first(job: Start) -> None:
    two = job()
    two.request["execution"]["placement"]["processes"] = 3
    two.path.write_text(json.dumps(two.request))
    assert two.run() == [2, 2], two.said()
    for index in range(2):
        message = two.message(index).read_text()
        assert "FineTuneError: the plan wants 3 processes, 2 came" in message
        assert message.endswith(f"rank {index} failed first")


@pytest.mark.parametrize("asked", [(0, 1), (1,)])
def test_sigterm_writes_a_checkpoint_and_the_next_pods_go_on_to_the_same_bits(
    job: Start, plain: bytes, asked: tuple[int, ...]
) -> None:
    two = job(checkpoint_every_steps=1000)
    pods = [two.start(index) for index in range(2)]
    until(lambda: len(two.steps()) >= 5, 240, "five steps")
    for index in asked:
        pods[index].send_signal(signal.SIGTERM)
    assert [two.wait(pod, 60) for pod in pods] == [75, 75], two.said()
    last = two.steps()[-1]
    assert last < STEPS
    assert two.run() == [0, 0], two.said()
    assert f"resuming from step {last}" in [note["note"] for note in two.notes()]
    assert two.steps() == list(range(1, STEPS + 1))
    assert two.weights() == plain


@pytest.mark.parametrize("victim", [0, 1])
def test_a_pod_that_is_lost_ends_the_other_and_the_next_pods_go_on_to_the_same_bits(
    job: Start, plain: bytes, victim: int
) -> None:
    two = job()
    pods = [two.start(index) for index in range(2)]
    until(lambda: len(two.steps()) >= 7, 240, "seven steps")
    two.kill(pods[victim])
    assert two.wait(pods[1 - victim], 60) == 1, two.said()
    assert two.message(1 - victim).read_text().endswith(f"rank {1 - victim} failed first")
    assert two.run() == [0, 0], two.said()
    assert any(note["note"].startswith("resuming from step") for note in two.notes())
    assert two.weights() == plain


def test_a_first_pod_that_waits_for_another_run_of_the_fingerprint_keeps_the_second_waiting(
    job: Start, plain: bytes
) -> None:
    two = job(meet_seconds=3.0)
    first = [two.start(index) for index in range(2)]
    until(lambda: two.steps(), 240, "the first step")
    later = Job(two.splitter, "later", **EVERY, meet_seconds=3.0)
    try:
        second = [later.start(index) for index in range(2)]
        assert [two.wait(pod) for pod in (*first, *second)] == [0, 0, 0, 0], two.said() + later.said()
    finally:
        later.close()
    assert "waiting for another worker" in json.dumps(later.notes())
    assert two.weights() == plain
    assert os.listdir(two.splitter.folder / "store" / ".scratch") == []
