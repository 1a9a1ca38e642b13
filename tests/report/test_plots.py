"""Plots show the facts, in the page's own colours."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_assets.report import plots
from ft_assets.report.plots.scores import _apart

FOUND = [
    {"name": "base_zero_shot", "label": "base", "kind": "base", "mean": 0.2, "low": 0.1, "high": 0.3},
    {"name": "sft", "label": "SFT $1", "kind": "trained", "mean": 0.8, "low": 0.7, "high": 0.9},
]


def lines(axes) -> list[tuple]:
    return [(*map(tuple, line.get_data()),) for line in axes.lines]


def test_scores_are_drawn_where_they_are() -> None:
    (axes,) = plots.scores(FOUND, "entity_f1").axes
    for row, one in enumerate(FOUND):
        assert ((one["low"], one["high"]), (row, row)) in lines(axes)
        assert any(x == (one["mean"],) and y == (row,) for x, y in lines(axes))


@pytest.mark.parametrize(("costs", "scale"), [((1.0, 2.0), "linear"), ((0.001, 2.0), "log"), ((0.0, 2.0), "linear")])
def test_score_stands_over_cost(costs, scale) -> None:
    found = [{**one, "cost": cost} for one, cost in zip(FOUND, costs, strict=True)]
    (axes,) = plots.score_against_cost(found, "entity_f1", "dollars").axes
    assert axes.get_xscale() == scale
    for one in found:
        assert ((one["cost"],), (one["mean"],)) in lines(axes)


def test_reliability_leaves_empty_bins_out() -> None:
    bins = [{"rows": 4, "confidence": 0.5, "score": 0.25}, {"rows": 0, "confidence": 0.9, "score": 0.9}]
    (axes,) = plots.reliability([{**FOUND[1], "calibration": bins}], "entity_f1").axes
    assert lines(axes)[1:] == [((0.5,), (0.25,))]


def test_forgetting_has_the_base_as_a_line() -> None:
    scores = {"general_accuracy": {"mean": 0.5, "low": 0.4, "high": 0.6}}
    figure = plots.forgetting([{**one, "scores": scores} for one in FOUND], {"general_accuracy": "accuracy"})
    (axes,) = figure.axes
    assert ((0.5, 0.5), (0, 1)) in lines(axes)


@pytest.mark.parametrize("losses", [[5.55, 5.54], [-0.2, 0.1, -0.4], [0.0, 0.0]])
def test_every_loss_is_seen(losses) -> None:
    (axes,) = plots.loss_curve([{"step": step, "loss": loss} for step, loss in enumerate(losses)], "policy").axes
    low, high = axes.get_ylim()
    assert low <= min(0, *losses)
    assert max(losses) + 0.04 * (high - low) < high
    assert all(low < loss for loss in losses if loss < 0)
    assert axes.get_ylabel() == "loss"


def test_a_picture_has_no_colour_that_the_dark_would_hide() -> None:
    figures = [
        plots.scores(FOUND, "f1"),
        plots.loss_curve([{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 2.1}], "policy"),
    ]
    for figure in figures:
        svg = plots.svg(figure, 'a "label"')
        assert not re.findall(r"#[0-9a-f]{6}\b", svg)
        assert 'role="img" aria-label="a &#34;label&#34;"' in svg


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).map(sorted))
def test_names_beside_a_plot_do_not_overlap(places) -> None:
    gap = 1.04 / max(12, len(places))
    moved = _apart(places, gap)
    assert all(after - before >= gap - 1e-9 for before, after in itertools.pairwise(moved))
    assert moved[-1] <= 1.02 + 1e-9
    assert moved[0] >= -0.1
