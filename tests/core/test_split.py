"""Laws of the split: a row's part depends on its prompt and the seed alone, and joining batches loses no row."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core.split import merge, part_of, prompt_key


def row(question, answer="yes", batch="a@1", position=1, row_id=None):
    return {
        "row_id": row_id or f"{question}|{answer}",
        "batch": batch,
        "position": position,
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
    }


def parts(rows, seed=17, validation=0.1, test=0.1):
    return {one["row_id"]: part_of(prompt_key(one), seed, validation, test) for one in merge(rows, set()).rows}


@given(old=st.lists(st.text(max_size=5), max_size=30), new=st.lists(st.text(max_size=5), max_size=30))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_new_rows_move_no_old_row(old, new):
    before = parts([row(question) for question in old])
    for after in (
        parts([row(question) for question in [*old, *new]]),
        parts([row(question) for question in [*new, *old]]),
    ):
        assert {key: after[key] for key in before} == before


@pytest.mark.parametrize(
    ("validation", "test"), [(0.05, 0.05), (0.1, 0.2), (0.5, 0.5), (0.0, 0.3), (0.3, 0.0), (0.0, 0.0)]
)
def test_shares_are_respected(validation, test):
    count = 20_000
    found = Counter(part_of(f"question {n}", 17, validation, test) for n in range(count))
    for part, share in (("validation", validation), ("test", test), ("train", 1 - validation - test)):
        spread = (share * (1 - share) / count) ** 0.5
        assert found[part] / count == pytest.approx(share, abs=4 * spread)


def test_another_seed_splits_otherwise():
    first, second = ([part_of(f"question {n}", seed, 0.25, 0.25) for n in range(200)] for seed in (1, 2))
    assert first != second


def test_a_split_is_the_same_on_every_machine():
    assert [part_of(f"question {n}", 17, 0.25, 0.25) for n in range(8)] == [
        "test",
        "validation",
        "validation",
        "train",
        "train",
        "test",
        "test",
        "train",
    ]


@given(st.text(max_size=20), st.integers(0, 2**31 - 1))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_rows_that_share_a_prompt_share_a_side(question, seed):
    prompt = [{"role": "user", "content": question}]
    same = [
        row(question, "one"),
        row(question, "two"),
        row(f" {question}\n"),
        {"prompt": prompt, "chosen": "x", "rejected": "y"},
        {"prompt": prompt, "label": ""},
    ]
    assert len({part_of(prompt_key(each), seed, 0.3, 0.3) for each in same}) == 1
    assert len({prompt_key(each) for each in same}) == 1


def test_other_prompts_have_other_keys():
    system = {"role": "system", "content": "a"}
    different = [
        row("a"),
        row("b"),
        {"text": "a"},
        {"prompt": [system, {"role": "user", "content": "a"}]},
        {
            "prompt": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "a"},
            ]
        },
    ]
    assert len({prompt_key(each) for each in different}) == len(different)


ROWS = st.lists(
    st.builds(row, st.sampled_from("abcde"), st.sampled_from("xy"), st.sampled_from(["s@1", "s@2"]), st.integers(1, 9)),
    max_size=30,
)


@given(rows=ROWS, held_out=st.sets(st.sampled_from("abcde")))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_joining_conserves_rows_and_drops_what_is_evaluated(rows, held_out):
    evaluated = {prompt_key(row(question)) for question in held_out}
    merged = merge(iter(rows), evaluated)
    assert merged.rows_in == len(rows) == len(merged.rows) + len(merged.dropped)
    assert sum(merged.counts().values()) == len(merged.dropped)
    assert {prompt_key(one) for one in merged.rows} & evaluated == set()
    assert {one["row_id"] for one in merged.rows} == {one["row_id"] for one in rows if prompt_key(one) not in evaluated}
    assert len({one["row_id"] for one in merged.rows}) == len(merged.rows)


def test_the_first_of_equal_rows_is_kept_and_the_other_says_where_it_is():
    merged = merge([row("a", batch="s@1", position=3), row("a", batch="s@2", position=8)], set())
    assert [(one["batch"], one["position"]) for one in merged.rows] == [("s@1", 3)]
    [dropped] = merged.dropped
    assert (dropped["batch"], dropped["position"], dropped["reason"]) == ("s@2", 8, "exact_duplicate")
    assert "s@1 line 3" in dropped["detail"]


def test_contamination_is_dropped_with_its_reason_whatever_the_answer():
    merged = merge([row("a", "one"), row("a ", "two"), row("b")], {prompt_key(row("a"))})
    assert merged.counts() == {"contamination": 2}
    assert [one["row_id"] for one in merged.rows] == ["b|yes"]
