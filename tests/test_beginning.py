"""What ``ft run`` does beside Dagster: whom it asks for what, and that nothing of it is left."""

import contextlib
import errno
import os
import shutil
import threading

import dagster as dg
import pytest
from test_automation import BAD, one_ingested, rows
from waiting import until

from ft_assets import beginning
from ft_assets.beginning import begun
from ft_assets.core.errors import RecipeError
from ft_assets.core.lineage import MODEL_ASSETS
from ft_assets.core.recipe_run import base_of, stages_of
from resources import processes
from resources.environment import catalog

KEY, OTHER = "rows@one", "rows@two"


@pytest.fixture
def place(tmp_path):
    with one_ingested(tmp_path) as place:
        yield place


@pytest.fixture
def waits(monkeypatch):
    """Stands in for the worker that waits: where it was started, and what it is asked."""
    started, asked = [], []

    @contextlib.contextmanager
    def standing_by(folder, threads):
        started.append(folder)
        processes._waiting[folder] = None
        yield
        processes._waiting.pop(folder, None)

    monkeypatch.setattr(beginning, "standing_by", standing_by)
    monkeypatch.setattr(beginning, "ask_ahead", lambda folder, request: asked.append((folder, request)))
    return started, asked


@pytest.fixture
def recipe(place, monkeypatch):
    """A recipe whose base model and splits are there; one batch is ingested, and so are the held-out rows."""
    monkeypatch.setenv("DAGSTER_HOME", str(place.folder / "dagster_home"))
    place.recipe("first", retrain="null")
    place.drop("held/one.jsonl", rows(3, 500))
    place.settle()
    have_base(place)
    made = splits(place, "first")
    with place.store.write("tokenized_splits", made, code_version="1", identity={}, upstream={}):
        pass
    return "first"


def have_base(place):
    known = catalog(place.settings)
    base = base_of(known, known.recipe("first"))
    with place.store.write(base.name, base.fingerprint, code_version="1", identity={}, upstream={}) as staging:
        staging.metrics = {"content_hash": "0" * 64}


def ingest(place, key=OTHER):
    place.instance.add_dynamic_partitions("source_batch", [key])
    return place.launch(dg.RunRequest(partition_key=key))


def asks():
    """The thread that asks."""
    [found] = [thread for thread in threading.enumerate() if thread.name == beginning.ASKING]
    return found


def start(place, recipe, until=None):
    return begun(place.settings, catalog(place.settings), recipe, until)


def splits(place, recipe, states=None):
    known = catalog(place.settings)
    return stages_of(known, known.recipe(recipe), place.store, states).stages["tokenized_splits"].fingerprint


def test_where_nothing_is_new_no_worker_is_started(place, recipe, waits):
    with start(place, recipe) as found:
        assert set(found.keys) == set(found.as_ingested) == {KEY, "held@one"}
        assert found.assets == MODEL_ASSETS
    assert waits == ([], [])


def test_the_worker_is_asked_for_what_was_made_and_for_a_new_batch_once_it_is_validated(place, recipe, waits):
    started, asked = waits
    before = splits(place, recipe)
    place.drop("rows/two.jsonl", rows(3, 50))
    with start(place, recipe) as found:
        assert set(found.as_ingested) == {KEY, "held@one"}
        until(lambda: asked, 60, "the worker to be asked")
        assert place.state(OTHER) == "new"
        assert [request["fingerprint"] for _, request in asked] == [before]
        assert ingest(place)
        until(lambda: len(asked) == 2, 60, "the worker to be asked again")
    folder = place.settings.home / "runs" / found.run_id / "tokenized_splits"
    assert started == [folder]
    assert [where for where, _ in asked] == [folder, folder]
    assert asked[1][1]["fingerprint"] == splits(place, recipe) != before
    prepared = [{name for name in request["execution"]["parts"] if "prepared" in name} for _, request in asked]
    assert prepared == [{f"prepared:sft:{KEY}"}, {f"prepared:sft:{KEY}", f"prepared:sft:{OTHER}"}]


