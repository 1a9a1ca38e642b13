"""HTTP over the verbs: paths, queries, errors, lists, watches and logs, as a Kubernetes API server has them."""

import json
import select
import socket
import struct
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from cluster.access import Access, Request
from cluster.api import Api, Options, selector
from cluster.clock import Clock
from cluster.faults import Faults
from cluster.kinds import POD, ApiError, Object, bad_request
from cluster.loop import Loop
from cluster.patching import JSON, MERGE, STRATEGIC
from cluster.paths import NoSuchPath, Target, discovery, read_path
from cluster.pod_verbs import PodVerbs
from cluster.store import Store
from cluster.watching import bookmark, first_events, told, too_old

BOOKMARK_SECONDS, WATCH_SECONDS = 60.0, 1800.0  # of the cluster's clock
LOOK_SECONDS = 1.0  # of real time, at a client that may have gone
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


class Dropped(Exception):
    """The connection ends without an answer."""


class Server(ThreadingHTTPServer):
    """One port of the loopback interface; ``requests`` counts by verb and resource."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, store: Store, api: Api, loop: Loop, pods: PodVerbs, access: Access, faults: Faults, port: int = 0
    ) -> None:
        self.store, self.api, self.loop, self.pods, self.access, self.faults = store, api, loop, pods, access, faults
        self.requests: Counter[tuple[str, str]] = Counter()
        self.errors: list[str] = []
        self.absent: set[tuple[str, str]] = set()  # groups with their version that were never installed
        self.watches = 0
        self.cut = 0  # watches begun before it last grew are to break
        self.expired = 0  # or to say that they have expired
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def clock(self) -> Clock:
        return self.store.clock

    def count(self, verb: str, resource: str) -> None:
        with self._lock:
            self.requests[(verb, resource)] += 1

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes is no error here; anything else is one of the double's own, which a test must hear of."""
        error = sys.exception()
        if not isinstance(error, OSError):
            self.errors.append(traceback.format_exc())

    def drop_connections(self) -> None:
        """Resets them all, as a server that dies does."""
        with self._lock:
            found = list(self._connections)
        for connection in found:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)
        with self.store.changed:
            self.store.changed.notify_all()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """The counter tells what was asked."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        options = Options(dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True)))
        try:
            self._answer(urlsplit(self.path).path, raw, options)
        except ApiError as error:
            self._send(error.code, error.status(), options.warnings, error.headers)
        except NoSuchPath:
            self._send_bytes(404, b"404 page not found\n", "text/plain; charset=utf-8")
        except (Dropped, ConnectionError, TimeoutError):
            self.close_connection = True
            with suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _answer(self, path: str, raw: bytes, options: Options) -> None:
        if (discovered := discovery(path, self.server.absent)) is not None:
            self._send(200, discovered)
            return
        if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" and self.command == "POST":
            self.server.count("create", "selfsubjectaccessreviews")
            self._send(201, self._review(json.loads(raw)))
            return
        if path in ("/healthz", "/livez", "/readyz"):
            self._send_text("ok")
            return
        target = read_path(path, self.server.absent)
        verb = self._verb(target, options.query)
        resource = f"{target.kind.plural}/{target.sub}" if target.sub else target.kind.plural
        asked = Request(verb, target.kind.group, resource, target.namespace or "", target.name)
        self.server.count(verb, resource)
        if self.server.faults.slow_seconds:
            time.sleep(self.server.faults.slow_seconds)
        fault = self.server.faults.take(asked)
        if fault and fault.lost and not fault.after:
            raise Dropped
        if fault and fault.status:
            raise fault.error()
        if not self.server.access.allows(asked):
            raise self.server.access.refusal(asked)
        if verb == "watch":
            self._watch(target, options.query)
        elif target.sub == "log" and verb == "get":
            self._log(target, options.query)
        else:
            body = _json(raw) if raw else {}
            with self.server.store.changed:
                code, answer = self._act(verb, target, body, options)
                text = json.dumps(answer).encode()
                self.server.loop.settle()
            if fault and fault.after:
                raise Dropped
            self._send_bytes(code, text, "application/json", options.warnings)

    def _verb(self, target: Target, query: dict[str, str]) -> str:
        if self.command == "GET":
            watching = query.get("watch") in ("true", "True", "1")
            return "watch" if watching and not target.sub else "get" if target.name else "list"
        if self.command == "DELETE":
            return "delete" if target.name else "deletecollection"
        return _VERBS[self.command]

    def _act(self, verb: str, target: Target, body: Any, options: Options) -> tuple[int, Object]:
        api, kind, name = self.server.api, target.kind, target.name
        space = target.namespace or ""
        if target.sub == "eviction" and kind is POD and verb == "create":
            return 201, self.server.pods.evict_by_api(space, name)
        if target.sub == "binding":
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        if target.sub not in ("", "status") or (target.sub == "status" and not kind.status):
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        match verb:
            case "get":
                return 200, api.get(kind, space, name)
            case "list":
                return 200, api.listed(kind, target.namespace, options.query)
            case "create" if not name:
                return 201, api.create(kind, space, body, options)
            case "update":
                return 200, api.update(kind, space, name, body, options, target.sub)
            case "patch":
                content = (self.headers.get("Content-Type") or "").partition(";")[0]
                if content not in (JSON, MERGE, STRATEGIC):
                    why = f"the body of the request was in an unknown format - accepted media types include: {JSON}, {MERGE}, {STRATEGIC}"
                    raise ApiError(415, "UnsupportedMediaType", why)
                return 200, api.patch(kind, space, name, body, content, options, target.sub)
            case "delete":
                return 200, api.delete(kind, space, name, body, options)
            case "deletecollection":
                return 200, api.delete_all(kind, target.namespace, body, options)
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def _review(self, body: Object) -> Object:
        asked = body["spec"].get("resourceAttributes") or {}
        resource = asked.get("resource", "") + (f"/{asked['subresource']}" if asked.get("subresource") else "")
        request = Request(
            asked.get("verb", ""), asked.get("group", ""), resource, asked.get("namespace", ""), asked.get("name", "")
        )
        allowed = self.server.access.allows(request)
        return {**body, "status": {"allowed": allowed} | ({} if allowed else {"reason": "no RBAC rule allows it"})}

    def _watch(self, target: Target, query: dict[str, str]) -> None:
        server, store = self.server, self.server.store
        matches = selector(target.kind, query)
        with store.changed:
            begun = (server.cut, server.expired)
            events = list(first_events(store, target, query, matches))
            seen = (
                store.version if not (query.get("resourceVersion") or "0").strip("0") else int(query["resourceVersion"])
            )
            server.watches += 1
        try:
            self._start_stream("application/json")
            for event in events:
                self._chunk_event(event)
            if not events or events[0]["type"] != "ERROR":
                self._go_on(target, query, matches, seen, begun)
            self.wfile.write(b"0\r\n\r\n")
        finally:
            with store.changed:
                server.watches -= 1

    def _go_on(self, target: Target, query: dict[str, str], matches: Any, seen: int, begun: tuple[int, int]) -> None:
        server, store, clock = self.server, self.server.store, self.server.clock
        ends = clock.now + float(query.get("timeoutSeconds") or WATCH_SECONDS)
        marks = query.get("allowWatchBookmarks") in ("true", "True", "1")
        next_mark = clock.now + BOOKMARK_SECONDS
        while True:
            out: list[Object] = []
            with store.changed:
                if seen == store.version and clock.now < min(ends, next_mark) and begun == (server.cut, server.expired):
                    store.changed.wait(LOOK_SECONDS)
                if begun[0] != server.cut:
                    raise Dropped
                if begun[1] != server.expired or seen < store.compacted:
                    out.append(too_old(seen, store.version))
                else:
                    for version in range(seen + 1, store.version + 1):
                        if event := told(store.log[version], target, matches):
                            out.append(event)
                    seen = store.version
                over = clock.now >= ends
                if marks and (over or clock.now >= next_mark):
                    out.append(bookmark(target.kind, seen))
                    next_mark = clock.now + BOOKMARK_SECONDS
            for event in out:
                self._chunk_event(event)
            if over or (out and out[-1]["type"] == "ERROR"):
                return
            if not out and self._gone():
                raise Dropped

    def _gone(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _log(self, target: Target, query: dict[str, str]) -> None:
        with self.server.store.changed:
            log = self.server.pods.log(target.namespace or "", target.name, query)
        if log is None:
            self._send_text("")
            return
        if query.get("follow") not in ("true", "True", "1"):
            self._send_text(b"".join(log))
            return
        begun = self.server.cut
        self._start_stream("text/plain")
        for part in log:
            if part:
                self._chunk(part)
            elif self._gone() or begun != self.server.cut:
                raise Dropped
        self.wfile.write(b"0\r\n\r\n")

    def _start_stream(self, content: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk_event(self, event: Object) -> None:
        self._chunk(json.dumps(event).encode() + b"\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _send(
        self, code: int, body: Object, warnings: list[str] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self._send_bytes(code, json.dumps(body).encode(), "application/json", warnings, headers)

    def _send_text(self, text: str | bytes) -> None:
        self._send_bytes(200, text.encode() if isinstance(text, str) else text, "text/plain")

    def _send_bytes(
        self,
        code: int,
        data: bytes,
        content: str,
        warnings: list[str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content)
        self.send_header("Content-Length", str(len(data)))
        for text in warnings or []:
            self.send_header("Warning", f"299 - {json.dumps(text)}")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self._headers_buffer.append(b"\r\n")  # type: ignore[attr-defined]
        self._headers_buffer.append(data)  # type: ignore[attr-defined]
        self.flush_headers()  # in one piece, so that no half of an answer waits for the other's receipt


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error
