"""What a path of the server means, and what the server says that it has."""

import re
from dataclasses import dataclass

from cluster import clock
from cluster.clock import START
from cluster.kinds import BY_PATH, KINDS, ApiError, Kind, Object

_PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?$"
)


@dataclass(frozen=True)
class Target:
    """What a path means; ``namespace`` is None for all of them."""

    kind: Kind
    namespace: str | None
    name: str
    sub: str


class NoSuchPath(Exception):
    """Answered with plain text, not with a Status."""


_GROUPS = {(kind.group, kind.version) for kind in KINDS}


def read_path(path: str, absent: set[tuple[str, str]]) -> Target:
    """What a path asks for; groups that are ``absent`` were never installed."""
    found = _PATH.match(path)
    if found is None or (found["group"] or "", found["core"] or found["version"]) not in _GROUPS - absent:
        raise NoSuchPath
    kind = BY_PATH.get((found["group"] or "", found["core"] or found["version"], found["plural"])) if found else None
    if kind is None:
        raise ApiError(404, "NotFound", "the server could not find the requested resource")
    return Target(kind, found["namespace"], found["name"] or "", found["sub"] or "")


def discovery(path: str, absent: set[tuple[str, str]]) -> Object | None:
    """What the server has: /version, /api, /apis, and each group's resources."""
    path = path.rstrip("/")
    here = [kind for kind in KINDS if (kind.group, kind.version) not in absent]
    groups: dict[str, str] = {kind.group: kind.version for kind in here if kind.group}
    if path == "/version":
        told = {"major": "1", "minor": "36", "gitVersion": "v1.36.0", "platform": "linux/amd64", "compiler": "gc"}
        built = {"gitCommit": "", "gitTreeState": "clean", "buildDate": clock.stamp(START), "goVersion": "go1.25"}
        return told | built
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        listed = [_group(group, version) for group, version in groups.items()]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    for group, version in groups.items():
        if path == f"/apis/{group}":
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, version)}
    for api_version in {kind.api_version for kind in here}:
        if path == (f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"):
            resources = [
                {
                    "name": kind.plural,
                    "singularName": kind.kind.lower(),
                    "namespaced": kind.namespaced,
                    "kind": kind.kind,
                }
                | {"verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]}
                for kind in here
                if kind.api_version == api_version
            ]
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources}
    return None


def _group(group: str, version: str) -> Object:
    named = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [named], "preferredVersion": named}
