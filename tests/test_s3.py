"""Sources and the store on an S3 server on loopback."""

import dagster as dg
import fsspec
import pytest
from publishing import publish_to
from test_automation import BAD, Place, rows

from ft_assets.assets.raw_corpus import copy_batch
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.batches import batch_state
from ft_assets.core.errors import FineTuneError
from ft_assets.core.location import access_errors, files_of, find_batches, in_words
from ft_assets.core.publish import FolderTarget, PublishedFile, folder_of, is_champion
from resources.environment import Settings, catalog


def test_files_folders_and_globs_are_batches_as_on_a_disk(bucket, tmp_path):
    for key in ("one.jsonl", "two/a.jsonl", "two/in/b.jsonl", "two/_SUCCESS", "two/.x", "c.jsonl.tmp", "", "two/"):
        bucket.put(f"data/{key}", key)
    found = find_batches(bucket.url())
    assert {key: file is None for key, (_, file) in found.batches.items()} == {"one": False, "two": True}
    assert found.refused == {}
    assert list(find_batches(bucket.url("data/*.jsonl")).batches) == ["one"]
    assert list(find_batches(bucket.url("data/one.jsonl")).batches) == ["one"]
    folder = copy_batch(bucket.url(), found.batches["two"][0], tmp_path / "two")
    assert list(folder.files) == ["a.jsonl", "in/b.jsonl"]
    assert folder.complete
    assert (tmp_path / "two" / "in" / "b.jsonl").read_text() == "two/in/b.jsonl"
    single = copy_batch(bucket.url(), found.batches["one"][0], tmp_path / "one")
    assert list(single.files) == ["one.jsonl"]


def test_a_listing_and_a_look_at_one_file_agree(bucket):
    bucket.put("data/one.jsonl", "x")
    path, file = find_batches(bucket.url()).batches["one"]
    assert files_of(bucket.url(), path).files == {"one.jsonl": file}


def test_what_another_machine_adds_or_changes_is_seen(bucket):
    bucket.put("data/two/a.jsonl", "a")
    path = f"{bucket.name}/data/two"
    assert list(find_batches(bucket.url()).batches) == ["two"]
    first = files_of(bucket.url(), path).signature
    bucket.put("data/two/a.jsonl", "b")
    second = files_of(bucket.url(), path).signature
    bucket.put("data/two/b.jsonl", "b")
    bucket.put("data/three.jsonl", "b")
    assert len({first, second, files_of(bucket.url(), path).signature}) == 3
    assert list(find_batches(bucket.url()).batches) == ["three", "two"]


def test_a_key_that_leads_out_is_refused(bucket, tmp_path):
    bucket.put("data/two/../../evil.jsonl", "x")
    with pytest.raises(FineTuneError, match="leads out of its batch"):
        copy_batch(bucket.url(), f"{bucket.name}/data/two", tmp_path / "out")
    assert not list(tmp_path.rglob("evil*"))


def test_a_bucket_that_is_not_there_is_named(bucket):
    with pytest.raises(access_errors()) as raised:
        find_batches("s3://no-such-bucket-here/data")
    assert "not there" in in_words(raised.value)


def test_a_release_in_a_bucket_is_whole_and_what_another_machine_damages_is_seen(bucket, tmp_path):
    weights = tmp_path / "model.gguf"
    weights.write_bytes(b"GGUF" + b"w" * 100)
    files = [PublishedFile("README.md", b"card"), PublishedFile("quantized/model.gguf", weights)]
    target, folder = FolderTarget(bucket.url("out")), folder_of("a" * 64)
    publish_to(target, "a" * 64, files, lambda line: None)
    assert target.missing(folder, files) == []
    assert is_champion(target, "a" * 64)
    bucket.put(f"out/{folder}/quantized/model.gguf", "short")
    assert target.missing(folder, files) == ["quantized/model.gguf"]
    publish_to(target, "a" * 64, files, lambda line: None)
    assert target.missing(folder, files) == []


def test_a_bucket_without_keys_to_it_is_told_in_words(bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(FineTuneError, match=r"cannot be read .*credentials"):
        FolderTarget(bucket.url()).read_pointer()


@pytest.mark.graph
def test_the_sensor_ingests_from_a_bucket_into_a_store_in_a_bucket(bucket, tmp_path):
    class InBucket(Place):
        @property
        def settings(self):
            own = super().settings
            return Settings(own.home, bucket.url("store"), own.recipe_folders, own.cache, own.wandb_mode)

    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        place = InBucket(tmp_path, instance)
        where = f"{bucket.url()}/"
        sources = (
            (place.recipes / "sources.yaml").read_text().replace("data/rows", where).replace("data/more", "s3://gone/x")
        )
        (place.recipes / "sources.yaml").write_text(sources)
        place.restart()
        bucket.put("data/one.jsonl", rows(3) + BAD)
        bucket.put("data/two/a.jsonl", rows(2, 10))
        bucket.put("data/two/_SUCCESS", "")
        requests = place.tick()
        assert [request.partition_key for request in requests] == ["rows@two"]
        assert "source more" not in place.said  # said in the log: there was a run to ask for
        requests += place.tick()
        assert [request.partition_key for request in requests] == ["rows@two", "rows@one"]
        for request in requests:
            assert place.launch(request) is (request.partition_key == "rows@two")
        assert place.tick() == []
        assert "source more" in place.said
        known = catalog(place.settings)
        assert batch_state(known, place.store, "rows@two").rows == 2
        assert batch_state(known, place.store, "rows@one").word == "failed"
        bucket.put("data/one.jsonl", rows(3))
        assert place.settle() == ["rows@one"]
        assert batch_state(known, place.store, "rows@one").word == "validated"
        fresh = ArtifactStore(bucket.url("store"), tmp_path / "another machine")
        made = fresh.open("validated_dataset", batch_state(known, place.store, "rows@one").validated)
        assert (made.folder / "rows.parquet").is_file()
        bucket.delete("data/two/a.jsonl")
        assert place.settle() == []
