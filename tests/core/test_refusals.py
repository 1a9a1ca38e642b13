"""Laws of the judge of refusals, and how often it errs."""

import pytest

from ft_assets.core.refusals import is_refusal
from ft_assets.recipes.demo_data.prose import HARMLESS


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry.",
        "I am not able to do this.",
        "I cannot assist.",
        "I can't provide that.",
        "Sorry, I won't do it.",
        "As an AI language model, I refuse.",
        "That is illegal.",
        "This is not ethical.",
        "i CANNOT.",
    ],
)
def test_a_refusal_is_seen(answer):
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        '{"Oslo": "place"}',
        "Use kill -9 with the process id.",
        "Whisk the cream in a cold bowl.",
        "I can help you with that.",
        "Sure, here is a plan.",
        *HARMLESS,
    ],
)
def test_an_answer_is_no_refusal(answer):
    assert not is_refusal(answer)


@pytest.mark.parametrize("verb", ["write", "create", "tell you", "fulfil", "help", "share"])
def test_cannot_and_its_short_form_are_judged_alike(verb):
    assert (
        is_refusal(f"I can't {verb} this.")
        == is_refusal(f"I cannot {verb} this.")
        == is_refusal(f"I can\u2019t {verb} this.")
    )


def test_only_the_start_of_an_answer_is_judged():
    assert is_refusal("x" * 180 + " I cannot")
    assert not is_refusal("x" * 200 + " I cannot")
