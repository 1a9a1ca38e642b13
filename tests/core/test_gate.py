"""A gate lets pass what meets its conditions, says why of each, and opens to a person's word for what failed alone."""

import pytest

from ft_assets.core.gate import GateClosed, as_body, failed, judge, require_passed, shown

NUMBERS = {
    "policy.entity_f1": 0.81,
    "candidate.entity_f1": 0.81,
    "base_few_shot.entity_f1": 0.6,
    "nf4.size_bytes": 91_000_000,
    "merged.size_bytes": 270_000_000,
    "forgetting.perplexity_ratio": 1.2,
}
OVERRIDE = {"by": "Ada", "reason": "a demo", "at": "2026-11-26T17:00:00+00:00"}


def compared(right, low, mean, high, n=24):
    return {
        "left": "policy", "right": right, "metric": "entity_f1", "mean": mean, "low": low, "high": high, "n": n,
        "p": 0.1, "p_holm": 0.2, "outcome": "cannot tell",
    }  # fmt: skip


def results(*comparisons, incumbent=None):
    return {"metric": "entity_f1", "candidate": "policy", "incumbent": incumbent, "comparisons": list(comparisons)}


def judged(condition, *comparisons, incumbent=None, numbers=NUMBERS):
    (found,) = judge([condition], numbers, results(*comparisons, incumbent=incumbent), None)
    assert found.condition == condition
    return found


@pytest.mark.parametrize(
    ("condition", "passed", "sentence"),
    [
        (
            "policy.entity_f1 >= base_few_shot.entity_f1 + 0.02",
            True,
            "policy.entity_f1 is 0.81, at least base_few_shot.entity_f1 + 0.02 = 0.62.",
        ),
        (
            "policy.entity_f1 >= base_few_shot.entity_f1 + 0.3",
            False,
            "policy.entity_f1 is 0.81, not at least base_few_shot.entity_f1 + 0.3 = 0.9.",
        ),
        ("policy.entity_f1 >= 0.81", True, "policy.entity_f1 is 0.81, at least 0.81."),
        ("policy.entity_f1 > 0.81", False, "policy.entity_f1 is 0.81, not above 0.81."),
        ("candidate.entity_f1 < 0.82", True, "candidate.entity_f1 is 0.81, below 0.82."),
        ("forgetting.perplexity_ratio <= 1.05", False, "forgetting.perplexity_ratio is 1.2, not at most 1.05."),
        (
            "nf4.size_bytes <= 0.4 * merged.size_bytes",
            True,
            "nf4.size_bytes is 91,000,000, at most 0.4 * merged.size_bytes = 108,000,000.",
        ),
        (
            "policy.entity_f1 - base_few_shot.entity_f1 >= 0.2",
            True,
            "policy.entity_f1 - base_few_shot.entity_f1 is 0.21, at least 0.2.",
        ),
        ("-policy.entity_f1 <= -0.8", True, "-policy.entity_f1 is -0.81, at most -0.8."),
    ],
)
def test_a_comparison_of_means(condition, passed, sentence):
    found = judged(condition)
    assert (found.passed, found.sentence) == (passed, sentence)
    assert found.numbers.items() <= NUMBERS.items()
    assert found.numbers


@pytest.mark.parametrize(
    ("low", "high", "not_worse", "better"),
    [(0.01, 0.2, True, True), (0.0, 0.2, True, False), (-0.1, 0.1, True, False), (-0.2, 0.0, True, False), (-0.2, -0.01, False, False)],
)  # fmt: skip
def test_a_relation_is_read_from_the_interval_of_the_paired_difference(low, high, not_worse, better):
    entry = compared("incumbent", low, (low + high) / 2, high)
    release = {"merged": "a" * 64}
    for relation, passed in (("not worse than", not_worse), ("better than", better)):
        found = judged(f"policy {relation} incumbent at 95%", entry, incumbent=release)
        assert found.passed == passed
        assert found.numbers == {"mean": entry["mean"], "low": low, "high": high, "n": 24}
        assert judged(f"candidate {relation} incumbent at 95% on entity_f1", entry, incumbent=release).passed == passed


