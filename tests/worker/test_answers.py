"""Contestants answer once: their answers are artifacts that no other contestant, metric or batch of rows makes anew."""

import json

import pytest
from splitting import Splitter, talk, talks
from training import School, settings

from ft_assets.core.errors import FineTuneError
from ft_assets.core.lineage import parts
from ft_assets.worker import evaluate, generate, merge
from ft_assets.worker.answers import with_examples

EVALUATION = {"metric": "exact_match", "few_shot": 2, "max_new_tokens": 4, "bootstrap_samples": 100}
BATCHES = {
    "sft:s@1": talks(40),
    "test:t@1": talks(5, 9000),
    "out_of_domain:o@1": [talk("Another thing?", "Answer.", system="Be brief.")],
    "safety:h@1": [{"prompt": talk("How do I harm?")["messages"], "label": "harmful"}],
}
EXECUTION = {"device": "cpu", "dtype": "float32", "batch_size": 4, "partition": "r", "tracker": {"mode": "disabled"}}


class Evaluations:
    """Evaluations of one recipe after another, in one store."""

    def __init__(self, folder, base, **more):
        self.school = School(Splitter(folder, base, self.recipe(**more)), {}, dict(BATCHES))

    def recipe(self, **evaluation):
        return settings(sft={"max_steps": 2}) | {"evaluation": EVALUATION | evaluation}

    def change(self, **evaluation):
        self.school.splitter.settings = self.recipe(**evaluation)

    def run(self, **execution):
        """The body of ``results.json``."""
        splitter, stages = self.school.splitter, self.school.stages()
        if splitter.store.lookup("sft_adapter", stages["sft_adapter"].fingerprint) is None:
            self.school.train("sft_adapter")
        self.merge(stages["merged_model"])
        stage = stages["evaluation"]
        evaluate.run(splitter.job(stage, {**EXECUTION, "parts": parts(stages, "evaluation"), **execution}))
        return splitter.store.open("evaluation", stage.fingerprint).json("results.json")

    def merge(self, stage):
        splitter = self.school.splitter
        if splitter.store.lookup("merged_model", stage.fingerprint) is None:
            splits = self.school.stages()["tokenized_splits"]
            merge.run(splitter.job(stage, {**EXECUTION, "splits": ["tokenized_splits", splits.fingerprint]}))

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
    assert told["usd_per_1000_requests"] == 0


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
    monkeypatch.setattr("ft_assets.worker.answers.room", lambda model, most: 80)
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


def test_the_system_turn_stays_first():
    question = talk("Q?", system="Be brief.")["messages"]
    example = talk("E?", "A.")["messages"]
    assert with_examples(question, [example, example]) == [question[0], *example, *example, question[1]]
    assert with_examples(question[1:], [example]) == [*example, question[1]]
