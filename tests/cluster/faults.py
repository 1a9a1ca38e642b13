"""What goes wrong between a client and the server, as a test asks for it."""

import threading
from dataclasses import dataclass

from cluster.access import Request
from cluster.kinds import ApiError

_ERRORS = {
    401: ("Unauthorized", "Unauthorized"),
    409: (
        "Conflict",
        "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and try again",
    ),
    410: ("Expired", "The resourceVersion for the provided list is too old."),
    429: ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
    500: ("InternalError", "Internal error occurred: etcdserver: leader changed"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "Timeout: request did not complete within the allotted timeout"),
}


@dataclass
class Fault:
    """For the next ``times`` requests that match; an empty verb or resource matches every one."""

    times: int
    status: int = 0
    verb: str = ""
    resource: str = ""
    retry_after: int | None = None
    message: str = ""
    lost: bool = False  # the connection breaks instead
    after: bool = False  # once the request has been carried out

    def matches(self, asked: Request) -> bool:
        return self.times > 0 and self.verb in ("", asked.verb) and self.resource in ("", asked.resource)

    def error(self) -> ApiError:
        reason, message = _ERRORS[self.status]
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        details = {} if self.retry_after is None else {"retryAfterSeconds": self.retry_after}
        return ApiError(self.status, reason, self.message or message, details, headers)


class Faults:
    """Asked once for each request."""

    def __init__(self) -> None:
        self.slow_seconds = 0.0  # of real time, before each answer
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def fail(
        self,
        times: int,
        status: int,
        verb: str = "",
        resource: str = "",
        retry_after: int | None = None,
        message: str = "",
    ) -> None:
        """The next requests are answered with this status, and change nothing."""
        self._add(Fault(times, status, verb, resource, retry_after, message))

    def drop(self, times: int, verb: str = "", resource: str = "") -> None:
        """The connection breaks before the next requests are carried out."""
        self._add(Fault(times, 0, verb, resource, lost=True))

    def lose_answers(self, times: int, verb: str = "", resource: str = "") -> None:
        """The next requests are carried out, and the connection breaks before their answer."""
        self._add(Fault(times, 0, verb, resource, lost=True, after=True))

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()
        self.slow_seconds = 0.0

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def take(self, asked: Request) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.matches(asked):
                    fault.times -= 1
                    return fault
        return None
