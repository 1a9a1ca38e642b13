"""What kills cost where a step takes seconds: the embedded model, killed every 100 steps, at the default checkpoint interval."""

import itertools
import os
import random
import signal
import statistics
import time

import pytest
import yaml
from conftest import FAULT_SEED, Workshop
from driving import Training
from waiting import until

from ft_assets.recipes.load import SHIPPED

pytestmark = pytest.mark.faults
STEPS, STEPS_BETWEEN_KILLS, GOAL = 200, 100, 0.9


@pytest.fixture
def demo(tmp_path) -> Workshop:
    """The demo's SFT, made in two steps, whose request is driven again for more."""
    shop = Workshop(tmp_path)
    shop.recipes.mkdir()
    recipe = yaml.safe_load((SHIPPED / "demo.yaml").read_text())
    del recipe["cpt"], recipe["hardware"]["checkpoint_every_steps"]
    recipe |= {"name": "killed", "sft": recipe["sft"] | {"max_steps": 2}}
    (shop.recipes / "killed.yaml").write_text(yaml.safe_dump(recipe))
    shop.ft("run", "killed", "--until", "sft_adapter")
    return shop


@pytest.mark.timeout(1800)
def test_of_the_time_under_kills_nine_tenths_are_training(demo: Workshop) -> None:
    chance = random.Random(FAULT_SEED)
    training = Training(demo, "productive", training={"max_steps": STEPS}, placement={"steps": STEPS, "micro_batch": 8})
    training.environment = {"OMP_NUM_THREADS": str(os.cpu_count())}
    began = time.monotonic()
    for kill in range(STEPS // STEPS_BETWEEN_KILLS):
        at = kill * STEPS_BETWEEN_KILLS + chance.randrange(STEPS_BETWEEN_KILLS // 4, STEPS_BETWEEN_KILLS)
        process = training.start()
        until(lambda at=at: max(training.steps(), default=0) >= at, 900, f"step {at}\n{training.log()}")
        for victim in training.processes():
            victim.send_signal(signal.SIGKILL)
        process.wait(60)
        until(lambda: not training.processes(), 90, "the end of all its processes")
    training.run(seconds=900)
    wall = time.monotonic() - began

    notes = [note for note in training.notes() if note.get("loss") is not None]
    steps = [
        after["t"] - before["t"] for before, after in itertools.pairwise(notes) if after["step"] == before["step"] + 1
    ]
    redone = len(notes) - STEPS
    each = statistics.median(steps)
    share = STEPS * each / wall
    print(
        f"\nFT_FAULT_SEED={FAULT_SEED}: {STEPS} steps of {each:.2f} s in {wall:.0f} s under "
        f"{STEPS // STEPS_BETWEEN_KILLS} kills, {redone} redone: {share:.1%} of the time was training"
    )
    assert sorted({note["step"] for note in notes}) == list(range(1, STEPS + 1))
    assert share > GOAL
