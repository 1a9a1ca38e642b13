"""The garbage collector: dependents of what is gone, and the ends of foreground and orphaning deletions."""

from functools import partial

from cluster.api import Api
from cluster.kinds import BY_NAME, Key, Kind, Object
from cluster.loop import Loop
from cluster.patching import clone
from cluster.store import Change, Store, key_of


class GarbageCollector:
    def __init__(self, store: Store, api: Api, loop: Loop) -> None:
        self._store, self._api, self._loop = store, api, loop

    def changed(self, change: Change) -> None:
        meta = change.object["metadata"]
        if change.type == "DELETED":
            for kind, dependent in self._store.owned(meta["uid"]):
                self._enqueue(kind, dependent)
        if change.type == "DELETED" or "deletionTimestamp" in meta:
            for owner in meta.get("ownerReferences") or []:
                owning = BY_NAME.get((owner["apiVersion"], owner["kind"]))
                if owning is not None:
                    space = meta.get("namespace", "") if owning.namespaced else ""
                    self._loop.enqueue(_Work(self, owning), (space, owner["name"]))
        if change.type != "DELETED" and (
            "deletionTimestamp" in meta or (meta.get("ownerReferences") and change.type == "ADDED")
        ):
            self._enqueue(change.kind, change.object)

    def _enqueue(self, kind: Kind, made: Object) -> None:
        self._loop.enqueue(_Work(self, kind), key_of(made))

    def collect(self, kind: Kind, key: Key) -> None:
        made = self._store.get(kind, *key)
        if made is None:
            return
        self._owners(kind, made)
        made = self._store.get(kind, *key)
        if made is None or "deletionTimestamp" not in made["metadata"]:
            return
        finalizers = made["metadata"].get("finalizers") or []
        if "orphan" in finalizers:
            for dependent_kind, dependent in self._store.owned(made["metadata"]["uid"]):
                self._store.change(dependent_kind, dependent, partial(_disown, uid=made["metadata"]["uid"]))
            self._unhold(kind, made, "orphan")
        elif "foregroundDeletion" in finalizers:
            blocking = 0
            for dependent_kind, dependent in self._store.owned(made["metadata"]["uid"]):
                owner = next(o for o in dependent["metadata"]["ownerReferences"] if o["uid"] == made["metadata"]["uid"])
                blocking += bool(owner.get("blockOwnerDeletion"))
                if "deletionTimestamp" not in dependent["metadata"]:
                    deeper = "Foreground" if owner.get("blockOwnerDeletion") else "Background"
                    self._api.remove(dependent_kind, dependent, deeper)
            if not blocking:
                self._unhold(kind, made, "foregroundDeletion")

    def _owners(self, kind: Kind, made: Object) -> None:
        """Deletes what has owners and none of them is there any more; drops references to absent ones."""
        owners = made["metadata"].get("ownerReferences") or []
        absent = [owner for owner in owners if not self._there(owner, made["metadata"].get("namespace", ""))]
        if not absent:
            return
        if len(absent) == len(owners):
            if "deletionTimestamp" not in made["metadata"]:
                self._api.remove(kind, made)
            return
        for owner in absent:
            self._store.change(kind, made, partial(_disown, uid=owner["uid"]))

    def _there(self, owner: Object, namespace: str) -> bool:
        kind = BY_NAME.get((owner["apiVersion"], owner["kind"]))
        if kind is None:
            return True  # of a kind that is not served here: nobody can tell
        found = self._store.get(kind, namespace if kind.namespaced else "", owner["name"])
        return found is not None and found["metadata"]["uid"] == owner["uid"]

    def _unhold(self, kind: Kind, made: Object, finalizer: str) -> None:
        copy = clone(made)
        kept = [name for name in copy["metadata"]["finalizers"] if name != finalizer]
        copy["metadata"].pop("finalizers")
        if kept:
            copy["metadata"]["finalizers"] = kept
        self._api.collect(kind, self._store.replace(kind, copy))


class _Work:
    """A queue entry of one kind; equal ones are one."""

    def __init__(self, collector: GarbageCollector, kind: Kind) -> None:
        self._collector, self._kind = collector, kind

    def __call__(self, key: Key) -> None:
        self._collector.collect(self._kind, key)

    def __hash__(self) -> int:
        return hash((id(self._collector), self._kind))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Work) and (self._collector, self._kind) == (other._collector, other._kind)


def _disown(made: Object, uid: str) -> None:
    kept = [owner for owner in made["metadata"].get("ownerReferences") or [] if owner["uid"] != uid]
    made["metadata"].pop("ownerReferences", None)
    if kept:
        made["metadata"]["ownerReferences"] = kept
