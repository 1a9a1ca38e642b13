"""Laws of the plan: what it says fits, and what it refuses."""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core.errors import FineTuneError
from ft_assets.core.memory import GIB
from ft_assets.core.placements import MARGIN
from ft_assets.core.plan import plan_recipe
from ft_assets.core.shape import Shape
from ft_assets.core.training_time import training_steps
from ft_assets.recipes.load import SHIPPED
from ft_assets.recipes.schema import Recipe
from ft_assets.recipes.training import Training

LAYER = {
    "q_proj": (576, 576),
    "k_proj": (192, 576),
    "v_proj": (192, 576),
    "o_proj": (576, 576),
    "gate_proj": (1536, 576),
    "up_proj": (1536, 576),
    "down_proj": (576, 1536),
}
SMALL = Shape(
    134_515_008, 576, 30, 49_152, {f"model.layers.{n}.{name}": size for n in range(30) for name, size in LAYER.items()}
)
SPLITS = {part: {"rows": 400, "tokens": 40_000, "longest": 200} for part in ("cpt", "sft", "preference")}


def recipe(**hardware):
    document = yaml.safe_load((SHIPPED / "demo.yaml").read_text())
    return Recipe.model_validate({**document, "hardware": {**document["hardware"], **hardware}})


def with_batch(size, **hardware):
    document = recipe(**hardware).model_dump(exclude_none=True)
    for stage in ("cpt", "sft", "reward", "policy"):
        document[stage]["global_batch_size"] = size
    return Recipe.model_validate(document)


@given(per_process=st.integers(1, 64), memory_gib=st.floats(3, 200), processes=st.integers(1, 8))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_every_row_of_a_global_batch_is_seen_once_per_step(per_process, memory_gib, processes):
    for plan in plan_recipe(
        with_batch(per_process * processes, memory_gib=memory_gib, processes=processes), SMALL, SPLITS, "cpu"
    ):
        assert plan.micro_batch * plan.gradient_accumulation_steps * plan.processes == per_process * processes
        assert plan.processes == processes


@given(memory_gib=st.floats(3, 200), device=st.sampled_from(["cpu", "cuda"]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_what_is_planned_fits(memory_gib, device):
    for plan in plan_recipe(with_batch(64, memory_gib=memory_gib), SMALL, SPLITS, device):
        assert (
            plan.weights_bytes + plan.trainable_bytes + plan.activations_bytes
            < plan.peak_bytes
            <= memory_gib * GIB * MARGIN
        )


def micro_batches(wanted):
    try:
        return [plan.micro_batch for plan in plan_recipe(wanted, SMALL, SPLITS, "cpu")]
    except FineTuneError:
        return [0] * 4


@given(memory_gib=st.floats(0.5, 100), more=st.floats(0, 100), batch=st.integers(1, 48))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_more_memory_never_makes_a_micro_batch_smaller(memory_gib, more, batch):
    less, greater = (micro_batches(with_batch(batch, memory_gib=size)) for size in (memory_gib, memory_gib + more))
    assert all(small <= large for small, large in zip(less, greater, strict=True))


def test_longer_rows_want_more_memory():
    long = {part: {**found, "longest": 2000} for part, found in SPLITS.items()}
    for short, longer in zip(
        plan_recipe(with_batch(1), SMALL, SPLITS, "cpu"),
        plan_recipe(with_batch(1, memory_gib=99), SMALL, long, "cpu"),
        strict=True,
    ):
        assert longer.peak_bytes > short.peak_bytes


def test_pairs_want_twice_the_activations():
    by_stage = {plan.stage: plan for plan in plan_recipe(with_batch(1), SMALL, SPLITS, "cpu")}
    assert by_stage["policy"].activations_bytes >= 2 * by_stage["sft"].activations_bytes
    assert by_stage["reward"].activations_bytes < by_stage["policy"].activations_bytes  # no scores of words


def test_only_the_stages_of_the_recipe_are_planned():
    document = {key: value for key, value in recipe().model_dump().items() if key not in ("cpt", "reward")}
    found = plan_recipe(Recipe.model_validate(document), SMALL, SPLITS, "cpu")
    assert [plan.stage for plan in found] == ["sft", "policy"]


@pytest.mark.parametrize("memory_gib", [0.1, 1, 1.5])
@pytest.mark.parametrize("stage", ["cpt", "sft"])
def test_a_plan_that_does_not_fit_is_refused_and_the_memory_it_names_does(stage, memory_gib):
    def planned(size):
        document = {
            **recipe(memory_gib=size).model_dump(),
            **dict.fromkeys({"cpt", "sft", "reward", "policy"} - {stage}),
        }
        return plan_recipe(Recipe.model_validate(document), SMALL, SPLITS, "cpu")

    with pytest.raises(FineTuneError, match=f"^{stage}: one row of 200 tokens") as raised:
        planned(memory_gib)
    enough = int(re.search(r"hardware\.memory_gib: (\d+)", str(raised.value)).group(1))
    assert [plan.stage for plan in planned(enough)] == [stage]


def test_a_batch_that_the_processes_cannot_share_is_refused():
    with pytest.raises(FineTuneError, match=r"global_batch_size 4 .*processes 3"):
        plan_recipe(recipe(processes=3), SMALL, SPLITS, "cpu")


@pytest.mark.parametrize(("processes", "wanted", "stage"), [(1, "auto", 0), (2, "auto", 2), (2, 3, 3), (1, 1, 1)])
def test_zero_stage_is_chosen_or_taken(processes, wanted, stage):
    assert {
        plan.zero_stage for plan in plan_recipe(recipe(processes=processes, zero_stage=wanted), SMALL, SPLITS, "cpu")
    } == {stage}


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "max_steps", "steps"),
    [
        (8, 8, 1, None, 1),
        (9, 8, 1, None, 2),
        (7, 8, 1, None, 1),
        (16, 8, 3, None, 6),
        (9, 8, 1.5, None, 3),
        (100, 8, 0.01, None, 1),
        (100, 8, 1, 5, 5),
        (8, 8, 1, 5, 5),
    ],
)
def test_steps_are_those_of_the_trainer(rows, batch, epochs, max_steps, steps):
    """In transformers a positive ``max_steps`` overrides the epochs, both ways."""
    settings = Training(learning_rate=1e-4, global_batch_size=batch, num_train_epochs=epochs, max_steps=max_steps)
    assert training_steps(rows, settings) == steps


