"""A Job's podFailurePolicy: the first rule that a failed pod matches decides."""

from dataclasses import dataclass

from cluster.kinds import Object


@dataclass(frozen=True)
class Verdict:
    """``message`` is why the Job fails, of a FailJob rule alone."""

    action: str = ""
    message: str = ""

    @property
    def counts(self) -> bool:
        return self.action != "Ignore"


def verdict(policy: Object | None, pod: Object) -> Verdict:
    for n, rule in enumerate((policy or {}).get("rules") or []):
        action = rule["action"]
        matching = f"matching {action} rule at index {n}"
        name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        if rule.get("onExitCodes") is not None:
            ended = _ended_container(pod, rule["onExitCodes"])
            if ended is not None:
                code = ended["state"]["terminated"]["exitCode"]
                why = f"Container {ended['name']} for pod {name} failed with exit code {code} {matching}"
                return Verdict(action, why if action == "FailJob" else "")
        else:
            found = _matching_condition(pod, rule.get("onPodConditions") or [])
            if found:
                return Verdict(action, f"Pod {name} has condition {found} {matching}" if action == "FailJob" else "")
    return Verdict()


def _ended_container(pod: Object, wanted: Object) -> Object | None:
    """The first container that ended with a matching code; 0 never matches."""
    status = pod["status"]
    for group in ("containerStatuses", "initContainerStatuses"):
        for each in status.get(group) or []:
            ended = (each.get("state") or {}).get("terminated")
            if ended is None or wanted.get("containerName") not in (None, each["name"]) or ended["exitCode"] == 0:
                continue
            if (ended["exitCode"] in wanted["values"]) is (wanted["operator"] == "In"):
                return each
    return None


def _matching_condition(pod: Object, patterns: list[Object]) -> str:
    for each in pod["status"].get("conditions") or []:
        if any(
            each["type"] == pattern["type"] and each["status"] == pattern.get("status", "True") for pattern in patterns
        ):
            return each["type"]
    return ""
