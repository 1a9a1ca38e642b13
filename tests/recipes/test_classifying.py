"""What a recipe with a classifier may say, and that the others know nothing of it."""

import json

import pytest
from classifying import EVALUATION
from pydantic import ValidationError
from splitting import ADAPTER, TRAINING

from ft_assets.core.lineage import Inputs, model_stages
from ft_assets.recipes.load import SHIPPED, load_catalog
from ft_assets.recipes.schema import Recipe

DATA = {
    "max_length": 64,
    "overlong": "drop",
    "split": {"validation": 0.1, "test": 0.1},
    "classification": ["c"],
    "test": ["t"],
}


def recipe(data=None, **more):
    body = {
        "name": "r",
        "base_model": "b",
        "seed": 5,
        "publish": {"to": "p"},
        "data": DATA | (data or {}),
        "adapter": ADAPTER,
        "classifier": TRAINING,
        "evaluation": EVALUATION,
    }
    return Recipe.model_validate(body | more)


def stages(found):
    validated = {role: {f"{name}@1": name for name in names} for role, names in found.data.sources().items()}
    return model_stages(found, Inputs(validated, "base", "content"))


def test_a_classifier_alone_is_a_recipe():
    assert recipe().classifier is not None


@pytest.mark.parametrize(
    ("data", "more", "words"),
    [
        ({"sft": ["s"]}, {"sft": TRAINING}, "leave sft out"),
        ({"cpt": ["s"]}, {"cpt": TRAINING}, "leave cpt out"),
        ({"preference": ["s"]}, {"reward": TRAINING}, "leave reward out"),
        ({}, {"quantize": ["nf4"]}, "leave quantize out"),
        ({}, {"chat_template": "{{ messages }}"}, "leave chat_template out"),
        ({"sft": ["s"]}, {}, "leave data.sft out"),
        ({"safety": ["s"]}, {}, "leave data.safety out"),
        ({}, {"adapter": {"method": "prompt_tuning", "num_virtual_tokens": 4}}, "use adapter.method full, lora"),
        ({"overlong": "chunk"}, {}, "use error, drop or truncate"),
        ({"packing": True}, {}, "leave data.packing out"),
        ({"classification": []}, {}, "stage classifier has no source under data"),
        ({"test": []}, {}, "data.test is empty"),
        ({"test": ["c"]}, {}, "both trained on and evaluated on"),
        (
            {},
            {"evaluation": {"metric": "exact_match", "few_shot": 0, "max_new_tokens": 4}},
            "takes accuracy or macro_f1",
        ),
        ({}, {"evaluation": {"metric": "accuracy", "few_shot": 0}}, "leave few_shot out"),
        ({"sft": ["s"]}, {"classifier": None, "sft": TRAINING}, "only a classifier stage gives them"),
    ],
)
def test_what_does_not_go_with_a_classifier_is_refused_with_what_to_do(data, more, words):
    with pytest.raises(ValidationError, match=words):
        recipe(data, **more)


def test_classification_rows_without_a_classifier_are_refused():
    answers = {"metric": "exact_match", "few_shot": 0, "max_new_tokens": 4}
    with pytest.raises(ValidationError, match=r"data.classification is trained on by a classifier stage alone"):
        recipe({"sft": ["s"]}, classifier=None, sft=TRAINING, evaluation=answers)


@pytest.mark.parametrize("missing", ["few_shot", "max_new_tokens"])
def test_answers_are_not_measured_without_saying_how_they_are_asked_for(missing):
    answers = {"metric": "exact_match", "few_shot": 0, "max_new_tokens": 4}
    del answers[missing]
    with pytest.raises(ValidationError, match=f"give {missing}"):
        recipe({"classification": [], "sft": ["s"]}, classifier=None, sft=TRAINING, evaluation=answers)


def test_a_held_out_source_of_a_classifier_has_labels(tmp_path):
    text = """
name: r
base_model: embedded
seed: 5
data: {max_length: 64, overlong: drop, split: {validation: 0.1, test: 0.1}, classification: [c], test: [t]}
adapter: {method: full}
classifier: {learning_rate: 1.0e-3, global_batch_size: 2, num_train_epochs: 1}
evaluation: {metric: accuracy}
publish: {to: p}
sources:
  c: {kind: classification, location: c, format: classification, licence: MIT}
  t: {kind: KIND, location: t, format: FORMAT, licence: MIT}
"""
    file = tmp_path / "r.yaml"
    file.write_text(text.replace("KIND", "classification").replace("FORMAT", "classification"))
    assert load_catalog([tmp_path]).faults(file) == []
    file.write_text(text.replace("KIND", "instruction").replace("FORMAT", "alpaca"))
    [fault] = load_catalog([tmp_path]).faults(file)
    assert (fault.field, fault.allowed) == ("data.test[0]", "kind classification: c")


def test_every_other_stage_of_a_classifier_passes_through_and_its_model_is_the_result():
    found = stages(recipe())
    assert {found[name].passes for name in ("cpt_adapter", "sft_adapter", "reward_model", "policy")} == {"base_model"}
    assert found["merged_model"].passes == found["quantized_model"].passes == "classifier"
    assert found["published_model"].upstream["merged_model"] == ("classifier", found["classifier"].fingerprint)
    assert ("classifier", found["classifier"].fingerprint) in found["evaluation"].upstream.values()


@pytest.mark.parametrize("adapter", [ADAPTER, {"method": "full"}])
def test_a_classifier_is_one_whole_model_by_every_method(adapter):
    assert stages(recipe(adapter=adapter))["merged_model"].passes == "classifier"


@pytest.mark.parametrize("name", ["demo", "demo_rloo"])
def test_no_identity_of_a_recipe_without_a_classifier_knows_of_one(name):
    found = stages(load_catalog([SHIPPED]).recipe(name))
    assert "classif" not in json.dumps([[stage.identity, stage.upstream] for stage in found.values()])
    assert found["classifier"].passes == "policy"
    assert found["classifier"].fingerprint == found["policy"].fingerprint
