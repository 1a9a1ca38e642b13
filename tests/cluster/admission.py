"""What is refused although it is well formed: Pod Security, quotas, absent classes and accounts (403)."""

from fractions import Fraction

from cluster.kinds import (
    CLAIM,
    JOB,
    NAMESPACE,
    POD,
    PRIORITY_CLASS,
    QUOTA,
    SERVICE_ACCOUNT,
    Kind,
    Object,
    forbidden,
    not_found,
)
from cluster.quantities import quantity, shown
from cluster.store import Store

ENFORCE = "pod-security.kubernetes.io/enforce"
WARN = "pod-security.kubernetes.io/warn"
_CLASSES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
_RESTRICTED_VOLUMES = {
    *(
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
        "image",
    ),
}


def admit(store: Store, kind: Kind, made: Object) -> list[str]:
    """Fills in what plugins add, and returns the warnings of Pod Security.

    Raises:
        ApiError: 404, the namespace is absent; 403, refused.
    """
    meta = made["metadata"]
    warnings: list[str] = []
    if kind.namespaced:
        space = store.get(NAMESPACE, "", meta["namespace"])
        if space is None:
            raise not_found(NAMESPACE, meta["namespace"])
        if kind is POD:
            _priority(store, made)
            _account(store, made)
        profile = space["metadata"].get("labels") or {}
        level = profile.get(ENFORCE if kind is POD else WARN)
        if level and kind in (POD, JOB):
            spec = made["spec"] if kind is POD else made["spec"]["template"]["spec"]
            faults = pod_security(spec, level)
            if faults and kind is POD:
                raise forbidden(POD, meta["name"], f'violates PodSecurity "{level}:latest": {faults}')
            if faults:
                warnings.append(f'would violate PodSecurity "{level}:latest": {faults}')
        for quota in store.all(QUOTA, meta["namespace"]):
            _charge(store, kind, made, quota)
    return warnings


def _priority(store: Store, made: Object) -> None:
    spec = made["spec"]
    name = spec.get("priorityClassName")
    if not name:
        spec["priority"] = 0
    elif name in _CLASSES:
        spec["priority"] = _CLASSES[name]
    elif found := store.get(PRIORITY_CLASS, "", name):
        spec["priority"] = found["value"]
        spec["preemptionPolicy"] = found.get("preemptionPolicy") or "PreemptLowerPriority"
    else:
        raise forbidden(POD, made["metadata"]["name"], f"no PriorityClass with name {name} was found")


def _account(store: Store, made: Object) -> None:
    spec, meta = made["spec"], made["metadata"]
    name = spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", name)
    if store.get(SERVICE_ACCOUNT, meta["namespace"], name) is None:
        why = f'error looking up service account {meta["namespace"]}/{name}: serviceaccount "{name}" not found'
        raise forbidden(POD, meta["name"], why)


def pod_security(spec: Object, level: str) -> str:
    """What the profile refuses, in the words of the Pod Security Standards' checks; empty when nothing."""
    if level == "privileged":
        return ""
    containers = [*(spec.get("initContainers") or []), *spec["containers"]]
    faults = [
        f"{title} ({which(names)} must not set {rule})" for title, rule, names in _baseline(spec, containers) if names
    ]
    if level == "restricted":
        faults += _restricted(spec, containers)
    return ", ".join(faults)


def which(names: list[str], bound: str = "") -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"{bound}container{'s' if len(names) > 1 else ''} {quoted}"


