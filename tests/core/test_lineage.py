"""Laws of the graph: a change re-makes exactly what depends on it."""

import pytest
import yaml

from ft_assets.core.lineage import MODEL_ASSETS, Inputs, model_stages, parts, raw_stage, validated_stage
from ft_assets.core.stage import CODE_VERSIONS
from ft_assets.recipes.evaluation import kinds
from ft_assets.recipes.hardware import Hardware
from ft_assets.recipes.load import SHIPPED
from ft_assets.recipes.schema import Recipe, Source

PUBLISHED = {"published_model"}
EVALUATED = {"evaluation", "eval_report"} | PUBLISHED
MERGED = {"merged_model", "quantized_model"} | EVALUATED
# Without a classifier it is the policy, without a sweep sft_sweep is the adapter before it.
SFT = {"sft_adapter", "reward_model", "policy", "classifier"} | MERGED
TRAINED = {"cpt_adapter", "sft_sweep"} | SFT
SPLITS = {"tokenized_splits"} | TRAINED


GPU = {
    "name": "h100",
    "memory_gib": 80,
    "bf16_tflops": 989,
    "usd_per_hour": 3.0,
    "counts": [1, 8, 16],
    "node_memory_gib": 1800,
    "node_cpus": 192,
}


def shipped(name):
    return yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())


def changed_document(document, path, value):
    """A copy with one field set; ``path`` is dotted."""
    key, _, rest = path.partition(".")
    inner = changed_document(document.get(key) or {}, rest, value) if rest else value
    return {**document, key: inner}


def stages(document, base_content="b0", published=(), overrides=None, **more):
    recipe = Recipe.model_validate(document)
    validated = {
        role: {f"{name}@2026-01": f"{role}-{name}" for name in names} for role, names in recipe.data.sources().items()
    }
    for role, batches in more.items():
        validated[role] = batches
    return model_stages(recipe, Inputs(validated, "base-artifact", base_content, published, overrides or {}))


def remade(before, after):
    """Names whose fingerprint differs, the plan aside: it costs nothing and follows the whole recipe."""
    assets = {name for name in before if ":" not in name}
    assert assets == {name for name in after if ":" not in name}
    return {name for name in assets if before[name].fingerprint != after[name].fingerprint} - {"training_plan"}


def batches_remade(before, after):
    """What of single batches is made anew: stages of ``after`` that ``before`` does not have."""
    return of_kinds(("prepared", "overlap", "judged"), before, after)


def answered_anew(before, after):
    """The contestants whose answers of ``after`` are none of those of ``before``."""
    return {name.partition(":")[2] for name in of_kinds(("answers",), before, after)}


def of_kinds(kinds, before, after):
    had = {stage.fingerprint for stage in before.values()}
    return {name for name, stage in after.items() if name.split(":")[0] in kinds and stage.fingerprint not in had}


SWEEP = {
    "search": {
        "sft": {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "global_batch_size": {"choices": [4, 8]}}
    },
    "n_trials": 20,
    "n_startup_trials": 5,
    "eval_steps": 0.25,
    "pruner": "median",
}


def swept(document, **more):
    return {**document, "hyperparameters": {**SWEEP, **more}}


@pytest.fixture
def demo():
    return shipped("demo")


def test_every_asset_has_a_stage(demo):
    assert {name for name in stages(demo) if ":" not in name} == {*MODEL_ASSETS, "evaluation", "questions"}


def test_equal_inputs_give_equal_fingerprints(demo):
    assert {n: s.fingerprint for n, s in stages(demo).items()} == {
        n: s.fingerprint for n, s in stages(shipped("demo")).items()
    }


def test_two_stages_never_share_a_fingerprint_unless_one_passes(demo):
    found = [stage.fingerprint for stage in stages(demo).values() if not stage.passes]
    assert len(set(found)) == len(found)


