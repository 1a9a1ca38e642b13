"""Contestants answer once: their answers are artifacts that no other contestant, metric or batch of rows makes anew."""

import json
from types import SimpleNamespace

import pytest
import torch
from splitting import HALF, Splitter, pairs, talk, talks
from training import School, settings

from ft_assets.core.errors import FineTuneError
from ft_assets.core.lineage import parts
from ft_assets.worker import evaluate, generate, merge, quantize
from ft_assets.worker.answers import Asking, with_examples
from ft_assets.worker.models import load_causal
from ft_assets.worker.tokenizer import load_tokenizer

EVALUATION = {"metric": "exact_match", "few_shot": 2, "max_new_tokens": 4, "bootstrap_samples": 100}
BATCHES = {
    "sft:s@1": [talk(f"Question {n}?", f"The answer is number {n}.") for n in range(60)],
    "preference:p@1": pairs(20, 100),
    "test:t@1": talks(5, 9000),
    "out_of_domain:o@1": [talk("Another thing?", "Answer.", system="Be brief.")],
    "safety:h@1": [{"prompt": talk("How do I harm?")["messages"], "label": "harmful"}],
}
EXECUTION = {"device": "cpu", "dtype": "float32", "batch_size": 4, "partition": "r", "tracker": {"mode": "disabled"}}


class Evaluations:
    """Evaluations of one recipe after another, in one store."""

    def __init__(self, folder, base):
        self.school = School(Splitter(folder, base), {"split": HALF}, dict(BATCHES))
        self.change()

    def change(self, stages=None, **evaluation):
        trained = settings(**{"sft": {"max_steps": 2}, **(stages or {})})
        self.school.splitter.settings = trained | {"evaluation": EVALUATION | evaluation}

    def run(self, **execution):
        """The body of ``results.json``."""
        splitter, stages = self.school.splitter, self.school.stages()
        for name in ("sft_adapter", "reward_model"):
            if not stages[name].passes and splitter.store.lookup(name, stages[name].fingerprint) is None:
                self.school.train(name)
        self.merge(stages["merged_model"])
        self.quantize(stages["quantized_model"])
        stage = stages["evaluation"]
        evaluate.run(splitter.job(stage, {**EXECUTION, "parts": parts(stages, "evaluation"), **execution}))
        return splitter.store.open("evaluation", stage.fingerprint).json("results.json")

    def merge(self, stage):
        splitter = self.school.splitter
        if splitter.store.lookup("merged_model", stage.fingerprint) is None:
            splits = self.school.stages()["tokenized_splits"]
            merge.run(splitter.job(stage, {**EXECUTION, "splits": ["tokenized_splits", splits.fingerprint]}))

    def quantize(self, stage):
        splitter = self.school.splitter
        if stage.passes or splitter.store.lookup("quantized_model", stage.fingerprint) is not None:
            return
        merged = splitter.store.open(*stage.upstream["merged_model"])
        with splitter.store.write(
            "quantized_model", stage.fingerprint, code_version="1", identity={}, upstream={}
        ) as staging:
            for form in stage.identity["formats"]:
                staging.file(form).mkdir()
                quantize.quantize(merged.folder, staging.file(form), form, torch.float32)

    def answered(self):
        return self.school.splitter.made("answers")

    def body_of_questions(self, role):
        stage = self.school.stages()["questions"]
        return self.school.splitter.store.open("questions", stage.fingerprint).json(f"{role}.json")

    def body(self, name):
        stage = self.school.stages()[f"answers:{name}"]
        return self.school.splitter.store.open("answers", stage.fingerprint).json("answers.json")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_base):
    own = Evaluations(tmp_path_factory.mktemp("evaluated"), tiny_base)
    own.results = own.run()
    return own


@pytest.fixture
def unasked(monkeypatch):
    """Prompts that a model was asked, from here on."""
    asked = []
    whole = generate.generate
    monkeypatch.setattr("ft_assets.worker.answers.generate", lambda *own: asked.append(own[2]) or whole(*own))
    return asked


def test_every_contestant_answers_every_set_it_is_asked(evaluated):
    found = evaluated.results["contestants"]
    assert list(found) == ["base_zero_shot", "base_few_shot", "sft", "merged"]
    assert {name: entry["kind"] for name, entry in found.items()} == {
        "base_zero_shot": "base",
        "base_few_shot": "base",
        "sft": "trained",
        "merged": "merged",
    }
    for name, sets in (("base_few_shot", {"test", "out_of_domain"}), ("sft", {"test", "out_of_domain", "safety"})):
        body = evaluated.body(name)
        assert set(body["sets"]) == sets
        assert [len(rows) for rows in body["sets"].values()] == [5, 1, 1][: len(sets)]
    for name in found:
        rows = evaluated.body(name)["sets"]["test"]
        assert all(0 < row["confidence"] <= 1 and 1 <= row["answer_tokens"] <= 4 for row in rows)
        assert all(("nll" in row) == (name != "base_few_shot") for row in rows), "likelihoods are of the bare question"


