"""Calls of the Kubernetes API as JSON: few, typed, and patient within bounds.

A server that is busy (429), broken (500 to 504) or away is asked again after a pause that grows; what is refused ends at
once, in a sentence. Time passes through a :class:`Clock`.
"""

import json
import os
import random
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ft_assets.core.errors import FineTuneError

Manifest = dict[str, Any]

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
AWAY_SECONDS = 900.0
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
# The server ends a watch after this; a connection that died unseen is noticed a little later.
WATCH_SECONDS, WATCH_MARGIN_SECONDS = 240, 30.0
PAGE = 500
MOST_LOG_BYTES = 4 * 2**20
AGAIN = (429, 500, 502, 503, 504)
CHANGED = {"PATCH": (409,), "DELETE": (409,)}  # the object was changed by another at the same time
PATHS = {
    "jobs": "/apis/batch/v1",
    "jobsets": "/apis/jobset.x-k8s.io/v1alpha2",
    "pods": "/api/v1",
    "services": "/api/v1",
    "events": "/api/v1",
}
PLURALS = {"Job": "jobs", "JobSet": "jobsets", "Service": "services"}


class Clock(Protocol):
    def monotonic(self) -> float: ...

    def time(self) -> float: ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Whether the event was set by then."""
        ...


class RealClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)


class ClusterAway(FineTuneError):
    """The API server has not answered for longer than is waited for."""


class ClusterRefused(FineTuneError):
    """The API server answered no, and asking again would not change that."""


class QuotaExceeded(ClusterRefused):
    """No, as long as others use up the namespace's quota."""


class Expired(Exception):
    """A list or a watch goes on from a version that the server no longer has (410)."""


@dataclass(frozen=True)
class Answer:
    """A status other than success; ``retry_after`` in seconds, where the server says."""

    status: int
    message: str
    reason: str = ""
    retry_after: float | None = None


