"""What fields an object may have, from the Python client's models; JobSet's from its own list."""

import re
from datetime import UTC, datetime
from functools import cache
from typing import Any

from kubernetes.client import models

from cluster.kinds import ApiError, Kind, Object, bad_request

# Quantities are strings in the models, and numbers as well to the server.
_QUANTITIES = {"limits", "requests", "capacity", "allocatable", "hard", "used"}
_QUANTITY_FIELDS = {"sizeLimit", "divisor"}
_GO = {"str": "string", "int": "int32", "bool": "bool", "float": "float64"}
_PYTHON: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "bool": (bool,), "float": (int, float)}

_JOB_SET: dict[str, dict[str, str]] = {
    "JobSet": {
        **{"apiVersion": "str", "kind": "str", "metadata": "V1ObjectMeta"},
        **{"spec": "JobSetSpec", "status": "object"},
    },
    "JobSetSpec": {
        **{"replicatedJobs": "list[ReplicatedJob]", "network": "JobSetNetwork", "successPolicy": "JobSetSuccess"},
        **{"failurePolicy": "JobSetFailure", "startupPolicy": "object", "suspend": "bool", "coordinator": "object"},
        **{"managedBy": "str", "ttlSecondsAfterFinished": "int", "volumeClaimPolicies": "object"},
    },
    "ReplicatedJob": {
        **{"name": "str", "replicas": "int", "template": "V1JobTemplateSpec", "groupName": "str"},
        **{"dependsOn": "object"},
    },
    "JobSetNetwork": {"enableDNSHostnames": "bool", "subdomain": "str", "publishNotReadyAddresses": "bool"},
    "JobSetSuccess": {"operator": "str", "targetReplicatedJobs": "list[str]"},
    "JobSetFailure": {
        **{"maxRestarts": "int", "restartStrategy": "str", "rules": "object", "restartGateTimeoutSeconds": "int"},
    },
}


def decoded(kind: Kind, body: Any, strictness: str) -> tuple[Object, list[str]]:
    """The object with the fields its kind has, and warnings.

    Args:
        strictness: ``Ignore`` and ``Warn`` drop unknown fields, ``Strict`` refuses them.

    Raises:
        ApiError: 400, a value of another type, or an unknown field under ``Strict``.
    """
    if not isinstance(body, dict):
        raise bad_request("the object provided is unrecognized (must be of type object)")
    told = (body.get("apiVersion") or kind.api_version, body.get("kind") or kind.kind)
    if told != (kind.api_version, kind.kind):
        raise bad_request(f"{told[1]} in version {told[0]!r} cannot be handled as a {kind.kind}")
    unknown: list[str] = []
    made = _decoded(kind, body, kind.model or kind.kind, "", unknown)
    if unknown and strictness == "Strict":
        named = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise bad_request(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: strict decoding error: {named}'
        )
    warnings = [f'unknown field "{path}"' for path in unknown] if strictness == "Warn" else []
    return {**made, "apiVersion": kind.api_version, "kind": kind.kind}, warnings


def _decoded(kind: Kind, value: Any, of: str, path: str, unknown: list[str]) -> Any:
    if value is None or of == "object":
        return value
    if of == "datetime":
        return _time(kind, value, path)
    if found := re.match(r"^(list|dict)\[(?:str, )?(.+)\]$", of):
        return _decoded_many(kind, value, found, path, unknown)
    if of in _PYTHON:
        if not isinstance(value, _PYTHON[of]) or (of != "bool" and isinstance(value, bool)):
            raise _mistyped(kind, value, path, _GO[of])
        return value
    if not isinstance(value, dict):
        raise _mistyped(kind, value, path, of)
    fields = _fields(of)
    made: Object = {}
    for name, inner in value.items():
        under = f"{path}.{name}" if path else name
        if name not in fields:
            unknown.append(under)
        elif inner is None:
            continue
        elif name in _QUANTITIES and fields[name] == "dict[str, str]" and isinstance(inner, dict):
            made[name] = {key: str(amount) for key, amount in inner.items()}
        elif name in _QUANTITY_FIELDS:
            made[name] = str(inner)
        else:
            made[name] = _decoded(kind, inner, fields[name], under, unknown)
    return made


def _time(kind: Kind, value: Any, path: str) -> str:
    """In UTC, as the server writes it; a Lease's have microseconds."""
    try:
        found = datetime.fromisoformat(value).astimezone(UTC)
    except (TypeError, ValueError) as error:
        raise _mistyped(kind, value, path, "Time") from error
    micro = path.rsplit(".", 1)[-1] in ("renewTime", "acquireTime", "eventTime")
    return found.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _decoded_many(kind: Kind, value: Any, found: re.Match[str], path: str, unknown: list[str]) -> Any:
    if found[1] == "list":
        if not isinstance(value, list):
            raise _mistyped(kind, value, path, f"[]{_GO.get(found[2], found[2])}")
        return [_decoded(kind, item, found[2], f"{path}[{n}]", unknown) for n, item in enumerate(value)]
    if not isinstance(value, dict):
        raise _mistyped(kind, value, path, "map[string]string")
    return {key: _decoded(kind, item, found[2], f"{path}.{key}", unknown) for key, item in value.items()}


@cache
def _fields(of: str) -> dict[str, str]:
    if of in _JOB_SET:
        return _JOB_SET[of]
    model = getattr(models, of)
    return {model.attribute_map[name]: type_ for name, type_ in model.openapi_types.items()}


def _mistyped(kind: Kind, value: Any, path: str, wanted: str) -> ApiError:
    found = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}[type(value)]
    plain = re.sub(r"\[\d+\]", "", path)
    why = f"json: cannot unmarshal {found} into Go struct field {kind.kind}.{plain} of type {wanted}"
    return bad_request(f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {why}')
