"""Laws of the artifact store: complete or absent, verified when read, the same on a disk and on an object store."""

import os
import signal
import subprocess
import sys
import uuid

import pytest

from ft_assets.core.artifact import MANIFEST, ArtifactStore
from ft_assets.core.errors import CorruptArtifact

STAGE = "sft_adapter"
FINGERPRINT = "f" * 64

CHILD = """
import sys
from pathlib import Path
from ft_assets.core.artifact import ArtifactStore
store = ArtifactStore(sys.argv[1], Path(sys.argv[2]))
with store.write("sft_adapter", "f" * 64, code_version="1", identity={}, upstream={}) as staging:
    staging.file("weights").write_text(sys.argv[3] * 1000)
    staging.write_json("inner/config.json", {"author": sys.argv[3]})
    print("staged", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(params=["disk", "memory"])
def root(request, tmp_path):
    return str(tmp_path / "store") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def open_store(tmp_path):
    """Opens the store as another machine would: with a local folder of its own."""
    return lambda root: ArtifactStore(root, tmp_path / uuid.uuid4().hex)


def put(store, author="good", **metrics):
    with store.write(STAGE, FINGERPRINT, code_version="1", identity={"seed": 1}, upstream={"base": "aa"}) as staging:
        staging.file("weights").write_text(author * 1000)
        staging.write_json("inner/config.json", {"author": author})
        staging.metrics = {"rows": 3, **metrics}


def path_of(store, name):
    """Where a file lies in the store: on an object store the manifest says below which writer's prefix."""
    at = name if name == MANIFEST else store.lookup(STAGE, FINGERPRINT).files[name].get("at", name)
    return f"{store.base}/artifacts/{STAGE}/{FINGERPRINT}/{at}"


def files_below(store):
    return store.fs.find(f"{store.base}/artifacts") if store.fs.exists(f"{store.base}/artifacts") else []


def start_writer(root, local, author):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, root, str(local), author],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "staged\n"
    return child


def test_what_is_written_is_read(root, open_store):
    put(open_store(root))
    artifact = open_store(root).open(STAGE, FINGERPRINT)
    assert artifact.file("weights").read_text() == "good" * 1000
    assert artifact.json("inner/config.json") == {"author": "good"}
    manifest = artifact.manifest
    assert (manifest.stage, manifest.fingerprint, manifest.identity) == (STAGE, FINGERPRINT, {"seed": 1})
    assert (manifest.upstream, manifest.metrics) == ({"base": "aa"}, {"rows": 3})
    assert sorted(manifest.files) == ["inner/config.json", "weights"]
    assert manifest.size_bytes == sum(artifact.file(name).stat().st_size for name in manifest.files)


def test_what_was_never_written_is_absent(root, open_store):
    put(open_store(root))
    other = open_store(root)
    assert other.lookup(STAGE, "0" * 64) is None
    assert other.open("cpt_adapter", FINGERPRINT) is None


def test_a_reader_sees_nothing_until_the_write_ends(root, open_store):
    store, reader = open_store(root), open_store(root)
    with store.write(STAGE, FINGERPRINT, code_version="1", identity={}, upstream={}) as staging:
        staging.file("weights").write_text("half")
        assert reader.lookup(STAGE, FINGERPRINT) is None
        assert files_below(reader) == []
    assert reader.open(STAGE, FINGERPRINT).file("weights").read_text() == "half"


def test_an_object_store_shows_nothing_while_files_are_uploaded(open_store, monkeypatch):
    root = f"memory://{uuid.uuid4().hex}"
    store, reader, seen = open_store(root), open_store(root), []
    upload = store.fs.put_file

    def put_file(*args, **kwargs):
        upload(*args, **kwargs)
        seen.append(reader.open(STAGE, FINGERPRINT))

    monkeypatch.setattr(store.fs, "put_file", put_file)
    put(store)
    assert seen == [None, None]
    assert reader.open(STAGE, FINGERPRINT) is not None


