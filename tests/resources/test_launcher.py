"""The launcher waits for a worker as long as it can go on, and no longer."""

import sys
from pathlib import Path

import dagster as dg
import psutil
import pytest

from ft_assets.core.errors import WorkerFailed
from resources import launcher
from resources.launcher import LocalLauncher

WITH_A_STOPPED_CHILD = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
child.send_signal(signal.SIGSTOP)
child.wait()
"""


def run_worker(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **bounds: float) -> WorkerFailed | None:
    """Launches a program in the worker's place from a real asset; returns the error it ended with."""
    monkeypatch.setattr(launcher, "worker_command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(launcher, "POLL_SECONDS", 0.05)
    here = LocalLauncher(runs=str(folder / "runs"), cache=str(folder / "cache"), **bounds)
    errors: list[WorkerFailed] = []
    request = {"stage": "sft_adapter", "store": {"url": str(folder), "local": str(folder)}, "execution": {}}

    @dg.asset
    def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        try:
            here.run(context, request, None, None)
        except WorkerFailed as error:
            errors.append(error)
        return dg.MaterializeResult()

    assert dg.materialize([made]).success
    return errors[0] if errors else None


def test_a_worker_with_a_stopped_process_is_ended_within_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = run_worker(WITH_A_STOPPED_CHILD, tmp_path, monkeypatch, stopped_seconds=0.5)
    assert "has been stopped (SIGSTOP)" in str(error)
    assert "run again to resume" in str(error)
    assert not [child for child in psutil.Process().children(recursive=True) if "time.sleep(60)" in child.cmdline()[-1]]


@pytest.mark.parametrize(("little", "said"), [(2**62, True), (0, False)])
def test_a_failure_on_a_disk_without_space_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, little: int, said: bool
) -> None:
    monkeypatch.setattr(launcher, "LITTLE_SPACE_BYTES", little)
    error = run_worker("raise SystemExit(7)", tmp_path, monkeypatch)
    assert "ended with exit code 7" in str(error)
    assert ("MB are free on the disk of" in str(error)) is said
