"""Plots, as figures first: ``png`` for the Dagster UI, ``svg`` for the page, which recolours them for dark mode."""

import io
import re
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

ACCENT, SECOND, MUTED = "#2f6fdb", "#e0812b", "#8a94a6"
INK = "#1b2333"
MEMORY_PARTS = ("weights", "beside", "gradients", "optimizer", "activations", "logits", "cache", "overhead")
MEMORY_COLOURS = ("#2f6fdb", "#7aa5ee", "#e0812b", "#f0b27a", "#2e9e6b", "#86cfae", "#9a5fc4", "#8a94a6")
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


def _figure(width: float = 6.4, height: float = 3.0) -> tuple[Figure, Any]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
    return figure, axes


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="png", dpi=80, facecolor="white")
    return stream.getvalue()


def svg(figure: Figure) -> str:
    """Inline SVG whose ink follows the page's text colour."""
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # Ids are per document, not per picture: two plots on one page must not share them.
    salt = re.sub(r"\W", "", str(hash(text)))
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>p{salt}-", text)


def loss_curve(history: list[dict[str, Any]], title: str = "training loss") -> Figure:
    """Loss over optimizer steps (TRL's log history), with the validation loss where it was measured."""
    figure, axes = _figure()
    train = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    held_out = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    if train:
        axes.plot(*zip(*train, strict=True), color=ACCENT, linewidth=1.6, label="training")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o", color=SECOND, label="validation")
        axes.legend(frameon=False)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)" if "training" in title else "loss", title=title)
    axes.set_ylim(bottom=0)
    return figure


def length_histogram(lengths: dict[str, dict[str, list[float]]], max_length: int) -> Figure:
    """Row lengths in tokens per stage's data (counts between edges), with ``max_length`` as a line."""
    figure, axes = _figure()
    shown = ((name, bins) for name, bins in lengths.items() if bins["counts"])
    for (name, bins), colour in zip(shown, (ACCENT, SECOND, MUTED), strict=False):
        axes.stairs(bins["counts"], bins["edges"], fill=True, alpha=0.65, color=colour, label=name)
    axes.axvline(max_length, color=INK, linestyle="--", linewidth=1, label="max_length")
    axes.legend(frameon=False)
    axes.set(xlabel="tokens per row", ylabel="rows", title="row lengths")
    return figure


def split_sizes(parts: dict[str, dict[str, int]]) -> Figure:
    """Rows per split and role."""
    figure, axes = _figure()
    names = list(parts)
    left = [0] * len(names)
    for part, colour in (("train", ACCENT), ("validation", SECOND), ("test", MUTED), ("evaluation", INK)):
        values = [parts[name].get(part, 0) for name in names]
        if any(values):
            axes.barh(names, values, left=left, color=colour, label=part, height=0.6)
            left = [a + b for a, b in zip(left, values, strict=True)]
    axes.invert_yaxis()
    axes.legend(frameon=False)
    axes.set(xlabel="rows", title="rows by split")
    return figure


def quarantine(reasons: dict[str, int]) -> Figure:
    """Quarantined rows by reason."""
    figure, axes = _figure(height=max(1.6, 0.7 + 0.32 * len(reasons)))
    names = sorted(reasons, key=lambda name: reasons[name])
    axes.barh(names, [reasons[name] for name in names], color=SECOND, height=0.6)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="rows", title="quarantined" if reasons else "nothing quarantined")
    return figure


def stage_memory(plans: list[dict[str, Any]]) -> Figure:
    """Planned peak of one process of each stage in GiB, by what takes it, with what its device has as a line."""
    figure, axes = _figure(height=max(2.0, 1.0 + 0.5 * len(plans)))
    left = [0.0] * len(plans)
    at = list(range(len(plans)))
    for part, colour in zip(MEMORY_PARTS, MEMORY_COLOURS, strict=True):
        values = [plan["memory"][part] / 2**30 for plan in plans]
        if any(values):
            axes.barh(at, values, left=left, color=colour, label=part, height=0.6)
            left = [before + value for before, value in zip(left, values, strict=True)]
    for row, plan in enumerate(plans):
        axes.plot([plan["memory_gib"]] * 2, [row - 0.4, row + 0.4], color=INK, linewidth=1.5)
    axes.set_yticks(at, [plan["stage"] for plan in plans])
    axes.invert_yaxis()
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.25), fontsize=8)
    axes.set(xlabel="GiB of one process (line: what its device has)", title="planned peak memory")
    return figure