def test_each_input_of_a_stage_is_a_stage_or_came_in(demo):
    found = stages(demo)
    known = {stage.fingerprint for stage in found.values()}
    for stage in found.values():
        for role, (name, digest) in stage.upstream.items():
            assert digest in known or name == "validated_dataset", (stage.name, role)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("processes", 4),
        ("device", "cuda"),
        ("device", "cpu"),
        ("memory_gib", 640),
        ("threads_per_process", 3),
        ("usd_per_hour", 98.5),
        ("zero_stage", 3),
        ("checkpoint_every_steps", 7),
        ("evaluation_batch_size", 1),
        ("parallel_trials", 8),
        ("activation_checkpointing", True),
        ("offload_optimizer", "none"),
        ("budget_usd", 5.0),
        ("gpus", [GPU]),
        ("pods", {"image": "a/b@sha256:0", "stages": {"policy": {"queue_name": "slow"}}}),
    ],
)
@pytest.mark.parametrize("recipe", ["demo", "demo_rloo", "sweep"])
def test_hardware_changes_no_fingerprint(recipe, field, value):
    document = swept(shipped("demo")) if recipe == "sweep" else shipped(recipe)
    assert remade(stages(document), stages(changed_document(document, f"hardware.{field}", value))) == set()


def test_all_of_hardware_at_once_changes_no_fingerprint(demo):
    """And so each of its fields, whichever will be added: this names them all, with another value than they have alone."""
    changed = {
        "device": "cuda",
        "dtype": "bfloat16",
        "processes": 4,
        "nodes": 2,
        "threads_per_process": 3,
        "memory_gib": 640,
        "usd_per_hour": 98.5,
        "zero_stage": 3,
        "offload_optimizer": "cpu",
        "offload_param": "cpu",
        "activation_checkpointing": True,
        "torch_compile": True,
        "use_liger_kernel": True,
        "full_determinism": True,
        "deepspeed": {"steps_per_print": 5},
        "checkpoint_every_steps": 7,
        "checkpoint_every_minutes": 3.5,
        "keep_checkpoints": 9,
        "evaluation_batch_size": 1,
        "parallel_trials": 8,
        "gpus": [GPU],
        "budget_usd": 5.0,
        "pods": {"image": "a/b@sha256:0"},
    }
    assert set(changed) == set(Hardware.model_fields)
    assert not [name for name, value in changed.items() if getattr(Hardware(), name) == value]
    assert remade(stages(demo), stages({**demo, "hardware": changed})) == set()


@pytest.mark.parametrize("retrain", [{"min_new_rows": 1}, {"schedule": "0 3 * * *"}])
def test_retraining_by_itself_changes_no_fingerprint(demo, retrain):
    before, after = stages(demo), stages({**demo, "retrain": retrain})
    assert {name: stage.fingerprint for name, stage in before.items()} == {
        name: stage.fingerprint for name, stage in after.items()
    }


def test_hardware_changes_the_plan(demo):
    before, after = stages(demo), stages(changed_document(demo, "hardware.processes", 4))
    assert before["training_plan"].fingerprint != after["training_plan"].fingerprint


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("seed", 18, SPLITS),
        ("data.max_length", 128, SPLITS),
        ("data.overlong", "error", SPLITS),
        ("data.split.test", 0.1, SPLITS),
        ("data.loss_on", "all", SPLITS),
        ("data.packing", True, SPLITS),
        ("data.near_duplicates", {"threshold": 0.8, "ngram_words": 5}, SPLITS),
        ("data.decontamination", {"ngram_words": 13}, SPLITS),
        ("data.max_train_rows", 5, SPLITS),
        ("data.epochs", {"demo_entities": 2.5}, SPLITS),
        ("data.epochs", {"demo_entities": 1.0}, set()),
        ("adapter.r", 8, TRAINED),
        ("adapter.target_modules", ["q_proj"], TRAINED),
        ("cpt.learning_rate", 1e-5, TRAINED),
        ("cpt.global_batch_size", 2, TRAINED),
        ("sft.learning_rate", 1e-5, SFT),
        ("sft.max_steps", 1, SFT),
        ("reward.learning_rate", 1e-5, {"reward_model"} | EVALUATED),
        ("policy.learning_rate", 1e-6, {"policy", "classifier"} | MERGED),
        ("policy.beta", 0.2, {"policy", "classifier"} | MERGED),
        ("quantize", ["nf4"], {"quantized_model"} | EVALUATED),
        ("evaluation.metric", "exact_match", EVALUATED),
        ("evaluation.max_new_tokens", 9, EVALUATED),
        ("evaluation.bootstrap_samples", 100, EVALUATED),
        ("evaluation.max_rows", 9, EVALUATED),
        ("evaluation.few_shot", 4, EVALUATED),
        ("evaluation.retrieval", 4, EVALUATED),
        ("evaluation.metrics", ["token_f1"], EVALUATED),
        ("evaluation.memorization", 9, EVALUATED),
        ("evaluation.lm_eval", ["arc_easy"], EVALUATED),
        ("publish.to", "elsewhere", PUBLISHED),
        ("publish.license", "mit", PUBLISHED),
        ("publish.private", False, set()),
        ("name", "other", {"eval_report"} | PUBLISHED),
        ("description", "Other words.", set()),
    ],
)
def test_a_changed_field_re_makes_exactly_its_descendants(demo, field, value, expected):
    assert remade(stages(demo), stages(changed_document(demo, field, value))) == expected


