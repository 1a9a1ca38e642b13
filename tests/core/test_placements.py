"""Laws of placements: what is compared, what is chosen of it, and what is said where nothing fits."""

import json
import time
from contextlib import suppress
from dataclasses import replace
from itertools import product

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ft_assets.core.advice import applied, smallest_changes
from ft_assets.core.errors import FineTuneError
from ft_assets.core.memory import GIB, Layout, stage_memory
from ft_assets.core.placements import MARGIN, options
from ft_assets.core.plan import StagePlan, as_json, plan_recipe, tasks
from ft_assets.core.shape import Shape
from ft_assets.core.training_time import stage_seconds
from ft_assets.recipes.load import SHIPPED
from ft_assets.recipes.schema import Recipe

DEMO = yaml.safe_load((SHIPPED / "demo.yaml").read_text())
STAGES = ("cpt", "sft", "reward", "policy")
# Four layers wide enough to weigh 7 GB in 16 bit: few names, so that a plan takes milliseconds.
WIDE = 16_384
SIDES = {"q_proj": (WIDE, WIDE), "up_proj": (2 * WIDE, WIDE)}
BIG = Shape(
    4 * 3 * WIDE * WIDE + 2 * 32_000 * WIDE,
    WIDE,
    4,
    32_000,
    {f"model.layers.{n}.{name}": size for n in range(4) for name, size in SIDES.items()},
)
SPLITS = {part: {"rows": 5000, "tokens": 2_000_000, "longest": 1024} for part in ("cpt", "sft", "preference", "prompt")}
LORA = {"method": "lora", "r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}
ADAPTERS = (LORA, {**LORA, "method": "qlora"}, {"method": "full"})


def gpu(name, memory_gib, **more):
    plain = {"bf16_tflops": 300.0, "usd_per_hour": 2.0, "node_memory_gib": 500.0, "node_cpus": 64}
    return {"name": name, "memory_gib": memory_gib, **plain, **more}


def recipe(stages=("sft",), batch=16, adapter=LORA, **hardware):
    body = {
        **DEMO,
        "adapter": adapter,
        "quantize": [],
        "hardware": hardware,
        "data": {**DEMO["data"], "max_length": 1024},
    }
    body |= {name: {**DEMO[name], "global_batch_size": batch} if name in stages else None for name in STAGES}
    return Recipe.model_validate(body)


def online(**policy):
    body = recipe(("sft", "reward", "policy"), gpus=[gpu("big", 4000)]).model_dump()
    body["policy"] |= {"method": "rloo", "num_generations": 2, "max_completion_length": 64} | policy
    return Recipe.model_validate(body)


def planned(wanted, splits=SPLITS):
    return plan_recipe(wanted, BIG, splits, "cuda" if wanted.hardware.gpus else "cpu")


counts = st.lists(st.sampled_from([1, 2, 3, 4, 6, 8, 16]), min_size=1, max_size=3)
gpus = st.lists(
    st.builds(
        gpu,
        name=st.sampled_from("abc"),
        memory_gib=st.floats(10, 200),
        bf16_tflops=st.floats(50, 2000),
        usd_per_hour=st.floats(0, 10),
        counts=counts,
        node_memory_gib=st.floats(5, 2000),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda entry: entry["name"],
)
batches = st.sampled_from([1, 4, 12, 16, 48])


def brute_force(wanted, stage="sft"):
    """Cost of every layout that fits, from what a layout is alone."""
    batch = getattr(wanted, stage).global_batch_size
    offloads = [("none", "none", 0), ("cpu", "none", 1), ("cpu", "cpu", 3)]
    for entry, zero, (optimizer, param, least), again in product(
        wanted.hardware.gpus, range(4), offloads, (False, True)
    ):
        for count, micro in product(entry.counts, range(1, batch + 1)):
            whole = zero >= least and batch % (count * micro) == 0
            if not whole or (zero == 3 and wanted.adapter.method == "qlora"):
                continue
            layout = Layout("cuda", count, max(1, count // entry.per_node), micro, zero, optimizer, param, again)
            memory = stage_memory(wanted, stage, BIG, SPLITS["sft"], layout)
            roomy = (
                memory.peak <= MARGIN * entry.memory_gib * GIB and memory.host <= MARGIN * entry.node_memory_gib * GIB
            )
            if roomy:
                seconds = stage_seconds(wanted, stage, BIG, SPLITS["sft"], layout, entry.bf16_tflops)
                yield seconds / 3600 * entry.usd_per_hour * count


@given(offered=gpus, batch=batches, adapter=st.sampled_from(ADAPTERS))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_cheapest_that_fits_is_chosen(offered, batch, adapter):
    wanted = recipe(batch=batch, adapter=adapter, gpus=offered)
    costs = list(brute_force(wanted))
    try:
        [plan] = planned(wanted)
    except FineTuneError:
        assert not costs
        return
    assert plan.cost_usd == pytest.approx(min(costs), abs=1e-6)
    offer = next(entry for entry in wanted.hardware.gpus if entry.name == plan.gpu)
    assert plan.peak_bytes <= MARGIN * offer.memory_gib * GIB
    assert plan.host_bytes <= MARGIN * offer.node_memory_gib * GIB
    assert plan.processes * plan.micro_batch * plan.gradient_accumulation_steps == batch
    assert plan.nodes == max(1, plan.processes // offer.per_node)


def cost(wanted):
    try:
        return sum(plan.cost_usd for plan in planned(wanted))
    except FineTuneError:
        return float("inf")


@given(offered=gpus, more=st.floats(1, 3), batch=batches, adapter=st.sampled_from(ADAPTERS))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_more_memory_never_costs_more(offered, more, batch, adapter):
    def with_memory(factor):
        larger = [entry | {key: factor * entry[key] for key in ("memory_gib", "node_memory_gib")} for entry in offered]
        return recipe(batch=batch, adapter=adapter, gpus=larger)

    assert cost(with_memory(more)) <= cost(with_memory(1)) + 1e-6


@given(offered=gpus, another=gpus)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_one_more_offer_never_costs_more(offered, another):
    more = [*offered, {**another[0], "name": "another"}]
    assert cost(recipe(gpus=more)) <= cost(recipe(gpus=offered)) + 1e-6


@given(
    memory_gib=st.floats(1, 20),
    adapter=st.sampled_from(ADAPTERS),
    fixed=st.sampled_from(
        [
            {},
            {"zero_stage": 0},
            {"zero_stage": 2, "offload_optimizer": "none"},
            {"activation_checkpointing": False},
            {"zero_stage": 1, "activation_checkpointing": False, "offload_param": "none"},
        ]
    ),
    stage=st.sampled_from(["sft", "policy"]),
    gpu_offered=st.booleans(),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_each_change_that_a_refusal_names_fits_when_it_is_made(memory_gib, adapter, fixed, stage, gpu_offered):
    hardware = {"gpus": [gpu("small", memory_gib, counts=[1, 2])]} if gpu_offered else {"memory_gib": memory_gib}
    wanted = recipe(("sft", stage), adapter=adapter, **hardware, **fixed)
    task = tasks(wanted, BIG, SPLITS, "cuda" if gpu_offered else "cpu")[stage]
    assume(all(option.misfit for option in options(task)[0]))
    changes = smallest_changes(task)
    assert 1 <= len({change.text for change in changes}) == len(changes) <= 3
    with pytest.raises(FineTuneError) as raised:
        planned(wanted)
    for change in changes:
        changed = applied(task, change)
        assert changed is not None
        if stage in str(raised.value).partition(":")[0]:
            assert change.text in str(raised.value)
        assert any(not option.misfit for option in options(changed)[0]), change.text


def test_a_refusal_names_three_changes_where_there_are_three():
    wanted = recipe(gpus=[gpu("small", 24, counts=[1, 2])], zero_stage=0, activation_checkpointing=False)
    task = tasks(wanted, BIG, {"sft": {**SPLITS["sft"], "longest": 8192}}, "cuda")["sft"]
    assert len(smallest_changes(task)) == 3


@pytest.mark.parametrize(
    "fixed",
    [
        {"zero_stage": 1},
        {"zero_stage": 2, "offload_optimizer": "cpu"},
        {"zero_stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"},
        {"zero_stage": 3, "offload_param": "cpu"},
        {"activation_checkpointing": True},
        {"zero_stage": 3, "offload_optimizer": "none", "offload_param": "none", "activation_checkpointing": False},
    ],
    ids=str,
)
def test_what_the_recipe_fixes_is_kept_to(fixed):
    wanted = recipe(gpus=[gpu("big", 4000, counts=[1, 2, 4])], **fixed)
    found, _ = options(tasks(wanted, BIG, SPLITS, "cuda")["sft"])
    assert {name: {getattr(option.layout, name) for option in found} for name in fixed} == {
        name: {value} for name, value in fixed.items()
    }


def test_every_zero_stage_and_offload_is_considered_on_every_number_of_every_gpu():
    wanted = recipe(gpus=[gpu("a", 80, counts=[1, 2, 8]), gpu("b", 40, counts=[2])])
    found, left_out = options(tasks(wanted, BIG, SPLITS, "cuda")["sft"])
    layouts = {(o.layout.zero_stage, o.layout.offload_optimizer, o.layout.offload_param) for o in found}
    assert layouts == {
        *((zero, "none", "none") for zero in range(4)),
        *((zero, "cpu", "none") for zero in (1, 2, 3)),
        (3, "cpu", "cpu"),
    }
    assert {(o.offer.gpu, o.offer.processes) for o in found} == {("a", 1), ("a", 2), ("a", 8), ("b", 2)}
    assert not left_out


def test_a_quantized_base_is_not_loaded_whole_on_each_rank_unless_the_recipe_says_so():
    offered = [gpu("a", 80, counts=[1, 2])]
    for method in ("qlora", "lora_8bit"):
        adapter = {**LORA, "method": method}
        [auto, fixed] = [
            options(tasks(recipe(adapter=adapter, gpus=offered, **zero), BIG, SPLITS, "cuda")["sft"])[0]
            for zero in ({}, {"zero_stage": 3})
        ]
        assert 3 not in {option.layout.zero_stage for option in auto}
        assert {option.layout.zero_stage for option in fixed} == {3}


def test_an_optimizer_that_looks_at_blocks_of_the_weights_gets_them_whole():
    body = recipe(gpus=[gpu("a", 80, counts=[1, 2])]).model_dump()
    body["sft"]["optim"] = "adamw_bnb_8bit"
    found, _ = options(tasks(Recipe.model_validate(body), BIG, SPLITS, "cuda")["sft"])
    assert {option.layout.zero_stage for option in found} == {0}


def test_numbers_that_do_not_divide_the_batch_are_left_out_and_said():
    wanted = recipe(batch=12, gpus=[gpu("a", 80, counts=[4, 8])])
    found, left_out = options(tasks(wanted, BIG, SPLITS, "cuda")["sft"])
    assert {option.offer.processes for option in found} == {4}
    assert left_out == ["8 x a: sft.global_batch_size 12 is no multiple of 8 GPUs"]
    with pytest.raises(FineTuneError, match="12 is no multiple of 8 GPUs"):
        planned(recipe(batch=12, gpus=[gpu("a", 80, counts=[8])]))


def test_kto_has_two_rows_to_compare():
    body = recipe(("sft", "policy"), batch=4, gpus=[gpu("a", 4000, counts=[2, 4])]).model_dump()
    body["policy"]["method"] = "kto"
    _, policy = planned(Recipe.model_validate(body))
    assert policy.micro_batch >= 2
    assert policy.processes == 2
    body["hardware"]["gpus"][0]["counts"] = [4]
    with pytest.raises(FineTuneError, match="kto compares at least two rows"):
        planned(Recipe.model_validate(body))


def test_the_memory_of_a_node_bounds_what_is_offloaded_to_it():
    [plan] = planned(recipe(adapter={"method": "full"}, gpus=[gpu("a", 70, node_memory_gib=500)]))
    assert plan.offload_optimizer == "cpu"
    assert plan.host_bytes > 20 * GIB
    with pytest.raises(FineTuneError, match="node_memory_gib") as raised:
        planned(recipe(adapter={"method": "full"}, gpus=[gpu("a", 70, node_memory_gib=20)]))
    assert "in hardware.gpus one like a with " in str(raised.value)


def test_the_micro_batch_is_the_largest_that_fits():
    wanted = recipe(batch=48, gpus=[gpu("a", 60, counts=[2])])
    task = tasks(wanted, BIG, SPLITS, "cuda")["sft"]
    for option in options(task)[0]:
        larger = [size for size in (2, 3, 4, 6, 8, 12, 24) if size > option.layout.micro_batch]
        for size in larger:
            memory = stage_memory(wanted, "sft", BIG, SPLITS["sft"], replace(option.layout, micro_batch=size))
            assert memory.peak > MARGIN * 60 * GIB or memory.host > MARGIN * 500 * GIB


def test_many_nodes_are_whole_ones_with_their_own_share():
    [plan] = planned(recipe(gpus=[gpu("a", 4000, counts=[16], node_selector={"pool": "a"}, spot=True)]))
    assert (plan.nodes, plan.processes, plan.gpus_per_node) == (2, 16, 8)
    assert (plan.gpu, plan.gpu_resource, plan.node_selector, plan.spot) == ("a", "nvidia.com/gpu", {"pool": "a"}, True)
    assert plan.cpus == pytest.approx(0.9 * 64)
    [part] = planned(recipe(gpus=[gpu("a", 4000, counts=[2])]))
    assert (part.nodes, part.gpus_per_node) == (1, 2)
    assert part.cpus == pytest.approx(0.9 * 64 / 4)


def test_one_machine_as_the_recipe_describes_it_may_be_several_nodes():
    [plan] = planned(recipe(batch=4, processes=4, nodes=2, memory_gib=600, threads_per_process=3))
    assert (plan.nodes, plan.processes, plan.gpu, plan.gpu_resource, plan.gpus_per_node) == (2, 4, "", "", 0)
    assert (plan.cpus, plan.node_memory_bytes) == (6, 0)


def test_a_plan_is_plain_json():
    plans = planned(recipe(STAGES, gpus=[gpu("a", 4000, counts=[1, 16])]))
    assert [StagePlan(**entry) for entry in json.loads(json.dumps(as_json(plans)))] == plans
    for plan in plans:
        assert plan.memory["weights"] + plan.memory["beside"] == plan.weights_bytes


@given(share=st.floats(0.01, 2))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_a_plan_is_refused_where_it_costs_more_than_the_budget(share):
    offered = [gpu("a", 4000)]
    plans = planned(recipe(STAGES, gpus=offered))
    total = sum(plan.cost_usd for plan in plans)
    bounded = recipe(STAGES, gpus=offered, budget_usd=share * total)
    if share >= 1:
        assert planned(bounded) == plans
        return
    with pytest.raises(FineTuneError) as raised:
        planned(bounded)
    most = max(plans, key=lambda plan: plan.cost_usd)
    assert f"${total:,.4f}" in str(raised.value)
    assert f"{most.stage}, ${most.cost_usd:,.4f}" in str(raised.value)


def test_why_names_the_runner_up_and_what_decided():
    [plan] = planned(recipe(gpus=[gpu("dear", 4000, usd_per_hour=4.0), gpu("cheap", 4000)]))
    assert plan.why.startswith(
        f"1 x cheap, ZeRO 0 is the best of {plan.fitting} that fit, of {plan.considered} considered"
    )
    assert "runner-up 1 x dear" in plan.why
    only = {"zero_stage": 0, "activation_checkpointing": False}
    [plan] = planned(recipe(gpus=[gpu("big", 4000)], **only))
    assert plan.why == "1 x big, ZeRO 0 is the only one that fits, of 1 considered"


def test_equal_cost_takes_fewer_gpus_and_the_simplest():
    [plan] = planned(recipe(gpus=[gpu("free", 4000, usd_per_hour=0, counts=[2, 1, 4])]))
    assert (plan.processes, plan.zero_stage, plan.offload_optimizer, plan.activation_checkpointing) == (
        1,
        0,
        "none",
        False,
    )


def sweep(**hardware):
    search = {"sft": {"global_batch_size": {"choices": [4, 8]}}}
    more = {"search": search, "n_trials": 6, "n_startup_trials": 2, "eval_steps": 0.5, "pruner": "median"}
    return Recipe.model_validate({**recipe(**hardware).model_dump(), "hyperparameters": more})


def test_trials_at_once_share_one_node():
    trials, sft = planned(sweep(gpus=[gpu("a", 4000, counts=[1, 2, 4, 8])], parallel_trials=4, zero_stage=3))
    assert (trials.stage, sft.stage) == ("sft_sweep", "sft")
    assert trials.processes * 4 <= 8
    assert trials.gpus_per_node == 4 * trials.processes
    assert trials.usd_per_hour == pytest.approx(4 * 2.0 * trials.processes)
    assert trials.seconds == pytest.approx(2 * sft.seconds * sft.processes / trials.processes, rel=0.1)


def test_processes_share_every_batch_that_a_sweep_may_try():
    trials, sft = planned(sweep(gpus=[gpu("a", 4000, counts=[4, 8])]))
    assert trials.processes == sft.processes == 4


def seconds(wanted, stage="sft"):
    return next(plan.seconds for plan in planned(wanted) if plan.stage == stage)


def test_what_takes_longer():
    offered = {"gpus": [gpu("a", 4000, counts=[4])]}
    plain = seconds(recipe(**offered, zero_stage=2, activation_checkpointing=False))
    assert seconds(recipe(**offered, zero_stage=3, activation_checkpointing=False)) > plain
    assert seconds(recipe(**offered, zero_stage=2, activation_checkpointing=True)) == pytest.approx(
        1.5 * plain, rel=0.05
    )
    assert seconds(recipe(**offered, zero_stage=2, offload_optimizer="cpu")) > plain
    assert seconds(recipe(gpus=[gpu("a", 4000, counts=[1])], activation_checkpointing=False)) > 3 * plain


def test_what_a_policy_writes_itself_takes_time():
    short, long, dpo = (
        seconds(online(**policy), "policy") for policy in ({}, {"max_completion_length": 640}, {"method": "dpo"})
    )
    assert dpo < short < long


def test_writing_takes_time_of_its_own_beside_training_on_what_was_written():
    layout = Layout("cuda", 1, 1, 1, 0, "none", "none", False)
    none, short, long = (
        stage_seconds(wanted, "policy", BIG, SPLITS["prompt"], layout, 300)
        for wanted in (
            recipe(("sft", "policy"), gpus=[gpu("big", 4000)]),
            online(beta=0.0),
            online(beta=0.0, max_completion_length=640),
        )
    )
    assert none < short < long


def test_trials_that_no_node_has_room_for_are_refused_in_words():
    with pytest.raises(
        FineTuneError, match="parallel_trials 16 of 1 GPUs each want 16 in one node, per_node of a is 8"
    ):
        planned(sweep(gpus=[gpu("a", 4000, counts=[1, 2])], parallel_trials=16))


def test_why_a_sweep_is_placed_so_is_told_in_what_all_of_its_trials_cost():
    for hardware in ({"gpus": [gpu("a", 4000, counts=[1, 4])]}, {"memory_gib": 4000, "usd_per_hour": 3.0}):
        trials, sft = planned(sweep(**hardware))
        assert trials.cost_usd == pytest.approx(6 * sft.cost_usd, rel=1e-4)
        assert float(trials.why.rpartition("$")[2].replace(",", "")) == pytest.approx(trials.cost_usd, rel=0.01)


@pytest.mark.parametrize("price", [0.0, 1e-3, 0.5, 100_000.0])
def test_what_is_told_apart_reads_apart(price):
    [plan] = planned(recipe(gpus=[gpu("a", 4000, usd_per_hour=price)], zero_stage=0))
    assert (plan.why.count("$") == 2) == (price > 0)
    more, less = plan.why.rpartition(": ")[2].split(" instead of ")
    assert more.removesuffix(" minutes") != less
    assert "e+" not in plan.why


def test_more_processes_are_proposed_where_every_stage_can_share_its_batch_among_them():
    body = recipe(("sft", "policy"), batch=8, memory_gib=12).model_dump()
    body["sft"]["global_batch_size"] = 6
    task = tasks(Recipe.model_validate(body), BIG, SPLITS, "cpu")["sft"]
    proposed = [change.values.get("hardware.processes") for change in smallest_changes(task)]
    assert 2 in proposed
    body["hardware"]["memory_gib"] = 10  # two do not suffice; three or six do for sft, and policy cannot take them
    proposed = smallest_changes(tasks(Recipe.model_validate(body), BIG, SPLITS, "cpu")["sft"])
    assert {change.values.get("hardware.processes") for change in proposed} <= {None, 2}


def test_no_second_change_is_proposed_beside_as_much_memory_as_suffices_alone():
    wanted = recipe(gpus=[gpu("a", 1)])
    [alone, *others] = smallest_changes(tasks(wanted, BIG, SPLITS, "cuda")["sft"])
    assert alone.text == "in hardware.gpus one like a with memory_gib: 5"
    least = min(alone.gib)
    assert not [change.text for change in others if change.gib and min(change.gib) >= least]
    assert not any("with memory_gib: 7" in change.text for change in others)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("method", ["dpo", "kto", "orpo", "rloo"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_more_rows_at_a_time_want_more_unless_none_accumulate(device, method, adapter):
    """What the search for the largest micro-batch that fits stands on."""
    body = online(method=method).model_dump() | {"adapter": adapter}
    wanted = Recipe.model_validate(body)
    for zero, again in product(range(4), (False, True)):
        layouts = [Layout(device, 2, 1, micro, zero, "none", "none", again) for micro in (1, 2, 4)]
        peaks = [stage_memory(wanted, "policy", BIG, SPLITS["preference"], layout).peak for layout in layouts]
        assert peaks == sorted(peaks)


@pytest.mark.parametrize("memory_gib", [400, 10])
def test_a_large_model_with_many_ways_to_cut_its_batch_is_planned_at_once(memory_gib):
    """Of a model of 405 billion parameters and a batch with 108 divisors, placed or refused."""
    layers = {f"model.layers.{n}.{name}": (16_384, 16_384) for n in range(126) for name in "qkvogud"}
    large = Shape(405 * 10**9, 16_384, 126, 128_256, layers, 53_248, 128, 16_384, 1024)
    offered = [gpu("a", memory_gib, counts=[1, 2, 4, 8, 16, 32])]
    started = time.process_time()
    with suppress(FineTuneError):
        plan_recipe(recipe(batch=50_400, gpus=offered), large, SPLITS, "cuda")
    assert time.process_time() - started < 3


def test_kto_takes_longer_than_dpo_by_two_passes_over_mismatched_answers():
    """TRL scores them with the policy and with the reference: 10 operations for 6, with an adapter."""
    layout = Layout("cuda", 1, 1, 2, 0, "none", "none", False)
    dpo, kto = (
        stage_seconds(online(method=method, beta=0.1), "policy", BIG, rows, layout, 300)
        for method, rows in (("dpo", SPLITS["prompt"]), ("kto", {**SPLITS["prompt"], "rows": 10_000}))
    )
    assert kto == pytest.approx(10 / 6 * dpo, rel=0.01)
