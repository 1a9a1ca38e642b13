"""How ``ft run`` keeps Dagster's book."""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import dagster as dg
import psutil
import pytest

from ft_assets.automation.runs import _process_name, book_held_open


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="moves Linux's notion of the boot time")
def test_setting_the_clock_renames_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux keeps the moment of the boot in wall-clock time; setting the clock moves it, and every start time with it."""
    name, booted = _process_name(os.getpid()), psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: booted - 3600)
    assert _process_name(os.getpid()) == name


def test_a_process_that_is_gone_has_no_name() -> None:
    child = psutil.Popen([sys.executable, "-c", ""])
    child.wait()
    assert _process_name(child.pid) == ""


RUN = "11111111-1111-4111-8111-111111111111"


@dg.op
def nothing() -> None:
    pass


@dg.job
def idle() -> None:
    nothing()


def log(home: Path, name: str) -> Path:
    return home / "history" / f"{name}.db-wal"


def test_while_the_book_is_held_open_no_connection_that_closes_copies_its_log_back(tmp_path: Path) -> None:
    names = ("runs", "runs/index", f"runs/{RUN}")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        with book_held_open(instance, RUN):
            assert idle.execute_in_process(instance=instance, run_id=RUN).success
            assert [log(tmp_path, name).stat().st_size > 0 for name in names] == [True] * 3
        assert [log(tmp_path, name).exists() for name in names] == [False] * 3
        events = [entry.dagster_event_type for entry in instance.all_logs(RUN)]
        assert dg.DagsterEventType.RUN_SUCCESS in events
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS]


def test_a_book_that_is_elsewhere_or_broken_is_left_alone(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        index = tmp_path / "history" / "runs" / "index.db"
        with closing(sqlite3.connect(index)) as book:
            book.execute("PRAGMA wal_checkpoint")
        index.write_bytes(b"no database" * 1000)
        with book_held_open(instance, RUN):
            assert not (tmp_path / "history" / "runs" / f"{RUN}.db").exists()
        index.unlink()
        with book_held_open(instance, RUN):
            assert not (tmp_path / "history" / "runs" / f"{RUN}.db").exists()
