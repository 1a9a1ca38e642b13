"""SIGTERM with grace: the step is finished and kept; without grace nothing is lost but the steps since a checkpoint."""

import json
import shutil
import signal

import numpy as np
import pytest
from conftest import Workshop
from driving import Training
from safetensors.numpy import load_file, save_file
from waiting import until

from ft_assets.core.canonical import sha256_file

pytestmark = [pytest.mark.graph, pytest.mark.slow]
LONG = {"training": {"num_train_epochs": 8.0}, "checkpoint_every_steps": 50}


def stop(training: Training, steps: int = 7, signals: int = 1) -> int:
    """Starts it, sends SIGTERM once so many steps are done; its exit code."""
    process = training.start()
    until(lambda: len(training.steps()) >= steps, 240, f"step {steps}\n{training.log()}")
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
    return process.wait(60)


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.faults), 2])
def test_sigterm_ends_after_the_step_and_the_next_run_goes_on_from_it_to_the_same_bits(
    prepared: Workshop, ranks: int
) -> None:
    plain = Training(prepared, f"unstopped-{ranks}", ranks=ranks, **LONG)
    plain.run()
    training = Training(prepared, f"stopped-{ranks}", ranks=ranks, **LONG)
    assert stop(training) == 75
    last = training.steps()[-1]
    assert training.checkpoints() == [last]
    assert f"stopped by SIGTERM at step {last} of {plain.steps()[-1]}" in training.log()
    assert not training.processes()
    training.run()
    assert f"resuming from step {last}" in training.said()
    assert training.steps() == plain.steps()
    assert training.weights() == plain.weights()


@pytest.mark.faults
def test_a_second_sigterm_takes_nothing_away(prepared: Workshop) -> None:
    training = Training(prepared, "stopped-twice", **LONG)
    assert stop(training, signals=3) == 75
    assert training.checkpoints() == [training.steps()[-1]]


@pytest.mark.faults
def test_a_rank_that_does_not_hear_is_killed_when_the_grace_is_over(prepared: Workshop) -> None:
    training = Training(
        prepared, "deaf", checkpoint_every_steps=5, grace_seconds=1.0, training={"num_train_epochs": 40.0}
    )
    process = training.start()
    until(lambda: training.checkpoints(), 240, f"a checkpoint\n{training.log()}")
    rank = training.processes()[1]
    rank.suspend()
    kept = training.checkpoints()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGKILL
    assert training.checkpoints() == kept
    assert not training.processes()


def test_a_loss_that_is_not_a_number_names_the_rows_of_the_step(prepared: Workshop) -> None:
    training = Training(prepared, "not-a-number")
    stage, fingerprint = training.request["upstream"]["adapter"]
    whole, poisoned = (training.store / "artifacts" / stage / name for name in (fingerprint, "f" * 64))
    shutil.copytree(whole, poisoned)
    weights = poisoned / "adapter_model.safetensors"
    save_file({name: np.full_like(value, np.nan) for name, value in load_file(weights).items()}, weights)
    manifest = json.loads((poisoned / "manifest.json").read_text())
    manifest["fingerprint"] = "f" * 64
    manifest["files"][weights.name] = {"sha256": sha256_file(weights), "bytes": weights.stat().st_size}
    (poisoned / "manifest.json").write_text(json.dumps(manifest))
    training.request["upstream"]["adapter"] = [stage, "f" * 64]
    training.write()
    training.run(code=2)
    [line] = [line for line in training.log().splitlines() if "loss is nan at step 1" in line]
    named = line.rpartition(": ")[2].split(", ")
    assert len(named) == 2
    assert all(len(name) == 32 and int(name, 16) for name in named), line