def test_cost_is_time_at_the_price():
    free, paid = (plan_recipe(recipe(usd_per_hour=price), SMALL, SPLITS, "cpu") for price in (0, 36))
    assert [plan.cost_usd for plan in free] == [0] * 4
    for plan in paid:
        assert plan.cost_usd == pytest.approx(plan.seconds * 0.01, rel=0.01, abs=1e-3)


def with_sweep(**hardware):
    spaces = {
        "sft": {"num_train_epochs": {"low": 1, "high": 3}, "global_batch_size": {"choices": [6, 8]}},
        "adapter": {"r": {"choices": [64, 4]}},
    }
    more = {"search": spaces, "n_trials": 5, "n_startup_trials": 2, "eval_steps": 0.5, "pruner": "median"}
    document = {**recipe(**hardware).model_dump(), "cpt": None, "reward": None, "policy": None}
    return Recipe.model_validate({**document, "hyperparameters": more})


def test_a_sweep_is_planned_for_the_largest_values_it_may_try():
    swept, largest = with_sweep(), {"sft.num_train_epochs": 3, "sft.global_batch_size": 8, "adapter.r": 64}
    sweep, sft = plan_recipe(swept, SMALL, SPLITS, "cpu")
    assert (sweep.stage, sft.stage) == ("sft_sweep", "sft")
    assert [sft] == plan_recipe(swept.with_values(largest), SMALL, SPLITS, "cpu")
    assert sweep.peak_bytes == sft.peak_bytes
    assert sweep.seconds == pytest.approx(5 * sft.seconds, abs=0.1)


def test_a_batch_that_a_sweep_may_try_and_the_processes_cannot_share_is_refused():
    with pytest.raises(FineTuneError, match=r"search\.sft\.global_batch_size may be 6.*hardware\.processes 4"):
        plan_recipe(with_sweep(processes=4), SMALL, SPLITS, "cpu")


def test_a_classifier_is_planned_on_its_rows():
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "base_model": "b",
            "seed": 1,
            "data": {
                "max_length": 64,
                "overlong": "drop",
                "split": {"validation": 0, "test": 0},
                "classification": ["c"],
                "test": ["t"],
            },
            "adapter": {"method": "full"},
            "classifier": {"learning_rate": 1e-4, "global_batch_size": 4, "num_train_epochs": 2},
            "evaluation": {"metric": "accuracy"},
            "publish": {"to": "p"},
        }
    )
    [plan] = plan_recipe(
        recipe, Shape(1000, 8, 1, 10**9, {}), {"classification": {"rows": 9, "tokens": 90, "longest": 12}}, "cpu"
    )
    assert (plan.stage, plan.steps, plan.longest_row_tokens) == ("classifier", 6, 12)