def test_the_order_of_a_list_that_is_a_set_changes_nothing(demo):
    assert remade(stages(demo), stages({**demo, "quantize": ["int8", "nf4"]})) == set()


def test_only_a_form_that_is_learned_from_rows_stands_on_the_splits_and_the_seed(demo):
    plain = stages({**demo, "quantize": ["nf4", "int8"]})["quantized_model"]
    assert (plain.identity, set(plain.upstream)) == ({"formats": ["int8", "nf4"]}, {"merged_model"})
    learned = stages({**demo, "quantize": ["auto_round"]})["quantized_model"]
    assert learned.identity["seed"] == demo["seed"]
    assert learned.upstream["tokenized_splits"][0] == "tokenized_splits"


def test_a_new_batch_re_makes_all_that_follows_the_splits(demo):
    batches = {"demo_entities@2026-01": "sft-demo_entities", "demo_entities@2026-02": "new"}
    assert remade(stages(demo), stages(demo, sft=batches)) == SPLITS


def test_a_new_batch_is_prepared_and_no_other_again(demo):
    demo = changed_document(demo, "data.decontamination", {"ngram_words": 13})
    batches = {"demo_entities@2026-01": "sft-demo_entities", "demo_entities@2026-02": "new"}
    new = {f"{kind}:sft:demo_entities@2026-02" for kind in ("prepared", "overlap", "judged")}
    assert batches_remade(stages(demo), stages(demo, sft=batches)) == new


def test_a_batch_that_comes_first_is_judged_first_and_those_after_it_anew(demo):
    one = {"demo_entities@2026-02": "second"}
    both = {"demo_entities@2026-01": "first", **one}
    again = batches_remade(stages(demo, sft=one), stages(demo, sft=both))
    assert {name for name in again if name.endswith("02")} == {"judged:sft:demo_entities@2026-02"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 18),
        ("data.split.test", 0.1),
        ("data.packing", True),
        ("data.max_train_rows", 5),
        ("data.epochs", {"demo_entities": 2.5}),
    ],
)
def test_what_concerns_all_batches_prepares_none_again(demo, field, value):
    assert batches_remade(stages(demo), stages(changed_document(demo, field, value))) == set()


@pytest.mark.parametrize(
    ("field", "value", "roles"),
    [
        ("data.max_length", 128, {"sft", "preference"}),
        ("data.overlong", "chunk", {"sft", "preference"}),
        ("data.loss_on", "all", {"sft"}),
        ("data.near_duplicates", {"threshold": 0.8, "ngram_words": 5}, {"cpt", "sft", "preference"}),
    ],
)
def test_a_batch_is_prepared_again_only_for_what_its_tokens_depend_on(demo, field, value, roles):
    again = batches_remade(stages(demo), stages(changed_document(demo, field, value)))
    assert {name.split(":")[1] for name in again} == roles


def test_another_threshold_judges_anew_and_sketches_no_batch_again(demo):
    looser, stricter = (
        stages(changed_document(demo, "data.near_duplicates", {"threshold": threshold, "ngram_words": 5}))
        for threshold in (0.7, 0.9)
    )
    assert batches_remade(looser, stricter) == {name for name in looser if name.startswith("judged:")}


