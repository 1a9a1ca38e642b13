"""Kills at random points, whoever they hit: the run ends bit-identical to one that nobody killed, and redoes little.

What is killed: a rank, torchrun, all of them, or the process that started the worker (which is Dagster's step in a real
run; ``tests/test_survival.py`` kills ``ft`` itself).
"""

import random
import signal
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from conftest import FAULT_SEED, Workshop
from driving import Training
from waiting import until

pytestmark = pytest.mark.faults
KILLS = 9  # of each stage and number of ranks: 54 in all
EVERY_STEPS = 5
VICTIMS = ("rank", "torchrun", "all", "parent")
STARTER = (sys.executable, "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))")
SETTINGS = {"training": {"num_train_epochs": 12.0, "max_steps": None}, "checkpoint_every_steps": EVERY_STEPS}


@dataclass
class Tally:
    """Of all kills so far; times in seconds. ``startups``: from the command to the first step, where one came."""

    kills: Counter = field(default_factory=Counter)
    steps: int = 0
    redone: int = 0
    wall: float = 0.0
    productive: float = 0.0
    startups: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.kills.total()} kills ({dict(self.kills)}), {self.steps} steps, {self.redone} redone. "
        text += f"Productive {self.productive:.0f} s of {self.wall:.0f} s ({self.productive / self.wall:.1%}): "
        startup = statistics.median(self.startups or [0.0])
        return (
            text + f"a step takes {1000 * self.productive / max(1, self.steps):.0f} ms here, a start {startup:.1f} s."
        )


@pytest.fixture(scope="module")
def tally():
    found = Tally()
    yield found
    print(f"\nFT_FAULT_SEED={FAULT_SEED}: {found}")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", ["sft_adapter", "policy", "reward_model"])
def test_killed_at_random_it_ends_bit_identical_and_redoes_no_more_than_an_interval(
    prepared: Workshop, stage: str, ranks: int, tally: Tally
) -> None:
    chance = random.Random(f"{FAULT_SEED} {stage} {ranks}")
    plain = Training(prepared, f"plain-{stage}-{ranks}", stage, ranks=ranks, **SETTINGS)
    plain.run()
    kills = 0
    while kills < KILLS:
        training = Training(prepared, f"killed-{stage}-{ranks}-{kills}", stage, ranks=ranks, **SETTINGS)
        began = time.monotonic()
        while not training.finished():
            kills += kill_once(training, chance, tally) if kills < KILLS else end(training)
        tally.wall += time.monotonic() - began
        tally.steps += len(set(training.steps()))
        tally.productive += loop_seconds(plain)
        assert training.weights() == plain.weights()
        assert sorted(set(training.steps())) == plain.steps()
        nothing_left(training)


def kill_once(training: Training, chance: random.Random, tally: Tally) -> int:
    """Starts it and kills at a random moment; says whether there was time to."""
    victim = chance.choice(VICTIMS)
    before, said = len(training.steps()), len(training.said())
    process = training.start(*STARTER) if victim == "parent" else training.start()
    moment = (chance.uniform(0, 8), 0) if chance.random() < 0.2 else (float("inf"), chance.randint(1, 3 * EVERY_STEPS))
    began, jitter, at = time.monotonic(), chance.uniform(0, 0.05), time.time()

    def now() -> bool:
        return time.monotonic() - began > moment[0] or len(training.steps()) - before >= moment[1] > 0

    until(lambda: now() or process.poll() is not None, 240, f"the moment to kill\n{training.log()}")
    until(lambda: time.monotonic() - began > jitter, 90, "the jitter")
    hit = {"rank": training.processes()[1:], "torchrun": training.processes()[:1], "all": training.processes()}
    victims = [process] if victim == "parent" else hit[victim]
    if victim == "rank" and victims:
        victims = [chance.choice(victims)]
    for one in victims:
        one.send_signal(signal.SIGKILL)
    code = process.wait(60)
    until(lambda: not training.processes(), 90, "the end of all its processes")
    check_resumed(training, said, tally)
    first = next((note["t"] for note in training.notes()[said:] if note.get("loss") is not None), None)
    tally.startups += [first - at] if first else []
    if code == 0 or not victims:
        return 0
    tally.kills[victim] += 1
    return 1


def end(training: Training) -> int:
    training.run()
    return 0


def check_resumed(training: Training, since: int, tally: Tally) -> None:
    """Of the attempt that began at note ``since``: it went on no more than an interval behind what had been done."""
    done = [note["step"] for note in training.notes()[:since] if note.get("loss") is not None]
    began = [note["step"] for note in training.notes()[since:] if note.get("loss") is not None]
    if done and began:
        redone = done[-1] - began[0] + 1
        assert 0 <= redone <= EVERY_STEPS, f"step {done[-1]} was done, and then {began[0]}\n{training.log()}"
        tally.redone += redone


def loop_seconds(training: Training) -> float:
    times = [note["t"] for note in training.notes() if note["note"] == "training"]
    return times[-1] - times[0]


def nothing_left(training: Training) -> None:
    assert not training.scratch.exists()
    assert not list((training.store / ".staging").iterdir())
    assert not training.processes()
