"""What a server refuses of a pod's spec."""

import re

from cluster.fields import (
    amount,
    at_least,
    dns_label,
    dns_subdomain,
    duplicate,
    environment_name,
    invalid_value,
    labels,
    missing,
    required,
    unsupported,
)
from cluster.kinds import Cause, Object
from cluster.quantities import quantity

_STANDARD = {"cpu", "memory", "ephemeral-storage", "storage"}
_SOURCES = (
    *("emptyDir", "hostPath", "secret", "configMap", "persistentVolumeClaim", "projected", "downwardAPI", "csi", "nfs"),
    *("ephemeral", "image", "fc", "iscsi", "cephfs", "glusterfs", "rbd", "gcePersistentDisk", "awsElasticBlockStore"),
)
_FIELD_PATH = re.compile(
    r"^(metadata\.(name|namespace|uid|labels\['[^']+'\]|annotations\['[^']+'\])|spec\.(nodeName|serviceAccountName)|"
    r"status\.(hostIP|hostIPs|podIP|podIPs))$"
)


def pod_spec(spec: Object, path: str, namespace: str) -> list[Cause]:
    """Of a pod, or of a template when ``namespace`` is empty."""
    causes: list[Cause] = []
    if not spec.get("containers"):
        return [required(f"{path}.containers")]
    volumes: set[str] = set()
    for n, volume in enumerate(spec.get("volumes") or []):
        causes += _volume(volume, f"{path}.volumes[{n}]", volumes)
        volumes.add(volume.get("name") or "")
    names: set[str] = set()
    for group in ("initContainers", "containers"):
        for n, container in enumerate(spec.get(group) or []):
            causes += _container(container, f"{path}.{group}[{n}]", names, volumes)
            names.add(container.get("name") or "")
    if namespace and spec["restartPolicy"] not in ("Always", "OnFailure", "Never"):
        causes.append(unsupported(f"{path}.restartPolicy", spec["restartPolicy"], ["Always", "OnFailure", "Never"]))
    if spec.get("activeDeadlineSeconds") is not None:
        causes += at_least(f"{path}.activeDeadlineSeconds", spec["activeDeadlineSeconds"], 1)
    causes += at_least(f"{path}.terminationGracePeriodSeconds", spec["terminationGracePeriodSeconds"])
    for field in ("hostname", "subdomain"):
        if spec.get(field):
            causes += dns_label(f"{path}.{field}", spec[field])
    for field in ("serviceAccountName", "priorityClassName", "runtimeClassName"):
        if spec.get(field):
            causes += dns_subdomain(f"{path}.{field}", spec[field])
    causes += labels(f"{path}.nodeSelector", spec.get("nodeSelector") or {})
    for n, toleration in enumerate(spec.get("tolerations") or []):
        causes += _toleration(toleration, f"{path}.tolerations[{n}]")
    return causes


def _volume(volume: Object, path: str, names: set[str]) -> list[Cause]:
    name = volume.get("name") or ""
    causes = dns_label(f"{path}.name", name) if name else [required(f"{path}.name")]
    if name in names:
        causes.append(duplicate(f"{path}.name", name))
    sources = [source for source in _SOURCES if volume.get(source) is not None]
    if not sources:
        causes.append(required(path, "must specify a volume type"))
    if limit := (volume.get("emptyDir") or {}).get("sizeLimit"):
        causes += amount(f"{path}.emptyDir.sizeLimit", limit)
    if len(sources) > 1:
        causes.append(
            Cause(f"{path}.{sources[1]}", "FieldValueForbidden", "Forbidden: may not specify more than 1 volume type")
        )
    if volume.get("persistentVolumeClaim") is not None and not volume["persistentVolumeClaim"].get("claimName"):
        causes.append(required(f"{path}.persistentVolumeClaim.claimName"))
    return causes


