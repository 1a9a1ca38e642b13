"""Laws of the split: a row's part depends on its prompt and the seed alone, and joining batches loses no row."""

import time
from collections import Counter
from itertools import groupby

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core import near
from ft_assets.core.row_ids import content_id
from ft_assets.core.split import (
    FATE,
    INDEX,
    Earlier,
    content,
    index_row,
    judge,
    over_limit,
    part_of,
    prompt_hash,
    revived,
    seen,
    without_contradictions,
)

NO_FATE = [pl.lit(None, kind).alias(name) for name, kind in FATE.items()]


def row(question, answer="yes", batch="a@1", position=1):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"batch": batch, "file": "rows.jsonl", "position": position, "messages": turns}


def pair(chosen, rejected, prompt="q", position=1):
    turns = [{"role": "user", "content": prompt}]
    place = {"batch": "a@1", "file": "rows.jsonl", "position": position}
    return {**place, "prompt": turns, "chosen": chosen, "rejected": rejected}


def index(rows):
    entries = [{**index_row({**one, "row_id": content_id(content(one))}, 1), "batch": one["batch"]} for one in rows]
    return pl.DataFrame(entries, schema={**INDEX, "batch": pl.String})


def judged(rows, evaluated=frozenset(), overlaps=None, threshold=None):
    """The fates of rows in the order given; those of one batch must stand together."""
    earlier = []
    for _, group in groupby(rows, key=lambda one: one["batch"]):
        batch = list(group)
        signatures = None
        if threshold:
            signatures = near.sketch([" ".join(turn["content"] for turn in one["messages"]) for one in batch], 3)
        found = judge(index(batch), earlier, set(evaluated), overlaps or {}, signatures, threshold or 1.0)
        earlier.append(Earlier(found, signatures))
    return without_contradictions(pl.concat([index([]).with_columns(NO_FATE), *(each.rows for each in earlier)]))


def kept(found):
    return found.filter(pl.col("reason").is_null())


def reasons(found):
    return found["reason"].to_list()


def parts(prompts, seed=17, validation=0.1, test=0.1):
    hashes = np.array([prompt_hash(row(prompt)) for prompt in prompts], np.uint64)
    return list(part_of(hashes, seed, validation, test))


TEXTS = st.lists(st.text(max_size=5), max_size=30)


@given(old=TEXTS, new=TEXTS)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_new_rows_move_no_old_row(old, new):
    before = dict(zip(old, parts(old), strict=True))
    for more in ([*old, *new], [*new, *old]):
        after = dict(zip(more, parts(more), strict=True))
        assert {key: after[key] for key in before} == before


@pytest.mark.parametrize(
    ("validation", "test"), [(0.05, 0.05), (0.1, 0.2), (0.5, 0.5), (0.0, 0.3), (0.3, 0.0), (0.0, 0.0)]
)
def test_shares_are_respected(validation, test):
    count = 20_000
    found = Counter(parts([f"question {n}" for n in range(count)], 17, validation, test))
    for part, share in (("validation", validation), ("test", test), ("train", 1 - validation - test)):
        spread = (share * (1 - share) / count) ** 0.5
        assert found[part] / count == pytest.approx(share, abs=4 * spread)


def test_another_seed_splits_otherwise():
    prompts = [f"question {n}" for n in range(200)]
    assert parts(prompts, 1, 0.25, 0.25) != parts(prompts, 2, 0.25, 0.25)


def test_a_split_is_the_same_on_every_machine():
    found = parts([f"question {n}" for n in range(8)], 17, 0.25, 0.25)
    assert found == ["validation", "test", "validation", "train", "train", "train", "test", "validation"]


@given(st.text(max_size=20))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_rows_that_share_a_prompt_share_a_hash(question):
    prompt = [{"role": "user", "content": question}]
    same = [row(question, "one"), row(question, "two"), row(f" {question}\n"), {"prompt": prompt, "label": ""}]
    assert len({prompt_hash(each) for each in same}) == 1


