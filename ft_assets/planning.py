"""What ``ft plan`` shows: the placements chosen, all that were considered, and how near predictions came."""

import json
import sys
from dataclasses import asdict
from typing import Any

from ft_assets.core import calibration
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.bound import at_most
from ft_assets.core.errors import FineTuneError, MissingInput
from ft_assets.core.placements import Option, Task, options, preference
from ft_assets.core.plan import as_json, plan_recipe, tasks
from ft_assets.core.recipe_run import planned_device, planned_from, stages_of
from ft_assets.recipes.load import Catalog
from ft_assets.report.placing import duration, gib, plan_row
from ft_assets.terminal import print_table

Inputs = tuple[Any, dict[str, dict[str, int]], str]


def show_plan(known: Catalog, name: str, store: ArtifactStore, stage: str | None, json_wanted: bool) -> None:
    """The placement of each stage and why it was chosen.

    Raises:
        MissingInput: what a plan is made from has not been made.
        FineTuneError: nothing fits, or not into the budget.
    """
    shape, splits, device = _inputs(known, name, store)
    found = plan_recipe(known.recipe(name), shape, splits, device)
    _check_stage(stage, [plan.stage for plan in found])
    shown = [plan for plan in found if stage in (None, plan.stage)]
    if json_wanted:
        print(json.dumps(as_json(shown), indent=1))
        return
    rows = [plan_row(plan) for plan in shown]
    columns = list(rows[0])
    print_table(f"plan of {name}", columns, [list(row.values()) for row in rows], right=tuple(columns[3:]))
    print()
    for plan in shown:
        print(f"{plan.stage}: {plan.why}")
    print(f"in all: {duration(sum(plan.seconds for plan in shown))}, ${sum(plan.cost_usd for plan in shown):,.4f}")


def show_options(known: Catalog, name: str, store: ArtifactStore, stage: str | None, json_wanted: bool) -> None:
    """Every placement of each stage, the best first, and why one does not fit."""
    asked = tasks(known.recipe(name), *_inputs(known, name, store))
    _check_stage(stage, list(asked))
    considered = {each: _ranked(task) for each, task in asked.items() if stage in (None, each)}
    if json_wanted:
        found = [{"stage": each, **option.as_json()} for each, (ranked, _) in considered.items() for option in ranked]
        print(json.dumps(found, indent=1))
        return
    columns = ["stage", "placement", "fits", "micro batch", "peak GiB", "host GiB", "time", "USD", "reason"]
    rows = [[each, *_option_row(option)] for each, (ranked, _) in considered.items() for option in ranked]
    print_table(f"placements of {name}", columns, rows, right=tuple(columns[3:8]))
    for each, (_, left_out) in considered.items():
        for text in left_out:
            print(f"{each}: left out {text}")


def show_calibration(store: ArtifactStore, json_wanted: bool) -> None:
    """Each finished training's peak memory and time as they were predicted and as they were measured."""
    found = calibration.compared(manifest for stage in calibration.STAGES for manifest in store.manifests(stage))
    total = calibration.summary(found)
    if json_wanted:
        runs = [{**asdict(entry), "peak_error": entry.peak_error} for entry in found]
        print(json.dumps({**total, "trainings": runs}, indent=1))
        return
    if not found:
        print("no finished training whose memory was measured")
        return
    columns = [
        "stage",
        "recipe",
        "fingerprint",
        "device",
        "predicted GiB",
        "measured GiB",
        "error %",
        "predicted",
        "took",
    ]
    rows = [
        [
            *(entry.stage, entry.recipe, entry.fingerprint[:12], entry.device),
            *(gib(entry.predicted_peak_bytes), gib(entry.measured_peak_bytes), f"{100 * entry.peak_error:+.1f}"),
            *(
                duration(entry.predicted_seconds),
                "" if entry.measured_seconds is None else duration(entry.measured_seconds),
            ),
        ]
        for entry in found
    ]
    print_table("predicted and measured", columns, rows, right=tuple(columns[4:]))
    print(
        f"\n{total['runs']} trainings: the peak is {100 * total['mean_error']:.1f}% off in the mean, at worst "
        f"{100 * total['worst_over']:.1f}% over and {-100 * total['worst_under']:.1f}% under"
    )


def _inputs(known: Catalog, name: str, store: ArtifactStore) -> Inputs:
    """What the plan is made from; before the splits are made the most that they can be, where that is known."""
    recipe = known.recipe(name)
    try:
        return planned_from(stages_of(known, recipe, store))
    except MissingInput as error:
        bound = at_most(known, recipe, store)
        if bound is None:
            raise
        print(f"at most, with every row of data.max_length tokens: {error}", file=sys.stderr)
        return *bound, planned_device(recipe)


def _check_stage(wanted: str | None, stages: list[str]) -> None:
    if wanted is not None and wanted not in stages:
        raise FineTuneError(f"--stage {wanted!r}: the recipe has no such stage to train; allowed: {', '.join(stages)}")


def _ranked(task: Task) -> tuple[list[Option], list[str]]:
    found, left_out = options(task)
    return sorted(found, key=lambda option: (bool(option.misfit), *preference(task, option))), left_out


def _option_row(option: Option) -> list[str]:
    return [
        str(option),
        "no" if option.misfit else "yes",
        f"{option.layout.micro_batch} x {option.accumulation}",
        gib(option.memory.peak),
        gib(option.memory.host),
        duration(option.seconds),
        f"{option.cost_usd:,.4f}",
        option.misfit,
    ]
