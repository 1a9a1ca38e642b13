"""Laws of a recipe's search: every value it may propose makes a recipe, and one that may not is named."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ft_assets.core.errors import RecipeError
from ft_assets.recipes.load import SHIPPED, add_file, load_catalog
from ft_assets.recipes.schema import Recipe
from ft_assets.recipes.sweep import Space, Sweep

RATE = {"low": 1e-5, "high": 1e-3, "log": True}
REST = {"n_trials": 3, "n_startup_trials": 2, "eval_steps": 0.25, "pruner": "median"}


def recipe(search, without=("cpt",), **more):
    body = yaml.safe_load((SHIPPED / "demo.yaml").read_text()) | more
    body = {key: value for key, value in body.items() if key not in without}
    return Recipe.model_validate({**body, "hyperparameters": {"search": search, **REST}})


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ({"sft": {"learning_rat": RATE}}, "search.sft.learning_rat is no field of sft; allowed: learning_rate"),
        ({"adapter": {"method": {"choices": ["lora", "x"]}}}, "search.adapter.method is no field of adapter"),
        ({"sft": {"learning_rate": {"low": 0, "high": 0.1}}}, "search.sft.learning_rate: 0.0 is not allowed"),
        ({"sft": {"learning_rate": {"choices": [0.1, 2.0]}}}, "search.sft.learning_rate: 2.0 is not allowed"),
        ({"sft": {"learning_rate": {"choices": ["1e-4", 0.1]}}}, "'1e-4' reads as 0.0001"),
        ({"adapter": {"r": {"low": 1.5, "high": 3}}}, "search.adapter.r: 1.5 is not allowed"),
        ({"adapter": {"r": {"low": 2, "high": 3, "step": 0.5}}}, "search.adapter.r: step 0.5 of a whole number"),
        ({"adapter": {"lora_dropout": {"low": 0.0, "high": 1.0}}}, "search.adapter.lora_dropout: 1.0 is not allowed"),
        ({"sft": {"lr_scheduler_type": {"choices": ["cosine", "square"]}}}, "'square' is not allowed"),
        ({"sft": {"lr_scheduler_type": {"low": 1, "high": 2}}}, "is 'cosine', no number: give choices"),
        ({"sft": {"max_steps": {"low": 1, "high": 2}}}, "is None, no number: give choices"),
        ({}, "search names no field"),
    ],
)
def test_a_space_that_its_field_refuses_is_named(search, says):
    with pytest.raises(ValidationError) as refused:
        recipe(search)
    assert says in str(refused.value)
    assert refused.value.errors()[0]["loc"][0] == "hyperparameters"


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"low": 1}, "give low and high, or choices"),
        ({"low": 2, "high": 1}, "low 2 is not below high 1"),
        ({"low": 0, "high": 1, "log": True}, "log wants low above 0"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "and no step"),
        ({"low": 1, "choices": [1, 2]}, "choices stand alone"),
        ({"choices": [1, 1]}, "choices names one value twice"),
    ],
)
def test_a_space_is_a_range_or_choices(space, says):
    with pytest.raises(ValidationError, match=says):
        Space.model_validate(space)


@pytest.mark.parametrize(
    ("more", "without", "says"),
    [
        ({}, ("cpt", "sft"), "which the recipe leaves out"),
        ({"data": {"split": {"validation": 0.0, "test": 0.1}}}, ("cpt",), "give data.split.validation a share"),
        ({}, (), "sft goes on with the adapter of cpt"),
    ],
)
def test_a_sweep_needs_what_it_stands_on(more, without, says):
    if "data" in more:
        more = {"data": yaml.safe_load((SHIPPED / "demo.yaml").read_text())["data"] | more["data"]}
    with pytest.raises(ValidationError, match=says):
        recipe({"sft": {"learning_rate": RATE}, "adapter": {"r": {"low": 2, "high": 8}}}, without, **more)


def test_the_fault_of_a_space_has_the_line_of_the_sweep(tmp_path):
    text = (SHIPPED / "demo.yaml").read_text().replace("name: demo", "name: mine")
    search = {"search": {"sft": {"learning_rate": {"low": 1.0, "high": 2.0}}}, **REST}
    (tmp_path / "mine.yaml").write_text(text + yaml.safe_dump({"hyperparameters": search}))
    with pytest.raises(RecipeError) as refused:
        add_file(load_catalog([tmp_path, SHIPPED]), tmp_path / "mine.yaml")
    problem = refused.value.problems[0]
    assert problem.line == text.count("\n") + 1
    assert problem.found == "search.sft.learning_rate: 2.0 is not allowed; allowed: less than or equal to 1"


@given(st.floats(0, 1), st.integers(2, 8), st.sampled_from([4, 8]))
def test_every_value_of_the_spaces_makes_a_recipe(share, r, size):
    spaces = {"learning_rate": RATE, "global_batch_size": {"choices": [4, 8]}}
    found = recipe({"sft": spaces, "adapter": {"r": {"low": 2, "high": 8}}})
    rate = RATE["low"] + share * (RATE["high"] - RATE["low"])
    values = {"sft.learning_rate": rate, "sft.global_batch_size": size, "adapter.r": r}
    candidate = found.with_values(values)
    assert candidate.hyperparameters is None
    assert (candidate.sft.learning_rate, candidate.sft.global_batch_size, candidate.adapter.r) == (rate, size, r)
    assert candidate.sft.num_train_epochs == found.sft.num_train_epochs


def test_what_a_worker_is_told_reads_as_what_the_recipe_says():
    found = recipe({"sft": {"learning_rate": RATE, "global_batch_size": {"choices": [4, 8]}}}).hyperparameters
    assert Sweep.model_validate(found.model_dump()) == found


def test_the_order_in_which_spaces_are_drawn_does_not_hang_on_how_they_are_written():
    spaces = {"learning_rate": RATE, "global_batch_size": {"choices": [4, 8]}}
    found, turned = (recipe({"sft": dict(order)}) for order in (spaces.items(), reversed(spaces.items())))
    assert list(found.hyperparameters.spaces()) == list(turned.hyperparameters.spaces())