def test_other_prompts_have_other_hashes():
    turn = {"role": "user", "content": "a"}
    system, answer = {"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}
    different = [row("a"), row("b"), {"text": "a"}, {"prompt": [system, turn]}, {"prompt": [turn, answer, turn]}]
    assert len({prompt_hash(each) for each in different}) == len(different)


ROWS = st.lists(
    st.builds(row, st.sampled_from("abcde"), st.sampled_from("xy"), st.sampled_from(["s@1", "s@2"]), st.integers(1, 9)),
    max_size=30,
)


@given(rows=ROWS, held_out=st.sets(st.sampled_from("abcde")))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_joining_conserves_rows_and_drops_what_is_evaluated(rows, held_out):
    evaluated = {prompt_hash(row(question)) for question in held_out}
    found = judged(rows, evaluated)
    assert found.height == len(rows)
    assert set(kept(found)["prompt"]) & evaluated == set()
    stays = [one for one in rows if prompt_hash(one) not in evaluated]
    assert sorted(kept(found)["row_id"]) == sorted(set(index(stays)["row_id"]))


@given(rows=ROWS)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_joining_what_was_joined_drops_nothing(rows):
    stays = [one for one, reason in zip(rows, reasons(judged(rows)), strict=True) if reason is None]
    assert reasons(judged(stays)) == [None] * len(stays)


BATCHES = st.lists(
    st.lists(st.builds(row, st.sampled_from("abcde"), st.sampled_from("xy")), max_size=10), min_size=1, max_size=4
).map(lambda groups: [[{**one, "batch": f"s@{at}"} for one in group] for at, group in enumerate(groups)])


@given(batches=BATCHES, held_out=st.sets(st.sampled_from("abcde")))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_batch_that_comes_last_changes_nothing_of_what_was_found_before(batches, held_out):
    evaluated = {prompt_hash(row(question)) for question in held_out}
    before = judged([one for batch in batches[:-1] for one in batch], evaluated)
    after = judged([one for batch in batches for one in batch], evaluated)
    assert after.head(before.height).equals(before)


def test_the_first_of_equal_rows_is_kept_and_the_other_says_where_it_is():
    found = judged([row("a", batch="s@1", position=3), row("A ", batch="s@2", position=8)])
    assert reasons(found) == [None, "exact_duplicate"]
    assert found["detail"][1] == "same content as s@1 rows.jsonl row 3"
    assert found["like"][1] == found["row_id"][0]


def test_contamination_is_dropped_whatever_the_answer():
    found = judged([row("a", "one"), row("a ", "two"), row("b")], {prompt_hash(row("a"))})
    assert reasons(found) == ["contamination", "contamination", None]


def test_a_row_that_overlaps_an_evaluation_set_says_with_what():
    rows = [row("a"), row("b")]
    found = judged(rows, overlaps={index(rows)["row_id"][1]: "test t@1 row 4"})
    assert reasons(found) == [None, "contamination"]
    assert "test t@1 row 4" in found["detail"][1]


def test_pairs_that_contradict_each_other_both_go():
    found = judged([pair("x", "y"), pair("Y ", "x", position=2), pair("x", "z", position=3), pair("y", "x", "other")])
    assert reasons(found) == ["reversed_pair", "reversed_pair", None, None]


def test_a_pair_that_a_later_batch_contradicts_goes_too():
    found = judged([pair("x", "y"), pair("x", "y", position=2), {**pair("y", "x"), "batch": "b@1"}])
    assert reasons(found) == ["reversed_pair", "exact_duplicate", "reversed_pair"]
    assert found["like"].to_list()[::2] == [None, None]


LONG = (
    "the quick brown fox jumps over the lazy dog while seven wizards box with a jolly giant near the old stone bridge"
)


def test_near_duplicates_go_but_the_first_of_them():
    rows = [
        row("something else entirely that is not alike"),
        row(LONG),
        row(LONG + " today", position=7),
        row(LONG + "!"),
    ]
    found = judged(rows, threshold=0.7)
    assert reasons(found) == [None, None, "near_duplicate", "near_duplicate"]
    assert set(found["like"][2:]) == {found["row_id"][1]}


def test_a_near_duplicate_of_an_earlier_batch_goes_and_so_do_its_own_likes():
    found = judged([row(LONG), *(row(LONG + end, batch="b@1") for end in (" today", "!", " at all"))], threshold=0.7)
    assert reasons(found) == [None, *["near_duplicate"] * 3]
    assert found["detail"][1] == "nearly the same as a@1 rows.jsonl row 1"
    assert set(found["like"][1:]) == {found["row_id"][0]}


def test_a_near_duplicate_of_a_pair_that_goes_later_stays():
    rows = [pair(LONG, "no"), {**pair(LONG + " today", "no"), "batch": "b@1"}, {**pair("no", LONG), "batch": "c@1"}]
    earlier = []
    for one in rows:
        signatures = near.sketch([one["chosen"]], 3)
        earlier.append(Earlier(judge(index([one]), earlier, set(), {}, signatures, 0.7), signatures))
    found = pl.concat([each.rows for each in earlier])
    assert reasons(found)[:2] == [None, "near_duplicate"]
    found = revived(without_contradictions(found))
    assert reasons(found) == ["reversed_pair", None, "reversed_pair"]
    assert found["like"].to_list() == [None] * 3


def test_many_small_batches_are_judged_in_the_time_of_their_rows():
    def seconds(count):
        signatures = near.sketch(["some words of no meaning here"], 3)
        earlier = [
            Earlier(judge(index([row(f"q{at}", batch=f"s@{at}")]), [], set(), {}), signatures) for at in range(count)
        ]
        started = time.process_time()
        judge(index([row("new", batch="t@1")]), earlier, set(), {}, signatures, 0.8)
        return time.process_time() - started

    assert seconds(400) < 8 * seconds(50) + 0.2


def test_a_row_that_is_dropped_takes_no_other_with_it():
    rows = [row(LONG), row(LONG + " today", batch="b@1")]
    found = judged(rows, {prompt_hash(rows[0])}, threshold=0.7)
    assert reasons(found) == ["contamination", None]


def test_rows_alike_below_the_threshold_stay():
    assert reasons(judged([row(LONG), row(LONG[: len(LONG) // 2])], threshold=0.9)) == [None, None]


@given(order=st.permutations(range(6)))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_how_many_near_duplicates_stay_does_not_hang_on_the_order(order):
    texts = [LONG, LONG + " today", "nothing like it at all here", LONG + " again", "still another one, far away", "?!"]
    assert kept(judged([row(texts[at]) for at in order], threshold=0.7)).height == 4


def test_a_limit_keeps_the_first_rows_in_hash_order_and_no_row_of_another_part():
    found = judged([row(f"question {n}") for n in range(40)])
    parts = pl.Series("part", ["train", "test"] * 20)
    limited = over_limit(found.with_columns(parts), 5)
    training = found.filter(parts == "train")["row_id"].sort().to_list()
    assert kept(limited.filter(parts == "train"))["row_id"].sort().to_list() == training[:5]
    assert kept(limited.filter(parts == "test")).height == 20
    assert set(limited["reason"].drop_nulls()) == {"over_max_train_rows"}


def times(rows, epochs, seed=5, part="train"):
    found = seen(judged(rows).with_columns(pl.lit(part).alias("part")), epochs, seed)
    assert found.height == len(rows)
    assert (kept(found)["times"] > 0).all()
    assert (found.filter(reason="not_sampled")["times"] == 0).all()
    return dict(zip(found["row_id"], found["times"], strict=True))


QUESTIONS = [row(f"question {n}", batch="s@1") for n in range(2000)]


@pytest.mark.parametrize("epochs", [0.1, 0.5, 1, 1.25, 2, 2.5, 99.9])
def test_rows_are_seen_as_often_as_asked(epochs):
    found = list(times(QUESTIONS, {"s": epochs}).values())
    spread = (epochs % 1 * (1 - epochs % 1) / len(found)) ** 0.5
    assert np.mean(found) == pytest.approx(epochs, abs=4 * spread)
    assert set(found) <= {int(epochs), int(epochs) + 1}


@pytest.mark.parametrize("part", ["validation", "test"])
def test_held_out_rows_are_seen_once(part):
    assert set(times(QUESTIONS[:50], {"s": 0.1}, part=part).values()) == {1}


def test_how_often_a_row_is_seen_depends_on_its_content_and_the_seed_alone():
    alone = times(QUESTIONS[:100], {"s": 1.5})
    others = [row(f"other {n}", batch="r@1") for n in range(30)]
    together = times([*others, *[{**one, "batch": "s@2"} for one in reversed(QUESTIONS[:200])]], {"s": 1.5, "r": 7})
    assert {row_id: together[row_id] for row_id in alone} == alone
    assert times(QUESTIONS[:100], {"s": 1.5}, seed=6) != alone


def test_the_part_of_a_row_says_nothing_of_how_often_it_is_seen():
    found = judged(QUESTIONS)
    part = part_of(found["prompt"].to_numpy(), 5, 0.0, 0.5)
    sampled = np.array(list(times(QUESTIONS, {"s": 0.5}).values()))
    assert 0.4 < sampled[part == "train"].mean() < 0.6