def test_splits_that_were_never_made_are_not_asked_for(place, recipe, waits):
    """Their batches may have been edited since: an old version would be tokenized in vain."""
    _, asked = waits
    shutil.rmtree(place.store.local / "artifacts" / "tokenized_splits")
    place.drop("rows/one.jsonl", rows(4))
    with start(place, recipe):
        assert ingest(place, KEY)
        until(lambda: asked, 60, "the worker to be asked")
    assert [request["fingerprint"] for _, request in asked] == [splits(place, recipe)]


def test_of_a_batch_that_was_edited_the_new_version_is_asked_for(place, recipe, waits):
    _, asked = waits
    before = splits(place, recipe)
    place.drop("rows/one.jsonl", rows(4))
    with start(place, recipe) as found:
        assert set(found.as_ingested) == {"held@one"}
        until(lambda: asked, 60, "the worker to be asked for what was made")
        assert ingest(place, KEY)
        until(lambda: len(asked) == 2, 60, "the worker to be asked again")
    assert [request["fingerprint"] for _, request in asked] == [before, splits(place, recipe)]


def test_a_batch_that_was_touched_alone_holds_no_other_back(place, recipe, waits):
    _, asked = waits
    place.drop("rows/two.jsonl", rows(3, 50))
    os.utime(place.recipes / "data" / "rows" / "one.jsonl", (1, 1))
    with start(place, recipe) as found:
        assert set(found.as_ingested) == {"held@one"}
        for key in (KEY, OTHER):
            assert ingest(place, key)
        until(lambda: len(asked) == 2, 60, "the worker to be asked again")
    assert asked[1][1]["fingerprint"] == splits(place, recipe)


def test_a_batch_that_fails_is_never_asked_for(place, recipe, waits):
    _, asked = waits
    place.drop("rows/two.jsonl", BAD)
    with start(place, recipe):
        until(lambda: asked, 60, "the worker to be asked for what was made")
        ingest(place)
        assert place.state(OTHER) == "failed"
        asking = asks()
    asking.join(60)
    assert not asking.is_alive()
    assert len(asked) == 1


def test_a_worker_that_was_taken_is_asked_no_more(place, recipe, waits):
    started, asked = waits
    place.drop("rows/two.jsonl", rows(3, 50))
    with start(place, recipe):
        until(lambda: asked, 60, "the worker to be asked for what was made")
        asking = asks()
        del processes._waiting[started[0]]
        asking.join(60)
        assert not asking.is_alive()
        assert ingest(place)
    assert len(asked) == 1


def test_where_all_is_new_the_worker_is_asked_once_all_is_validated(place, waits, monkeypatch):
    _, asked = waits
    monkeypatch.setenv("DAGSTER_HOME", str(place.folder / "dagster_home"))
    place.recipe("first", source="more", retrain="null")
    have_base(place)
    for source in ("more", "held"):
        place.drop(f"{source}/one.jsonl", rows(3))
    with start(place, "first"):
        place.settle()
        until(lambda: asked, 60, "the worker to be asked")
    assert [request["fingerprint"] for _, request in asked] == [splits(place, "first")]


def test_where_nothing_can_be_written_for_a_worker_the_run_begins_without_one(place, recipe, monkeypatch):
    def start_worker(command, env, folder, stdin):
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    monkeypatch.setattr(processes, "start", start_worker)
    place.drop("rows/two.jsonl", rows(3, 50))
    with start(place, recipe) as found:
        assert OTHER in found.keys
    assert processes._waiting == {}


@pytest.mark.parametrize(("last", "same"), [("raw_corpus", set()), ("validated_dataset", {KEY, "held@one"})])
def test_what_wants_no_splits_starts_no_worker(place, recipe, waits, last, same):
    place.drop("rows/two.jsonl", rows(3, 50))
    with start(place, recipe, last) as found:
        assert set(found.as_ingested) == same
        assert found.assets == ()
    assert waits == ([], [])


def test_a_source_that_is_not_there_stops_before_anything_is_created(place, recipe, waits):
    shutil.rmtree(place.recipes / "data" / "rows")
    before = sorted(place.folder.rglob("*"))
    with pytest.raises(RecipeError), start(place, recipe):
        pass
    assert sorted(place.folder.rglob("*")) == before
    assert waits == ([], [])
