"""Laws of the mixture: how often the rows of a source are seen in an epoch, by ``data.epochs`` or ``data.mixture``."""

from collections import Counter
from itertools import chain

import pytest
from splitting import HALF, TEST, documents, pair, pairs, talk, talks

from ft_assets.core.errors import FineTuneError


def times(made, role="sft"):
    return Counter(made.ids(role))


def test_each_row_of_a_source_is_seen_as_often_as_the_recipe_says(splitter):
    batches = {"sft:a@1": talks(100), "sft:b@1": talks(100, 200), **TEST}
    made = splitter.make(batches, epochs={"a": 2.5}, split=HALF)
    once = splitter.make(batches, split=HALF)
    [of_a, of_b] = [
        set(splitter.make({name: batches[name], **TEST}, split=HALF).ids("sft")) for name in list(batches)[:2]
    ]
    seen = times(made)
    assert set(seen) == of_a | of_b
    assert {seen[row] for row in of_b} == {1}
    assert {seen[row] for row in of_a} == {2, 3}
    assert 0.3 < sum(seen[row] == 3 for row in of_a) / len(of_a) < 0.7
    assert made.part("sft")["repeated"] == sum(seen.values()) - len(seen)
    assert made.part("sft")["rows_kept"] == once.part("sft")["rows_kept"] == 200
    assert made.accounts_for("sft")
    for part in ("validation", "test"):
        assert made.rows("sft", part) == once.rows("sft", part)


def test_rows_of_a_fraction_are_dropped_with_their_reason_and_new_batches_move_none(splitter):
    first = splitter.make({"sft:a@2": talks(100), **TEST}, epochs={"a": 0.5})
    assert 30 < len(first.ids("sft")) < 70
    assert first.part("sft")["dropped"] == {"not_sampled": 100 - len(first.ids("sft"))}
    assert first.accounts_for("sft")
    assert set(first.dropped["detail"]) == {"data.epochs is 0.5 for a"}
    second = splitter.make({"sft:a@1": talks(50, 500), "sft:a@2": talks(100), **TEST}, epochs={"a": 0.5})
    assert set(first.ids("sft")) == set(second.ids("sft")) & {*first.ids("sft"), *first.dropped["row_id"]}
    other = splitter.make({"sft:a@2": talks(100), **TEST}, epochs={"a": 0.5}, seed=6)
    assert set(other.ids("sft")) != set(first.ids("sft"))
    more = splitter.make({"sft:a@2": talks(100), **TEST}, epochs={"a": 0.7})
    assert set(first.ids("sft")) < set(more.ids("sft"))


def test_whole_numbers_repeat_every_row_and_the_order_is_one_pass_after_the_other(splitter):
    made = splitter.make(
        {"cpt:c@1": documents(9), "sft:a@1": talks(9), **TEST},
        epochs={"a": 3.0, "c": 2.0},
        max_length=16,
        overlong="chunk",
    )
    ids = made.ids("sft")
    assert ids[: len(ids) // 3] * 3 == ids
    stream = list(chain.from_iterable(row["input_ids"] for row in made.rows("cpt")))
    assert stream[: len(stream) // 2] * 2 == stream, "no document follows upon itself"
    assert made.part("cpt")["tokens"] == len(stream)
    assert made.part("cpt")["repeated"] == 9


def test_the_limit_counts_rows_and_not_how_often_they_are_seen(splitter):
    made = splitter.make({"sft:a@1": talks(50), **TEST}, epochs={"a": 2.0}, max_train_rows=10)
    assert Counter(times(made).values()) == {2: 10}
    assert made.part("sft")["dropped"] == {"over_max_train_rows": 40}


def test_tokens_are_told_by_source_as_training_sees_them(splitter):
    made = splitter.make(
        {"sft:a@1": talks(10), "sft:a@2": talks(10, 20), "sft:b@1": talks(10, 40), **TEST}, epochs={"b": 3.0}
    )
    by_source = made.part("sft")["tokens_by_source"]
    assert by_source["b"] == pytest.approx(1.5 * by_source["a"], rel=0.05)
    assert sum(by_source.values()) == made.part("sft")["tokens"]


# Weights


def tokens_of(made, role="sft"):
    return made.part(role)["tokens_by_source"]


@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 1.0}, {"a": 0.2, "b": 0.9}])
def test_tokens_of_an_epoch_stand_in_the_proportions_of_the_weights(splitter, weights):
    batches = {"sft:a@1": talks(150), "sft:a@2": talks(150, 200), "sft:b@1": talks(150, 500), **TEST}
    made = splitter.make(batches, mixture=weights, split=HALF)
    found = tokens_of(made)
    assert found["a"] / found["b"] == pytest.approx(weights["a"] / weights["b"], rel=0.15)
    assert made.part("sft")["dropped"] == {}
    assert min(times(made).values()) == 1
    assert made.accounts_for("sft")


def test_weights_count_what_is_left_of_a_source(splitter):
    repeats = talks(100)
    batches = {"sft:a@1": repeats, "sft:a@2": repeats, "sft:b@1": talks(100, 500), **TEST}
    made = splitter.make(batches, mixture={"a": 1.0, "b": 1.0})
    assert made.part("sft")["dropped"] == {"exact_duplicate": 100}
    assert tokens_of(made)["a"] == pytest.approx(tokens_of(made)["b"], rel=0.1)


def test_long_rows_count_for_more(splitter):
    batches = {"sft:a@1": [talk(f"q{n}", f"{n} " + "x" * 150) for n in range(60)], "sft:b@1": talks(60, 500), **TEST}
    made = splitter.make(batches, mixture={"a": 1.0, "b": 1.0})
    assert tokens_of(made)["a"] == pytest.approx(tokens_of(made)["b"], rel=0.2)
    assert len(made.ids("sft")) > 2 * 60


def test_a_mixture_of_one_role_leaves_the_others_alone(splitter):
    batches = {"cpt:c@1": documents(20), "sft:a@1": talks(50), "sft:b@1": talks(10, 500), **TEST}
    made = splitter.make(batches, mixture={"a": 1.0, "b": 1.0})
    assert made.part("cpt")["repeated"] == 0
    assert made.part("sft")["repeated"] > 0


def test_a_source_that_would_be_seen_without_end_is_refused(splitter):
    batches = {"sft:a@1": talks(200), "sft:b@1": talks(1, 500), **TEST}
    with pytest.raises(FineTuneError, match=r"show b \(\d+ tokens\) \d+ times in an epoch, 100 is the most"):
        splitter.make(batches, mixture={"a": 1.0, "b": 1.0})


def test_a_source_without_a_row_left_is_named(splitter):
    batches = {"sft:a@1": talks(20), "sft:b@2": talks(20), **TEST}
    with pytest.raises(FineTuneError, match=r"data.mixture names b, of which no training row is left"):
        splitter.make(batches, mixture={"a": 1.0, "b": 1.0})


def test_pairs_are_weighed_by_both_their_sides(splitter):
    long = [pair(f"Ask {n}", f"g{n}", f"{n} " + "b" * 120) for n in range(200, 260)]
    batches = {"preference:p@1": pairs(60), "preference:r@1": long, "sft:a@1": talks(1), **TEST}
    found = tokens_of(splitter.make(batches, mixture={"p": 1.0, "r": 1.0}), "preference")
    assert found["p"] == pytest.approx(found["r"], rel=0.15)