def test_a_new_evaluation_batch_is_searched_for_and_prepares_nothing_again(demo):
    demo = changed_document(demo, "data.decontamination", {"ngram_words": 13})
    found = batches_remade(stages(demo), stages(demo, test={"demo_entities_test@2026-02": "new"}))
    assert found == {name for name in stages(demo) if name.startswith(("overlap:", "judged:"))}


def test_the_order_of_batches_changes_nothing(demo):
    batches = {"demo_entities@2026-02": "two", "demo_entities@2026-01": "one"}
    assert remade(stages(demo, sft=batches), stages(demo, sft=dict(reversed(batches.items())))) == set()


def test_the_same_batch_in_another_role_is_another_input(demo):
    batch = {"x@1": "digest"}
    assert remade(stages(demo, test=batch, out_of_domain={}), stages(demo, test={}, out_of_domain=batch)) == (
        SPLITS | {"questions"}
    )


def test_another_base_re_makes_everything(demo):
    assert remade(stages(demo), stages(demo, base_content="b1")) == SPLITS


def test_the_reward_recipe_reaches_an_online_policy_only(demo):
    for document, reached in ((demo, False), (shipped("demo_rloo"), True)):
        after = remade(stages(document), stages(changed_document(document, "reward.learning_rate", 1e-6)))
        assert "reward_model" in after
        assert ("policy" in after, "merged_model" in after) == (reached, reached)


def test_a_sweep_is_read_by_what_follows_sft_alone(demo):
    before, after = stages(demo), stages(swept(demo))
    assert remade(before, after) == {"sft_sweep"} | SFT
    assert after["sft_adapter"].upstream["sft_sweep"] == ("sft_sweep", after["sft_sweep"].fingerprint)
    assert after["sft_sweep"].upstream.items() < after["sft_adapter"].upstream.items()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("search", {"sft": {"learning_rate": {"low": 1e-5, "high": 2e-3, "log": True}}}),
        ("search", {"sft": {"learning_rate": {"low": 1e-5, "high": 1e-3}, "global_batch_size": {"choices": [4, 8]}}}),
        ("n_trials", 21),
        ("n_startup_trials", 6),
        ("eval_steps", 0.2),
        ("pruner", "none"),
    ],
)
def test_another_search_re_makes_the_sweep_and_what_follows(demo, field, value):
    assert remade(stages(swept(demo)), stages(swept(demo, **{field: value}))) == {"sft_sweep"} | SFT


def test_the_order_in_which_spaces_are_written_changes_nothing(demo):
    spaces = SWEEP["search"]["sft"]
    turned = {"sft": dict(reversed(spaces.items()))}
    assert remade(stages(swept(demo)), stages(swept(demo, search=turned))) == set()


def without(document, *names):
    return {key: value for key, value in document.items() if key not in names}


@pytest.mark.parametrize(
    ("omitted", "stage", "stands_in"),
    [
        (["cpt"], "cpt_adapter", "base_model"),
        ([], "sft_sweep", "cpt_adapter"),
        (["cpt"], "sft_sweep", "base_model"),
        (["sft"], "sft_adapter", "cpt_adapter"),
        (["reward"], "reward_model", "sft_adapter"),
        (["policy"], "policy", "sft_adapter"),
        (["quantize"], "quantized_model", "merged_model"),
        (["sft", "policy", "reward"], "policy", "cpt_adapter"),
        (["cpt", "sft"], "sft_adapter", "base_model"),
    ],
)
def test_an_omitted_stage_passes_its_input_through(demo, omitted, stage, stands_in):
    found = stages(without(demo, *omitted))
    assert found[stage].passes == found[stage].made_by == stands_in
    assert found[stage].fingerprint == found[stands_in].fingerprint
    assert all(entry[0] != stage for each in found.values() for entry in each.upstream.values()), "it was never made"


