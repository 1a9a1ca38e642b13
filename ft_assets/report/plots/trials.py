"""Plots of a sweep's trials."""

from typing import Any

from matplotlib.figure import Figure

from ft_assets.report.plots.figure import ACCENT, MUTED, SECOND, new_figure, new_panels

STATES = {"complete": (ACCENT, "o"), "pruned": (MUTED, "o"), "diverged": (SECOND, "x")}


def trials(found: list[dict[str, Any]]) -> Figure:
    """Each trial's last validation loss by its number, and the least so far."""
    figure, axes = new_figure()
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
    figure, panels = new_panels(len(names), sharey=True)
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
    figure, axes = new_figure()
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
