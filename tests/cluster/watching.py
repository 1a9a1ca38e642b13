"""What a watch tells: the present objects, changes as its selector sees them, bookmarks, and that it came too late."""

from collections.abc import Iterator
from typing import Any

from cluster.kinds import ApiError, Kind, Object, bad_request
from cluster.paths import Target
from cluster.store import Change, Store, key_of


def first_events(store: Store, target: Target, query: dict[str, str], matches: Any) -> Iterator[Object]:
    """The present objects when no version is given, or an error when it is none yet."""
    version = query.get("resourceVersion") or "0"
    if not version.isdigit():
        raise bad_request(f"invalid resource version {version!r}")
    if int(version) == 0:
        for made in store.all(target.kind, target.namespace):
            if _named(made, target) and matches(made):
                yield {"type": "ADDED", "object": made}
    elif int(version) > store.version:
        error = ApiError(504, "Timeout", f"Timeout: Too large resource version: {version}, current: {store.version}")
        yield {"type": "ERROR", "object": error.status()}


def too_old(seen: int, present: int) -> Object:
    return {
        "type": "ERROR",
        "object": ApiError(410, "Expired", f"too old resource version: {seen} ({present})").status(),
    }


def told(change: Change, target: Target, matches: Any) -> Object | None:
    """A change as a watch with this selector tells it: what begins to match is added, what ceases to is deleted."""
    if (
        change.kind is not target.kind
        or target.namespace not in (None, key_of(change.object)[0])
        or not _named(change.object, target)
    ):
        return None
    now = change.type != "DELETED" and matches(change.object)
    before = change.before is not None and matches(change.before)
    if now:
        return {"type": "MODIFIED" if before else "ADDED", "object": change.object}
    if not before or change.before is None:
        return None
    if change.type == "DELETED":
        return {"type": "DELETED", "object": change.object}
    meta = {**change.before["metadata"], "resourceVersion": change.object["metadata"]["resourceVersion"]}
    return {"type": "DELETED", "object": {**change.before, "metadata": meta}}


def bookmark(kind: Kind, version: int) -> Object:
    meta = {"resourceVersion": str(version), "creationTimestamp": None}
    return {"type": "BOOKMARK", "object": {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta}}


def _named(made: Object, target: Target) -> bool:
    return not target.name or made["metadata"]["name"] == target.name