def test_a_stage_continues_the_adapter_before_it(demo):
    found = stages(demo)
    assert "adapter" not in found["cpt_adapter"].upstream
    for name, parent in (
        ("sft_adapter", "cpt_adapter"),
        ("reward_model", "sft_adapter"),
        ("policy", "sft_adapter"),
        ("merged_model", "policy"),
    ):
        assert found[name].upstream["adapter"] == (parent, found[parent].fingerprint)
    assert "adapter" not in stages(without(demo, "cpt"))["sft_adapter"].upstream


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("sft_adapter", SFT),
        ("tokenized_splits", SPLITS),
        ("quantized_model", {"quantized_model"} | EVALUATED),
        ("evaluation", EVALUATED),
    ],
)
def test_new_code_re_makes_its_stage_and_what_follows(demo, monkeypatch, stage, expected):
    before = stages(demo)
    monkeypatch.setitem(CODE_VERSIONS, stage, "next")
    assert remade(before, stages(demo)) == expected


SOURCE = {"kind": "instruction", "format": "alpaca", "location": "here", "licence": "MIT"}


@pytest.mark.parametrize(
    ("field", "value", "changes"),
    [
        ("location", "elsewhere", False),
        ("description", "words", False),
        ("licence", "CC0-1.0", False),
        ("max_quarantined_share", 0.1, False),
        ("format", "messages", True),
        ("columns", {"output": "answer"}, True),
        ("personal_data", "keep", True),
        ("min_characters", 2, True),
        ("max_characters", 9, True),
    ],
)
def test_a_source_field_re_validates_only_if_it_can_change_a_row(field, value, changes):
    before, after = (validated_stage(Source(**body), "raw") for body in (SOURCE, {**SOURCE, field: value}))
    assert (before.fingerprint != after.fingerprint) == changes


def test_a_raw_batch_is_its_files():
    source = Source(**SOURCE)
    first = raw_stage("a", source, {"x": "1", "y": "2"})
    assert first.fingerprint == raw_stage("a", source, {"y": "2", "x": "1"}).fingerprint
    different = [
        raw_stage("a", source, files) for files in ({"x": "1"}, {"x": "2", "y": "1"}, {"z": "1", "y": "2"}, {})
    ]
    assert len({first.fingerprint, *(stage.fingerprint for stage in different)}) == 5


TRAINED_ONES = {"sft", "policy", "merged", "nf4", "int8"}
PROMPTED = {"base_few_shot", "base_retrieval"}


@pytest.fixture
def compared(demo):
    """A recipe with a contestant of every kind, and one that was published before."""
    return changed_document(demo, "evaluation.retrieval", 4)


PUBLISHED_BEFORE = (("merged_model", "older"),)


@pytest.mark.parametrize(
    ("field", "value", "anew"),
    [
        ("evaluation.metric", "exact_match", set()),
        ("evaluation.metrics", ["token_f1"], set()),
        ("evaluation.bootstrap_samples", 100, set()),
        ("evaluation.memorization", 9, set()),
        ("evaluation.lm_eval", ["arc_easy"], set()),
        ("evaluation.few_shot", 4, {"base_few_shot"}),
        ("evaluation.retrieval", 5, {"base_retrieval"}),
        ("evaluation.max_new_tokens", 9, {"base_zero_shot", "cpt", "incumbent"} | PROMPTED | TRAINED_ONES),
        ("reward.learning_rate", 1e-6, set()),
        ("policy.beta", 0.2, TRAINED_ONES - {"sft"}),
        ("sft.learning_rate", 1e-6, TRAINED_ONES),
        ("quantize", ["int8"], {"int8"}),
        ("seed", 18, PROMPTED | TRAINED_ONES | {"cpt"}),
        ("publish.to", "elsewhere", set()),
    ],
)
def test_a_contestant_answers_anew_only_for_what_its_answers_depend_on(compared, field, value, anew):
    before, after = (
        stages(document, published=PUBLISHED_BEFORE)
        for document in (compared, changed_document(compared, field, value))
    )
    assert answered_anew(before, after) == anew


def test_new_training_data_asks_neither_the_base_model_nor_the_incumbent_again(compared):
    batches = {"demo_entities@2026-01": "sft-demo_entities", "demo_entities@2026-02": "new"}
    before, after = (stages(compared, published=PUBLISHED_BEFORE, **more) for more in ({}, {"sft": batches}))
    assert answered_anew(before, after) == PROMPTED | TRAINED_ONES | {"cpt"}
    assert after["questions"].fingerprint == before["questions"].fingerprint


