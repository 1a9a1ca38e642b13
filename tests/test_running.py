"""What ``ft run`` may leave out: batches that were ingested as they are, whose version Dagster knows."""

from dataclasses import replace

import dagster as dg
import pytest
from test_automation import BAD, one_ingested, rows

from ft_assets import running
from ft_assets.core import watching
from ft_assets.core.location import Files
from resources.environment import catalog

KEY = "rows@one"


@pytest.fixture
def place(tmp_path):
    with one_ingested(tmp_path) as place:
        yield place


def unchanged(place):
    known = catalog(place.settings)
    same = watching.as_ingested(known, place.store, watching.files_of_batches(known, [KEY]))
    return running.unchanged_batches(place.store, place.instance, same)


def ingest(place):
    return place.launch(dg.RunRequest(partition_key=KEY))


def declare(place, old, new):
    file = place.recipes / "sources.yaml"
    file.write_text(file.read_text().replace(old, new, 1))
    place.restart()


def test_a_batch_that_is_as_it_was_needs_no_run(place):
    found = unchanged(place)
    assert [(row.asset, row.status) for row in found[KEY]] == [
        ("raw_corpus", "reused"),
        ("validated_dataset", "reused"),
    ]
    assert found[KEY][1].key_metric == "3 kept, 0 quarantined"


def test_another_file_a_damaged_one_or_another_rule_needs_one(place):
    made = next((place.store.local / "artifacts" / "validated_dataset").glob("*/rows.parquet"))
    good = made.read_bytes()
    made.write_bytes(good[:-1] + b"?")
    assert unchanged(place) == {}
    made.write_bytes(good)
    assert KEY in unchanged(place)
    declare(place, "licence: MIT}", "licence: MIT, min_characters: 2}")
    assert unchanged(place) == {}
    declare(place, ", min_characters: 2", "")
    assert KEY in unchanged(place)
    place.drop("rows/one.jsonl", rows(4))
    assert unchanged(place) == {}


def test_a_version_that_came_back_is_told_to_dagster(place):
    for rule in ("licence: MIT, min_characters: 2}", "licence: MIT}"):
        declare(place, "licence: MIT}" if "min" in rule else "licence: MIT, min_characters: 2}", rule)
        assert unchanged(place) == {}
        if "min" in rule:
            assert ingest(place)
    assert ingest(place)
    assert KEY in unchanged(place)


def test_a_check_that_failed_is_made_again(place):
    place.drop("rows/one.jsonl", rows(1) + BAD)
    assert not ingest(place)
    declare(place, "licence: MIT}", "licence: MIT, max_quarantined_share: 1.0}")
    assert place.state(KEY) == "validated"
    assert unchanged(place) == {}
    assert ingest(place)
    assert KEY in unchanged(place)


def test_a_location_that_tells_no_time_of_change_is_not_trusted(place, monkeypatch):
    real = watching.look

    def look(known, name):
        found = real(known, name)
        plain = {
            key: Files({at: replace(file, changed="") for at, file in files.files.items()}, False)
            for key, files in found.batches.items()
        }
        return replace(found, batches=plain)

    ref = place.store.get_ref("raw_corpus", KEY)
    [files] = look(catalog(place.settings), "rows").batches.values()
    place.store.set_ref("raw_corpus", KEY, {**ref, "signature": files.signature})
    monkeypatch.setattr(watching, "look", look)
    assert unchanged(place) == {}
