"""A condition means what its text says, and a text that is no condition is refused where it goes wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_assets.core.conditions import (
    COMPARISONS,
    RELATIONS,
    Comparison,
    ConditionError,
    Relation,
    Term,
    check_name,
    check_names,
    parse,
)

words = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
dotted = st.lists(words, min_size=2, max_size=3).map(".".join)
decimals = st.decimals(min_value=0, max_value=10**6, places=6).map(float)
named = st.builds(Term, st.one_of(st.just(1.0), decimals), dotted)
signed = st.tuples(st.one_of(named, st.builds(Term, decimals)), st.booleans()).map(
    lambda pair: Term(-pair[0].factor if pair[1] else pair[0].factor, pair[0].name)
)
sums = st.lists(signed, min_size=1, max_size=4).map(tuple)
comparisons = st.builds(Comparison, sums, st.sampled_from(COMPARISONS), sums).filter(lambda found: found.names())
relations = st.builds(Relation, words, st.sampled_from(RELATIONS), words, st.one_of(st.just(""), dotted, words))


@given(st.one_of(comparisons, relations))
def test_what_is_written_is_read_as_the_same(condition):
    assert parse(str(condition)) == condition
    assert parse("  " + str(condition).replace(" ", "   ")) == condition


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        condition = parse(text)
    except ConditionError:
        return
    assert parse(str(condition)) == condition


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        (
            "policy.entity_f1>=base_few_shot.entity_f1+0.02",
            Comparison((Term(1, "policy.entity_f1"),), ">=", (Term(1, "base_few_shot.entity_f1"), Term(0.02))),
        ),
        (
            "nf4.size_bytes <= 0.4 * merged.size_bytes - 100",
            Comparison((Term(1, "nf4.size_bytes"),), "<=", (Term(0.4, "merged.size_bytes"), Term(-100))),
        ),
        ("- 0.5 < a.b", Comparison((Term(-0.5),), "<", (Term(1, "a.b"),))),
        ("policy not worse than incumbent at 95%", Relation("policy", "not worse than", "incumbent")),
        ("a better than b at 95 % on out_of_domain.f1", Relation("a", "better than", "b", "out_of_domain.f1")),
    ],
)
def test_the_forms(text, condition):
    assert parse(text) == condition


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "at letter 1: found the end; allowed: a name or a number"),
        ("policy.f1 = 0.5", "at letter 11: found '='"),
        ("policy.f1 >= ", "at letter 14: found the end"),
        ("policy.f1 + 0.5", "at letter 16: found the end; allowed: one of <= >= < >"),
        ("policy >= 0.5", "at letter 1: found 'policy'; allowed: a contestant with its metric"),
        ("policy.f1 >= 0.5 0.6", "at letter 18: found '0.6'; allowed: the end"),
        ("policy.f1 >= 1.000000000000000000001", "found '000001'; allowed: the end"),
        ("policy.f1 >= 0.5 * 2", "at letter 20: found '2'; allowed: a name"),
        ("0.5 >= 0.4", "names no number of the evaluation"),
        ("policy not better than incumbent at 95%", "at letter 8: found 'not'; allowed: not worse than or better than"),
        ("policy better than incumbent", "at letter 29: found the end; allowed: at"),
        ("policy better than incumbent at 99%", "at letter 33: found '99'; allowed: 95%"),
        ("policy.f1 better than incumbent at 95%", "at letter 1: found 'policy.f1'; allowed: a contestant alone"),
        ("a better than b at 95% on", "at letter 26: found the end; allowed: a metric"),
        ("policy.f1 >= \N{ARABIC-INDIC DIGIT THREE}", "at letter 14"),
        ("a.b >= " + "1 + " * 200 + "1", "at most 500"),
    ],
)
def test_what_is_no_condition_is_refused_at_its_place(text, told):
    with pytest.raises(ConditionError) as refused:
        parse(text)
    assert told in str(refused.value)


KNOWN = {
    "names": ("policy.entity_f1", "policy.exact_match", "base_few_shot.entity_f1", "forgetting.perplexity_ratio"),
    "contestants": ("policy", "candidate", "base_few_shot", "incumbent"),
    "metrics": ("entity_f1", "exact_match"),
    "compared": (("policy", "base_few_shot"), ("policy", "incumbent")),
}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("policy.entity_f2 >= 0.5", "at letter 1: policy.entity_f2 is no number of this recipe; did you mean policy.entity_f1"),
        ("policy.entity_f1 >= zzz.qqq", "at letter 21: zzz.qqq is no number of this recipe; there are"),
        ("policy better than base_fewshot at 95%", "at letter 20: base_fewshot is no contestant of this recipe; did you mean base_few"),
        ("policy better than incumbent at 95% on rouge_l", "at letter 40: rouge_l is no metric of a comparison of this recipe"),
        ("base_few_shot better than policy at 95%", "are not compared row by row; left stands policy"),
        ("policy better than policy at 95%", "policy is compared with base_few_shot, incumbent"),
    ],
)  # fmt: skip
def test_names_that_the_evaluation_will_not_have_are_refused(text, told):
    with pytest.raises(ConditionError) as refused:
        check_names(text, **KNOWN)
    assert told in str(refused.value)


def test_names_it_will_have_are_taken():
    for text in (
        "policy.entity_f1 >= base_few_shot.entity_f1 + 0.02",
        "policy better than incumbent at 95% on exact_match",
    ):
        check_names(text, **KNOWN)


@given(st.one_of(comparisons, relations))
def test_the_name_of_a_check_is_one_that_dagster_takes(condition):
    name = check_name(str(condition))
    assert name.replace("_", "").isalnum()
    assert name.isascii()
    assert len(name) < 256


def test_conditions_that_differ_in_a_sign_have_names_of_their_own():
    texts = [f"a.b {sign} c.d {plus} 0.02" for sign in COMPARISONS for plus in "+-"] + ["a.b >= 0.02", "a.b >= 2 * c.d"]
    assert len({check_name(text) for text in texts}) == len(texts)
    assert check_name("a.b >= c.d + 0.02") == "gate_a_b_at_least_c_d_plus_0_02"
    assert check_name("policy not worse than incumbent at 95%") == "gate_policy_not_worse_than_incumbent_at_95"
