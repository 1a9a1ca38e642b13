"""Runs: how one is asked for, and which have not ended, as Dagster's book has them."""

import os
import socket
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import dagster as dg
import psutil

PROCESS_TAG = "ft/process"
PARTITION_TAG = "dagster/partition"
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
OPEN = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def request(key: str, digest: str, tags: Mapping[str, str]) -> dg.RunRequest:
    """A run for one partition. With its tag given, Dagster does not look the partition up again while it evaluates the
    sensor: there, one unknown key would end the tick for all.
    """
    return dg.RunRequest(run_key=f"{key}#{digest}", partition_key=key, tags={PARTITION_TAG: key, **tags})


def unfinished_runs(instance: dg.DagsterInstance, recipe: str) -> list[dg.DagsterRun]:
    """Open runs for a recipe's partition, whoever started them: a recipe's name is no key of any other partition."""
    own = instance.get_runs(dg.RunsFilter(statuses=OPEN, tags={PARTITION_TAG: recipe}))
    return [
        *own,
        *(run for run in _open_ranges(instance) if run.tags[RANGE_TAGS[0]] <= recipe <= run.tags[RANGE_TAGS[1]]),
    ]


def _open_ranges(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    """Open runs over several partitions at once; recipes are in the order of their names."""
    runs = instance.get_runs(dg.RunsFilter(statuses=OPEN))
    return [run for run in runs if all(tag in run.tags for tag in RANGE_TAGS)]


def process_tag() -> dict[str, str]:
    """The tag that names this process, for a run that lives inside it."""
    return {PROCESS_TAG: f"{socket.gethostname()}/{_process_name(os.getpid())}"}


def close_dead_runs(instance: dg.DagsterInstance) -> None:
    """Ends, in Dagster's book, runs of ``ft run`` processes that were killed: they would show as running for ever."""
    statuses = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(dg.RunsFilter(statuses=statuses)):
        host, _, process = run.tags.get(PROCESS_TAG, "").partition("/")
        if host == socket.gethostname() and process not in (_process_name(pid) for pid in psutil.pids()):
            instance.report_run_failed(run, f"`ft run` was killed (process {process})")


@contextmanager
def book_held_open(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Keeps the files of Dagster's book that a run writes to open, where they are SQLite's.

    Dagster opens a connection for each event and closes it again. When a file's last one closes, SQLite copies its log
    back and removes it, with four flushes to disk; while one more is open, an event costs one flush.
    """
    history = Path(instance.root_directory) / "history"
    files = [history / "runs.db", history / "runs" / "index.db", history / "runs" / f"{run_id}.db"]
    with ExitStack() as held:
        if all(file.is_file() for file in files[:2]):
            with suppress(sqlite3.DatabaseError):  # what is wrong with a file Dagster says when it writes to it
                for file in files:
                    connection = held.enter_context(closing(sqlite3.connect(file)))
                    # Dagster asks for this mode too, but after it has made the tables of a new file one by one.
                    connection.execute("PRAGMA journal_mode=WAL").fetchall()
                    connection.execute("SELECT * FROM sqlite_master").fetchall()  # only a reader has the log open
        yield


def _process_name(pid: int) -> str:
    """A name no later process will have: the id and when it started, in seconds since boot (the clock may be set)."""
    try:
        return f"{pid}-{psutil.Process(pid).create_time() - psutil.boot_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
