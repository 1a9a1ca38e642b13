"""The champion's record: what was published is never lost, and what was withdrawn comes back only when it is asked for."""

import threading

import pytest

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.champion import ChampionMoved, promote, published, read, roll_back, withdrawn
from ft_assets.core.contestants import incumbent
from ft_assets.core.errors import FineTuneError

MARK = {"by": "Ada", "reason": "answers in French", "at": "2026-11-26T17:00:00+00:00"}


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path))


def entry(letter: str, merged: str | None = None) -> dict:
    return {
        "release": letter * 64,
        "evaluation": "e" * 64,
        "merged": ["merged_model", (merged or letter) * 64],
        "folder": letter * 16,
        "to": "file:///published/tiny",
        "published_at": "2026-11-26T16:00:00+00:00",
        "override": None,
        "withdrawn": None,
    }


def publish(store, *letters):
    for letter in letters:
        promote(store, "tiny", entry(letter), published(read(store, "tiny")))
    return read(store, "tiny")


def models(record) -> str:
    return "".join(fingerprint[0] for _, fingerprint in published(record))


def test_nothing_published_is_no_incumbent(store):
    assert read(store, "tiny") is None
    assert published(None) == ()
    assert withdrawn(None, "a" * 64, "a" * 64) is None


def test_the_champion_comes_first_and_then_those_before_it(store):
    record = publish(store, "a", "b", "c")
    assert record["champion"] == "c" * 64
    assert models(record) == "cba"
    assert read(store, "tiny2") is None, "a recipe whose name begins alike has a record of its own"


def test_publishing_the_champion_again_writes_nothing(store):
    before = publish(store, "a", "b")
    seen = (("merged_model", "a" * 64),)
    assert promote(store, "tiny", entry("b"), seen) == before
    assert store.ref_names("champion", "tiny@") == ["tiny@000001", "tiny@000002"]


def test_a_run_after_publishing_meets_the_same_incumbent(store):
    assert incumbent(published(publish(store, "a")), "b" * 64) == ("merged_model", "a" * 64)
    assert incumbent(published(publish(store, "b")), "b" * 64) == ("merged_model", "a" * 64)


def test_nor_does_it_meet_one_that_was_passed_over_by_a_rollback(store):
    publish(store, "a", "b", "c")
    roll_back(store, "tiny", "a" * 8, MARK)
    before = incumbent(published(read(store, "tiny")), "d" * 64)
    assert incumbent(published(publish(store, "d")), "d" * 64) == before == ("merged_model", "a" * 64)


def test_nor_another_one_after_it_was_withdrawn_and_brought_back(store):
    publish(store, "a", "b")
    roll_back(store, "tiny", None, MARK)
    _, after = roll_back(store, "tiny", "b" * 8, MARK)
    assert incumbent(published(after), "b" * 64) == ("merged_model", "a" * 64)


def test_rolled_back_the_one_before_it_is_the_champion(store):
    publish(store, "a", "b", "c")
    before, after = roll_back(store, "tiny", None, MARK)
    assert (before["champion"][0], after["champion"][0]) == ("c", "b")
    assert [each["withdrawn"] for each in after["history"]] == [None, None, MARK]
    assert models(after) == "ba"
    assert models(roll_back(store, "tiny", None, MARK)[1]) == "a"
    with pytest.raises(FineTuneError, match="there is none to go back to"):
        roll_back(store, "tiny", None, MARK)


def test_what_was_withdrawn_is_not_published_unasked_under_another_name_either(store):
    publish(store, "a", "b")
    roll_back(store, "tiny", None, MARK)
    seen = published(read(store, "tiny"))
    for release in (entry("b"), entry("d", merged="b")):
        with pytest.raises(FineTuneError, match=r"withdrawn by Ada .*answers in French.* ft rollback tiny --to"):
            promote(store, "tiny", release, seen)
    assert read(store, "tiny")["champion"] == "a" * 64
    promote(store, "tiny", entry("c"), seen)
    assert models(read(store, "tiny")) == "ca", "the withdrawn one is no incumbent"


def test_what_was_withdrawn_is_brought_back_by_its_name(store):
    publish(store, "a", "b")
    roll_back(store, "tiny", None, MARK)
    _, after = roll_back(store, "tiny", "b" * 8, MARK)
    assert after["champion"] == "b" * 64
    assert withdrawn(after, "b" * 64, "b" * 64) is None
    assert withdrawn(after, "a" * 64, "a" * 64) == MARK
    assert roll_back(store, "tiny", "b" * 16, MARK) == (after, after), "there already"


@pytest.mark.parametrize("to", ["", "b", "b" * 7, "d" * 16, "b" * 65])
def test_a_release_that_is_none_is_refused_with_those_there_are(store, to):
    before = publish(store, "a", "b")
    with pytest.raises(FineTuneError, match=f"its releases: {'a' * 16}, {'b' * 16}"):
        roll_back(store, "tiny", to, MARK)
    assert read(store, "tiny") == before
    with pytest.raises(FineTuneError, match="nothing of other has been published"):
        roll_back(store, "other", None, MARK)


def test_a_candidate_judged_against_another_champion_is_not_published(store):
    publish(store, "a")
    seen = published(read(store, "tiny"))
    publish(store, "b")
    with pytest.raises(
        ChampionMoved, match="its incumbent was merged_model aaaaaaaaaaaa; by now it is merged_model bbbb"
    ):
        promote(store, "tiny", entry("c"), seen)
    assert read(store, "tiny")["champion"] == "b" * 64


def test_an_older_model_published_again_counts_by_its_later_place(store):
    record = publish(store, "a", "b", "a")
    assert models(record) == "ab"
    assert roll_back(store, "tiny", None, MARK)[1]["champion"] == "b" * 64


def writers(stores):
    """Each store's writer adds a release of its own that has been judged against what it sees, until it is in."""

    def write(store, letter):
        while True:
            try:
                promote(store, "tiny", entry(letter), published(read(store, "tiny")))
                return
            except ChampionMoved:
                continue

    threads = [threading.Thread(target=write, args=pair) for pair in zip(stores, "abcdef", strict=False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return read(stores[0], "tiny")


def test_of_writers_at_once_none_loses_what_another_wrote(tmp_path):
    record = writers([ArtifactStore(str(tmp_path)) for _ in range(6)])
    assert sorted(each["release"][0] for each in record["history"]) == list("abcdef")
    assert [path for path in (tmp_path / "refs" / "champion").iterdir() if path.suffix != ".json"] == []


def test_nor_on_an_object_store(bucket, tmp_path):
    record = writers([ArtifactStore(bucket.url("store"), tmp_path) for _ in range(3)])
    assert sorted(each["release"][0] for each in record["history"]) == list("abc")


def test_a_stale_read_never_replaces_what_came_after_it(store):
    publish(store, "a")
    assert not store.create_ref("champion", "tiny@000001", {"champion": "other"})
    assert read(store, "tiny")["champion"] == "a" * 64
