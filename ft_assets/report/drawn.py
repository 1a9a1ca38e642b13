"""The pictures of the page: each a plot of facts, drawn where they are there."""

from collections import Counter
from typing import Any

from matplotlib.figure import Figure

from ft_assets.report import plots
from ft_assets.report.contestants import GENERAL

MOST_CURVES = 4  # contestants in the reliability plot


def figures(facts: dict[str, Any]) -> dict[str, str]:
    """Inline SVG by name; loss curves as ``loss:STAGE``."""
    drawn = {
        "scores": plots.svg(plots.scores(facts["contestants"], facts["metric"]), "score of each contestant"),
        **_of("cost", figure_of_cost(facts), "score over cost of each contestant"),
        **_of("forgetting", _forgetting(facts), "general ability of each contestant"),
        **_of("reliability", _reliability(facts), "score over confidence"),
    }
    for entry in facts["training"]:
        curve = plots.loss_curve(entry["history"], entry["stage"])
        drawn[f"loss:{entry['stage']}"] = plots.svg(curve, f"loss of {entry['stage']} over its steps")
    reasons: Counter[str] = Counter()
    for batch in facts["data"]:
        reasons.update(batch["reasons"])
    if reasons:
        drawn["quarantine"] = plots.svg(plots.quarantine(dict(reasons)), "quarantined rows by reason")
    return drawn


def _of(name: str, figure: Figure | None, label: str) -> dict[str, str]:
    return {} if figure is None else {name: plots.svg(figure, label)}


def figure_of_cost(facts: dict[str, Any]) -> Figure | None:
    """Score against cost; in dollars where every contestant that takes time has a price, else in seconds."""
    timed = [one for one in facts["contestants"] if one["seconds_per_1000_requests"]]
    if len(timed) < 2:
        return None
    if all(one["costs"].get("usd_per_1000_requests") for one in timed):
        found = [{**one, "cost": one["costs"]["usd_per_1000_requests"]} for one in timed]
        return plots.score_against_cost(found, facts["metric"], "US dollars per thousand requests")
    found = [{**one, "cost": one["seconds_per_1000_requests"]} for one in timed]
    return plots.score_against_cost(found, facts["metric"], "seconds per thousand requests")


def _forgetting(facts: dict[str, Any]) -> Figure | None:
    found = [one for one in facts["contestants"] if GENERAL.keys() & one["scores"].keys()]
    measures = {name: title for name, title in GENERAL.items() if any(name in one["scores"] for one in found)}
    return plots.forgetting(found, measures) if found else None


def _reliability(facts: dict[str, Any]) -> Figure | None:
    """Of the candidate, the best that learned nothing, what is published and the bare base."""
    by_name = {one["name"]: one for one in facts["contestants"] if any(bin["rows"] for bin in one["calibration"])}
    names = dict.fromkeys((facts["best"], facts["rival"], "incumbent", "base_zero_shot"))
    found = [by_name[name] for name in names if name in by_name]
    return plots.reliability(found[:MOST_CURVES], facts["metric"]) if found else None