def _container(container: Object, path: str, names: set[str], volumes: set[str]) -> list[Cause]:
    name = container.get("name") or ""
    causes = dns_label(f"{path}.name", name) if name else [required(f"{path}.name")]
    if name in names:
        causes.append(duplicate(f"{path}.name", name))
    image = container.get("image") or ""
    if not image:
        causes.append(required(f"{path}.image"))
    elif image != image.strip():
        causes.append(invalid_value(f"{path}.image", image, "must not have leading or trailing whitespace"))
    if container["imagePullPolicy"] not in ("Always", "IfNotPresent", "Never"):
        causes.append(
            unsupported(f"{path}.imagePullPolicy", container["imagePullPolicy"], ["Always", "IfNotPresent", "Never"])
        )
    for n, variable in enumerate(container.get("env") or []):
        causes += _variable(variable, f"{path}.env[{n}]")
    mounted: set[str] = set()
    for n, mount in enumerate(container.get("volumeMounts") or []):
        under = f"{path}.volumeMounts[{n}]"
        if mount.get("name") not in volumes:
            causes.append(missing(f"{under}.name", mount.get("name") or ""))
        where = mount.get("mountPath") or ""
        if not where:
            causes.append(required(f"{under}.mountPath"))
        elif where in mounted:
            causes.append(invalid_value(f"{under}.mountPath", where, "must be unique"))
        mounted.add(where)
    if container["terminationMessagePolicy"] not in ("File", "FallbackToLogsOnError"):
        allowed = ["FallbackToLogsOnError", "File"]
        causes.append(unsupported(f"{path}.terminationMessagePolicy", container["terminationMessagePolicy"], allowed))
    causes += _resources(container["resources"], f"{path}.resources")
    return causes + _security(container.get("securityContext") or {}, f"{path}.securityContext")


def _variable(variable: Object, path: str) -> list[Cause]:
    causes = environment_name(f"{path}.name", variable.get("name") or "")
    source = variable.get("valueFrom")
    if source is None:
        return causes
    if variable.get("value"):
        causes.append(invalid_value(f"{path}.valueFrom", "", "may not be specified when `value` is not empty"))
    given = [key for key, inner in source.items() if inner is not None]
    if len(given) != 1:
        why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
        causes.append(invalid_value(f"{path}.valueFrom", "", why))
    if "fieldRef" in source:
        where = source["fieldRef"].get("fieldPath") or ""
        if not _FIELD_PATH.match(where):
            causes.append(
                invalid_value(f"{path}.valueFrom.fieldRef.fieldPath", where, f'field label not supported: "{where}"')
            )
    for kind in ("secretKeyRef", "configMapKeyRef"):
        if kind in source and not source[kind].get("key"):
            causes.append(required(f"{path}.valueFrom.{kind}.key"))
    return causes


def _resources(resources: Object, path: str) -> list[Cause]:
    causes: list[Cause] = []
    for group in ("limits", "requests"):
        for name, text in (resources.get(group) or {}).items():
            under = f"{path}.{group}[{name}]"
            faults = amount(under, text)
            if not faults and "/" in name and quantity(text).denominator != 1:
                faults = [invalid_value(under, text, "must be an integer")]
            if "/" not in name and name not in _STANDARD and not name.startswith("hugepages-"):
                faults.append(invalid_value(under, name, "must be a standard resource type or fully qualified"))
            causes += faults
    if causes:
        return causes
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, text in requests.items():
        extended = "/" in name or name.startswith("hugepages-")
        if name in limits and extended and quantity(text) != quantity(limits[name]):
            causes.append(invalid_value(f"{path}.requests", text, f"must be equal to {name} limit of {limits[name]}"))
        elif name in limits and quantity(text) > quantity(limits[name]):
            causes.append(
                invalid_value(f"{path}.requests", text, f"must be less than or equal to {name} limit of {limits[name]}")
            )
        elif extended and name not in limits:
            causes.append(required(f"{path}.limits", "Limit must be set for non overcommitable resources"))
    return causes


def _security(context: Object, path: str) -> list[Cause]:
    causes = at_least(f"{path}.runAsUser", context.get("runAsUser"))
    added = (context.get("capabilities") or {}).get("add") or []
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            causes.append(
                invalid_value(path, context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
            )
        if "CAP_SYS_ADMIN" in added:
            why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            causes.append(invalid_value(path, context, why))
    return causes


def _toleration(toleration: Object, path: str) -> list[Cause]:
    causes = []
    operator = toleration.get("operator") or "Equal"
    if operator not in ("Equal", "Exists"):
        causes.append(unsupported(f"{path}.operator", operator, ["Equal", "Exists"]))
    if operator == "Exists" and toleration.get("value"):
        causes.append(invalid_value(f"{path}.operator", toleration, "value must be empty when `operator` is 'Exists'"))
    if not toleration.get("key") and operator != "Exists":
        causes.append(
            invalid_value(
                f"{path}.operator",
                operator,
                'operator must be Exists when `key` is empty, which means "match all values and all keys"',
            )
        )
    if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
        causes.append(
            invalid_value(
                f"{path}.effect", toleration.get("effect"), "effect must be 'NoExecute' when `tolerationSeconds` is set"
            )
        )
    effect = toleration.get("effect") or ""
    if effect and effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
        causes.append(unsupported(f"{path}.effect", effect, ["NoSchedule", "PreferNoSchedule", "NoExecute"]))
    return causes
