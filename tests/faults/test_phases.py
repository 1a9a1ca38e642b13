"""Killed at each file operation of a save and of a commit, with each file of a checkpoint damaged, and on a full disk:
the next run goes on from the last whole checkpoint to the same bits.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Workshop
from driving import Training
from waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]
SETTINGS = {"training": {"num_train_epochs": 12.0}, "checkpoint_every_steps": 5}
KILLING = Path(__file__).parent / "killing"
SAVE, COMMIT = "checkpoints/checkpoint-", "/.staging/"


@pytest.fixture(scope="module")
def plain(prepared: Workshop) -> Training:
    training = Training(prepared, "phases-plain", **SETTINGS)
    training.run()
    return training


def at_operation(training: Training, begin: str, number: int) -> None:
    """Its next run is killed at an operation; 0 writes the operations down."""
    training.environment = {
        "PYTHONPATH": os.pathsep.join([str(KILLING), os.environ.get("PYTHONPATH", "")]),
        "KILL_FROM": begin,
        "KILL_BELOW": str(training.store),
        "KILL_AT": str(number),
        "KILL_LOG": str(training.folder / "operations.log"),
    }


def operations(prepared: Workshop, name: str, begin: str) -> dict[int, str]:
    """The file operations of a commit, or of a save that removes an older checkpoint, by number: every second one, and those
    that make something count or go.
    """
    training = Training(prepared, name, **SETTINGS)
    at_operation(training, begin, 0)
    training.run()
    lines = (training.folder / "operations.log").read_text().splitlines()
    if begin == SAVE:
        first, last = (next(n for n, line in enumerate(lines) if f"{SAVE}{step}" in line) for step in (15, 20))
        lines = lines[first:last]
    weighty = ("os.rename", "shutil.rmtree")
    return {n: line for n, line in enumerate(lines, 1) if n % 2 or line.startswith(weighty) or "signature" in line}


def finish(training: Training, plain: Training) -> None:
    training.environment = {}
    training.run()
    assert training.weights() == plain.weights()
    assert not training.scratch.exists()
    assert not list((training.store / ".staging").iterdir())


def test_killed_at_each_operation_of_a_save(prepared: Workshop, plain: Training) -> None:
    found = operations(prepared, "operations-save", SAVE)
    assert any(line.startswith("os.rename") for line in found.values())
    assert any(line.startswith("shutil.rmtree") for line in found.values())
    training, finished = Training(prepared, "kill-save-0", **SETTINGS), 0
    for number, line in found.items():
        at_operation(training, SAVE, number)
        code = training.start().wait(120)
        if code == 0:  # it came to its end before
            assert training.weights() == plain.weights()
            finished += 1
            training = Training(prepared, f"kill-save-{finished}", **SETTINGS)
            continue
        assert code == 128 + signal.SIGKILL, training.log()
        print(f"killed at {line.replace(str(training.store), '')}", flush=True)
    finish(training, plain)


def test_killed_at_each_operation_of_a_commit(prepared: Workshop, plain: Training) -> None:
    found = operations(prepared, "operations-commit", COMMIT)
    assert any(line.startswith("os.rename") for line in found.values())
    training = Training(prepared, "kill-commit", **SETTINGS)
    for number, line in found.items():
        at_operation(training, COMMIT, number)
        training.start().wait(120)
        print(f"killed at {line.replace(str(training.store), '')}", flush=True)
        if training.finished():  # what is left to kill comes after the rename
            break
    finish(training, plain)


def cut_short(training: Training) -> None:
    """Runs it until two checkpoints are there, and kills all."""
    process = training.start()
    until(lambda: len(training.checkpoints()) >= 2, 240, f"two checkpoints\n{training.log()}")
    for one in training.processes():
        one.kill()
    process.wait(60)
    until(lambda: not training.processes(), 90, "their end")


@pytest.mark.parametrize("ranks", [1, 2])
def test_each_file_of_a_checkpoint_gone_or_cut_the_one_before_is_taken(prepared: Workshop, ranks: int) -> None:
    """A checkpoint with one file damaged stands beside a whole one each time; only the choice is run, not the training."""
    from ft_assets.worker.checkpoints import newest

    training = Training(prepared, f"damaged-{ranks}", ranks=ranks, **SETTINGS)
    cut_short(training)
    before, last = training.checkpoints()[-2:]
    world = f"{ranks} processes and ZeRO {0 if ranks == 1 else 2}"
    files = [
        path.relative_to(training.checkpoint(last)) for path in training.checkpoint(last).rglob("*") if path.is_file()
    ]
    assert {"trainer_state.json", "signature.json"} <= {str(file) for file in files}
    whole = training.folder / "whole"
    shutil.copytree(training.checkpoint(last), whole)
    for file in files:
        for damage in ("gone", "cut", "flipped"):
            shutil.rmtree(training.checkpoint(last), ignore_errors=True)
            shutil.copytree(whole, training.checkpoint(last))
            damaged = training.checkpoint(last) / file
            content = bytearray(damaged.read_bytes())
            if damage == "gone" or not content:
                damaged.unlink()
            elif damage == "cut":
                damaged.write_bytes(content[: len(content) // 2])
            else:
                content[len(content) // 2] ^= 1
                damaged.write_bytes(content)
            said: list[str] = []
            found = newest(training.scratch / "checkpoints", world, said.append)
            assert found.step == before, f"{file} {damage}"
            assert f"skipping checkpoint-{last}" in said[0]
    shutil.rmtree(training.scratch)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no right to mount a small disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_at_any_point_of_a_save_is_named_and_nothing_is_lost(
    prepared: Workshop, plain: Training, small_disk: Path
) -> None:
    training = Training(prepared, "full-disk", **SETTINGS)
    training.scratch.parent.mkdir(exist_ok=True)
    training.scratch.symlink_to(small_disk)
    cut_short(training)
    size = sum(path.stat().st_size for path in training.checkpoint(training.checkpoints()[-1]).rglob("*"))
    for room in (0, size // 8, size // 3, size // 2, size - 5000, size - 1000):
        kept = training.checkpoints()[-1]
        ballast = small_disk / "ballast"
        with ballast.open("wb") as stream:
            free = shutil.disk_usage(small_disk).free
            stream.write(b"\0" * max(0, free - room))
        training.run(code=2)
        assert f"the disk of {training.scratch} is full" in training.log()
        assert training.checkpoints()[-1] >= kept
        ballast.unlink()
    training.run()
    assert training.weights() == plain.weights()
