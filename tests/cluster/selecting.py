"""Label and field selectors, as in a list's query."""

import re
from collections.abc import Callable
from typing import Any

from cluster.kinds import Kind, Object, bad_request

Matches = Callable[[Object], bool]
_SET = re.compile(r"^(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^)]*)\)$")
_FIELDS = {
    "Pod": {"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase"},
    "Event": {"reason", "type", "reportingComponent", "source"}
    | {f"involvedObject.{name}" for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion")},
    "Job": {"status.successful"},
    "Node": {"spec.unschedulable"},
    "Namespace": {"status.phase"},
    "Secret": {"type"},
}


def label_selector(text: str) -> Matches:
    """``a=b, c!=d, e in (f, g), h notin (i), j, !k``; an absent label is unequal to everything."""
    tests = [_requirement(part.strip()) for part in re.split(r",(?![^(]*\))", text) if part.strip()]

    def matches(made: Object) -> bool:
        labels = made["metadata"].get("labels") or {}
        return all(test(labels) for test in tests)

    return matches


def selects(selector: Object | None, labels: dict[str, str]) -> bool:
    """A LabelSelector object (``matchLabels``, ``matchExpressions``); an absent one selects nothing."""
    if selector is None:
        return False
    pairs = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return pairs and all(holds(each, labels) for each in selector.get("matchExpressions") or [])


def holds(expression: Object, values: dict[str, str]) -> bool:
    """One ``matchExpressions`` entry, of labels or of a node's."""
    found, among = values.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return found in among
        case "NotIn":
            return found not in among
        case "Exists":
            return found is not None
        case "DoesNotExist":
            return found is None
        case "Gt":
            return found is not None and int(found) > int(among[0])
        case "Lt":
            return found is not None and int(found) < int(among[0])
    raise bad_request(f'"{expression["operator"]}" is not a valid label selector operator')


def field_selector(text: str, kind: Kind) -> Matches:
    """``metadata.name=x,status.phase!=Running``; only the fields that the server indexes."""
    allowed = {"metadata.name", "metadata.namespace"} | _FIELDS.get(kind.kind, set())
    tests: list[tuple[str, str, bool]] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = re.match(r"^([^=!]+)(==|=|!=)(.*)$", part)
        if not found:
            raise bad_request(f"invalid field selector: {part!r}; can't understand")
        name, operator, value = found.groups()
        if name not in allowed:
            raise bad_request(f'field label not supported: "{name}"')
        tests.append((name, value, operator != "!="))

    return lambda made: all((str(_field(made, name)) == value) is equal for name, value, equal in tests)


def _field(made: Object, path: str) -> Any:
    value: Any = made
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value


def _requirement(part: str) -> Callable[[dict[str, str]], bool]:
    if found := _SET.match(part):
        key, inside = found["key"], found["operator"] == "in"
        among = {value.strip() for value in found["values"].split(",")}
        return lambda labels: (labels.get(key) in among) is inside
    if found := re.match(r"^([^=!\s]+)\s*(==|=|!=)\s*(\S*)$", part):
        key, operator, value = found.groups()
        return lambda labels: (labels.get(key) == value) is (operator != "!=")
    if found := re.match(r"^(!?)\s*([^=!\s]+)$", part):
        absent, key = found[1] == "!", found[2]
        return lambda labels: (key not in labels) is absent
    raise bad_request(f"unable to parse requirement: found '{part}'")
