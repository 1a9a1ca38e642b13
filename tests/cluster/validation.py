"""What a server refuses of an object, field by field (422)."""

from typing import Any

from cluster.fields import (
    annotations,
    at_least,
    dns_label,
    dns_subdomain,
    duplicate,
    forbidden_field,
    invalid_value,
    labels,
    required,
    service_name,
    unsupported,
)
from cluster.kinds import CLAIM, CONFIG_MAP, JOB, JOB_SET, NAMESPACE, POD, SECRET, SERVICE, Cause, Kind, Object
from cluster.patching import clone
from cluster.pod_validation import pod_spec
from cluster.selecting import selects

MOST_INDEXES = 100_000
POD_UPDATE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def created(kind: Kind, made: Object) -> list[Cause]:
    causes = metadata(kind, made["metadata"], "metadata")
    if kind is JOB:
        causes += job_spec(made["spec"], "spec", made["metadata"]["name"])
    elif kind is POD:
        causes += pod_spec(made["spec"], "spec", made["metadata"].get("namespace", ""))
    elif kind is SERVICE:
        causes += _service(made["spec"])
    elif kind is JOB_SET:
        causes += _job_set(made)
    elif kind is CLAIM:
        causes += (
            []
            if made["spec"].get("accessModes")
            else [required("spec.accessModes", "at least 1 access mode is required")]
        )
    return causes


def updated(kind: Kind, made: Object, old: Object) -> list[Cause]:
    causes = metadata(kind, made["metadata"], "metadata")
    causes += [
        invalid_value(f"metadata.{name}", made["metadata"].get(name), "field is immutable")
        for name in ("name", "namespace", "uid", "creationTimestamp")
        if made["metadata"].get(name) != old["metadata"].get(name)
    ]
    if kind is JOB:
        causes += job_spec(made["spec"], "spec", made["metadata"]["name"]) + _job_update(made, old)
    elif kind is POD:
        causes += _pod_update(made, old)
    elif kind in (SECRET, CONFIG_MAP) and old.get("immutable") and made.get("data") != old.get("data"):
        causes.append(forbidden_field("data", "field is immutable when `immutable` is set"))
    elif kind is JOB_SET and not old["spec"].get("suspend"):
        new = made["spec"].get("replicatedJobs")
        if new != old["spec"].get("replicatedJobs"):
            causes.append(invalid_value("spec.replicatedJobs", new, "field is immutable"))
    return causes


def metadata(kind: Kind, meta: Object, path: str) -> list[Cause]:
    name = meta.get("name") or ""
    if not name:
        return [required(f"{path}.name", "name or generateName is required")]
    check = {SERVICE: service_name, NAMESPACE: dns_label}.get(kind, dns_subdomain)
    causes = check(f"{path}.name", name)
    causes += labels(f"{path}.labels", meta.get("labels") or {})
    return causes + annotations(f"{path}.annotations", meta.get("annotations") or {})


def job_spec(spec: Object, path: str, name: str) -> list[Cause]:
    causes = [
        cause
        for field in (
            *("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"),
            *("backoffLimitPerIndex", "maxFailedIndexes"),
        )
        for cause in at_least(f"{path}.{field}", spec.get(field))
    ]
    causes += _completion_mode(spec, path)
    template = spec.get("template") or {}
    if policy := spec.get("podFailurePolicy"):
        names = {each.get("name") for each in _containers(template.get("spec") or {})}
        for n, rule in enumerate(policy.get("rules") or []):
            causes += _rule(rule, f"{path}.podFailurePolicy.rules[{n}]", names, spec)
    allowed = ["Failed"] if policy else ["Failed", "TerminatingOrFailed"]
    if spec.get("podReplacementPolicy") not in allowed:
        causes.append(unsupported(f"{path}.podReplacementPolicy", spec.get("podReplacementPolicy"), allowed))
    causes += labels(f"{path}.template.labels", (template.get("metadata") or {}).get("labels") or {})
    inside = template.get("spec") or {}
    causes += pod_spec(inside, f"{path}.template.spec", "")
    causes += _restart_policy(inside.get("restartPolicy"), bool(policy), f"{path}.template.spec.restartPolicy")
    selector = spec.get("selector")
    if selector and not selects(selector, (template.get("metadata") or {}).get("labels") or {}):
        causes.append(
            invalid_value(
                f"{path}.template.metadata.labels",
                template.get("metadata", {}).get("labels"),
                "`selector` does not match template `labels`",
            )
        )
    if name and spec["completionMode"] == "Indexed" and (spec.get("completions") or 0) > 0:
        last = f"{name}-{spec['completions'] - 1}"
        if dns_label("", last):
            causes.append(
                invalid_value("metadata.name", name, f"will not able to create pod with invalid DNS label: {last}")
            )
    return causes


