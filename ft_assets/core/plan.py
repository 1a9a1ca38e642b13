"""The plan: the placement of each training stage that costs least of those that fit, with its memory, time and cost."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ft_assets.core.advice import refusal
from ft_assets.core.errors import FineTuneError
from ft_assets.core.memory import GIB, tokens_of_longest
from ft_assets.core.placements import Option, Task, options, preference
from ft_assets.core.shape import Shape
from ft_assets.core.training_time import training_steps
from ft_assets.recipes.schema import Recipe

SWEEP = "sft_sweep"


@dataclass(frozen=True)
class StagePlan:
    """Placement and prediction for one stage; memory in bytes, time in seconds, cost in US dollars.

    ``processes`` are those of all ``nodes``. Of one process are ``memory_gib`` (what its device has), ``peak_bytes`` and
    ``memory`` up to its ``overhead``; of one node ``host_bytes``, ``node_memory_bytes`` (what it has; 0: not known), ``shm_bytes``,
    ``cpus`` (0: not known) and ``gpus_per_node``; of the whole run ``disk_bytes`` and ``usd_per_hour``. ``gpu`` names an entry of
    ``hardware.gpus``; it is empty where the recipe describes one machine. ``considered`` options were compared, of which
    ``fitting`` fit; ``why`` says what decided.
    """

    stage: str
    processes: int
    nodes: int
    micro_batch: int
    gradient_accumulation_steps: int
    zero_stage: int
    offload_optimizer: str
    offload_param: str
    activation_checkpointing: bool
    gpu: str
    gpu_resource: str
    gpus_per_node: int
    node_selector: dict[str, str]
    spot: bool
    cpus: float
    memory_gib: float
    usd_per_hour: float
    steps: int
    longest_row_tokens: int
    weights_bytes: int
    trainable_bytes: int
    activations_bytes: int
    peak_bytes: int
    host_bytes: int
    node_memory_bytes: int
    shm_bytes: int
    disk_bytes: int
    memory: dict[str, int]
    seconds: float
    cost_usd: float
    considered: int
    fitting: int
    why: str


def plan_recipe(recipe: Recipe, shape: Shape, splits: dict[str, dict[str, int]], device: str) -> list[StagePlan]:
    """One plan per stage the recipe trains; with a sweep, for the values that want most, and one for all its trials.

    Args:
        splits: of each training role: ``rows``, ``tokens`` and ``longest`` row.
        device: ``cpu`` or ``cuda``.

    Raises:
        FineTuneError: nothing on offer fits, and it says what would; or all of it costs more than ``hardware.budget_usd``.
    """
    plans = [_plan(stage, task) for stage, task in tasks(recipe, shape, splits, device).items()]
    _keep_to_budget(recipe, plans)
    return plans


def tasks(recipe: Recipe, shape: Shape, splits: dict[str, dict[str, int]], device: str) -> dict[str, Task]:
    """What is to be placed, by the plan's name for it. Trials of a sweep that train at once have GPUs of their own; on a CPU they
    share its cores, so that it takes as long as in turn.
    """
    sweep, at_once, rounds = recipe.hyperparameters, 1, 1
    sizes: tuple[int, ...] = ()
    if sweep is not None:
        space = sweep.search.sft.get("global_batch_size")
        sizes, at_once = tuple(space.whole_numbers()) if space else (), recipe.hardware.parallel_trials
        rounds = math.ceil(sweep.n_trials / at_once) if device == "cuda" else sweep.n_trials
        recipe = recipe.with_values(sweep.largest())
    found: dict[str, Task] = {}
    for name, role in recipe.trained_on.items():
        task = Task(recipe, name, shape, splits[role], device, sizes if name == "sft" else ())
        if sweep is not None and name == "sft":
            found[SWEEP] = replace(task, at_once=at_once, rounds=rounds)
        found[name] = task
    return found


def _plan(stage: str, task: Task) -> StagePlan:
    found, left_out = options(task)
    ranked = sorted((option for option in found if not option.misfit), key=lambda option: preference(task, option))
    if not ranked:
        raise FineTuneError(refusal(task, found, left_out))
    best = ranked[0]
    offer, layout, memory = best.offer, best.layout, best.memory
    return StagePlan(
        stage=stage,
        processes=layout.processes,
        nodes=layout.nodes,
        micro_batch=layout.micro_batch,
        gradient_accumulation_steps=best.accumulation,
        zero_stage=layout.zero_stage,
        offload_optimizer=layout.offload_optimizer,
        offload_param=layout.offload_param,
        activation_checkpointing=layout.activation_checkpointing,
        gpu=offer.gpu,
        gpu_resource=offer.resource,
        gpus_per_node=offer.gpus_per_node,
        node_selector=offer.node_selector,
        spot=offer.spot,
        cpus=offer.cpus,
        memory_gib=offer.memory_gib,
        usd_per_hour=offer.usd_per_hour,
        steps=training_steps(task.rows["rows"], task.settings),
        longest_row_tokens=tokens_of_longest(task.recipe, task.rows),
        weights_bytes=memory.weights + memory.beside,
        trainable_bytes=memory.gradients + memory.optimizer,
        activations_bytes=memory.activations + memory.logits + memory.cache,
        peak_bytes=memory.peak,
        host_bytes=memory.host * task.at_once,
        node_memory_bytes=int(offer.node_memory_gib * GIB),
        shm_bytes=memory.shm * task.at_once,
        disk_bytes=memory.disk * task.at_once,
        memory=asdict(memory),
        seconds=best.seconds,
        cost_usd=best.cost_usd,
        considered=len(found),
        fitting=len(ranked),
        why=_why(ranked, len(found)),
    )


def _why(ranked: list[Option], considered: int) -> str:
    """What decided between the best and the runner-up, which is one with other processes where there is one."""
    best, *others = ranked
    if not others:
        return f"{best} is the only one that fits, of {considered} considered"
    runner_up = next((option for option in others if option.offer != best.offer), others[0])
    told = f"{best} is the best of {len(ranked)} that fit, of {considered} considered; runner-up {runner_up}: "
    if runner_up.cost_usd > best.cost_usd:
        form = "${:,.2f}" if best.cost_usd >= 1 and runner_up.cost_usd - best.cost_usd >= 0.01 else "${:,.6f}"
        return told + f"{form.format(runner_up.cost_usd)} instead of {form.format(best.cost_usd)}"
    if runner_up.layout.processes > best.layout.processes:
        return told + "costs the same with more processes"
    if runner_up.seconds > best.seconds:
        more, less = (f"{option.seconds / 60:,.1f}" for option in (runner_up, best))
        if more == less:
            return told + f"{runner_up.seconds:,.1f} seconds instead of {best.seconds:,.1f}"
        return told + f"{more} minutes instead of {less}"
    return told + "predicted to take as long, and less simple"


def _keep_to_budget(recipe: Recipe, plans: list[StagePlan]) -> None:
    budget, total = recipe.hardware.budget_usd, sum(plan.cost_usd for plan in plans)
    if budget is None or total <= budget:
        return
    most = max(plans, key=lambda plan: plan.cost_usd)
    raise FineTuneError(
        f"the cheapest plan costs ${total:,.4f}, hardware.budget_usd is {budget:,.15g}. Most of it is {most.stage}, ${most.cost_usd:,.4f} "
        f"for {most.seconds / 3600:,.2f} h on {most.processes} x {most.gpu or 'process'}. Raise the budget, offer a cheaper GPU, or "
        f"train less: {most.stage.removesuffix('_sweep')}.num_train_epochs or max_steps, data.max_train_rows"
    )


def as_json(plans: list[StagePlan]) -> list[dict[str, Any]]:
    return [asdict(plan) for plan in plans]