def test_new_questions_are_asked_of_everybody(compared):
    before, after = (
        stages(compared, published=PUBLISHED_BEFORE, **more)
        for more in ({}, {"test": {"demo_entities_test@2026-02": "new"}})
    )
    assert answered_anew(before, after) == {"base_zero_shot", "cpt", "incumbent"} | PROMPTED | TRAINED_ONES


def test_who_takes_part_is_what_the_recipe_has(compared):
    found = stages(compared, published=PUBLISHED_BEFORE)
    own = [name.partition(":")[2] for name in found if name.startswith("answers:")]
    assert set(own) == {"base_zero_shot", "cpt", "incumbent"} | PROMPTED | TRAINED_ONES
    assert own == list(kinds(Recipe.model_validate(compared)))


def test_the_candidate_once_published_is_not_its_own_incumbent(demo):
    first = stages(demo)
    merged = ("merged_model", first["merged_model"].fingerprint)
    after = stages(demo, published=(merged,))
    assert {name: stage.fingerprint for name, stage in after.items()} == {
        name: stage.fingerprint for name, stage in first.items()
    }
    older = stages(demo, published=(merged, *PUBLISHED_BEFORE))
    assert older["answers:incumbent"].upstream["model"] == PUBLISHED_BEFORE[0]


def test_what_the_incumbent_says_was_asked_when_it_was_the_candidate(demo):
    first = stages(demo)
    merged = ("merged_model", first["merged_model"].fingerprint)
    second = stages(changed_document(demo, "sft.learning_rate", 1e-6), published=(merged,))
    assert second["answers:incumbent"].fingerprint == first["answers:merged"].fingerprint
    other_base = stages(demo, base_content="b1", published=(merged,))
    assert other_base["answers:incumbent"].fingerprint == first["answers:merged"].fingerprint


def test_what_is_measured_beside_the_task_is_told_of_the_untrained_model_and_the_candidate(demo):
    asked = changed_document(demo, "evaluation.memorization", 9)
    found = stages(changed_document(asked, "evaluation.lm_eval", ["arc_easy"]))
    for kind in ("memorized", "rewarded", "lm_eval"):
        assert {name for name in found if name.startswith(f"{kind}:")} == {f"{kind}:base_zero_shot", f"{kind}:policy"}
    plain = stages(without(demo, "reward"))
    assert not [name for name in plain if name.split(":")[0] in ("memorized", "rewarded", "lm_eval")]


def test_what_is_made_on_the_way_decides_what_it_is_made_for(demo, monkeypatch):
    before = stages(demo)
    monkeypatch.setitem(CODE_VERSIONS, "answers", "next")
    after = stages(demo)
    assert remade(before, after) == EVALUATED
    assert "answers:sft" in parts(after, "evaluation")
    assert not [name for name in parts(after, "tokenized_splits") if name.startswith("answers")]


GATE = ["policy.entity_f1 >= 0.5"]


def test_another_gate_is_judged_anew_and_evaluates_nothing(demo):
    before = stages(changed_document(demo, "gate", GATE))
    after = stages(changed_document(demo, "gate", ["policy.entity_f1 >= 0.6"]))
    assert remade(before, after) == {"eval_report", "published_model"}
    assert before["training_plan"].fingerprint == after["training_plan"].fingerprint
    alike = stages(changed_document(demo, "gate", ["policy.entity_f1>=0.50"]))
    assert remade(before, alike) == set(), "written another way it is the same condition"


def test_an_override_is_part_of_the_report_and_the_release_it_is_for_and_of_no_other(demo):
    document = changed_document(demo, "gate", GATE)
    before, override = stages(document), {"by": "Ada", "reason": "x", "at": "t", "conditions": GATE}
    after = stages(document, overrides={before["eval_report"].fingerprint: override})
    assert remade(before, after) == {"eval_report", "published_model"}
    assert after["eval_report"].identity["override"] == override
    assert after["published_model"].identity["override"] == override
    other = changed_document(document, "seed", 99)
    assert remade(stages(other), stages(other, overrides={before["eval_report"].fingerprint: override})) == set()
