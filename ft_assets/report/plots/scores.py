"""Plots of contestants: how well they do, at what cost, what they forgot, and how far their confidence can be trusted."""

from typing import Any

from matplotlib.figure import Figure

from ft_assets.report.plots.figure import ACCENT, FOURTH, INK, MUTED, SECOND, THIRD, new_figure, new_panels

MOST_NAME = 28  # characters of a name beside a plot


def scores(found: list[dict[str, Any]], metric: str) -> Figure:
    """Each contestant's score with its 95% interval.

    Args:
        found: contestants with ``label``, ``kind``, ``mean``, ``low`` and ``high``.
    """
    figure, axes = new_figure(height=max(1.8, 0.9 + 0.34 * len(found)))
    for row, one in enumerate(found):
        _interval(axes, one["low"], one["mean"], one["high"], row, _colour(one))
    axes.set_yticks(range(len(found)), [_short(one["label"]) for one in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set(xlabel=f"{metric}, mean and 95% interval")
    return figure


def score_against_cost(found: list[dict[str, Any]], metric: str, cost: str) -> Figure:
    """Score over what a thousand requests cost; up and left is better.

    Args:
        found: contestants with ``label``, ``kind``, ``mean``, ``low``, ``high`` and ``cost``.
        cost: what the cost is, with its unit.
    """
    figure, axes = new_figure(height=max(3.0, 0.6 + 0.24 * len(found)))
    places = [one["cost"] for one in found]
    if min(places) > 0 and max(places) > 20 * min(places):
        axes.set_xscale("log")
    for one in found:
        axes.plot([one["cost"]] * 2, [one["low"], one["high"]], color=_colour(one), linewidth=3, alpha=0.35)
        axes.plot(one["cost"], one["mean"], "o", color=_colour(one), markersize=7)
    axes.set_ylim(-0.02, 1.02)
    axes.set(xlabel=cost, ylabel=metric)
    ranked = sorted(found, key=lambda one: one["mean"])
    for one, height in zip(ranked, _apart([one["mean"] for one in ranked], 1.04 / max(12, len(found))), strict=True):
        axes.annotate(
            _short(one["label"]),
            (one["cost"], one["mean"]),
            xytext=(1.06, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=INK,
            arrowprops={
                "arrowstyle": "-",
                "color": MUTED,
                "linewidth": 0.6,
                "alpha": 0.6,
                "shrinkA": 0,
                "shrinkB": 5,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )
    return figure


def forgetting(found: list[dict[str, Any]], measures: dict[str, str]) -> Figure:
    """General ability and general text of each contestant, with the base as a line.

    Args:
        found: contestants with ``label``, ``kind`` and ``scores``.
        measures: what each score that is drawn is called.
    """
    figure, panels = new_panels(len(measures), height=max(1.9, 0.9 + 0.32 * len(found)), sharey=True)
    for axes, (name, title) in zip(panels, measures.items(), strict=True):
        for row, one in enumerate(found):
            if score := one["scores"].get(name):
                _interval(axes, score["low"], score["mean"], score["high"], row, _colour(one))
                if one["name"] == "base_zero_shot":
                    axes.axvline(score["mean"], color=MUTED, linewidth=1, linestyle="--")
        axes.set(xlabel=title)
        axes.margins(x=0.08)
    panels[0].set_yticks(range(len(found)), [_short(one["label"]) for one in found])
    panels[0].set_ylim(len(found) - 0.4, -0.6)
    return figure


def reliability(found: list[dict[str, Any]], metric: str) -> Figure:
    """Score over confidence, by bins of rows; on the line a contestant is as good as it believes.

    Args:
        found: contestants with ``label`` and ``calibration``.
    """
    figure, axes = new_figure(width=4.6, height=3.8)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="as good as it believes")
    for one, colour, mark in zip(found, (ACCENT, SECOND, THIRD, FOURTH), "osD^", strict=False):
        points = [(bin["confidence"], bin["score"]) for bin in one["calibration"] if bin["rows"]]
        axes.plot(
            *zip(*points, strict=True),
            f"-{mark}",
            color=colour,
            markersize=5,
            linewidth=1.2,
            label=_short(one["label"]),
        )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="confidence (mean probability)", ylabel=metric)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _interval(axes: Any, low: float, mean: float, high: float, row: int, colour: str) -> None:
    axes.plot([low, high], [row, row], color=colour, linewidth=5, alpha=0.45, solid_capstyle="round")
    axes.plot(mean, row, "o", color=colour, markersize=8)


def _colour(one: dict[str, Any]) -> str:
    return {"base": MUTED, "majority": MUTED, "incumbent": SECOND}.get(one["kind"], ACCENT)


def _short(label: str) -> str:
    """A dollar sign would begin a formula, a long name take all the width, and what is not seen has no glyph."""
    text = "".join(char if char.isprintable() else "\ufffd" for char in label)
    text = text if len(text) <= MOST_NAME else text[: MOST_NAME - 1] + "\u2026"
    return text.replace("$", r"\$")


def _apart(places: list[float], gap: float) -> list[float]:
    """Ascending places moved up as little as keeps ``gap`` between them, then down again where they leave 0 to 1."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    ceiling = 1.02
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved
