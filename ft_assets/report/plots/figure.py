"""A figure and how it is drawn: ``png`` for the Dagster UI, ``svg`` for the page, whose colours those of the page replace."""

import io
import re
import zlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
from markupsafe import escape
from matplotlib.figure import Figure

INK, ACCENT, SECOND, MUTED, THIRD, FOURTH = "#1b2333", "#2f6fdb", "#c9691c", "#8a94a6", "#2e9e6b", "#9a5fc4"
# What each is called in the page's style sheet, which has another value for it in the dark.
NAMES = {INK: "ink", ACCENT: "accent", SECOND: "second", MUTED: "muted", THIRD: "third", FOURTH: "fourth"}
STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "ft-assets",
    "axes.grid": True,
    "grid.color": MUTED,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
}


def new_figure(width: float = 6.4, height: float = 3.0) -> tuple[Figure, Any]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
    return figure, axes


def new_panels(count: int, height: float = 3.0, sharey: bool = False) -> tuple[Figure, list[Any]]:
    """A figure of so many axes side by side."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.0, 3.2 * count), height), layout="constrained")
        return figure, list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="png", dpi=80, facecolor="white")
    return stream.getvalue()


def svg(figure: Figure, label: str) -> str:
    """Inline SVG in the page's own colours, light or dark; ``label`` is what a screen reader says of it."""
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    for colour, name in NAMES.items():
        text = text.replace(colour, f"var(--{name})")
    # Ids are per document, not per picture: two plots on one page must not share them.
    salt = f"p{zlib.crc32(text.encode()):08x}-"
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{salt}", text)
