"""Plots of rows."""

from matplotlib.figure import Figure

from ft_assets.report.plots.figure import ACCENT, INK, MUTED, SECOND, new_figure


def length_histogram(lengths: dict[str, dict[str, list[float]]], max_length: int) -> Figure:
    """Row lengths in tokens per stage's data (counts between edges), with ``max_length`` as a line."""
    figure, axes = new_figure()
    shown = ((name, bins) for name, bins in lengths.items() if bins["counts"])
    for (name, bins), colour in zip(shown, (ACCENT, SECOND, MUTED), strict=False):
        axes.stairs(bins["counts"], bins["edges"], fill=True, alpha=0.65, color=colour, label=name)
    axes.axvline(max_length, color=INK, linestyle="--", linewidth=1, label="max_length")
    axes.legend(frameon=False)
    axes.set(xlabel="tokens per row", ylabel="rows", title="row lengths")
    return figure


def split_sizes(parts: dict[str, dict[str, int]]) -> Figure:
    """Rows per split and role."""
    figure, axes = new_figure()
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
    figure, axes = new_figure(height=max(1.6, 0.7 + 0.32 * len(reasons)))
    names = sorted(reasons, key=lambda name: reasons[name])
    axes.barh(names, [reasons[name] for name in names], color=SECOND, height=0.6)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="rows", title="quarantined" if reasons else "nothing quarantined")
    return figure