def _containers(spec: Object) -> list[Object]:
    return [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]


def _completion_mode(spec: Object, path: str) -> list[Cause]:
    mode = spec.get("completionMode")
    if mode not in ("NonIndexed", "Indexed"):
        return [unsupported(f"{path}.completionMode", mode, ["NonIndexed", "Indexed"])]
    causes = []
    most = spec.get("maxFailedIndexes")
    if most is not None and spec.get("backoffLimitPerIndex") is None:
        causes.append(required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified"))
    if mode == "NonIndexed":
        for field in ("backoffLimitPerIndex", "maxFailedIndexes"):
            if spec.get(field) is not None:
                causes.append(invalid_value(f"{path}.{field}", spec[field], "requires indexed completion mode"))
        return causes
    if spec.get("completions") is None:
        causes.append(required(f"{path}.completions", "when completion mode is Indexed"))
    elif most is not None and most > spec["completions"]:
        causes.append(invalid_value(f"{path}.maxFailedIndexes", most, "must be less than or equal to completions"))
    if (spec.get("parallelism") or 0) > MOST_INDEXES:
        why = f"must be less than or equal to {MOST_INDEXES} when completion mode is Indexed"
        causes.append(invalid_value(f"{path}.parallelism", spec["parallelism"], why))
    return causes


def _restart_policy(policy: str | None, failure_policy: bool, path: str) -> list[Cause]:
    if policy in (None, "", "Always"):
        return [required(path, 'valid values: "OnFailure", "Never"')]
    if policy not in ("OnFailure", "Never"):
        return [unsupported(path, policy, ["OnFailure", "Never"])]
    if failure_policy and policy != "Never":
        return [invalid_value(path, policy, 'only "Never" is supported when podFailurePolicy is specified')]
    return []


def _rule(rule: Object, path: str, names: set[Any], spec: Object) -> list[Cause]:
    causes = []
    action, actions = rule.get("action"), ["Count", "FailIndex", "FailJob", "Ignore"]
    if not action:
        causes.append(required(f"{path}.action", f"valid values: {actions}"))
    elif action == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
        causes.append(invalid_value(f"{path}.action", action, "requires the backoffLimitPerIndex to be set"))
    elif action not in actions:
        causes.append(unsupported(f"{path}.action", action, actions))
    codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions") or []
    if codes is not None:
        causes += _exit_codes(codes, f"{path}.onExitCodes", names)
    for n, pattern in enumerate(conditions):
        if pattern.get("status") not in ("False", "True", "Unknown"):
            under = f"{path}.onPodConditions[{n}].status"
            causes.append(unsupported(under, pattern.get("status"), ["False", "True", "Unknown"]))
    if codes is not None and conditions:
        causes.append(
            Cause(
                path,
                "FieldValueInvalid",
                "Invalid value: specifying both OnExitCodes and OnPodConditions is not supported",
            )
        )
    if codes is None and not conditions:
        causes.append(
            Cause(
                path,
                "FieldValueInvalid",
                "Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            )
        )
    return causes


def _exit_codes(codes: Object, path: str, names: set[Any]) -> list[Cause]:
    causes = []
    operator, values = codes.get("operator"), codes.get("values") or []
    if not operator:
        causes.append(required(f"{path}.operator", 'valid values: ["In" "NotIn"]'))
    elif operator not in ("In", "NotIn"):
        causes.append(unsupported(f"{path}.operator", operator, ["In", "NotIn"]))
    if codes.get("containerName") is not None and codes["containerName"] not in names:
        why = "must be one of the container or initContainer names in the pod template"
        causes.append(invalid_value(f"{path}.containerName", codes["containerName"], why))
    if not values:
        causes.append(invalid_value(f"{path}.values", values, "at least one value is required"))
    if operator == "In" and 0 in values:
        causes.append(invalid_value(f"{path}.values[{values.index(0)}]", 0, "must not be 0 for the In operator"))
    causes += [duplicate(f"{path}.values[{n}]", value) for n, value in enumerate(values) if value in values[:n]]
    if values != sorted(values):
        causes.append(invalid_value(f"{path}.values", values, "must be ordered"))
    return causes


def _job_update(made: Object, old: Object) -> list[Cause]:
    """Its template may change where it may be scheduled only while it is suspended and has not started."""
    causes = []
    new, before = made["spec"], old["spec"]
    for field in (
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ):
        if new.get(field) != before.get(field):
            causes.append(invalid_value(f"spec.{field}", new.get(field), "field is immutable"))
    if new.get("completions") != before.get("completions"):
        if new["completionMode"] != "Indexed":
            causes.append(invalid_value("spec.completions", new.get("completions"), "field is immutable"))
        elif new.get("completions") != new.get("parallelism"):
            causes.append(
                invalid_value(
                    "spec.completions", new.get("completions"), "can only be modified in tandem with spec.parallelism"
                )
            )
    allowed = clone(before["template"])
    if before.get("suspend") and not old.get("status", {}).get("startTime"):
        for field in ("nodeSelector", "tolerations", "schedulingGates", "affinity"):
            _take(allowed["spec"], new["template"].get("spec") or {}, field)
        for field in ("labels", "annotations"):
            _take(allowed.setdefault("metadata", {}), new["template"].get("metadata") or {}, field)
    if new["template"] != allowed:
        causes.append(invalid_value("spec.template", new["template"], "field is immutable"))
    return causes


def _take(into: Object, source: Object, field: str) -> None:
    into.pop(field, None)
    if field in source:
        into[field] = source[field]


def _pod_update(made: Object, old: Object) -> list[Cause]:
    allowed = clone(old["spec"])
    new = made["spec"]
    for group in ("containers", "initContainers"):
        for there, here in zip(allowed.get(group) or [], new.get(group) or [], strict=False):
            there["image"] = here.get("image")
    _take(allowed, new, "activeDeadlineSeconds")
    _take(allowed, new, "schedulingGates")
    before = old["spec"].get("tolerations") or []
    if (new.get("tolerations") or [])[: len(before)] == before:
        _take(allowed, new, "tolerations")
    return [] if new == allowed else [forbidden_field("spec", POD_UPDATE)]


def _service(spec: Object) -> list[Cause]:
    if spec.get("clusterIP") != "None" and not spec.get("ports") and spec.get("type") != "ExternalName":
        return [required("spec.ports")]
    causes = []
    for n, port in enumerate(spec.get("ports") or []):
        if not 0 < (port.get("port") or 0) < 65536:
            causes.append(
                invalid_value(f"spec.ports[{n}].port", port.get("port"), "must be between 1 and 65535, inclusive")
            )
        if len(spec["ports"]) > 1 and not port.get("name"):
            causes.append(required(f"spec.ports[{n}].name"))
    return causes + labels("spec.selector", spec.get("selector") or {})


def _job_set(made: Object) -> list[Cause]:
    name = made["metadata"]["name"]
    causes = []
    for n, replicated in enumerate(made["spec"].get("replicatedJobs") or []):
        path = f"spec.replicatedJobs[{n}]"
        longest = f"{name}-{replicated.get('name')}-{max(0, replicated['replicas'] - 1)}"
        job = (replicated.get("template") or {}).get("spec") or {}
        last = f"{longest}-{(job.get('completions') or job.get('parallelism') or 1) - 1}"
        causes += dns_label(f"{path}.name", replicated.get("name") or "")
        if len(last) + 6 > 63:
            why = f"must be no more than 63 characters: pods would be named {last}-xxxxx"
            causes.append(invalid_value(path, replicated.get("name"), why))
    return causes