def test_costs_are_told(evaluated):
    for name in ("base_zero_shot", "sft"):
        costs = evaluated.body(name)["costs"]
        assert 0 < costs["latency_p50_seconds"] <= costs["latency_p95_seconds"] <= costs["seconds"]
        rows = sum(len(rows) for rows in evaluated.body(name)["sets"].values())
        assert costs["rows_per_second"] * costs["seconds"] == pytest.approx(rows)
        assert costs["tokens_per_second"] * costs["seconds"] == pytest.approx(costs["answer_tokens"])
        assert costs["size_bytes"] > 0
        assert costs["prompts_shortened"] == 0
    told = evaluated.results["contestants"]["sft"]["costs"]
    assert "usd_per_1000_requests" not in told, "no price was given"


def test_what_it_costs_follows_the_price_and_asks_nobody_again(evaluated, unasked):
    stage = evaluated.school.stages()["evaluation"]
    evaluated.school.splitter.store.set_aside("evaluation", stage.fingerprint)
    costs = evaluated.run(usd_per_hour=3.6)["contestants"]["sft"]["costs"]
    assert costs["usd_per_1000_requests"] == pytest.approx(1 / costs["rows_per_second"])
    assert unasked == []


def test_a_second_contestant_asks_none_of_the_first_again(evaluated, unasked):
    before = evaluated.answered()
    evaluated.change(retrieval=2)
    found = evaluated.run()
    evaluated.change()
    after = evaluated.answered()
    assert {name: at for name, at in after.items() if name in before} == before
    assert len(after) == len(before) + 1
    assert len(unasked) == 2, "one more contestant, on two sets"
    assert "base_retrieval" in found["contestants"]
    prompt = unasked[0][0]
    assert prompt.count("<|start|>assistant") == 3
    assert "Question 9000?" in prompt.split("<|start|>user")[-1]


def test_another_metric_asks_nobody_again(evaluated, unasked):
    before = evaluated.answered()
    evaluated.change(metrics=["token_f1"])
    found = evaluated.run()
    evaluated.change()
    assert evaluated.answered() == before
    assert unasked == []
    assert "token_f1" in found["contestants"]["sft"]["scores"]


def test_nobody_is_asked_what_no_answer_could_be_scored_on(tmp_path, tiny_base, unasked):
    own = Evaluations(tmp_path, tiny_base)
    own.change(metric="numeric_answer")
    own.school.splits()
    stages = own.school.stages()
    job = own.school.splitter.job(stages["evaluation"], {**EXECUTION, "parts": parts(stages, "evaluation")})
    with pytest.raises(FineTuneError, match=r"out_of_domain row \S+ cannot be scored by numeric_answer"):
        evaluate.run(job)
    assert unasked == []


def test_a_damaged_answer_is_asked_for_again_and_is_the_same(evaluated, unasked):
    splitter, stages = evaluated.school.splitter, evaluated.school.stages()
    own = stages["answers:base_zero_shot"].fingerprint
    file = splitter.folder / "store" / "artifacts" / "answers" / own / "answers.json"
    good = json.loads(file.read_text())["sets"]
    file.write_text(file.read_text().replace("row_id", "row_ld", 1))
    splitter.store.set_aside("evaluation", stages["evaluation"].fingerprint)
    splitter.store._verified.clear()
    evaluated.run()
    assert evaluated.body("base_zero_shot")["sets"] == good
    assert len(unasked) == 3, "one contestant on three sets"


def test_a_new_candidate_asks_neither_the_base_model_nor_the_one_before_it_again(evaluated, unasked):
    before = evaluated.answered()
    splitter = evaluated.school.splitter
    merged = evaluated.school.stages()["merged_model"].fingerprint
    splitter.published = (("merged_model", merged),)
    evaluated.change({"sft": {"max_steps": 3}})
    found = evaluated.run()
    splitter.published = ()
    evaluated.change()
    assert found["incumbent"] == {"merged": merged}
    assert found["contestants"]["incumbent"]["kind"] == "incumbent"
    assert found["contestants"]["incumbent"]["answers"] == evaluated.results["contestants"]["merged"]["answers"]
    after = evaluated.answered()
    assert {name: at for name, at in after.items() if name in before} == before
    assert len(after) == len(before) + 2, "the new adapter, and it merged"
    assert len(unasked) == 6


