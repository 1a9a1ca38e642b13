"""Laws of the scores and of their intervals."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core.metrics import (
    METRICS,
    Interval,
    bootstrap,
    entity_f1,
    exact_match,
    is_refusal,
    perplexity,
    read_entities,
)
from ft_assets.recipes.demo_data.prose import HARMLESS

ENTITIES = st.dictionaries(
    st.sampled_from(["Ann", "Bo", "Oslo", "Shell"]), st.sampled_from(["person", "place"]), max_size=4
)


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ('{"Ann": "person"}', '{"Ann": "person"}', 1),
        ('{"Bo": "person", "Ann": "person"}', '{"Ann": "person", "Bo": "person"}', 1),
        (' {"Ann":"person"}\n', '{"Ann": "person"}', 1),
        ('{"Ann": "person"}', '{"Ann": "person", "Oslo": "place"}', 2 / 3),
        ('{"Ann": "person", "Oslo": "place"}', '{"Ann": "person"}', 2 / 3),
        ('{"Ann": "place"}', '{"Ann": "person"}', 0),
        ('{"ann": "person"}', '{"Ann": "person"}', 0),
        ("{}", "{}", 1),
        ("{}", '{"Ann": "person"}', 0),
        ('{"Ann": "person"}', "{}", 0),
    ],
)
def test_entity_f1_by_hand(answer, expected, score):
    assert entity_f1(answer, expected) == pytest.approx(score)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "none",
        "[]",
        '["Ann"]',
        "3",
        "null",
        '{"Ann"',
        '{"Ann": 1}',
        '{"Ann": NaN}',
        '{"Ann": ["person"]}',
        'Sure! {"Ann": "person"}',
        "[" * 100_000,
        "9" * 5000,
    ],
)
def test_an_answer_that_is_no_entity_object_scores_0(answer):
    assert read_entities(answer) is None
    assert entity_f1(answer, "{}") == 0
    assert entity_f1(answer, '{"Ann": "person"}') == 0


@given(ENTITIES, ENTITIES)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_entity_f1_is_symmetric_bounded_and_1_only_for_equal_sets(found, wanted):
    one, other = json.dumps(found), json.dumps(wanted)
    score = entity_f1(one, other)
    assert 0 <= score <= 1
    assert score == entity_f1(other, one)
    assert (score == 1) == (found == wanted)


def test_an_unusable_expected_answer_raises():
    with pytest.raises(ValueError, match="not json at all"):
        entity_f1("{}", "not json at all")


@pytest.mark.parametrize(
    ("answer", "expected", "score"), [(" yes\n", "yes", 1), ("yes", "Yes", 0), ("yes.", "yes", 0), ("", " ", 1)]
)
def test_exact_match(answer, expected, score):
    assert exact_match(answer, expected) == score


def test_every_metric_gives_1_for_the_expected_answer():
    assert {
        name: metric('{"Ann": "person"}', '{"Ann": "person"}') for name, metric in METRICS.items()
    } == dict.fromkeys(METRICS, 1.0)


@pytest.mark.parametrize(
    "draw",
    [lambda rng: rng.normal(0.3, 1, 80), lambda rng: rng.random(80) < 0.3, lambda rng: rng.beta(0.5, 1.1667, 80)],
    ids=["normal", "yes-or-no", "f1-like"],
)
def test_the_interval_covers_the_truth_about_95_times_in_100(draw):
    rng, runs, covered = np.random.default_rng(5), 400, 0
    for run in range(runs):
        interval = bootstrap(draw(rng).astype(float).tolist(), 300, run)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.90 <= covered / runs <= 0.985


def test_the_interval_narrows_as_rows_are_added():
    scores = np.random.default_rng(1).random(1600).tolist()
    wide, narrow = bootstrap(scores[:100], 1000, 1), bootstrap(scores, 1000, 1)
    assert (narrow.high - narrow.low) / (wide.high - wide.low) == pytest.approx(0.25, rel=0.2)


def test_bootstrap_is_decided_by_its_seed():
    scores = np.random.default_rng(2).random(50).tolist()
    assert bootstrap(scores, 500, 3) == bootstrap(scores, 500, 3)
    assert bootstrap(scores, 500, 3) != bootstrap(scores, 500, 4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 99))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_the_interval_lies_inside_the_scores(scores, seed):
    found = bootstrap(scores, 100, seed)
    assert found.n == len(scores)
    assert found.mean == pytest.approx(sum(scores) / len(scores))
    assert min(scores) - 1e-9 <= found.low <= found.high <= max(scores) + 1e-9


def test_one_score_has_no_spread():
    assert bootstrap([0.5], 100, 1) == Interval(0.5, 0.5, 0.5, 1)


def test_no_scores_raise():
    with pytest.raises(ValueError, match="no rows"):
        bootstrap([], 100, 1)


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


def test_perplexity():
    assert perplexity(0.0, 7) == 1
    assert perplexity(7 * math.log(50), 7) == pytest.approx(50)


@pytest.mark.parametrize("nll", [float("nan"), float("inf"), float("-inf"), 1e4])
def test_a_perplexity_that_is_no_number_raises(nll):
    with pytest.raises(ValueError, match="no finite perplexity"):
        perplexity(nll, 1)


@pytest.mark.parametrize("tokens", [0, -1])
def test_perplexity_over_no_tokens_raises(tokens):
    with pytest.raises(ValueError, match="no supervised tokens"):
        perplexity(1.0, tokens)
