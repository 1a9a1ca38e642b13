"""Which pods of lower priority the scheduler deletes to make room for a more important one."""

from cluster.kinds import POD, Object
from cluster.rooms import Amounts, Room, of_resources, refusals
from cluster.store import Store


def victims(store: Store, rooms: list[Room], pod: Object, wanted: Amounts) -> tuple[str, list[Object]]:
    """The node where the fewest have to go, and those; none where preemption does not help."""
    spec = pod["spec"]
    if spec.get("preemptionPolicy") == "Never":
        return "", []
    bound: dict[str, list[Object]] = {}
    for other in store.all(POD):
        if other["spec"].get("nodeName") and other["status"]["phase"] not in ("Succeeded", "Failed"):
            bound.setdefault(other["spec"]["nodeName"], []).append(other)
    if any("deletionTimestamp" in other["metadata"] for other in bound.get(pod["status"].get("nominatedNodeName"), [])):
        return "", []  # room is being made already
    best: tuple[str, list[Object]] = ("", [])
    for room in rooms:
        name = room.name
        lower = [other for other in bound.get(name, []) if other["spec"].get("priority", 0) < spec.get("priority", 0)]
        if not lower or not of_resources(refusals(room, spec, wanted)):
            continue
        found = _enough(room, lower, wanted)
        if found and (not best[1] or len(found) < len(best[1])):
            best = (name, found)
    return best


def _enough(room: Room, lower: list[Object], wanted: Amounts) -> list[Object]:
    """The least important ones first, of those the newest, until it fits."""
    free = {name: room.free(name) for name in wanted}
    chosen: list[Object] = []
    for other in sorted(
        lower, key=lambda each: (each["spec"].get("priority", 0), -int(each["metadata"]["resourceVersion"]))
    ):
        if all(free[name] >= amount for name, amount in wanted.items()):
            break
        chosen.append(other)
        for name, amount in room.pods.get(other["metadata"]["uid"], {}).items():
            if name in free:
                free[name] += amount
    return chosen if all(free[name] >= amount for name, amount in wanted.items()) else []