def test_a_reward_and_what_was_memorized_ask_nobody_again(evaluated, unasked):
    before = evaluated.answered()
    evaluated.change({"reward": {"max_steps": 2}}, memorization=5)
    found = evaluated.run()["contestants"]
    evaluated.change()
    assert evaluated.answered() == before
    assert unasked == []
    for name, told in (("base_zero_shot", True), ("sft", True), ("merged", False)):
        assert all(("reward" in row) == told for row in found[name]["answers"]["test"])
        assert ({"memorized", "reward"} <= set(found[name]["scores"])) == told
    assert found["sft"]["scores"]["memorized"]["n"] == 5


def test_forms_are_asked_as_their_users_load_them(evaluated, unasked):
    before = evaluated.answered()
    splitter = evaluated.school.splitter
    splitter.settings = splitter.settings | {"quantize": ["int8"]}
    found = evaluated.run()["contestants"]
    evaluated.change()
    assert found["int8"]["kind"] == "quantized"
    assert set(found["int8"]["answers"]) == {"test"}
    assert found["int8"]["costs"]["size_bytes"] != found["merged"]["costs"]["size_bytes"]
    assert len(evaluated.answered()) == len(before) + 1


def test_answers_that_stop_in_the_middle_keep_those_that_were_done(tmp_path, tiny_base, monkeypatch):
    own = Evaluations(tmp_path, tiny_base)
    whole = generate.generate

    def fails(model, tokenizer, prompts, *more):
        if len(own.answered()) == 2:
            raise KeyboardInterrupt
        return whole(model, tokenizer, prompts, *more)

    monkeypatch.setattr("ft_assets.worker.answers.generate", fails)
    with pytest.raises(KeyboardInterrupt):
        own.run()
    before = own.answered()
    monkeypatch.undo()
    own.run()
    assert {name: at for name, at in own.answered().items() if name in before} == before
    assert len(own.answered()) == 4


def test_examples_that_do_not_fit_are_left_out_and_counted(evaluated, unasked, monkeypatch):
    monkeypatch.setattr("ft_assets.worker.answers.room", lambda model, most: 110)
    evaluated.change(few_shot=3)
    costs = evaluated.run()["contestants"]["base_few_shot"]["costs"]
    evaluated.change()
    assert costs["prompts_shortened"] == 6
    assert {prompt.count("<|start|>assistant") for prompt in unasked[0]} == {2}


def test_a_question_that_does_not_fit_is_refused_by_name(evaluated, monkeypatch):
    monkeypatch.setattr("ft_assets.worker.answers.room", lambda model, most: 20)
    evaluated.change(max_new_tokens=5)
    row = evaluated.body_of_questions("test")[0]["row_id"]
    with pytest.raises(
        FineTuneError, match=rf"row {row} of test has \d+ tokens as a prompt; .* holds 20\. Take it out"
    ):
        evaluated.run()
    evaluated.change()


def asking(tiny_base, examples, **identity):
    """One that asks the tiny model, with a context of 40 tokens."""
    model, tokenizer = load_causal(tiny_base, torch.float32), load_tokenizer(tiny_base)
    model.config.max_position_embeddings = 40
    splits = SimpleNamespace(json=lambda name: examples)
    job = SimpleNamespace(
        identity={"max_new_tokens": 4, **identity},
        execution={"batch_size": 4},
        input=lambda role: splits,
        progress=lambda *note, **numbers: None,
    )
    return Asking(job, SimpleNamespace(model=model, tokenizer=tokenizer), "one")


def test_an_expected_answer_that_does_not_fit_is_refused_by_name(tiny_base):
    row = {"row_id": "r1", "messages": talk("Q?")["messages"][:1], "expected": "short"}
    [record] = asking(tiny_base, []).of("test", [row])
    assert record["tokens"] == 6
    with pytest.raises(
        FineTuneError, match=r"row r1 of test has \d+ tokens with its expected answer; .* holds 40\. Take"
    ):
        asking(tiny_base, []).of("test", [{**row, "expected": "long" * 20}])


def test_no_examples_are_not_shown_as_if_there_were_some(tiny_base):
    with pytest.raises(FineTuneError, match=r"leave evaluation\.few_shot out"):
        asking(tiny_base, [], few_shot=2)


def test_an_incumbent_that_is_gone_is_named_with_what_to_do(evaluated):
    splitter = evaluated.school.splitter
    splitter.published = (("merged_model", "d" * 64),)
    with pytest.raises(FineTuneError, match=r"the incumbent cannot be asked.* merged_model dddddddddddd.*ft rollback"):
        evaluated.run()
    splitter.published = ()


def test_the_system_turn_stays_first():
    question = talk("Q?", system="Be brief.")["messages"]
    example = talk("E?", "A.")["messages"]
    assert with_examples(question, [example, example]) == [question[0], *example, *example, question[1]]
    assert with_examples(question[1:], [example]) == [*example, question[1]]