def _baseline(spec: Object, containers: list[Object]) -> list[tuple[str, str, list[str]]]:
    def context(container: Object) -> Object:
        return container.get("securityContext") or {}

    allowed = {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"}
    allowed |= {"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
    everyone = [container["name"] for container in containers]
    return [
        (
            "host namespaces",
            "hostNetwork, hostPID or hostIPC=true",
            everyone if any(spec.get(f) for f in ("hostNetwork", "hostPID", "hostIPC")) else [],
        ),
        (
            "hostPath volumes",
            "hostPath",
            everyone if any("hostPath" in volume for volume in spec.get("volumes") or []) else [],
        ),
        (
            "privileged",
            "securityContext.privileged=true",
            [c["name"] for c in containers if context(c).get("privileged")],
        ),
        (
            "non-default capabilities",
            "securityContext.capabilities.add",
            [c["name"] for c in containers if set((context(c).get("capabilities") or {}).get("add") or []) - allowed],
        ),
    ]


def _restricted(spec: Object, containers: list[Object]) -> list[str]:
    pod = spec.get("securityContext") or {}
    faults = []

    def failing(good: object) -> list[str]:
        return [container["name"] for container in containers if not good(container.get("securityContext") or {})]  # type: ignore[operator]

    if names := failing(lambda context: context.get("allowPrivilegeEscalation") is False):
        faults.append(
            f"allowPrivilegeEscalation != false ({which(names)} must set securityContext.allowPrivilegeEscalation=false)"
        )
    if names := failing(lambda context: "ALL" in ((context.get("capabilities") or {}).get("drop") or [])):
        faults.append(f'unrestricted capabilities ({which(names)} must set securityContext.capabilities.drop=["ALL"])')
    for volume in spec.get("volumes") or []:
        if bad := [source for source in volume if source != "name" and source not in _RESTRICTED_VOLUMES]:
            faults.append(f'restricted volume types (volume "{volume["name"]}" uses restricted volume type "{bad[0]}")')
    if names := failing(lambda context: context.get("runAsNonRoot", pod.get("runAsNonRoot"))):
        faults.append(f"runAsNonRoot != true ({which(names, 'pod or ')} must set securityContext.runAsNonRoot=true)")
    if pod.get("runAsUser") == 0:
        faults.append("runAsUser=0 (pod must not set runAsUser=0)")
    if names := [c["name"] for c in containers if (c.get("securityContext") or {}).get("runAsUser") == 0]:
        faults.append(f"runAsUser=0 ({which(names)} must not set runAsUser=0)")
    good = ("RuntimeDefault", "Localhost")
    if names := failing(
        lambda context: (context.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type") in good
    ):
        what = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
        faults.append(f"seccompProfile ({which(names, 'pod or ')} {what})")
    return faults


def used(kind: Kind, made: Object) -> dict[str, Fraction]:
    """What an object counts for in a quota."""
    if kind is not POD:
        amounts = {f"count/{kind.qualified}": Fraction(1), kind.plural: Fraction(1)}
        if kind is CLAIM:
            amounts["requests.storage"] = quantity(
                ((made["spec"].get("resources") or {}).get("requests") or {}).get("storage", "0")
            )
        return amounts
    if (made.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return {"count/pods": Fraction(1)}
    amounts = {"pods": Fraction(1), "count/pods": Fraction(1)}
    for container in made["spec"]["containers"]:
        for group in ("requests", "limits"):
            for name, text in (container["resources"].get(group) or {}).items():
                for key in [f"{group}.{name}", *([name] if group == "requests" else [])]:
                    amounts[key] = amounts.get(key, Fraction(0)) + quantity(text)
    return amounts


def totals(store: Store, quota: Object) -> dict[str, Fraction]:
    """What of a quota is in use."""
    hard = quota["spec"].get("hard") or {}
    kinds = {POD} | {
        kind for kind in (JOB, CLAIM) if {kind.plural, f"count/{kind.qualified}", "requests.storage"} & set(hard)
    }
    found = dict.fromkeys(hard, Fraction(0))
    for kind in kinds:
        for made in store.all(kind, quota["metadata"]["namespace"]):
            for name, amount in used(kind, made).items():
                if name in found:
                    found[name] += amount
    return found


def _charge(store: Store, kind: Kind, made: Object, quota: Object) -> None:
    hard = quota["spec"].get("hard") or {}
    wanted = {name: amount for name, amount in used(kind, made).items() if name in hard}
    name = quota["metadata"]["name"]
    if kind is POD:
        lacking = sorted(
            set(hard)
            & {"cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"} - set(wanted)
        )
        if lacking:
            containers = ",".join(container["name"] for container in made["spec"]["containers"])
            what = "; ".join(f"{each} for: {containers}" for each in lacking)
            raise forbidden(POD, made["metadata"]["name"], f"failed quota: {name}: must specify {what}")
    if not wanted:
        return
    present = totals(store, quota)
    over = sorted(
        each for each, amount in wanted.items() if amount and present[each] + amount > quantity(str(hard[each]))
    )
    if over:
        parts = (
            f"requested: {','.join(f'{each}={shown(wanted[each])}' for each in over)}",
            f"used: {','.join(f'{each}={shown(present[each])}' for each in over)}",
            f"limited: {','.join(f'{each}={hard[each]}' for each in over)}",
        )
        raise forbidden(kind, made["metadata"]["name"], f"exceeded quota: {name}, {', '.join(parts)}")
