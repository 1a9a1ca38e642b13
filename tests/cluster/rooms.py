"""Nodes with what their pods leave free, and which pods they would not take."""

import json
from collections import Counter
from dataclasses import dataclass, field

from cluster.kinds import Object
from cluster.quantities import milli
from cluster.selecting import holds

Amounts = dict[str, int]  # in thousandths
UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


@dataclass
class Room:
    """A node and what its pods leave free."""

    node: Object
    total: Amounts
    used: Amounts = field(default_factory=dict)
    pods: dict[str, Amounts] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.node["metadata"]["name"]

    def free(self, name: str) -> int:
        return self.total.get(name, 0) - self.used.get(name, 0)

    def take(self, uid: str, wanted: Amounts) -> None:
        self.pods[uid] = wanted
        for name, amount in wanted.items():
            self.used[name] = self.used.get(name, 0) + amount

    def give(self, uid: str) -> None:
        for name, amount in self.pods.pop(uid).items():
            self.used[name] -= amount


class Shape:
    """Pods that a node takes or refuses alike, and what each node says to them."""

    def __init__(self, spec: Object) -> None:
        self.wanted = requests(spec)
        self.reasons: Counter[str] = Counter()
        self.fits: dict[str, tuple[int, str]] = {}  # nodes by name, with what they are chosen by: the smallest
        self.full: set[str] = set()  # nodes that would do if they were empty
        self._spec = spec
        self._said: dict[str, list[str]] = {}

    def look(self, room: Room) -> None:
        """Asks a node anew."""
        self.leave(room.name)
        said = self._said[room.name] = refusals(room, self._spec, self.wanted)
        self.reasons.update(said)
        if not said:
            # A node with GPUs is not spent on a pod that wants none.
            self.fits[room.name] = (room.total.get("nvidia.com/gpu", 0), room.name)
        elif of_resources(said) and all(amount <= room.total.get(name, 0) for name, amount in self.wanted.items()):
            self.full.add(room.name)

    def leave(self, name: str) -> None:
        for reason in self._said.pop(name, []):
            self.reasons[reason] -= 1
        self.fits.pop(name, None)
        self.full.discard(name)

    def sentence(self, total: int) -> str:
        """Why none of so many nodes fits, in the scheduler's words."""
        if not total:
            return "no nodes available to schedule pods"
        parts = ", ".join(sorted(f"{count} {reason}" for reason, count in self.reasons.items() if count))
        helped = len(self.full)
        tries = {
            "No preemption victims found for incoming pod": helped,
            "Preemption is not helpful for scheduling": total - helped,
        }
        tried = ", ".join(sorted(f"{count} {what}" for what, count in tries.items() if count))
        return f"0/{total} nodes are available: {parts}. preemption: 0/{total} nodes are available: {tried}."


def shape_of(spec: Object) -> str:
    """Equal for pods that a node takes or refuses alike."""
    asked = [
        each["resources"].get("requests") or {} for each in [*spec["containers"], *(spec.get("initContainers") or [])]
    ]
    return json.dumps([asked, spec.get("nodeSelector"), spec.get("affinity"), spec.get("tolerations")], sort_keys=True)


def requests(spec: Object) -> Amounts:
    """What a pod takes of a node: its containers' sum, or its largest init container."""
    wanted: Amounts = {"pods": 1000}
    for container in spec["containers"]:
        for name, text in (container["resources"].get("requests") or {}).items():
            wanted[name] = wanted.get(name, 0) + milli(text)
    for container in spec.get("initContainers") or []:
        for name, text in (container["resources"].get("requests") or {}).items():
            wanted[name] = max(wanted.get(name, 0), milli(text))
    return wanted


def of_resources(reasons: list[str]) -> bool:
    return all(reason.startswith(("Insufficient", "Too many")) for reason in reasons)


def refusals(room: Room, spec: Object, wanted: Amounts) -> list[str]:
    """Why a pod cannot be on this node: the first filter that says no, which may have several reasons."""
    node = room.node
    if node["spec"].get("unschedulable") and not tolerates(spec, UNSCHEDULABLE):
        return ["node(s) were unschedulable"]
    for taint in node["spec"].get("taints") or []:
        if taint["effect"] in ("NoSchedule", "NoExecute") and not tolerates(spec, taint):
            return ["node(s) had untolerated taint(s)"]
    if not _selected(node, spec):
        return ["node(s) didn't match Pod's node affinity/selector"]
    short = [name for name, amount in wanted.items() if amount > room.free(name)]
    return ["Too many pods" if name == "pods" else f"Insufficient {name}" for name in short]


def tolerates(spec: Object, taint: Object) -> Object | None:
    """The toleration for a taint."""
    for each in spec.get("tolerations") or []:
        if each.get("effect") not in (None, "", taint["effect"]) or each.get("key") not in (None, "", taint["key"]):
            continue
        if each.get("operator") == "Exists" or (each.get("key") and each.get("value", "") == taint.get("value", "")):
            return each
    return None


def _selected(node: Object, spec: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    wanted = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not wanted:
        return True
    names = {"metadata.name": node["metadata"]["name"]}
    return any(
        all(holds(each, labels) for each in term.get("matchExpressions") or [])
        and all(holds(each, names) for each in term.get("matchFields") or [])
        and bool(term.get("matchExpressions") or term.get("matchFields"))
        for term in wanted["nodeSelectorTerms"]
    )
