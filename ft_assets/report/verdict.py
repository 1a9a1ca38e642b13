"""What came of an evaluation, in sentences that name the facts they hold (see :func:`ft_assets.report.marks.plain`)."""

from typing import Any

from ft_assets.report.contestants import UNTRAINED

LEARNED = {
    "better": "Fine-tuning was needed",
    "worse": "Fine-tuning made it worse",
    "cannot tell": "No difference can be told",
}
LABELLED = {
    "better": "The labels were learned",
    "worse": "It is worse than no model",
    "cannot tell": "No difference can be told",
}
PUBLISHED = {
    "better": "It is better than what is published now",
    "worse": "It is worse than what is published now",
    "cannot tell": "Whether it is better than what is published now cannot be told",
}


def rival(contestants: list[dict[str, Any]]) -> int | None:
    """Place of the best contestant that learned nothing."""
    untrained = [place for place, one in enumerate(contestants) if one["kind"] in UNTRAINED]
    return max(untrained, key=lambda place: contestants[place]["mean"], default=None)


def sentences(facts: dict[str, Any]) -> list[str]:
    """The verdict, what it costs, how it stands to what is published, and what the gate says."""
    found = facts["contestants"]
    best = next(place for place, one in enumerate(found) if one["name"] == facts["best"])
    other = rival(found)
    return [
        _needed(found, best, other),
        *_costs(found, best, other),
        _incumbent(found),
        _gate(facts["gate"]),
    ]


def outcome(contestants: list[dict[str, Any]]) -> str:
    """Of the candidate against the best that learned nothing: better, worse, or cannot tell."""
    other = rival(contestants)
    against = contestants[other]["against"] if other is not None else None
    return against["outcome"] if against else "cannot tell"


def _needed(found: list[dict[str, Any]], best: int, other: int | None) -> str:
    score = f"{{/contestants/{best}/label}} scores {_interval(f'/contestants/{best}')}"
    rows = f"on {{/contestants/{best}/n|count}} held-out rows"
    if other is None:
        return f"Nothing untrained was asked: {score}, {rows}."
    prompted = found[other]["kind"] == "base"
    name = f"{{/contestants/{other}/label}}"
    against = f"the best prompt ({name})" if prompted else f"always giving the {name}"
    told = (LEARNED if prompted else LABELLED)[outcome(found)]
    if found[other]["against"] is None:
        return f"{told}: {score}, {against} {_interval(f'/contestants/{other}')}, {rows}."
    path, entry = f"/contestants/{other}/against", found[other]["against"]
    corrected = ""
    if entry["outcome"] == "cannot tell" and not entry["low"] <= 0 <= entry["high"]:
        corrected = f", which Holm's correction does not let stand (p {{{path}/p|p}}, corrected {{{path}/p_holm|p}})"
    return (
        f"{told}: {score}, {against} {_interval(f'/contestants/{other}')}, {rows}; the difference is "
        f"{{{path}/mean|difference}} [{{{path}/low|difference}}, {{{path}/high|difference}}]{corrected}."
    )


def _interval(path: str) -> str:
    return f"{{{path}/mean|score}} [{{{path}/low|score}}, {{{path}/high|score}}]"


def _costs(found: list[dict[str, Any]], best: int, other: int | None) -> list[str]:
    """In dollars where a price is known, else in time."""
    places = [place for place in (best, other) if place is not None and found[place]["seconds_per_1000_requests"]]
    if best not in places:
        return []
    priced = all(found[place]["costs"].get("usd_per_1000_requests") for place in places)
    field, form = ("costs/usd_per_1000_requests", "usd") if priced else ("seconds_per_1000_requests", "duration")
    amounts = [f"{{/contestants/{place}/{field}|{form}}}" for place in places]
    beside = f", with {{/contestants/{other}/label}} {amounts[1]}" if len(places) > 1 else ""
    if priced:
        return [f"A thousand requests cost {amounts[0]}{beside}."]
    return [f"A thousand requests take {amounts[0]}{beside}; hardware.usd_per_hour gives no price."]


def _incumbent(found: list[dict[str, Any]]) -> str:
    place = next((place for place, one in enumerate(found) if one["kind"] == "incumbent"), None)
    if place is None:
        return "No other model of this recipe has been published to compare it with."
    path = f"/contestants/{place}"
    if found[place]["against"] is None:
        return f"What is published now scores {_interval(path)}."
    told = PUBLISHED[found[place]["against"]["outcome"]]
    return (
        f"{told} ({_interval(path)}): the difference is {{{path}/against/mean|difference}} "
        f"[{{{path}/against/low|difference}}, {{{path}/against/high|difference}}]."
    )


def _gate(gate: dict[str, Any]) -> str:
    if not gate["conditions"]:
        return "The recipe sets no gate: nothing keeps this model from being published."
    if not gate["failed"]:
        one = gate["total"] == 1
        return f"The gate passed: {'its condition' if one else 'each of its {/gate/total|count} conditions'} holds."
    failed = [
        f"{{/gate/conditions/{place}/condition}} ({{/gate/conditions/{place}/sentence}})"
        for place, one in enumerate(gate["conditions"])
        if not one["passed"]
    ]
    told = "{/gate/failed|count} of {/gate/total|count} conditions do not hold: " + "; ".join(failed)
    if not gate["override"]:
        return f"The gate failed, so that this model is not published: {told}"
    by = "{/gate/override/by} ({/gate/override/reason})"
    if gate["passed"]:
        return f"The gate failed and was overridden by {by}: {told}"
    return f"The gate failed, and {by} overrode a part of it, so that this model is not published: {told}"
