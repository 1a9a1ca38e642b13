"""The kinds that the double serves, and the errors of an API server (``Status`` objects)."""

from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str]  # namespace ("" for a cluster's own), name


@dataclass(frozen=True)
class Kind:
    """One resource; ``model`` is its class in the Python client, whose fields are the schema."""

    group: str
    version: str
    plural: str
    kind: str
    model: str = ""
    namespaced: bool = True
    generation: bool = False
    status: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As the server names it in a message: ``jobs.batch``, ``pods``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind


POD = Kind("", "v1", "pods", "Pod", "V1Pod", generation=True, status=True)
SERVICE = Kind("", "v1", "services", "Service", "V1Service", status=True)
EVENT = Kind("", "v1", "events", "Event", "CoreV1Event")
NODE = Kind("", "v1", "nodes", "Node", "V1Node", namespaced=False, status=True)
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", "V1Namespace", namespaced=False, status=True)
CLAIM = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "V1PersistentVolumeClaim", status=True)
SECRET = Kind("", "v1", "secrets", "Secret", "V1Secret")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap", "V1ConfigMap")
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount", "V1ServiceAccount")
QUOTA = Kind("", "v1", "resourcequotas", "ResourceQuota", "V1ResourceQuota", status=True)
JOB = Kind("batch", "v1", "jobs", "Job", "V1Job", generation=True, status=True)
ROLE = Kind("rbac.authorization.k8s.io", "v1", "roles", "Role", "V1Role")
ROLE_BINDING = Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", "V1RoleBinding")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", "V1NetworkPolicy")
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment", "V1Deployment", generation=True, status=True)
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease", "V1Lease")
PRIORITY_CLASS = Kind(
    "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", "V1PriorityClass", namespaced=False
)
JOB_SET = Kind("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet", generation=True, status=True)

KINDS = (
    *(POD, SERVICE, EVENT, NODE, NAMESPACE, CLAIM, SECRET, CONFIG_MAP, SERVICE_ACCOUNT, QUOTA),
    *(JOB, LEASE, PRIORITY_CLASS, JOB_SET, ROLE, ROLE_BINDING, NETWORK_POLICY),
    DEPLOYMENT,  # kept, but no controller makes pods of it
)
BY_PATH = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}
BY_NAME = {(kind.api_version, kind.kind): kind for kind in KINDS}


@dataclass(frozen=True)
class Cause:
    """One fault of one field; ``reason`` as in ``FieldValueInvalid``."""

    field: str
    reason: str
    message: str


@dataclass
class ApiError(Exception):
    """What a server answers in place of an object."""

    code: int
    reason: str
    message: str
    details: Object = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def status(self) -> Object:
        body: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body |= {"message": self.message, "reason": self.reason}
        if self.details:
            body["details"] = self.details
        return {**body, "code": self.code}


def not_found(kind: Kind, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{kind.qualified} "{name}" not found', _details(kind, name))


def already_exists(kind: Kind, name: str, dying: bool) -> ApiError:
    text = f'{kind.qualified} "{name}" already exists'
    return ApiError(409, "AlreadyExists", f"object is being deleted: {text}" if dying else text, _details(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> ApiError:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    text = f'Operation cannot be fulfilled on {kind.qualified} "{name}": {why}'
    return ApiError(409, "Conflict", text, _details(kind, name))


def forbidden(kind: Kind, name: str, why: str) -> ApiError:
    named = f'{kind.qualified} "{name}"' if name else kind.qualified
    return ApiError(403, "Forbidden", f"{named} is forbidden: {why}", _details(kind, name))


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def invalid(kind: Kind, name: str, causes: list[Cause]) -> ApiError:
    """422 with every fault; several stand in brackets in the message."""
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    said = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    listed = [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes]
    details = {"name": name, "group": kind.group, "kind": kind.kind, "causes": listed}
    if not kind.group:
        del details["group"]
    return ApiError(422, "Invalid", f'{kind.qualified_kind} "{name}" is invalid: {said}', details)


def _details(kind: Kind, name: str) -> Object:
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return {key: value for key, value in details.items() if value}
