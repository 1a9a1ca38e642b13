"""Laws of publishing to a folder: the champion is whole at every moment, and a release cut short is finished."""

import json
import os
import uuid

import fsspec
import pytest
from publishing import publish_to

from ft_assets.core.errors import FineTuneError
from ft_assets.core.publish import FolderTarget, ListedFile, PublishedFile, folder_of, is_champion

OLD, NEW = "a" * 64, "b" * 64
HEADER = b'{"w":{"dtype":"U8","shape":[4000],"data_offsets":[0,4000]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + b"w" * 4000


@pytest.fixture(params=["disk", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "published") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "weights").write_bytes(WEIGHTS)
    return [
        PublishedFile("README.md", b"card"),
        PublishedFile("adapter/model.safetensors", tmp_path / "weights"),
        PublishedFile("config.json", b"{}"),
    ]


def publish(url, fingerprint, files):
    publish_to(FolderTarget(url), fingerprint, files, lambda line: None)


def missing_files(url, fingerprint, files):
    return FolderTarget(url).missing(folder_of(fingerprint), files)


def champion(url):
    fs, root = fsspec.core.url_to_fs(url)
    return json.loads(fs.cat_file(f"{root}/champion.json")) if fs.exists(f"{root}/champion.json") else None


def release(url, fingerprint):
    fs, root = fsspec.core.url_to_fs(url)
    folder = f"{root}/{fingerprint[:16]}"
    return {path.removeprefix(folder + "/"): fs.cat_file(path) for path in fs.find(folder)}


def contents(files):
    return {file.name: file.content if isinstance(file.content, bytes) else file.content.read_bytes() for file in files}


def test_a_release_holds_its_files_and_becomes_champion(url, files):
    assert missing_files(url, NEW, files) == [file.name for file in files]
    publish(url, NEW, files)
    assert release(url, NEW) == contents(files)
    assert champion(url) == {"fingerprint": NEW, "folder": NEW[:16]}
    assert missing_files(url, NEW, files) == []


def broken(files, tmp_path):
    """The same release, whose last file cannot be read."""
    return [*files[:-1], PublishedFile(files[-1].name, tmp_path / "not there")]


def test_a_release_cut_short_leaves_the_old_champion(url, files, tmp_path):
    publish(url, OLD, files)
    with pytest.raises(FileNotFoundError):
        publish(url, NEW, broken(files, tmp_path))
    assert champion(url) == {"fingerprint": OLD, "folder": OLD[:16]}
    assert release(url, OLD) == contents(files)
    assert missing_files(url, NEW, files) == ["config.json"]


def test_a_first_release_cut_short_makes_no_champion(url, files, tmp_path):
    with pytest.raises(FileNotFoundError):
        publish(url, NEW, broken(files, tmp_path))
    assert champion(url) is None


def test_a_release_cut_short_is_finished_not_repeated(files, tmp_path):
    url = str(tmp_path / "published")
    with pytest.raises(FileNotFoundError):
        publish(url, NEW, broken(files, tmp_path))
    there = [tmp_path / "published" / NEW[:16] / file.name for file in files[:-1]]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in there]
    publish(url, NEW, files)
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in there] == before
    assert release(url, NEW) == contents(files)
    assert champion(url)["fingerprint"] == NEW


def test_a_cut_file_is_written_again(url, files):
    publish(url, NEW, files)
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root}/{NEW[:16]}/adapter/model.safetensors", WEIGHTS[:-1])
    assert missing_files(url, NEW, files) == ["adapter/model.safetensors"]
    publish(url, NEW, files)
    assert release(url, NEW) == contents(files)


def test_a_file_changed_in_place_is_written_again(files, tmp_path):
    url = str(tmp_path / "published")
    publish(url, NEW, files)
    (tmp_path / "published" / NEW[:16] / "adapter" / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"x")
    assert missing_files(url, NEW, files) == ["adapter/model.safetensors"]
    publish(url, NEW, files)
    assert release(url, NEW) == contents(files)


@pytest.mark.parametrize("pointer", [None, b"", b"[]", b"{}", b"no json"])
def test_a_champion_that_is_gone_or_damaged_is_none(url, files, pointer):
    publish(url, NEW, files)
    assert is_champion(FolderTarget(url), NEW)
    assert not is_champion(FolderTarget(url), OLD)
    fs, root = fsspec.core.url_to_fs(url)
    fs.rm(f"{root}/champion.json")
    if pointer is not None:
        fs.pipe_file(f"{root}/champion.json", pointer)
    assert not is_champion(FolderTarget(url), NEW)


