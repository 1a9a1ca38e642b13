"""Laws of shards: new data rewrites the shard it falls into, and many shards hold what one would."""

import pytest
from splitting import HALF, TEST, Splitter, pair, pairs, talks

from ft_assets.worker import shards


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_TOKENS", 200)


@pytest.mark.parametrize("packing", [False, True])
def test_a_batch_that_comes_last_rewrites_the_last_shard_alone(splitter, small_shards, packing):
    batches = {f"sft:a@{n}": talks(10, 10 * n) for n in range(6)} | TEST
    data = {
        "split": HALF,
        "packing": packing,
        "overlong": "drop",
        "near_duplicates": {"threshold": 0.9, "ngram_words": 2},
    }
    first = splitter.make(batches, **data)
    before = splitter.made("split_shard")
    again = talks(3)
    second = splitter.make({**batches, "sft:a@6": [*talks(4, 100), *again]}, **data)
    after = splitter.made("split_shard")
    assert len(before) > 2
    assert len(after) == len(before) + 1
    assert {name: after[name] for name in before} == before
    assert len(splitter.made("judged_batch")) == 7
    assert second.part("sft")["dropped"]["exact_duplicate"] == len(again)
    assert second.accounts_for("sft")
    for part in ("train", "validation", "test"):
        old, new = ([file.read_bytes() for file in made.artifact.below(f"sft_{part}")] for made in (first, second))
        assert new[: len(old) - 1] == old[:-1]


def test_a_batch_named_by_its_date_comes_last_whatever_its_source(splitter, small_shards):
    batches = {f"sft:{source}@2026-0{n}": talks(10, 100 * n + ord(source)) for source in "ab" for n in (1, 2)} | TEST
    splitter.make(batches)
    judged, written = splitter.made("judged_batch"), splitter.made("split_shard")
    splitter.make({**batches, "sft:a@2026-03": talks(10, 900)})
    assert {name: splitter.made("judged_batch")[name] for name in judged} == judged
    assert {name: splitter.made("split_shard")[name] for name in written} == written


def test_a_pair_that_a_new_batch_contradicts_goes_from_the_shard_it_was_in(splitter, small_shards):
    batches = {"preference:p@1": pairs(20), "sft:a@1": talks(1), **TEST}
    first = splitter.make(batches)
    second = splitter.make({**batches, "preference:p@2": [pair("Ask 3", "bad 3", "good 3")]})
    assert first.part("preference")["rows"]["train"] == 20
    assert second.part("preference")["rows"]["train"] == 19
    assert second.part("preference")["dropped"] == {"reversed_pair": 2}
    assert second.accounts_for("preference")


def test_shards_take_no_room_of_their_own_in_the_splits(splitter):
    made = splitter.make({"sft:a@1": talks(9), **TEST})
    [file] = made.artifact.below("sft_train")
    [shard] = splitter.made("split_shard")
    assert file.samefile(splitter.folder / "store" / "artifacts" / "split_shard" / shard / "train.arrow")


@pytest.mark.parametrize("packing", [False, True])
def test_what_is_told_of_many_shards_is_what_one_would_tell(splitter, tmp_path, tiny_base, monkeypatch, packing):
    batches = {f"sft:{source}@{n}": talks(15, 50 * n + ord(source)) for source in "ab" for n in range(3)}
    batches |= {f"preference:p@{n}": pairs(9, 10 * n) for n in range(3)} | TEST
    data = {"epochs": {"b": 2.5}, "split": HALF, "packing": packing, "overlong": "drop"}
    one = splitter.make(batches, **data)
    monkeypatch.setattr(shards, "SHARD_TOKENS", 1)
    many = Splitter(tmp_path / "other", tiny_base).make(batches, **data)
    assert len(many.artifact.below("sft_train")) == 6
    for role in ("sft", "preference"):
        told = [{**made.part(role)} for made in (one, many)]
        if packing and role == "sft":
            [one_packed, many_packed] = [each.pop("packing") for each in told]
            assert one_packed["conversations"] == many_packed["conversations"]
            [rows, more] = [each.pop("rows") for each in told]
            assert rows["train"] <= more["train"]
            assert told[0].pop("longest") <= 192 >= told[1].pop("longest")
        assert told[0] == told[1]
