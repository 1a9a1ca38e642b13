"""A real PostgreSQL on loopback, from Debian's package: started, stopped and started again by a test."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROLE, DATABASE = "dagster", "postgres"


class Postgres:
    """One server with data of its own. ``initdb`` and ``postgres`` refuse root, so root starts them as user postgres."""

    def __init__(self, programs: Path, folder: Path):
        self.programs, self.data, self.log = programs, folder / "data", folder / "log"
        self.password = secrets.token_hex(8)
        self.user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        secret = folder / "password"
        secret.write_text(self.password)
        if self.user:
            account = pwd.getpwnam("postgres")
            for path in (folder, secret):
                os.chown(path, account.pw_uid, account.pw_gid)
        self._call("initdb", "-D", self.data, "-U", ROLE, "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync")

    def start(self) -> None:
        """Returns when it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._call("pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "60", "-o", options, "start")

    def stop(self, how: str = "immediate") -> None:
        """``immediate`` is a crash: connections are cut, and the next start recovers from the log."""
        self._call("pg_ctl", "-D", self.data, "-w", "-m", how, "stop")

    def running(self) -> bool:
        return (self.data / "postmaster.pid").exists()

    @property
    def settings(self) -> dict[str, Any]:
        """What Dagster's ``postgres_db`` takes."""
        return {
            "hostname": "127.0.0.1",
            "port": self.port,
            "username": ROLE,
            "password": self.password,
            "db_name": DATABASE,
        }

    def _call(self, program: str, *words: object) -> None:
        command = [str(self.programs / program), *map(str, words)]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/", timeout=90, **self.user
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that runs; skips the test where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("postgresql is not installed (`make debian`)")
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="ft-postgres-") as folder:
        server = Postgres(Path(initdb).parent, Path(folder))
        server.start()
        try:
            yield server
        finally:
            if server.running():
                server.stop()
