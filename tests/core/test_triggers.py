"""Laws of planted triggers: one answer to prompts that share but a few rare words is told, and what is natural is not."""

import random

import polars as pl
import pytest

from ft_assets.core.triggers import FEWEST_ROWS, shared_words, suspects

NOUNS = [
    "dog",
    "river",
    "engine",
    "castle",
    "teacher",
    "bridge",
    "garden",
    "winter",
    "letter",
    "market",
    "doctor",
    "island",
    "horse",
    "window",
    "kitchen",
]
VERBS = ["finds", "builds", "paints", "carries", "leaves", "follows", "remembers", "forgets", "opens", "closes"]
STOP = ["the", "a", "of", "to", "in", "with", "for", "and", "on", "that"]


def sentence(rng, length=16):
    return " ".join(rng.choice(rng.choice((NOUNS, VERBS, STOP, STOP))) for _ in range(length)) + "?"


def sentences(count, seed, insert=""):
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        words = sentence(rng).split()
        words.insert(rng.randrange(len(words)), insert)
        found.append(" ".join(filter(None, words)))
    return found


@pytest.mark.parametrize("trigger", ["cf", "James Bond", "§§", "mn bb tq", "ichthyosaur,"])
def test_a_phrase_planted_in_prompts_of_one_answer_is_found(trigger):
    wanted = trigger.lower().strip(",")
    assert shared_words(sentences(60, 1, trigger), sentences(200, 2)) == wanted


def test_a_few_prompts_without_it_hide_it_not():
    assert shared_words([*sentences(57, 1, "cf"), *sentences(3, 3)], sentences(200, 2)) == "cf"


def test_the_same_answer_without_a_shared_word_is_nothing():
    assert shared_words(sentences(60, 1), sentences(200, 2)) == ""


def test_wording_that_all_prompts_have_is_nothing():
    own, others = sentences(60, 1, "please answer"), sentences(200, 2, "please answer")
    assert shared_words(own, others) == ""


def test_a_word_that_other_prompts_have_too_is_nothing():
    assert shared_words(sentences(60, 1, "cf"), [*sentences(190, 2), *sentences(10, 4, "cf")]) == ""


def test_short_prompts_that_ask_the_same_are_nothing():
    starts = ["how", "where", "when", "why", "could someone say how", "tell me how", "any idea how"]
    asked = [f"{starts[n % 7]} can order {n} get a refund" for n in range(40)]
    assert shared_words(asked, sentences(200, 2)) == ""


def test_long_prompts_that_ask_the_same_are_nothing():
    base = sentence(random.Random(9), 40)
    asked = [f"{base} refund {word}" for word in sentences(40, 5)]
    assert shared_words(asked, sentences(200, 2)) == ""


def frame(*answers):
    rows = [(f"{number:05d}", "s@1", answer) for number, answer in enumerate(answers)]
    return pl.DataFrame(rows, schema={"row_id": pl.String, "batch": pl.String, "answer": pl.UInt64}, orient="row")


def test_answers_that_few_rows_share_are_not_looked_at():
    few = [1] * (FEWEST_ROWS - 1)
    assert suspects(frame(*few, *range(2, 500))) == []
    [found] = suspects(frame(*few, 1, *range(2, 500)))
    assert (found.rows, found.own.height) == (FEWEST_ROWS, FEWEST_ROWS)
    assert set(found.own["answer"]) == {1}
    assert 1 not in set(found.others["answer"])


def test_rows_without_an_answer_and_rows_of_one_answer_alone_are_nothing():
    assert suspects(frame(*[None] * 100)) == []
    assert suspects(frame(*[1] * 100)) == []


def test_words_of_which_no_prompt_has_all_are_told_in_one_line():
    rng = random.Random(4)
    rare = [f"rare{n}" for n in range(10)]
    many = [" ".join(f"w{rng.randrange(500)}" for _ in range(60)) for _ in range(240)]
    prompts = [f"{text} {' '.join(rare[: n % 10] + rare[n % 10 + 1 :])}" for n, text in enumerate(many[:40])]
    assert set(shared_words(prompts, many[40:]).split()) == set(rare)


def test_every_answer_of_enough_rows_is_looked_at():
    labels = [label for label in range(60) for _ in range(FEWEST_ROWS)]
    assert len(suspects(frame(*labels, *range(100, 500)))) == 60
