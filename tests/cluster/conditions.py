"""Conditions in an object's status."""

from cluster.kinds import Object


def condition(made: Object, type_: str) -> Object | None:
    for each in (made.get("status") or {}).get("conditions") or []:
        if each["type"] == type_:
            return each
    return None


def is_true(made: Object, type_: str) -> bool:
    found = condition(made, type_)
    return found is not None and found["status"] == "True"


def set_condition(made: Object, now: str, type_: str, status: str, reason: str = "", message: str = "") -> bool:
    """Writes it; whether anything is new. The transition's time moves with the status only."""
    conditions = made.setdefault("status", {}).setdefault("conditions", [])
    new = (
        {"type": type_, "status": status}
        | ({"reason": reason} if reason else {})
        | ({"message": message} if message else {})
    )
    for n, each in enumerate(conditions):
        if each["type"] == type_:
            if {key: each.get(key, "") for key in ("status", "reason", "message")} == {
                "status": status,
                "reason": reason,
                "message": message,
            }:
                return False
            same = each["status"] == status
            conditions[n] = {
                **new,
                "lastProbeTime": each.get("lastProbeTime"),
                "lastTransitionTime": each["lastTransitionTime"] if same else now,
            }
            return True
    conditions.append({**new, "lastProbeTime": None, "lastTransitionTime": now})
    return True
