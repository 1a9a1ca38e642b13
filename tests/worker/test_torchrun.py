"""What killed builds of DeepSpeed's extensions leave does not stop the next run; a build that goes on is left alone."""

import multiprocessing
import os
from pathlib import Path

import pytest

from ft_assets.worker.torchrun import built_extensions


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "")


def leave_lock(cache: Path) -> Path:
    with built_extensions(cache):
        lock = Path(os.environ["TORCH_EXTENSIONS_DIR"]) / "an_extension" / "lock"
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    return lock


def test_the_lock_of_a_killed_build_goes(tmp_path: Path) -> None:
    lock = leave_lock(tmp_path)
    with built_extensions(tmp_path):
        assert not lock.exists()


def hold(cache: Path, held, done) -> None:
    with built_extensions(cache):
        held.set()
        done.wait(30)


def test_the_lock_of_a_run_that_is_there_stays(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, held, done))
    other.start()
    assert held.wait(30)
    lock = leave_lock(tmp_path)
    with built_extensions(tmp_path):
        assert lock.exists()
    done.set()
    other.join(30)
    with built_extensions(tmp_path):
        assert not lock.exists()
