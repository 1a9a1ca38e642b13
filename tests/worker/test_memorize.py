"""Laws of memorization: what is counted is what greedy search would say, and learning a task is not learning rows by heart."""

import random

import pytest
import torch
from learning import learn, wide_model
from splitting import HALF, TEST, Splitter, talk
from training import School, settings

from ft_assets.worker.memorize import FEWEST_ANSWER_TOKENS, memorized, sampled
from ft_assets.worker.models import load_causal
from ft_assets.worker.tokenizer import load_tokenizer

FULL = {"method": "full"}
DRAW = random.Random(4)
SAYINGS = [talk(f"Number {n}?", "".join(DRAW.choices("abcdefgh", k=24))) for n in range(64)]
FORMS = [talk(f"Number {n}?", f"{n % 10}{n % 7} is a number that ends there.") for n in range(64)]


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base)


def said_by(model, ids, count):
    with torch.inference_mode():
        whole = model.generate(
            torch.tensor([ids]), max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
        )
    return whole[0, len(ids) :].tolist()


@pytest.mark.parametrize("batch_size", [1, 8])
def test_what_agrees_is_what_greedy_search_says(tiny_base, tokenizer, batch_size):
    model = load_causal(tiny_base, torch.float32)
    model.generation_config.eos_token_id = None
    rows, wanted = [], []
    for right in (0, 1, 5, 8):
        ids = [DRAW.randrange(3, 250) for _ in range(9 + right)]
        rest = said_by(model, ids, 8)
        if right < 8:
            rest[right] = rest[right] + 1 if rest[right] < 200 else rest[right] - 1
        rows.append(
            {"row_id": str(right), "part": "train", "input_ids": ids + rest, "labels": [-100] * len(ids) + rest}
        )
        wanted.append({"row_id": str(right), "part": "train", "matched": right, "of": 8})
    assert memorized(model, tokenizer, rows, batch_size) == wanted
    assert memorized(model, tokenizer, [], batch_size) == []


def splits_of(folder, base, rows, **data):
    school = School(Splitter(folder, base, settings(FULL, sft={})), {"split": HALF, **data}, {"sft:s@1": rows, **TEST})
    return school.splits()


def test_as_many_of_both_parts_are_drawn_and_the_second_half_of_the_answer_is_to_be_said(
    tmp_path, tiny_base, tokenizer
):
    short = [talk(f"Short {n}?", "Yes.") for n in range(20)]
    made = splits_of(tmp_path, tiny_base, SAYINGS + short)
    found = sampled(made.artifact, 10, seed=3)
    assert [row["part"] for row in found] == ["train"] * 10 + ["held_out"] * 10
    assert found == sampled(made.artifact, 10, seed=3) != sampled(made.artifact, 10, seed=4)
    train, held_out = set(made.ids("sft")), {*made.ids("sft", "validation"), *made.ids("sft", "test")}
    for row in found:
        assert row["row_id"] in (train if row["part"] == "train" else held_out)
        of = sum(label != -100 for label in row["labels"])
        assert of == (24 + 1) // 2, "a byte is a token, and one ends the answer"
        assert row["labels"][-of:] == row["input_ids"][-of:]
        answer = tokenizer.decode(row["input_ids"][-25:-1])
        assert any(talked["messages"][1]["content"] == answer for talked in SAYINGS)
    everything = sampled(made.artifact, 1000, seed=3)
    parts = [row["part"] for row in everything]
    assert parts.count("train") == parts.count("held_out") > 15
    assert len({row["row_id"] for row in everything}) == len(everything)


def test_without_answers_that_are_long_enough_nothing_is_drawn(tmp_path, tiny_base):
    length = FEWEST_ANSWER_TOKENS - 2  # the end of the answer is one more
    made = splits_of(tmp_path, tiny_base, [talk(f"Q {n}?", "x" * length) for n in range(20)])
    assert sampled(made.artifact, 5, seed=1) == []


def test_of_packed_rows_the_first_conversation_is_drawn(tmp_path, tiny_base, tokenizer):
    made = splits_of(tmp_path, tiny_base, SAYINGS, packing=True)
    for row in sampled(made.artifact, 8, seed=1):
        assert tokenizer.decode(row["input_ids"]).count("<|start|>user") == 1
        assert any(talked["messages"][1]["content"] in tokenizer.decode(row["input_ids"]) for talked in SAYINGS)


@pytest.mark.parametrize(("rows", "by_heart"), [(SAYINGS[:16], True), (FORMS[:16], False)])
def test_fifty_epochs_on_few_rows_are_told_from_a_task_that_was_learned(tmp_path, tiny_base, tokenizer, rows, by_heart):
    made = splits_of(tmp_path, tiny_base, rows)
    drawn = sampled(made.artifact, 1000, seed=1)
    model = wide_model(tokenizer)
    shares = {}
    for name in ("base", "sft"):
        if name == "sft":
            learn(model, [(row["input_ids"], row["labels"]) for row in made.rows("sft")], epochs=50, batch_size=1)
        found = memorized(model, tokenizer, drawn, 16)
        for part in ("train", "held_out"):
            whole = [row["matched"] == row["of"] for row in found if row["part"] == part]
            shares[name, part] = sum(whole) / len(whole)
    assert shares["base", "train"] == shares["base", "held_out"] == 0
    assert shares["sft", "train"] > 0.8
    assert (shares["sft", "train"] - shares["sft", "held_out"] > 0.5) == by_heart, shares
