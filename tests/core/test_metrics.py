"""Laws of the metrics of one answer."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core.metrics import METRICS
from ft_assets.core.metrics.entities import entity_f1, read_entities
from ft_assets.core.metrics.texts import exact_match

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


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_the_expected_answer_scores_1(metric):
    assert metric('{"Ann 7": "person"}', '{"Ann 7": "person"}') == 1
