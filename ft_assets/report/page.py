"""The evaluation page: one HTML file with everything in it."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ft_assets.report import plots


def render(facts: dict[str, Any]) -> str:
    """The page for the facts of :func:`ft_assets.report.facts.gather`; every text in them is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["megabytes"] = lambda size: f"{size / 1e6:,.0f} MB"
    environment.filters["duration"] = duration
    scored = {entry["label"]: {key: entry[key] for key in ("mean", "low", "high")} for entry in facts["contestants"]}
    reasons: dict[str, int] = {}
    for batch in facts["data"]:
        for reason, count in batch["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    curves = [
        {
            "stage": entry["stage"],
            "svg": plots.svg(plots.loss_curve(entry["history"], f"{entry['stage']}: training loss")),
        }
        for entry in facts["training"]
    ]
    return environment.get_template("page.html.jinja").render(
        facts=facts,
        scores_svg=plots.svg(plots.scores(scored, facts["metric"])),
        curves=curves,
        reasons=reasons,
        quarantine_svg=plots.svg(plots.quarantine(reasons)),
    )


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
