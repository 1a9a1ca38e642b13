"""The launcher waits for a worker as long as it can go on, and no longer."""

import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil
import pytest
from conftest import ROOT
from planned import PLACEMENT
from programs import SAVES_AT_SIGTERM
from waiting import until

from ft_assets.core.errors import FineTuneError, WorkerFailed
from ft_assets.core.waiting import WAIT
from resources import launching, local, processes
from resources.local import LocalLauncher
from resources.processes import standing_by, worker_command

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


def run_worker(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **bounds: float) -> WorkerFailed | None:
    """Launches a program in the worker's place from a real asset; returns the error it ended with."""
    monkeypatch.setattr(local, "worker_command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(local, "POLL_SECONDS", 0.05)
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
    monkeypatch.setattr(launching, "LITTLE_SPACE_BYTES", little)
    error = run_worker("raise SystemExit(7)", tmp_path, monkeypatch)
    assert "ended with exit code 7" in str(error)
    assert ("MB are free on the disk of" in str(error)) is said


@pytest.mark.parametrize("code", [DEAF, SAVES_AT_SIGTERM])
def test_a_worker_that_says_nothing_is_asked_to_end_and_killed_if_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(processes, "KILL_SECONDS", 0.2)
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


READS_ITS_REQUEST = "import os, sys; print(os.getpid(), sys.stdin.readline(), flush=True)"
WAITS_AND_PRINTS_ITS_ID = """
import sys, time
from pathlib import Path
from resources import launching, processes
with processes.standing_by(Path(sys.argv[1]) / "run" / "tokenized_splits", 1):
    print(*(process.pid for process in processes._waiting.values()), flush=True)
    time.sleep(600)
"""


@dg.asset
def taking(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    folder = Path(context.run_tags["folder"])
    here = LocalLauncher(runs=str(folder / "runs"), cache=str(folder / "cache"))
    store = {"url": str(folder), "local": str(folder)}
    here.run(context, {"stage": "sft_adapter", "store": store, "execution": {}}, None, None)
    return dg.MaterializeResult()


def take(folder: Path, run_id: str) -> str:
    """What the worker of a run says."""
    with dg.DagsterInstance.ephemeral() as instance:
        job = dg.Definitions(assets=[taking]).resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=instance, run_id=run_id, tags={"folder": str(folder)}).success
    return (folder / "runs" / run_id / "sft_adapter" / "output.log").read_text()


RUN = "11111111-1111-4111-8111-111111111111"


def test_a_run_takes_the_worker_that_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "worker_command", lambda *_: [sys.executable, "-c", READS_ITS_REQUEST])
    folder = tmp_path / "runs" / RUN / "sft_adapter"
    with standing_by(folder, None):
        [waits] = processes._waiting.values()
        assert take(tmp_path, RUN).split() == [str(waits.pid), str(folder / "request.json")]
        assert processes._waiting == {}
    assert (folder / "output.log").is_file()


def test_a_worker_that_died_while_it_waited_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = {True: "raise SystemExit('it broke')", False: "print('started anew')"}
    for module in (local, processes):
        command = lambda _, request, __: [sys.executable, "-c", codes[str(request) == WAIT]]  # noqa: E731
        monkeypatch.setattr(module, "worker_command", command)
    with standing_by(tmp_path / "runs" / RUN / "sft_adapter", None):
        [waits] = processes._waiting.values()
        waits.wait()
        assert take(tmp_path, RUN).split("\n") == ["it broke", "started anew", ""]


def test_a_worker_that_nobody_took_is_ended_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "worker_command", lambda *_: [sys.executable, "-c", DEAF])
    folder = tmp_path / "runs" / RUN / "sft_adapter"
    with standing_by(folder, None):
        [waits] = processes._waiting.values()
        until(lambda: (folder / "output.log").read_text() == "ready\n", 90, "the worker's start")
    assert waits.returncode == -signal.SIGKILL
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_worker_that_waits_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITS_AND_PRINTS_ITS_ID, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        waits = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    until(lambda: not waits.is_running() or waits.status() == psutil.STATUS_ZOMBIE, 60, "the worker's end")


def test_a_worker_whose_request_never_comes_ends_well(tmp_path: Path) -> None:
    done = subprocess.run(worker_command("tokenized_splits", Path(WAIT), None), cwd=ROOT, stdin=subprocess.DEVNULL)
    assert done.returncode == 0


def test_a_placement_on_several_nodes_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    here = LocalLauncher(runs=str(tmp_path / "runs"), cache=str(tmp_path / "cache"))
    request = {"stage": "policy", "execution": {"placement": {**PLACEMENT, "nodes": 2}}}
    with pytest.raises(FineTuneError, match=r"places policy on 2 nodes.*FT_LAUNCHER=kubernetes"):
        here.run(dg.build_asset_context(), request, 16, None)
    assert not (tmp_path / "runs").exists()
