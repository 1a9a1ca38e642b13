"""Objects with their versions, and the log of changes that watches read."""

import random
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from cluster.clock import Clock
from cluster.kinds import Key, Kind, Object
from cluster.patching import clone

NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # those of the server's random suffixes


@dataclass(frozen=True)
class Change:
    """One write; objects of a change are never changed again."""

    version: int
    type: str  # ADDED, MODIFIED, DELETED
    kind: Kind
    object: Object
    before: Object | None


class Store:
    """What etcd is to a server: one lock, one version that only grows, a log of bounded length.

    ``changed`` wakes who waits for a change. Stored objects are never changed in place: a write replaces them.
    """

    def __init__(self, clock: Clock, history: int, seed: int) -> None:
        self.clock = clock
        self.changed = threading.Condition(threading.RLock())
        self.version = 1
        self.compacted = 0  # nothing up to this version can be told any more
        self.log: dict[int, Change] = {}
        self.listeners: list[Callable[[Change], None]] = []
        self._history = history
        self._objects: dict[Kind, dict[Key, Object]] = defaultdict(dict)
        self._owned: dict[str, set[tuple[Kind, Key]]] = defaultdict(set)
        self._random = random.Random(seed)

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        return self._objects[kind].get((namespace, name))

    def all(self, kind: Kind, namespace: str | None = None) -> list[Object]:
        """In the order of etcd's keys; of all namespaces when none is given."""
        found = self._objects[kind]
        return [found[key] for key in sorted(found) if namespace in (None, key[0])]

    def count(self, kind: Kind) -> int:
        return len(self._objects[kind])

    def owned(self, uid: str) -> list[tuple[Kind, Object]]:
        """The objects with an owner reference to this one."""
        found = sorted(self._owned.get(uid, ()), key=lambda item: (item[0].plural, item[1]))
        return [(kind, self._objects[kind][key]) for kind, key in found]

    def new_uid(self) -> str:
        return str(
            uuid.uuid4()
        )  # by which processes are told apart, also from those of a cluster in another test process

    def suffix(self) -> str:
        return "".join(self._random.choice(NAME_LETTERS) for _ in range(5))

    def add(self, kind: Kind, made: Object) -> Object:
        return self._write("ADDED", kind, made, None)

    def replace(self, kind: Kind, made: Object) -> Object:
        """Writes it over the present one; equal content is no write and no version, as in the real one."""
        before = self._objects[kind][key_of(made)]
        if {**made, "metadata": {**made["metadata"], "resourceVersion": ""}} == {
            **before,
            "metadata": {**before["metadata"], "resourceVersion": ""},
        }:
            return before
        return self._write("MODIFIED", kind, made, before)

    def remove(self, kind: Kind, made: Object) -> Object:
        before = self._objects[kind][key_of(made)]
        return self._write("DELETED", kind, clone(before), before)

    def change(self, kind: Kind, made: Object, edit: Callable[[Object], object]) -> Object | None:
        """Edits the present state of an object, as a controller does; None where it is gone or another of its name."""
        present = self.get(kind, *key_of(made))
        if present is None or present["metadata"]["uid"] != made["metadata"]["uid"]:
            return None
        copy = clone(present)
        edit(copy)
        return self.replace(kind, copy)

    def compact(self) -> None:
        """Forgets all history: whoever asks for anything older than now has come too late."""
        self.log.clear()
        self.compacted = self.version
        self.changed.notify_all()

    def _write(self, type_: str, kind: Kind, made: Object, before: Object | None) -> Object:
        self.version += 1
        made["metadata"]["resourceVersion"] = str(self.version)
        key = key_of(made)
        for owner in (before or {}).get("metadata", {}).get("ownerReferences") or []:
            self._owned[owner["uid"]].discard((kind, key))
            if not self._owned[owner["uid"]]:
                del self._owned[owner["uid"]]
        if type_ == "DELETED":
            del self._objects[kind][key]
        else:
            self._objects[kind][key] = made
            for owner in made["metadata"].get("ownerReferences") or []:
                self._owned[owner["uid"]].add((kind, key))
        change = Change(self.version, type_, kind, made, before)
        self.log[self.version] = change
        if len(self.log) > self._history:
            self.compacted = next(iter(self.log))
            del self.log[self.compacted]
        for listener in self.listeners:
            listener(change)
        self.changed.notify_all()
        return made


def key_of(made: Object) -> Key:
    return made["metadata"].get("namespace", ""), made["metadata"]["name"]
