"""What a pod does around its worker: output, signals, orphans, the last words."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from programs import SAVES_AT_SIGTERM
from waiting import until

from ft_assets.worker import pod
from ft_assets.worker.nodes import Nodes
from ft_assets.worker.pod import TAIL_BYTES, command, environment, last_lines

# The command that a pod runs is replaced; all around it is the pod's own.
POD = """
import sys
from ft_assets.worker import pod
pod.command = lambda *_: [sys.executable, "-c", sys.argv[1]]
sys.exit(pod.main("sft_adapter", sys.argv[2]))
"""
# Its child leaves a grandchild, which comes to the container's first process when it has ended.
LEAVES_AN_ORPHAN = """
import os, subprocess, sys, time
subprocess.run([sys.executable, "-c", "import subprocess; subprocess.Popen(['sleep', '0.1'])"])
time.sleep(0.5)
print("zombies", [p for p in os.listdir("/proc") if p.isdigit() and " Z " in open(f"/proc/{p}/stat").read()])
"""


def start(folder: Path, code: str, index: int = 0, through: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    message = {"FT_TERMINATION_LOG": str(folder / "message"), "JOB_COMPLETION_INDEX": str(index)}
    return subprocess.Popen(
        [*through, sys.executable, "-c", POD, code, str(folder / "request.json")],
        env={**os.environ, "PYTHONPATH": str(ROOT), **message},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_the_exit_code_is_the_workers_and_what_failed_leaves_its_last_words(tmp_path: Path, code: int) -> None:
    running = start(tmp_path, f"print('one'); print('two'); raise SystemExit({code})")
    said, _ = running.communicate(timeout=30)
    assert running.returncode == code
    assert said == (tmp_path / "output.log").read_text() == "one\ntwo\n"
    assert (tmp_path / "message").exists() == (code != 0)
    if code:
        assert (tmp_path / "message").read_text() == "one\ntwo"


def test_other_pods_than_the_first_write_files_of_their_own(tmp_path: Path) -> None:
    start(tmp_path, "print('here')", index=2).communicate(timeout=30)
    assert (tmp_path / "output-2.log").read_text() == "here\n"
    assert not (tmp_path / "output.log").exists()


def test_a_worker_killed_by_the_kernel_is_told_by_its_signal(tmp_path: Path) -> None:
    running = start(tmp_path, "import os; os.kill(os.getpid(), 9)")
    running.communicate(timeout=30)
    assert running.returncode == 137


def test_sigterm_reaches_the_worker_which_may_save(tmp_path: Path) -> None:
    running = start(tmp_path, SAVES_AT_SIGTERM)
    log = tmp_path / "output.log"
    until(lambda: log.exists() and log.read_text(), 90, "the worker's start")
    running.send_signal(signal.SIGTERM)
    assert running.communicate(timeout=30)[0] == "ready\nsaved\n"
    assert running.returncode == 75


def test_a_worker_that_cannot_handle_sigterm_yet_counts_as_stopped(tmp_path: Path) -> None:
    running = start(tmp_path, "import time; print('ready', flush=True); time.sleep(60)")
    log = tmp_path / "output.log"
    until(lambda: log.exists() and log.read_text(), 90, "the worker's start")
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=30)
    assert running.returncode == 75


def test_output_goes_on_where_the_log_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "output.log").symlink_to("/dev/full")
    running = start(tmp_path, "print('one', flush=True); print('two', flush=True); raise SystemExit(1)")
    said, _ = running.communicate(timeout=30)
    assert "one" in said
    assert "two" in said
    assert "No space left on device" in (tmp_path / "message").read_text()


def test_several_pods_without_a_shared_volume_are_refused(tmp_path: Path) -> None:
    own = {"FT_NODES": "2", "FT_TERMINATION_LOG": str(tmp_path / "message")}
    words = [sys.executable, "-m", "ft_assets.worker.pod", "sft_adapter", "s3://bucket/runs/1/sft_adapter/request.json"]
    done = subprocess.run(words, env={**os.environ, **own}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "2 pods, and no shared volume" in done.stdout
    assert (tmp_path / "message").read_text() == done.stdout.strip()


def unshared() -> tuple[str, ...]:
    words = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    try:
        done = subprocess.run([*words, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no `unshare` here")
    if done.returncode:
        pytest.skip(f"no process namespace of one's own here: {done.stderr.decode().strip()}")
    return words


def test_as_first_process_it_reaps_orphans(tmp_path: Path) -> None:
    running = start(tmp_path, LEAVES_AN_ORPHAN, through=unshared())
    assert running.communicate(timeout=30)[0] == "zombies []\n"
    assert running.returncode == 0


def test_as_first_process_it_hears_sigterm(tmp_path: Path) -> None:
    running = start(tmp_path, SAVES_AT_SIGTERM, through=unshared())
    log = tmp_path / "output.log"
    until(lambda: log.exists() and log.read_text(), 90, "the worker's start")
    [first] = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(first), signal.SIGTERM)
    assert running.communicate(timeout=30)[0] == "ready\nsaved\n"


def test_last_lines_are_whole_and_fit_a_termination_message() -> None:
    said = "\n".join(f"line {at} é" for at in range(100)).encode()
    assert last_lines(said).decode().splitlines() == [f"line {at} é" for at in range(50, 100)]
    long = "\n".join("é" * 70 for _ in range(100)).encode()
    assert len(last_lines(long)) <= TAIL_BYTES
    assert set(last_lines(long).decode().splitlines()) == {"é" * 70}
    assert last_lines(b"\xc3\xa9" * 4000 + b"x").decode() == "é" * 2047 + "x"


@pytest.mark.parametrize(("ranks", "module"), [("", "ft_assets.worker"), ("4", "ft_assets.worker.torchrun")])
def test_what_trains_runs_under_torchrun(ranks: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_PROCESSES_PER_NODE", ranks)
    words = command("policy", Path("r.json"), Nodes(2, 1, "a-0.a", 20123))
    assert words[2] == module
    if ranks:
        assert words[3:] == ["4", "policy", "r.json", "2", "1", "a-0.a", "20123"]
        assert Nodes.read(words[6:]) == Nodes(2, 1, "a-0.a", 20123)


def test_places_that_cannot_be_written_are_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pod.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "/proc")
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    made = environment()
    assert Path(made["HOME"]).is_dir()
    assert made["TRITON_CACHE_DIR"].startswith(str(tmp_path))
    assert made["MPLCONFIGDIR"] == "/mine"


def test_a_pod_of_a_job_of_one_needs_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FT_NODES", "JOB_COMPLETION_INDEX", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert Nodes.of_pod().torchrun() == ["--standalone"]
