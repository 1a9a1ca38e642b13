"""The verbs of a server over the store; HTTP is :mod:`cluster.server`'s business."""

import base64
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster import validation
from cluster.admission import admit
from cluster.clock import seconds_of, stamp
from cluster.defaults import fill
from cluster.fields import invalid_value, unsupported
from cluster.kinds import (
    JOB,
    JOB_SET,
    LEASE,
    POD,
    ApiError,
    Cause,
    Kind,
    Object,
    already_exists,
    bad_request,
    conflict,
    expired,
    invalid,
    not_found,
)
from cluster.patching import STRATEGIC, clone, patched
from cluster.schema import decoded
from cluster.selecting import Matches, field_selector, label_selector
from cluster.store import Store, key_of

MOST_PAGES = 100  # lists that are being read page by page; the oldest is forgotten, and so expired
ORPHAN_WARNING = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set "
    "propagationPolicy=Orphan to suppress this warning"
)


@dataclass
class Options:
    """Of a request: its query, and what the answer's header will warn of."""

    query: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def dry(self) -> bool:
        return self.query.get("dryRun") == "All"


class Api:
    """All under the store's lock, which the caller holds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pages: OrderedDict[str, tuple[int, list[Object]]] = OrderedDict()
        self.queues = False  # whether Kueue's webhook is there

    def create(self, kind: Kind, namespace: str, body: Any, options: Options | None = None) -> Object:
        options = options or Options()
        made, warnings = decoded(kind, body, options.query.get("fieldValidation", "Warn"))
        options.warnings += warnings
        meta = made.setdefault("metadata", {})
        if kind.namespaced and meta.setdefault("namespace", namespace) != namespace:
            raise bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request"
                f" ({meta['namespace']} != {namespace})"
            )
        if meta.get("resourceVersion"):
            raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
        self._name(kind, namespace, meta)
        if kind.kind in ("Job", "Pod", "Service", "JobSet", "PersistentVolumeClaim"):
            made.setdefault("spec", {})
        stamps = {"uid": self._store.new_uid(), "creationTimestamp": self._store.clock.stamp()}
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink"):
            meta.pop(name, None)
        meta |= stamps | ({"generation": 1} if kind.generation else {})
        fill(kind, made, self.queues)
        causes = validation.created(kind, made)
        if causes:
            raise invalid(kind, meta.get("name", ""), causes)
        options.warnings += admit(self._store, kind, made)
        there = self._store.get(kind, namespace, meta["name"])
        if there is not None:
            raise already_exists(kind, meta["name"], "deletionTimestamp" in there["metadata"])
        return made if options.dry else self._store.add(kind, made)

    def _name(self, kind: Kind, namespace: str, meta: Object) -> None:
        prefix = meta.get("generateName")
        if meta.get("name") or not prefix:
            return
        for _ in range(8):
            meta["name"] = prefix[:58] + self._store.suffix()
            if not self._store.get(kind, namespace, meta["name"]):
                return

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        found = self._store.get(kind, namespace, name)
        if found is None:
            raise not_found(kind, name)
        return found

    def listed(self, kind: Kind, namespace: str | None, query: dict[str, str]) -> Object:
        """A page of a list; a continued one is of the state that the first page was of."""
        matches = selector(kind, query)
        limit = int(query.get("limit") or 0)
        if token := query.get("continue"):
            version, found = self._continued(token)
        else:
            self._check_version(query)
            version = self._store.version
            found = [made for made in self._store.all(kind, namespace) if matches(made)]
        meta: Object = {"resourceVersion": str(version)}
        if limit and len(found) > limit:
            token = base64.urlsafe_b64encode(json.dumps({"rv": version, "n": self._store.suffix()}).encode()).decode()
            self._pages[token] = (version, found[limit:])
            if len(self._pages) > MOST_PAGES:
                self._pages.popitem(last=False)
            meta["continue"] = token
            if not query.get("labelSelector") and not query.get("fieldSelector"):
                meta["remainingItemCount"] = len(found) - limit
            found = found[:limit]
        # Only items of a custom resource say what they are; those of a list that is built in do not.
        if kind is not JOB_SET:
            found = [{k: v for k, v in made.items() if k not in ("kind", "apiVersion")} for made in found]
        return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": found}

    def _continued(self, token: str) -> tuple[int, list[Object]]:
        if token not in self._pages or self._pages[token][0] < self._store.compacted:
            self._pages.pop(token, None)
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list "
                "without the continue parameter."
            )
        return self._pages[token]

    def _check_version(self, query: dict[str, str]) -> None:
        asked = query.get("resourceVersion") or "0"
        if not asked.isdigit():
            raise bad_request(
                f"invalid resource version {asked!r}: strconv.ParseUint: parsing {asked!r}: invalid syntax"
            )
        if int(asked) > self._store.version:
            too_large = f"Timeout: Too large resource version: {asked}, current: {self._store.version}"
            raise ApiError(504, "Timeout", too_large, {"retryAfterSeconds": 1})
        if query.get("resourceVersionMatch") == "Exact" and int(asked) < self._store.version:
            raise expired(f"The resourceVersion for the provided list is too old: {asked}.")

    def update(self, kind: Kind, namespace: str, name: str, body: Any, options: Options, sub: str = "") -> Object:
        old = self.get(kind, namespace, name)
        made, warnings = decoded(kind, body, options.query.get("fieldValidation", "Warn"))
        options.warnings += warnings
        if kind in (JOB_SET, LEASE) and not made.get("metadata", {}).get("resourceVersion"):
            why = invalid_value("metadata.resourceVersion", 0, "must be specified for an update")
            raise invalid(kind, name, [why])
        return self._updated(kind, old, made, options, sub)

    def patch(
        self, kind: Kind, namespace: str, name: str, body: Any, content_type: str, options: Options, sub: str = ""
    ) -> Object:
        old = self.get(kind, namespace, name)
        if kind is JOB_SET and content_type == STRATEGIC:
            accepted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            why = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
            raise ApiError(415, "UnsupportedMediaType", why)
        new = patched(old, body, content_type)
        made, warnings = decoded(kind, new, options.query.get("fieldValidation", "Warn"))
        options.warnings += warnings
        return self._updated(kind, old, made, options, sub)

    def _updated(self, kind: Kind, old: Object, made: Object, options: Options, sub: str) -> Object:
        meta, before = made.setdefault("metadata", {}), old["metadata"]
        name = before["name"]
        if meta.get("name", name) != name:
            raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
        for key in ("name", "namespace", "uid", "creationTimestamp"):
            if key in before:
                meta.setdefault(key, before[key])
        if meta["uid"] != before["uid"]:
            raise conflict(
                kind,
                name,
                f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {before['uid']}",
            )
        if meta.get("resourceVersion") and meta["resourceVersion"] != before["resourceVersion"]:
            raise conflict(kind, name)
        for key in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
            meta.pop(key, None)
            if key in before:
                meta[key] = before[key]
        meta["resourceVersion"] = before["resourceVersion"]
        if sub == "status":
            made = {**old, "status": made.get("status", {}), "metadata": {**clone(before)}}
            if kind is JOB:
                made["metadata"] |= {k: meta[k] for k in ("labels", "annotations") if k in meta}
        else:
            if kind.status and "status" in old:
                made["status"] = old["status"]
            causes = validation.updated(kind, made, old)
            if causes:
                raise invalid(kind, name, causes)
            if before.get("deletionTimestamp") and set(meta.get("finalizers") or []) - set(
                before.get("finalizers") or []
            ):
                raise _no_new_finalizers(kind, name)
            if kind.generation and made.get("spec") != old.get("spec"):
                meta["generation"] = before.get("generation", 0) + 1
        if options.dry:
            return made
        stored = self._store.replace(kind, made)
        return self.collect(kind, stored)

    def collect(self, kind: Kind, made: Object) -> Object:
        """Removes an object that is being deleted and that nothing holds any more."""
        meta = made["metadata"]
        if (
            "deletionTimestamp" in meta
            and not meta.get("finalizers")
            and meta.get("deletionGracePeriodSeconds", 0) == 0
        ):
            return self._store.remove(kind, made)
        return made

    def delete(self, kind: Kind, namespace: str, name: str, body: Object, options: Options) -> Object:
        """Deletes as the options say; what is returned is the object while it still is there, or a Status."""
        found = self.get(kind, namespace, name)
        meta = found["metadata"]
        wanted = body.get("preconditions") or {}
        for key, title in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            if wanted.get(key) and wanted[key] != meta[key]:
                field_ = "UID" if key == "uid" else "ResourceVersion"
                why = (
                    f"Precondition failed: {title} in precondition: {wanted[key]}, {field_} in object meta: {meta[key]}"
                )
                raise conflict(kind, name, why)
        policy = body.get("propagationPolicy") or options.query.get("propagationPolicy")
        if policy not in (None, "Background", "Foreground", "Orphan"):
            causes = [unsupported("propagationPolicy", policy, ["Background", "Foreground", "Orphan"])]
            raise invalid(Kind("meta.k8s.io", "v1", "deleteoptions", "DeleteOptions"), "", causes)
        if kind is JOB and policy is None and "orphanDependents" not in body:
            options.warnings.append(ORPHAN_WARNING)
            policy = "Orphan"
        if options.dry or body.get("dryRun") == ["All"]:
            return found
        grace = body.get("gracePeriodSeconds", options.query.get("gracePeriodSeconds"))
        stored = self.remove(kind, found, policy or "Background", None if grace is None else int(grace))
        if stored is not None:
            return stored
        details = {"name": name, "group": kind.group, "kind": kind.plural, "uid": meta["uid"]}
        done = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return found if kind is POD else {**done, "details": {k: v for k, v in details.items() if v}}

    def remove(self, kind: Kind, found: Object, policy: str = "Background", grace: int | None = None) -> Object | None:
        """Begins, or shortens, or completes a deletion; None when the object is gone."""
        seconds = self._grace(kind, found, grace)
        made = clone(found)
        meta = made["metadata"]
        finalizers = [name for name in meta.get("finalizers") or [] if name not in ("foregroundDeletion", "orphan")]
        if policy == "Foreground" and self._store.owned(meta["uid"]):
            finalizers.append("foregroundDeletion")
        elif policy == "Orphan" and self._store.owned(meta["uid"]):
            finalizers.append("orphan")
        meta.pop("finalizers", None)
        if finalizers:
            meta["finalizers"] = finalizers
        if "deletionTimestamp" not in meta or seconds < meta.get("deletionGracePeriodSeconds", 0):
            begun = (
                seconds_of(meta["deletionTimestamp"]) - meta.get("deletionGracePeriodSeconds", 0)
                if "deletionTimestamp" in meta
                else self._store.clock.now
            )
            meta["deletionTimestamp"] = stamp(max(begun + seconds, self._store.clock.now if not seconds else 0))
            meta["deletionGracePeriodSeconds"] = seconds
            if kind.generation:
                meta["generation"] = meta.get("generation", 0) + 1
        if not finalizers and seconds == 0:
            self._store.remove(kind, found)
            return None
        return self._store.replace(kind, made)

    def _grace(self, kind: Kind, found: Object, asked: int | None) -> int:
        """Only a pod has a grace, and none when it never got to a node or has ended."""
        if (
            kind is not POD
            or not found["spec"].get("nodeName")
            or found["status"].get("phase") in ("Succeeded", "Failed")
        ):
            return 0
        own: int = found["spec"].get("terminationGracePeriodSeconds", 30)
        wanted = own if asked is None else max(0, asked)
        return min(wanted, found["metadata"].get("deletionGracePeriodSeconds", wanted))

    def delete_all(self, kind: Kind, namespace: str | None, body: Object, options: Options) -> Object:
        listed = self.listed(kind, namespace, {k: v for k, v in options.query.items() if k.endswith("Selector")})
        for made in listed["items"]:
            self.delete(kind, *key_of(made), body, options)
        return listed


def selector(kind: Kind, query: dict[str, str]) -> Matches:
    tests: list[Callable[[Object], bool]] = []
    if query.get("labelSelector"):
        tests.append(label_selector(query["labelSelector"]))
    if query.get("fieldSelector"):
        tests.append(field_selector(query["fieldSelector"], kind))
    return lambda made: all(test(made) for test in tests)


def _no_new_finalizers(kind: Kind, name: str) -> ApiError:
    why = "Forbidden: no new finalizers can be added if the object is being deleted"
    return invalid(kind, name, [Cause("metadata.finalizers", "FieldValueForbidden", why)])
