"""What a test says of a pod's containers, and what the kubelet has to know of one while it runs."""

import re
from dataclasses import dataclass, field

from cluster.kinds import Object
from cluster.logs import Log
from cluster.processes import Process

KILLED, TERMINATED = 137, 143
_IMAGE = re.compile(
    r"^(?:[a-zA-Z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$"
)


@dataclass(frozen=True)
class Script:
    """What happens to a pod's first container, by the cluster's clock; nothing more, until a test says so.

    Attributes:
        starting_seconds: how long it stays at ContainerCreating.
        running_seconds: after which it ends with ``exit_code``; None runs until told.
        exit_code_at_term: with which it answers SIGTERM, after ``term_seconds``; None is deaf, and is killed after the grace.
        process: its command is really run, and decides all of the above.
    """

    starting_seconds: float = 0.0
    running_seconds: float | None = None
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    log: str = ""
    exit_code_at_term: int | None = TERMINATED
    term_seconds: float = 0.0
    process: bool = False


@dataclass
class Run:
    """A pod on a node; ``state`` goes waiting, running, stopping, ended."""

    pod: Object
    script: Script
    state: str = "waiting"
    attempt: int = 0
    pull_failures: int = 0
    restarts: int = 0
    reason: str = ""  # of waiting
    started: str = ""
    stop_at: float | None = None
    processes: dict[str, Process] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)  # of containers that have ended, while others have not
    logs: dict[str, Log] = field(default_factory=dict)
    before: dict[str, Log] = field(default_factory=dict)  # of the run before a restart


def valid_image(image: str) -> bool:
    return bool(_IMAGE.match(image))


def ended_reason(code: int, reason: str) -> str:
    return reason or ("Completed" if code == 0 else "Error")


def terminated(code: int, reason: str, message: str, started: str, finished: str) -> Object:
    state: Object = {"exitCode": code, "reason": ended_reason(code, reason), "startedAt": started or None}
    state |= {"finishedAt": finished, "containerID": "containerd://0"}
    if message:
        state["message"] = message
    return {"terminated": state}


def statuses(pod: Object, state: Object, group: str = "containers") -> list[Object]:
    """The status of each container, all in the same state."""
    kind = next(iter(state))
    return [
        {
            **{
                "name": container["name"],
                "image": container["image"],
                "restartCount": 0,
                "lastState": {},
                "state": state,
            },
            **{
                "imageID": container["image"] if kind != "waiting" else "",
                "ready": kind == "running",
                "started": kind == "running",
            },
        }
        for container in pod["spec"].get(group) or []
    ]