class Api:
    """One namespace of one cluster. Safe to share between threads.

    ``kubeconfig`` is a file, or empty for the pod's own account, or else the user's ``~/.kube/config`` or ``KUBECONFIG``.
    """

    def __init__(self, namespace: str, kubeconfig: str = "", clock: Clock | None = None):
        self.namespace, self.kubeconfig = namespace, kubeconfig
        self.clock: Clock = clock or RealClock()
        self._never = threading.Event()

    @cached_property
    def _client(self) -> Any:
        from kubernetes import client, config
        from urllib3 import Retry

        settings = client.Configuration()
        if not self.kubeconfig and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=settings)
        else:
            file = self.kubeconfig or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
            try:
                config.load_kube_config(config_file=file, client_configuration=settings)
            except config.ConfigException as error:
                raise FineTuneError(f"no cluster to talk to: {error}; set KUBECONFIG, or run in a pod") from error
        settings.retries = Retry(0, redirect=3)  # asked again here alone, where it is counted and bounded
        settings.connection_pool_maxsize = 16
        return client.ApiClient(settings)

    @property
    def server(self) -> str:
        return str(self._client.configuration.host)

    def create(self, manifest: Manifest) -> Manifest | None:
        """The object as created, or None where one of its name is there already.

        Raises:
            QuotaExceeded, ClusterRefused: no.
        """
        kind = PLURALS[manifest["kind"]]
        # Else a misspelt field is dropped without a word. What a JobSet may hold, its installed version decides.
        query = {} if kind == "jobsets" else {"fieldValidation": "Strict"}
        found = self._ask("create", "POST", kind, query=query, body=manifest)
        if isinstance(found, Answer):
            if found.status == 409:
                return None
            raise self._refusal("create", kind, manifest["metadata"]["name"], found)
        return found

    def get(self, kind: str, name: str) -> Manifest | None:
        found = self._ask("get", "GET", kind, name)
        return self._unless(404, "get", kind, name, found)

    def delete(self, kind: str, name: str, away_seconds: float = AWAY_SECONDS) -> None:
        """Asks that it go, with all it owns; no matter whether it is there."""
        query = {"propagationPolicy": "Background"}
        found = self._ask("delete", "DELETE", kind, name, query, away_seconds=away_seconds)
        self._unless(404, "delete", kind, name, found)

    def label(self, kind: str, name: str, labels: dict[str, str]) -> None:
        """Adds labels to an object, where it is there."""
        found = self._ask("patch", "PATCH", kind, name, body={"metadata": {"labels": labels}})
        self._unless(404, "patch", kind, name, found)

    def list(
        self, kind: str, labels: str = "", fields: str = "", away_seconds: float = AWAY_SECONDS
    ) -> tuple[list[Manifest], str]:
        """All objects of a kind that match, and the version of the list, from which a watch may go on."""
        query = {"limit": str(PAGE), "labelSelector": labels, "fieldSelector": fields}
        items: list[Manifest] = []
        while True:
            found = self._ask("list", "GET", kind, query=query, away_seconds=away_seconds)
            if isinstance(found, Answer):
                if found.status == 410:  # the pages that are left are of a past that is gone
                    items = []
                    query.pop("continue", None)
                    continue
                raise self._refusal("list", kind, "", found)
            items += found.get("items") or []
            if not found["metadata"].get("continue"):
                return items, found["metadata"]["resourceVersion"]
            query["continue"] = found["metadata"]["continue"]

    def log(self, pod: str, lines: int, away_seconds: float = AWAY_SECONDS) -> str:
        """The last lines that a pod printed; nothing where it, or its log, is gone."""
        query = {"tailLines": str(lines), "limitBytes": str(MOST_LOG_BYTES)}  # a line may be long
        found = self._ask("get", "GET", "pods", f"{pod}/log", query, raw=True, away_seconds=away_seconds)
        if isinstance(found, Answer):
            if found.status in (400, 404):
                return ""
            raise self._refusal("get", "pods/log", pod, found)
        return str(found["text"])

    def watch(self, kind: str, labels: str, version: str) -> Generator[Manifest]:
        """Events of the API (``type``, ``object``), bookmarks among them, until the server ends the stream. Asks once.

        Raises:
            Expired: the version is too old; list again.
            ClusterAway: the server does not answer, or answers that it cannot.
            ClusterRefused: it must not be watched.
        """
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        query |= {"labelSelector": labels, "resourceVersion": version}
        found = self._send("GET", self._path(kind), query, None, WATCH_SECONDS + WATCH_MARGIN_SECONDS, True)
        if isinstance(found, Answer):
            self._raise_watch("watch", kind, found)
        with closing(found):
            try:
                for line in _lines(found):
                    event = _object(line, "object")
                    if event is None:
                        raise ClusterAway(self._foreign())
                    if event["type"] == "ERROR":
                        status = event["object"]
                        self._raise_watch("watch", kind, Answer(status.get("code", 500), status.get("message", "")))
                    yield event
            except _connection_errors() as error:
                raise ClusterAway(str(error)) from error

    def _raise_watch(self, verb: str, kind: str, answer: Answer) -> None:
        if answer.status == 410:
            raise Expired(answer.message)
        if answer.status in AGAIN or answer.status == 0:
            raise ClusterAway(answer.message)
        raise self._refusal(verb, kind, "", answer)

    def _ask(
        self,
        verb: str,
        method: str,
        kind: str,
        name: str = "",
        query: dict[str, str] | None = None,
        body: Manifest | None = None,
        raw: bool = False,
        away_seconds: float = AWAY_SECONDS,
    ) -> Any:
        """The answer's JSON (or text, where ``raw``), or the :class:`Answer` that says no.

        Raises:
            ClusterAway: nothing but silence, 429 or 5xx for ``away_seconds``.
        """
        path = self._path(kind) + (f"/{name}" if name else "")
        pause, began = FIRST_PAUSE_SECONDS, self.clock.monotonic()
        while True:
            found = self._send(method, path, query or {}, body, READ_SECONDS, False, raw)
            if not isinstance(found, Answer) or found.status not in (0, *AGAIN, *CHANGED.get(method, ())):
                return found
            left = away_seconds - (self.clock.monotonic() - began)
            if left <= 0:
                raise ClusterAway(away_text(self.server, f"could not {verb} {kind}", away_seconds, found.message))
            self.clock.wait(self._never, min(found.retry_after or pause * random.uniform(0.5, 1.0), left))
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    def _path(self, kind: str) -> str:
        return f"{PATHS[kind]}/namespaces/{self.namespace}/{kind}"

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: Manifest | None,
        seconds: float,
        stream: bool,
        raw: bool = False,
    ) -> Any:
        """One request. A status of 0 stands for no answer at all."""
        from kubernetes.client import ApiException

        headers = {"Accept": "*/*" if raw else "application/json"}
        headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            answer = self._client.call_api(
                path,
                method,
                query_params=[(key, value) for key, value in query.items() if value],
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=False,
                _request_timeout=(CONNECT_SECONDS, seconds),
            )
            if stream:
                return answer
            if raw:
                return {"text": answer.data.decode("utf-8", "replace")}
            return _object(answer.data, "metadata") or Answer(0, self._foreign())
        except ApiException as error:
            return _answer(error)
        except _connection_errors() as error:
            return Answer(0, str(error))

    def _foreign(self) -> str:
        return f"{self.server} answers with something that is no object of Kubernetes; is it an API server?"

    def _unless(self, status: int, verb: str, kind: str, name: str, found: Any) -> Any:
        if isinstance(found, Answer):
            if found.status == status:
                return None
            raise self._refusal(verb, kind, name, found)
        return found

    def _refusal(self, verb: str, kind: str, name: str, answer: Answer) -> ClusterRefused:
        if "exceeded quota" in answer.message:
            return QuotaExceeded(f"the namespace's quota is used up ({answer.message})")
        what, where = f"{kind} {name}".strip(), f"in namespace {self.namespace}"
        if answer.status == 403:
            remedy = f"add the verb `{verb}` on `{kind}` to the launcher's Role"
            return ClusterRefused(
                f"the API server does not let the launcher {verb} {what} {where}: {answer.message}; {remedy}"
            )
        if answer.status == 401:
            return ClusterRefused(
                f"the API server at {self.server} does not know who asks: log in again ({answer.message})"
            )
        if answer.status == 404 and kind == "jobsets":
            return ClusterRefused("the cluster has no JobSet API: install JobSet, or set job_api: job")
        return ClusterRefused(f"the API server refuses to {verb} {what} {where}: {answer.message} ({answer.status})")


def away_text(server: str, what: str, seconds: float, why: str) -> str:
    return f"the API server at {server} {what} for {seconds / 60:.0f} minutes ({why})"


def _object(data: bytes, field: str) -> Manifest | None:
    """What the API says, which has this field; or None where it is something else, as a proxy's page is."""
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get(field), dict) else None


def _connection_errors() -> tuple[type[Exception], ...]:
    from urllib3.exceptions import HTTPError

    return (HTTPError, OSError)


def _answer(error: Any) -> Answer:
    """The API's Status object, or what stands in its place: a proxy's page, say."""
    try:
        body = json.loads(error.body)
        message, reason = str(body["message"]), str(body.get("reason", ""))
    except (TypeError, ValueError, KeyError):
        message, reason = str(error.reason or error.body), ""
    after = (error.headers or {}).get("Retry-After", "")
    return Answer(error.status, message, reason, float(after) if after.isdigit() else None)


def _lines(stream: Any) -> Iterator[bytes]:
    """Whole lines as they come; a last one that is torn is not one."""
    rest = b""
    for piece in stream.stream(amt=None, decode_content=False):
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line for line in lines if line)