def fail_half_way(store, error):
    with store.write(STAGE, FINGERPRINT, code_version="1", identity={}, upstream={}) as staging:
        staging.file("weights").write_text("half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_a_write_leaves_nothing(root, open_store, error):
    store = open_store(root)
    with pytest.raises(error):
        fail_half_way(store, error)
    assert store.lookup(STAGE, FINGERPRINT) is None
    assert files_below(store) == []
    assert not [path for path in store.local.rglob("*") if path.is_file()]
    put(store)
    assert store.open(STAGE, FINGERPRINT).json("inner/config.json") == {"author": "good"}


def test_a_killed_writer_leaves_no_artifact_and_the_next_write_succeeds(tmp_path):
    root = str(tmp_path / "store")
    child = start_writer(root, tmp_path / "local", "killed")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    store = ArtifactStore(root)
    assert child.returncode == -signal.SIGKILL
    assert store.open(STAGE, FINGERPRINT) is None
    put(store)
    assert store.open(STAGE, FINGERPRINT).json("inner/config.json") == {"author": "good"}


def test_two_processes_end_with_one_good_artifact(tmp_path):
    root = str(tmp_path / "store")
    writers = [start_writer(root, tmp_path / f"local-{author}", author) for author in "ab"]
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    store = ArtifactStore(root)
    artifact = store.open(STAGE, FINGERPRINT)
    author = artifact.json("inner/config.json")["author"]
    assert artifact.file("weights").read_text() == author * 1000
    assert os.listdir(tmp_path / "store" / "artifacts" / STAGE) == [FINGERPRINT]
    assert os.listdir(tmp_path / "store" / ".staging") == []


def test_the_first_of_two_writers_stays(root, open_store):
    first, second = open_store(root), open_store(root)
    with second.write(STAGE, FINGERPRINT, code_version="1", identity={}, upstream={}) as staging:
        put(first, "first")
        staging.file("weights").write_text("second")
    assert open_store(root).open(STAGE, FINGERPRINT).json("inner/config.json") == {"author": "first"}


def test_two_uploads_that_overlap_end_with_one_good_artifact(open_store, monkeypatch):
    """One writer's whole commit falls between two uploads of the other."""
    root = f"memory://{uuid.uuid4().hex}"
    slow, quick, between = open_store(root), open_store(root), []
    upload = slow.fs.put_file

    def put_file(*args, **kwargs):
        upload(*args, **kwargs)
        if not between:
            between.append(True)
            put(quick, "quick")

    monkeypatch.setattr(slow.fs, "put_file", put_file)
    put(slow, "slow")
    artifact = open_store(root).open(STAGE, FINGERPRINT)
    author = artifact.json("inner/config.json")["author"]
    assert artifact.file("weights").read_text() == author * 1000


def test_the_debris_of_a_killed_writer_goes_after_a_day(root, open_store):
    store = open_store(root)
    old, young, busy = (store.local / ".staging" / name for name in ("old", "young", "busy"))
    for folder in (old, young, busy):
        folder.mkdir(parents=True)
        (folder / "weights").write_text("half")
    for path in (old / "weights", old, busy):
        os.utime(path, (1, 1))
    put(store)
    assert sorted(path.name for path in (store.local / ".staging").iterdir()) == ["busy", "young"]


def test_what_killed_writers_of_one_fingerprint_left_goes_and_no_other(root, open_store):
    store = open_store(root)
    for name in (f"{FINGERPRINT[:16]}-1", f"{FINGERPRINT[:16]}-2", "other-1"):
        (store.local / ".staging" / name).mkdir(parents=True)
    store.clear_staging(FINGERPRINT)
    assert [path.name for path in (store.local / ".staging").iterdir()] == ["other-1"]


def flip(store, path):
    data = bytearray(store.fs.cat_file(path))
    data[len(data) // 2] ^= 1
    store.fs.pipe_file(path, bytes(data))


def cut(store, path):
    store.fs.pipe_file(path, store.fs.cat_file(path)[:-1])


def remove(store, path):
    store.fs.rm(path)


@pytest.mark.parametrize("damage", [flip, cut, remove])
@pytest.mark.parametrize("name", ["weights", "inner/config.json"])
def test_damage_is_found_and_named_and_mended(root, open_store, damage, name):
    put(open_store(root))
    store = open_store(root)
    damage(store, path_of(store, name))
    with pytest.raises(CorruptArtifact, match=name):
        store.open(STAGE, FINGERPRINT)
    kept_at = store.set_aside(STAGE, FINGERPRINT)
    assert store.fs.exists(kept_at)
    assert store.open(STAGE, FINGERPRINT) is None
    put(store)
    assert store.open(STAGE, FINGERPRINT).json("inner/config.json") == {"author": "good"}
    assert open_store(root).open(STAGE, FINGERPRINT).file("weights").read_text() == "good" * 1000


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"stage": "x"}', b'{"a": 1}', b"\xff\xfe"], ids=repr)
def test_a_broken_manifest_is_corrupt_and_can_be_set_aside(root, open_store, text):
    store = open_store(root)
    put(store)
    store.fs.pipe_file(path_of(store, MANIFEST), text)
    with pytest.raises(CorruptArtifact, match=MANIFEST):
        store.open(STAGE, FINGERPRINT)
    store.set_aside(STAGE, FINGERPRINT)
    put(store)
    assert open_store(root).open(STAGE, FINGERPRINT) is not None


def test_damage_after_a_verified_read_is_found(tmp_path):
    store = ArtifactStore(str(tmp_path))
    put(store)
    os.utime(path_of(store, "weights"), (1, 1))
    assert store.open(STAGE, FINGERPRINT) is not None
    flip(store, path_of(store, "weights"))
    with pytest.raises(CorruptArtifact, match="weights"):
        store.open(STAGE, FINGERPRINT)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_download_is_fetched_again(open_store, damage):
    """What rots on this machine says nothing about the original, which may have cost a day of GPUs."""
    root = f"memory://{uuid.uuid4().hex}"
    put(open_store(root))
    reader = open_store(root)
    copy = reader.open(STAGE, FINGERPRINT).file("weights")
    data = copy.read_bytes()
    copy.unlink()
    if damage != "remove":
        copy.write_bytes(b"X" + data[1:] if damage == "flip" else data[:-1])
    assert ArtifactStore(root, reader.local).open(STAGE, FINGERPRINT).file("weights").read_bytes() == data


def test_a_folder_without_a_manifest_is_no_artifact_and_is_replaced(tmp_path):
    store = ArtifactStore(str(tmp_path))
    debris = tmp_path / "artifacts" / STAGE / FINGERPRINT
    debris.mkdir(parents=True)
    (debris / "weights").write_text("debris")
    assert store.open(STAGE, FINGERPRINT) is None
    put(store)
    assert store.open(STAGE, FINGERPRINT).file("weights").read_text() == "good" * 1000


ODD = [
    "demo",
    "a@2026-01",
    "a/b",
    "a%2Fb",
    "..",
    ".hidden",
    "x.json",
    "with space",
    "caf\u00e9 \u2028",
    "100%",
    "a?b#c",
    "~",
    "[x]*",
    "a\\b",
]


def test_refs_keep_names_apart_and_return_them(root, open_store):
    store = open_store(root)
    for name in ODD:
        store.set_ref("raw_corpus", name, {"is": name})
    reader = open_store(root)
    assert {name: reader.get_ref("raw_corpus", name) for name in ODD} == {name: {"is": name} for name in ODD}
    assert reader.refs("raw_corpus", "") == {name: {"is": name} for name in sorted(ODD)}
    assert list(reader.refs("raw_corpus", "a")) == sorted(name for name in ODD if name.startswith("a"))


@pytest.mark.parametrize("damage", [b"", b'{"fingerprint": "ol', b"\xff\x00", b"[1]"])
def test_a_damaged_ref_is_named_with_what_to_do(root, open_store, damage):
    store = open_store(root)
    store.set_ref("champion", "a@1", {"fingerprint": "old"})
    store.fs.pipe_file(f"{store.base}/refs/champion/a@1.json", damage)
    with pytest.raises(CorruptArtifact, match=r"champion/a@1.json cannot be read .*remove it"):
        store.get_ref("champion", "a@1")


def test_a_ref_that_is_set_again_points_to_the_new_value(root, open_store):
    store = open_store(root)
    assert store.get_ref("raw_corpus", "a@1") is None
    assert store.refs("raw_corpus", "a@") == {}
    store.set_ref("raw_corpus", "a@1", {"fingerprint": "old"})
    store.set_ref("raw_corpus", "a@1", {"fingerprint": "new"})
    assert open_store(root).get_ref("raw_corpus", "a@1") == {"fingerprint": "new"}
    assert list(store.refs("raw_corpus", "a@")) == ["a@1"]


def test_partial_work_is_seen_and_cleared(root, open_store):
    store = open_store(root)
    assert not store.has_partial(FINGERPRINT)
    (store.scratch(FINGERPRINT) / "checkpoint-1").mkdir()
    assert store.has_partial(FINGERPRINT)
    store.clear_scratch(FINGERPRINT)
    assert not store.has_partial(FINGERPRINT)


def test_a_remote_store_wants_a_local_folder():
    with pytest.raises(ValueError, match="local folder"):
        ArtifactStore("memory://x")


def test_a_number_json_cannot_hold_is_never_committed(root, open_store):
    """A NaN loss in a manifest is no JSON: other readers choke on it, and a comparison with it is always false."""
    store = open_store(root)
    with pytest.raises(ValueError, match=r"finite|JSON"):
        put(store, loss=float("nan"))
    assert store.lookup(STAGE, FINGERPRINT) is None


def test_a_linked_file_that_went_before_the_commit_leaves_no_artifact(root, open_store):
    store = open_store(root)
    with store.write("split_shard", FINGERPRINT, code_version="1", identity={}, upstream={}) as staging:
        staging.file("rows").write_text("rows")
    shard = store.open("split_shard", FINGERPRINT)

    def commit(goes):
        with store.write(STAGE, FINGERPRINT, code_version="1", identity={}, upstream={}) as staging:
            staging.link("rows/0", shard, "rows")
            if goes:
                staging.file("rows/0").unlink()

    with pytest.raises(FileNotFoundError, match=r"rows/0 went while the artifact was made"):
        commit(goes=True)
    assert store.lookup(STAGE, FINGERPRINT) is None
    commit(goes=False)
    made = open_store(root).open(STAGE, FINGERPRINT)
    assert made.file("rows/0").read_text() == "rows"
    assert made.manifest.files["rows/0"]["sha256"] == shard.manifest.files["rows"]["sha256"]
