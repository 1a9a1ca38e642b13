"""First on the path of a worker: rank 0 is killed just before its ``KILL_AT``-th file operation of a save or a commit.

Counting begins with the first folder made whose path holds ``KILL_FROM``. With ``KILL_AT`` 0 the operations are written to
``KILL_LOG``, one a line, up to the first that removes an older checkpoint or partial work.
"""

import os
import signal
import sys

BEGIN, BELOW, AT, LOG = (os.environ.get(f"KILL_{name}", "") for name in ("FROM", "BELOW", "AT", "LOG"))
OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}
count = 0


def count_operation(event: str, args: tuple) -> None:
    global count
    if event not in OPERATIONS or not isinstance(args[0], (str, os.PathLike)):
        return
    path = os.fspath(args[0])
    if BELOW not in path or not (count or (event == "os.mkdir" and BEGIN in path)):
        return
    count += 1
    if str(count) == AT:
        os.kill(os.getpid(), signal.SIGKILL)
    if AT == "0":
        descriptor = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if LOG not in path else None
        if descriptor is not None:
            os.write(descriptor, f"{event} {path}\n".encode())
            os.close(descriptor)


if AT and os.environ.get("RANK") == "0":
    sys.addaudithook(count_operation)