def scores(results: dict[str, dict[str, float]], metric: str) -> Figure:
    """Each contestant's mean with its 95% interval."""
    figure, axes = _figure(height=max(2.0, 0.8 + 0.4 * len(results)))
    names = list(results)
    for index, name in enumerate(names):
        entry = results[name]
        trained = not name.startswith(("base", "majority", "most frequent"))
        axes.plot(
            [entry["low"], entry["high"]],
            [index, index],
            color=ACCENT if trained else MUTED,
            linewidth=5,
            alpha=0.45,
            solid_capstyle="round",
        )
        axes.plot(entry["mean"], index, "o", color=ACCENT if trained else MUTED, markersize=8)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.set(xlabel=f"{metric}, mean and 95% interval", title="held-out score")
    return figure


STATES = {"complete": (ACCENT, "o"), "pruned": (MUTED, "o"), "diverged": (SECOND, "x")}


def trials(found: list[dict[str, Any]]) -> Figure:
    """Each trial's last validation loss by its number, and the least so far."""
    figure, axes = _figure()
    _dots(axes, found, [trial["number"] for trial in found])
    least, steps = float("inf"), []
    for trial in found:
        if trial["state"] == "complete":
            least = min(least, trial["loss"])
        if least < float("inf"):
            steps.append((trial["number"], least))
    axes.step(*zip(*steps, strict=True), where="post", color=ACCENT, linewidth=1.2, alpha=0.6, label="least so far")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    axes.set(xlabel="trial", ylabel="validation loss", title="trials")
    return figure


def slices(found: list[dict[str, Any]]) -> Figure:
    """The last validation loss over the values of each field that was searched, one beside the other."""
    names = list(found[0]["values"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.0, 3.0 * len(names)), 3.0), layout="constrained")
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        values = [trial["values"][name] for trial in found]
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        if numbers and min(values) > 0 and max(values) / min(values) >= 20:
            axes.set_xscale("log")
        elif numbers and all(isinstance(value, int) for value in values):
            axes.xaxis.get_major_locator().set_params(integer=True)
        _dots(axes, found, values if numbers else [str(value) for value in values])
        axes.set(xlabel=name)
    panels[0].set(ylabel="validation loss")
    panels[-1].legend(frameon=False)
    return figure


def _dots(axes: Any, found: list[dict[str, Any]], places: list[Any]) -> None:
    """One mark for each trial; one that diverged has no loss and stands at the top."""
    top = max(trial["loss"] for trial in found if trial["loss"] is not None)
    for state, (colour, mark) in STATES.items():
        of_state = [(place, trial) for place, trial in zip(places, found, strict=True) if trial["state"] == state]
        losses = [top if trial["loss"] is None else trial["loss"] for _, trial in of_state]
        if of_state:
            axes.plot([place for place, _ in of_state], losses, mark, color=colour, label=state)


def trial_curves(found: list[dict[str, Any]]) -> Figure:
    """Validation loss over the share of a trial's steps; the best trial in colour, pruned ones end where they were."""
    figure, axes = _figure()
    best = min((trial for trial in found if trial["state"] == "complete"), key=lambda trial: trial["loss"])
    for trial in found:
        marks = len(trial["losses"])
        points = [(100 * at / marks, loss) for at, loss in enumerate(trial["losses"], 1) if loss is not None]
        if points:
            colour, label = (ACCENT, f"trial {trial['number']}, the best") if trial is best else (MUTED, None)
            width = 2.0 if trial is best else 1.0
            axes.plot(*zip(*points, strict=True), "-o", markersize=3, color=colour, linewidth=width, label=label)
    axes.legend(frameon=False)
    axes.set(xlabel="% of a trial's steps", ylabel="validation loss", title="validation loss while they trained")
    return figure