def test_a_difference_that_a_small_set_cannot_tell_is_said():
    found = judged("policy not worse than base_few_shot at 95%", compared("base_few_shot", -0.3, -0.05, 0.2))
    assert found.passed
    assert "not shown to be worse; no difference can be told, and one of 0.25 might go unseen" in found.sentence
    alike = judged("policy not worse than base_few_shot at 95%", compared("base_few_shot", 0.0, 0.0, 0.0))
    assert "one of 0.125 might go unseen" in alike.sentence, "3 of 24 rows may differ where none does"
    sure = judged("policy not worse than base_few_shot at 95%", compared("base_few_shot", 0.1, 0.2, 0.3))
    assert "unseen" not in sure.sentence


@pytest.mark.parametrize(
    "condition",
    ["policy not worse than incumbent at 95%", "policy better than incumbent at 95%", "policy.entity_f1 >= incumbent.entity_f1"],
)  # fmt: skip
def test_without_an_incumbent_a_comparison_with_it_passes_and_says_so(condition):
    found = judged(condition)
    assert found.passed
    assert "there is no incumbent" in found.sentence


def test_with_an_incumbent_that_was_not_measured_it_fails():
    release = {"merged": "a" * 64}
    for condition in ("policy not worse than incumbent at 95%", "policy.entity_f1 >= incumbent.entity_f1"):
        assert not judged(condition, incumbent=release).passed


def test_a_name_without_a_number_fails_and_is_named():
    found = judged("policy.entity_f1 >= sft.entity_f1 + incumbent.entity_f1")
    assert not found.passed
    assert found.sentence == "The evaluation has no number for sft.entity_f1."


def test_a_gate_without_conditions_is_open():
    assert as_body(judge([], {}, results(), None), None) == {"passed": True, "conditions": [], "override": None}


FAILING = ["forgetting.perplexity_ratio <= 1.05", "policy.entity_f1 >= 0.9", "policy.entity_f1 >= 0.5"]


def body(override=None):
    return as_body(judge(FAILING, NUMBERS, results(), override), override)


def test_one_condition_that_fails_shuts_it_and_publishing_is_refused_with_all_that_failed():
    assert not body()["passed"]
    assert [each["condition"] for each in failed(body())] == FAILING[:2]
    with pytest.raises(GateClosed) as refused:
        require_passed(body(), "demo")
    assert all(text in str(refused.value) for text in FAILING[:2])
    assert FAILING[2] not in str(refused.value)
    assert "ft override demo --by NAME --reason TEXT" in str(refused.value)


def test_an_override_opens_it_for_the_conditions_it_names_alone():
    every = body({**OVERRIDE, "conditions": FAILING[:2]})
    assert every["passed"]
    require_passed(every, "demo")
    assert [(each["passed"], each["overridden"]) for each in every["conditions"]] == [
        (False, True),
        (False, True),
        (True, False),
    ]
    assert every["override"]["by"] == "Ada"
    some = body({**OVERRIDE, "conditions": FAILING[:1]})
    assert not some["passed"]
    assert [each["condition"] for each in failed(some)] == FAILING[1:2]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8123456, "0.8123"), (0, "0"), (1, "1"), (-0.81, "-0.81"), (0.000123456, "0.0001235"), (123456.7, "123,457"), (12.3456, "12.35")],
)  # fmt: skip
def test_numbers_for_people(value, text):
    assert shown(value) == text


def test_a_cost_without_a_price_keeps_the_gate_shut_and_says_what_to_give():
    [found] = judge(["candidate.usd_per_1000_requests <= 1"], {}, {"incumbent": None}, None)
    assert not found.passed
    assert "hardware.usd_per_hour" in found.sentence
