"""Event objects, as controllers record them: a repeated one is counted, and all go after an hour."""

from collections import deque

from cluster.kinds import EVENT, Kind, Object
from cluster.store import Store, key_of

KEPT_SECONDS = 3600


class Recorder:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str, str], Object] = {}
        self._order: deque[tuple[float, tuple[str, str, str]]] = deque()

    def record(self, about: tuple[Kind, Object], type_: str, reason: str, message: str, component: str) -> None:
        """``type_`` is Normal or Warning; a cluster's own object (a node) has its events in ``default``."""
        self._forget()
        kind, made = about
        meta = made["metadata"]
        same = (meta["uid"], reason, message)
        now = self._store.clock.stamp()
        if same in self._known and self._store.change(EVENT, self._known[same], lambda event: _again(event, now)):
            return
        namespace = meta.get("namespace", "default")
        involved = {"kind": kind.kind, "namespace": namespace, "name": meta["name"], "uid": meta["uid"]}
        involved |= {"apiVersion": kind.api_version, "resourceVersion": meta["resourceVersion"]}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                **{"name": f"{meta['name']}.{self._store.version:x}{self._store.suffix()}", "namespace": namespace},
                **{"uid": self._store.new_uid(), "creationTimestamp": now},
            },
            **{"involvedObject": involved, "reason": reason, "message": message, "type": type_, "count": 1},
            **{"firstTimestamp": now, "lastTimestamp": now, "source": {"component": component}},
            **{"reportingComponent": component, "reportingInstance": ""},
        }
        self._known[same] = self._store.add(EVENT, event)
        self._order.append((self._store.clock.now, same))

    def _forget(self) -> None:
        while self._order and self._order[0][0] + KEPT_SECONDS < self._store.clock.now:
            _, same = self._order.popleft()
            old = self._known.pop(same, None)
            if old is not None and self._store.get(EVENT, *key_of(old)):
                self._store.remove(EVENT, old)


def _again(event: Object, now: str) -> None:
    event["count"] += 1
    event["lastTimestamp"] = now
