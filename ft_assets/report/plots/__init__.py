"""The plots people look at, as figures."""

from ft_assets.report.plots.data import length_histogram, quarantine, split_sizes
from ft_assets.report.plots.figure import png, svg
from ft_assets.report.plots.scores import forgetting, reliability, score_against_cost, scores
from ft_assets.report.plots.training import loss_curve, stage_memory
from ft_assets.report.plots.trials import slices, trial_curves, trials

__all__ = [
    "forgetting",
    "length_histogram",
    "loss_curve",
    "png",
    "quarantine",
    "reliability",
    "score_against_cost",
    "scores",
    "slices",
    "split_sizes",
    "stage_memory",
    "svg",
    "trial_curves",
    "trials",
]
