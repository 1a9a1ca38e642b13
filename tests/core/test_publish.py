"""Laws of publishing: the champion is whole at every moment, and a release that was cut short is finished."""

import json
import uuid

import fsspec
import pytest

from ft_assets.core.errors import FineTuneError
from ft_assets.core.publish import PublishedFile, is_champion, missing_files, publish

OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture(params=["disk", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "published") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "weights").write_bytes(b"w" * 5000)
    return [
        PublishedFile("README.md", b"card"),
        PublishedFile("adapter/model.safetensors", tmp_path / "weights"),
        PublishedFile("config.json", b"{}"),
    ]


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
    fs.pipe_file(f"{root}/{NEW[:16]}/adapter/model.safetensors", b"w" * 4999)
    assert missing_files(url, NEW, files) == ["adapter/model.safetensors"]
    publish(url, NEW, files)
    assert release(url, NEW) == contents(files)


def test_a_file_changed_in_place_is_written_again(files, tmp_path):
    url = str(tmp_path / "published")
    publish(url, NEW, files)
    (tmp_path / "published" / NEW[:16] / "adapter" / "model.safetensors").write_bytes(b"w" * 4999 + b"x")
    assert missing_files(url, NEW, files) == ["adapter/model.safetensors"]
    publish(url, NEW, files)
    assert release(url, NEW) == contents(files)


@pytest.mark.parametrize("pointer", [None, b"", b"[]", b"{}", b"no json"])
def test_a_champion_that_is_gone_or_damaged_is_none(url, files, pointer):
    publish(url, NEW, files)
    assert is_champion(url, NEW)
    assert not is_champion(url, OLD)
    fs, root = fsspec.core.url_to_fs(url)
    fs.rm(f"{root}/champion.json")
    if pointer is not None:
        fs.pipe_file(f"{root}/champion.json", pointer)
    assert not is_champion(url, NEW)


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
