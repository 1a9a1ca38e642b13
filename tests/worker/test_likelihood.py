"""Laws of likelihoods: those of a batch are what plain transformers gives row by row, and lm-eval by its own code."""

import math
import random

import pytest
import torch
from transformers import LlamaConfig

from ft_assets.worker import likelihood
from ft_assets.worker.likelihood import answer_likelihoods, choices, text_likelihoods, windows
from ft_assets.worker.models import load_causal
from ft_assets.worker.tokenizer import load_tokenizer

QUESTIONS = [
    ("What is the opposite of hot?", ["cold", "very cold indeed", "a"], 0),
    ("How many legs has a spider?", ["six", "eight", "a hundred", "none at all"], 1),
    ("What?", ["no", "yes"], 1),
    ("Which of these is a long word? " * 9, ["antidisestablishmentarianism", "on"], 0),
]
ROWS = [
    {"row_id": str(at), "question": question, "choices": some, "expected": answer}
    for at, (question, some, answer) in enumerate(QUESTIONS)
]
TEXTS = ["Short.", "", "The quick brown fox jumps over the lazy dog. " * 5, "caf\u00e9 \u4f60\u597d " * 20]


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base)


@pytest.fixture(scope="module")
def model(tiny_base):
    """The tiny model with weights large enough to have opinions."""
    model = load_causal(tiny_base, torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return model


def alone(model, ids, told):
    """Log-likelihood of the last ``told`` ids, of one row, without mask, padding or slices."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0].double()
    steps = torch.log_softmax(logits, -1)
    return sum(float(steps[at - 1, ids[at]]) for at in range(len(ids) - told, len(ids)))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_answers_are_as_likely_as_row_by_row(model, batch_size):
    draw = random.Random(1)
    rows = []
    for _ in range(11):
        ids = [draw.randrange(3, 250) for _ in range(draw.randrange(2, 70))]
        told = draw.randrange(1, len(ids))
        rows.append((ids, [-100] * (len(ids) - told) + ids[-told:]))
    found = answer_likelihoods(model, rows, batch_size, 0)
    for (ids, labels), (nll, tokens) in zip(rows, found, strict=True):
        assert tokens == sum(label != -100 for label in labels)
        assert nll == pytest.approx(-alone(model, ids, tokens), abs=1e-4)


def test_labels_in_the_middle_count_and_the_first_token_has_nothing_before_it(model):
    ids = [5, 9, 70, 41, 12]
    [middle, first, lonely] = answer_likelihoods(
        model, [(ids, [-100, -100, 70, -100, -100]), (ids, [5, -100, -100, -100, -100]), ([5], [5])], 3, 0
    )
    assert middle == (pytest.approx(-alone(model, ids[:3], 1), abs=1e-4), 1)
    assert first == lonely == (0.0, 0)
    assert answer_likelihoods(model, [], 4, 0) == []


def test_virtual_tokens_are_read_before_each_row(model):
    ids = [5, 9, 70]
    model.virtual_ids = [20, 21]
    try:
        [(nll, tokens)] = answer_likelihoods(model, [(ids, [-100, 9, 70])], 1, 0)
    finally:
        del model.virtual_ids
    assert (nll, tokens) == (pytest.approx(-alone(model, [20, 21, *ids], 2), abs=1e-4), 2)


@pytest.mark.parametrize("most", [1, 10_000, 10**9])
def test_a_batch_holds_no_more_logits_than_memory_is_meant_for(model, monkeypatch, most):
    rows = [([7] * length, [7] * length) for length in (4, 30, 9, 12)]
    whole = answer_likelihoods(model, rows, 4, 0)
    read = []
    forward = model.forward

    def told(**inputs):
        read.append(inputs["input_ids"].shape)
        return forward(**inputs)

    monkeypatch.setattr(likelihood, "MOST_LOGITS", most)
    monkeypatch.setattr(model, "forward", told)
    assert answer_likelihoods(model, rows, 4, 0) == [(pytest.approx(nll, abs=1e-4), n) for nll, n in whole]
    assert all(count == 1 or count * length * model.config.vocab_size <= most for count, length in read)


def test_choices_are_those_of_plain_transformers_row_by_row(model, tokenizer):
    for row, found in zip(ROWS, choices(model, tokenizer, ROWS, 3), strict=True):
        each = []
        for choice in row["choices"]:
            asked = tokenizer.encode(f"Question: {row['question']}\nAnswer:", add_special_tokens=False)
            told = tokenizer.encode(f" {choice}", add_special_tokens=False)
            each.append(alone(model, asked + told, len(told)) / len(choice.encode()))
        assert found["log_likelihoods"] == pytest.approx(each, abs=1e-4)
        assert found["choice"] == each.index(max(each))
        assert (found["row_id"], found["expected"]) == (row["row_id"], row["expected"])


def test_a_choice_of_many_tokens_is_not_the_worse_for_its_length(tokenizer):
    class Even:
        """Finds every token equally likely."""

        device, config = "cpu", LlamaConfig(vocab_size=259, max_position_embeddings=64)

        def __call__(self, input_ids, attention_mask, use_cache, logits_to_keep):
            return type("Output", (), {"logits": torch.zeros(len(input_ids), len(logits_to_keep), 259)})

    [found] = choices(Even(), tokenizer, ROWS[:1], 2)
    per_byte = [math.log(259) * (len(choice) + 1) / len(choice) for choice in ROWS[0]["choices"]]  # a space before each
    assert found["log_likelihoods"] == pytest.approx([-each for each in per_byte])
    assert found["choice"] == 1


def test_a_text_is_read_token_by_token_and_told_in_bytes(model, tokenizer):
    rows = [{"row_id": str(at), "text": text} for at, text in enumerate(TEXTS)]
    for row, found in zip(rows, text_likelihoods(model, tokenizer, rows, 3), strict=True):
        ids = tokenizer.encode(row["text"], add_special_tokens=False)
        assert found["tokens"] == len(ids)
        assert found["bytes"] == len(row["text"].encode())
        assert found["nll"] == pytest.approx(-alone(model, [tokenizer.bos_token_id, *ids], len(ids)), abs=1e-4)


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8, 10, 12, 13])
@pytest.mark.parametrize("reach", [1, 4, 5])
def test_windows_tell_each_token_once_and_see_as_much_before_it_as_they_can(length, reach):
    ids = list(range(100, 100 + length))
    found = windows(ids, 1, reach)
    assert [label for _, labels in found for label in labels if label != -100] == ids
    for at, (read, labels) in enumerate(found):
        assert len(read) == len(labels) == (reach if at else min(reach, length)) + 1
        assert [label for label in labels if label != -100] == read[-sum(label != -100 for label in labels) :]
        assert labels[0] == -100


def test_the_last_window_is_drawn_back_to_a_full_one():
    assert windows([10, 11, 12, 13, 14, 15], 1, 4)[1] == ([11, 12, 13, 14, 15], [-100, -100, -100, 14, 15])


def test_likelihoods_are_those_of_lm_eval(model, tokenizer, monkeypatch):
    pytest.importorskip("lm_eval", reason="extra lm-eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    monkeypatch.setattr(likelihood, "WINDOW_TOKENS", 64)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=64)
    asked = [(f"Question: {row['question']}\nAnswer:", f" {choice}") for row in ROWS for choice in row["choices"]]
    asked = [pair for pair in asked if len(pair[0]) < 60]  # theirs cuts what is longer than its window
    requests = [Instance("loglikelihood", {}, pair, at) for at, pair in enumerate(asked)]
    wanted = [likelihood for likelihood, _ in theirs.loglikelihood(requests, disable_tqdm=True)]
    ours = [
        each * len(choice.encode())
        for row, found in zip(ROWS[:3], choices(model, tokenizer, ROWS[:3], 4), strict=True)
        for choice, each in zip(row["choices"], found["log_likelihoods"], strict=True)
    ]
    assert ours == pytest.approx(wanted, abs=1e-4)
    texts = [text for text in TEXTS if text]
    requests = [Instance("loglikelihood_rolling", {}, (text,), at) for at, text in enumerate(texts)]
    rows = [{"row_id": "", "text": text} for text in texts]
    rolled = [-found["nll"] for found in text_likelihoods(model, tokenizer, rows, 2)]
    assert rolled == pytest.approx(theirs.loglikelihood_rolling(requests, disable_tqdm=True), abs=1e-3)
