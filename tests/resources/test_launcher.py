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


DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
SAVES_AT_SIGTERM = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""
PLACEMENT = {
    "micro_batch": 4,
    "gradient_accumulation_steps": 1,
    "activation_checkpointing": False,
    "longest_row_tokens": 64,
    "activations_bytes": 4000,
    "peak_bytes": 2**30,
}


def run_worker(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **bounds: float) -> WorkerFailed | None:
    """Launches a program in the worker's place from a real asset; returns the error it ended with."""
    monkeypatch.setattr(launcher, "worker_command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(launcher, "POLL_SECONDS", 0.05)
    here = LocalLauncher(runs=str(folder / "runs"), cache=str(folder / "cache"), **bounds)
    errors: list[WorkerFailed] = []
    request = {
        "stage": "sft_adapter",
        "store": {"url": str(folder), "local": str(folder)},
        "execution": {"placement": PLACEMENT, "memory_gib": 8.0},
    }

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


@pytest.mark.parametrize("code", [DEAF, SAVES_AT_SIGTERM])
def test_a_worker_that_says_nothing_is_asked_to_end_and_killed_if_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(launcher, "KILL_SECONDS", 0.2)
    error = run_worker(code, tmp_path, monkeypatch, silent_seconds=1.0, grace_seconds=0.5)
    assert "has said nothing for 1 s" in str(error)
    assert "run again to resume" in str(error)
    [log] = tmp_path.glob("runs/*/sft_adapter/output.log")
    assert log.read_text().split() == (["ready"] if code is DEAF else ["ready", "saved"])
    assert not [child for child in psutil.Process().children(recursive=True) if "time.sleep(60)" in child.cmdline()[-1]]


def test_a_worker_that_keeps_talking_is_not_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time\nfor n in range(30):\n    print(n, flush=True)\n    time.sleep(0.1)"
    assert run_worker(code, tmp_path, monkeypatch, silent_seconds=1.0) is None


def test_a_killed_worker_is_told_of_with_the_numbers_of_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = run_worker("import os; os.kill(os.getpid(), 9)", tmp_path, monkeypatch)
    assert "was killed by SIGKILL" in str(error)
    assert "by the kernel because memory ran out" in str(error)
    assert "micro-batch 4, rows of up to 64 tokens" in str(error)
    assert "Set hardware.memory_gib" in str(error)
