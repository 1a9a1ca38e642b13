"""The evaluation page: one HTML file with everything in it."""

from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ft_assets.report.contestants import label
from ft_assets.report.drawn import figures
from ft_assets.report.forms import FORMS
from ft_assets.report.marks import Fact, at, entries, marked, number, visible
from ft_assets.report.measures import COSTS, measure

# What a table of contestants shows where any of them has it: place in the facts, title, form.
TOLD_OF_COSTS = (
    ("seconds_per_1000_requests", "time per thousand", "duration"),
    *((f"costs/{name}", title, form) for name, (title, form) in COSTS.items()),
)
BESIDES = (
    ("scores/general_accuracy", "general questions right", "score"),
    ("scores/general_perplexity", "perplexity on general text", "perplexity"),
    ("scores/refused_harmful", "harmful prompts refused", "share"),
    ("scores/refused_harmless", "harmless prompts refused", "share"),
    ("scores/memorized", "training answers memorized", "share"),
)
TILES = ("forgetting.perplexity_ratio", "safety.refusal_drop", "memorization.rise")
MARKS = {"better": "\u25b2", "worse": "\u25bc", "cannot tell": "\u2248"}


def render(facts: dict[str, Any]) -> str:
    """The page for the facts of :func:`ft_assets.report.facts.gather`; every text in them is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    root = Fact(facts)
    environment.filters |= {form: partial(number, form=form) for form in FORMS}
    environment.filters |= {
        "number_as": number,
        "at": at,
        "having": lambda facts, path: [fact for fact in facts if at(fact, path)],
        "raw": lambda fact: fact._value,
        "entries": entries,
        "sentence": partial(marked, facts=root),
        "named": lambda name: visible(label(str(name))),
        "words": lambda name: visible(str(name).replace("out_of_domain.", "out of domain: ").replace("_", " ")),
        "measure": measure,
        "blank": lambda text: not (text["text"]._value.strip() or text["more"]),
    }
    return environment.get_template("page.html.jinja").render(
        facts=root,
        figures={name: Markup(svg) for name, svg in figures(facts).items()},
        costs=_present(facts, TOLD_OF_COSTS),
        besides=_present(facts, BESIDES),
        tiles=TILES,
        marks=MARKS,
    )


def _present(facts: dict[str, Any], columns: tuple[tuple[str, str, str], ...]) -> list[tuple[str, str, str]]:
    """Columns of which a contestant has a value, a price of nothing being none."""
    rows = [Fact(one) for one in facts["contestants"]]
    return [column for column in columns if any(at(row, column[0]) for row in rows)]
