"""Plots of training: its loss, and the memory that was planned for it."""

from typing import Any

from matplotlib.figure import Figure

from ft_assets.report.plots.figure import ACCENT, INK, SECOND, new_figure

OF_TOKENS = ("cpt_adapter", "sft_adapter")
MEMORY_PARTS = ("weights", "beside", "gradients", "optimizer", "activations", "logits", "cache", "overhead")
MEMORY_COLOURS = ("#2f6fdb", "#7aa5ee", "#e0812b", "#f0b27a", "#2e9e6b", "#86cfae", "#9a5fc4", "#8a94a6")


def loss_curve(history: list[dict[str, Any]], stage: str) -> Figure:
    """Loss over optimizer steps (TRL's log history), with the validation loss where it was measured. That of a stage that
    learns texts is in nats per token; an online policy's may be below zero.
    """
    figure, axes = new_figure()
    train = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    held_out = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    if train:
        axes.plot(*zip(*train, strict=True), color=ACCENT, linewidth=1.6, label="training")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o", color=SECOND, label="validation")
        axes.legend(frameon=False)
    unit = "loss (nats per token)" if stage in OF_TOKENS else "loss"
    axes.set(xlabel="optimizer step", ylabel=unit, title=f"{stage}: training loss")
    losses = [0.0, *(loss for _, loss in train + held_out)]
    room = 0.06 * (max(losses) - min(losses))
    axes.set_ylim(min(losses) - (room if min(losses) < 0 else 0), max(losses) + room or 1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def stage_memory(plans: list[dict[str, Any]]) -> Figure:
    """Planned peak of one process of each stage in GiB, by what takes it, with what its device has as a line."""
    figure, axes = new_figure(height=max(2.0, 1.0 + 0.5 * len(plans)))
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