def test_a_place_that_fails_is_told_with_the_next_step(tmp_path):
    target = FolderTarget(str(tmp_path))
    (tmp_path / "champion.json").mkdir()
    with pytest.raises(FineTuneError, match=r"champion.json cannot be read .*running again goes on from there"):
        target.read_pointer()
    (tmp_path / NEW[:16] / "README.md").mkdir(parents=True)
    assert target.missing(NEW[:16], [PublishedFile("README.md", b"card")]) == ["README.md"]


def test_a_url_of_an_unknown_kind_is_refused():
    with pytest.raises(FineTuneError, match="nowhere://bucket: cannot be opened"):
        FolderTarget("nowhere://bucket")


def test_publishing_again_changes_nothing(url, files):
    publish(url, NEW, files)
    before = release(url, NEW)
    publish(url, NEW, files)
    assert (release(url, NEW), champion(url)["fingerprint"]) == (before, NEW)


def test_an_older_release_can_be_champion_again(url, files):
    for fingerprint in (OLD, NEW, OLD):
        publish(url, fingerprint, files)
    assert champion(url)["fingerprint"] == OLD
    assert release(url, NEW) == contents(files)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "adapter/model.bin",
        "optimizer.pt",
        "model.pth",
        "state.pkl",
        "last.ckpt",
        "MODEL.BIN",
        "state.pickle",
        "state.joblib",
        "no_suffix",
    ],
)
def test_what_may_hold_a_pickle_is_refused_before_anything_is_written(url, files, name):
    with pytest.raises(FineTuneError, match=name):
        publish(url, NEW, [*files, PublishedFile(name, b"x")])
    assert release(url, NEW) == {}
    assert champion(url) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\x80\x04\x95" + b"p" * 100),
        ("model.safetensors", WEIGHTS[:-1]),
        ("model.safetensors", b""),
        ("model.gguf", b"\x80\x04\x95" + b"p" * 100),
    ],
    ids=["a pickle", "cut", "empty", "a pickle for GGUF"],
)
def test_what_is_named_weights_and_holds_something_else_is_refused(url, files, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FineTuneError, match=name):
        publish(url, NEW, [*files, PublishedFile(name, tmp_path / name)])
    assert release(url, NEW) == {}


def test_a_release_that_is_not_there_cannot_be_champion(url, files):
    publish(url, NEW, files)
    with pytest.raises(FineTuneError, match="has no release"):
        FolderTarget(url).write_pointer({"fingerprint": OLD, "folder": folder_of(OLD)})
    assert champion(url)["fingerprint"] == NEW


def test_what_a_pointer_says_is_kept_whole(url, files):
    publish(url, NEW, files)
    body = {"fingerprint": NEW, "folder": folder_of(NEW), "by": "Zoë", "why": "line\nbreak"}
    FolderTarget(url).write_pointer(body)
    assert FolderTarget(url).read_pointer() == body


def test_a_folder_that_cannot_be_written_is_named(files, tmp_path):
    (tmp_path / "published").write_text("a file where the folder should be")
    with pytest.raises(FineTuneError, match="cannot be written"):
        publish(str(tmp_path / "published"), NEW, files)


def test_what_a_killed_writer_left_goes_and_is_no_part_of_a_release(files, tmp_path):
    url = tmp_path / "published"
    (url / ".partial").mkdir(parents=True)
    old, fresh = url / ".partial" / "old", url / ".partial" / "fresh"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    publish(str(url), NEW, files)
    assert (old.exists(), fresh.exists()) == (False, True)
    assert release(str(url), NEW) == contents(files)


def test_a_list_of_files_without_their_content_finds_the_same_faults(url, files):
    listed = [ListedFile(file.name, file.size, file.sha256, file.git_blob) for file in files]
    publish(url, NEW, files[:-1])
    assert missing_files(url, NEW, listed) == [files[-1].name]


def test_gits_own_hash_is_gits(tmp_path):
    (tmp_path / "a").write_bytes(b"test content\n")  # Pro Git, section 10.2
    assert PublishedFile("a.txt", tmp_path / "a").git_blob == "d670460b4b4aece5915caf5c68d12f560a9fe3e4"
