"""Laws of locations on a disk, a server and a hub: what is a batch, what is refused, and that a copy is whole or nothing."""

import os
import subprocess
import sys
import uuid

import fsspec
import pytest

from ft_assets.assets import raw_corpus
from ft_assets.assets.raw_corpus import copy_batch
from ft_assets.core.errors import FineTuneError
from ft_assets.core.location import access_errors, files_of, find_batches, in_words


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "two" / "inner").mkdir(parents=True)
    (folder / "one.jsonl").write_text("1\n")
    (folder / "two" / "a.jsonl").write_text("a\n")
    (folder / "two" / "inner" / "b.jsonl").write_text("b\n")
    (folder / "two" / "_SUCCESS").write_text("")
    (folder / "two" / ".hidden").write_text("x")
    return folder


def copied(url, path, target):
    copy_batch(str(url), str(path), target)
    return {file.relative_to(target).as_posix(): file.read_text() for file in target.rglob("*") if file.is_file()}


def test_files_and_folders_are_batches(source, tmp_path):
    found = find_batches(str(source))
    assert {key: file is None for key, (_, file) in found.batches.items()} == {"one": False, "two": True}
    assert copied(source, source / "two", tmp_path / "out") == {"a.jsonl": "a\n", "inner/b.jsonl": "b\n"}
    assert copied(source, source / "one.jsonl", tmp_path / "out1") == {"one.jsonl": "1\n"}


def test_each_match_of_a_glob_is_a_batch(source):
    (source / "three.txt").write_text("")
    assert list(find_batches(f"{source}/*.jsonl").batches) == ["one"]
    assert list(find_batches(f"{source}/*/*.jsonl").batches) == ["two/a"]
    assert list(find_batches(f"{source}/t*").batches) == ["three", "two"]
    assert find_batches(f"{source}/nothing*").batches == {}


def test_brackets_in_a_name_that_is_there_are_no_glob(tmp_path):
    (tmp_path / "data[1]").mkdir()
    (tmp_path / "data[1]" / "a.jsonl").write_text("")
    assert list(find_batches(f"{tmp_path}/data[1]").batches) == ["a"]


def test_a_signature_follows_name_size_and_time(source):
    def signature():
        return files_of(str(source), str(source / "two")).signature

    seen = {signature()}
    (source / "two" / ".hidden").write_text("another")
    assert signature() in seen
    file = source / "two" / "a.jsonl"
    file.write_text("aa\n")
    seen.add(signature())
    os.utime(file, (5, 5))
    seen.add(signature())
    file.rename(source / "two" / "c.jsonl")
    seen.add(signature())
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda batch: (batch / "x").symlink_to("/etc/hosts"), "outside its source"),
        (lambda batch: (batch / "x").symlink_to("x"), "in a circle"),
        (lambda batch: (batch / "x").symlink_to(".."), "links to the folder"),
        (lambda batch: (batch / "x").symlink_to("nowhere"), "links to nothing"),
        (lambda batch: os.mkfifo(batch / "x"), "neither a file nor a folder"),
    ],
    ids=["out", "loop", "up", "dangling", "pipe"],
)
def test_what_leads_out_of_a_source_is_refused(source, tmp_path, make, words):
    make(source / "two")
    with pytest.raises(FineTuneError, match=words):
        copy_batch(str(source), str(source / "two"), tmp_path / "out")


def test_a_link_to_a_file_of_the_same_source_is_read(source, tmp_path):
    (source / "two" / "link.jsonl").symlink_to("../one.jsonl")
    assert copied(source, source / "two", tmp_path / "out")["link.jsonl"] == "1\n"


def test_a_source_that_is_itself_a_link_is_read(source, tmp_path):
    (tmp_path / "linked").symlink_to(source)
    assert list(find_batches(f"{tmp_path}/linked").batches) == ["one", "two"]


def test_too_many_files_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr("ft_assets.core.location.MAX_FILES", 1)
    with pytest.raises(FineTuneError, match="more than 1 files"):
        copy_batch(str(source), str(source / "two"), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file.write_text("a\nb\n"), r"a\.jsonl grew from 2 to 4 bytes"),
        (lambda file: file.write_text(""), r"a\.jsonl shrank from 2 to 0 bytes"),
        (lambda file: os.utime(file, (5, 5)), r"a\.jsonl was written again"),
        (lambda file: file.unlink(), r"a\.jsonl disappeared"),
        (lambda file: (file.parent / "new.jsonl").write_text(""), r"new\.jsonl appeared"),
    ],
    ids=["grows", "shrinks", "rewritten", "disappears", "appears"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_batch_that_changes_while_it_is_read_is_an_error(source, tmp_path, monkeypatch, change, words, when):
    original = raw_corpus._copy

    def copy(fs, file, target):
        if when == "before":
            change(source / "two" / "a.jsonl")
        original(fs, file, target)
        if when == "after":
            change(source / "two" / "a.jsonl")

    monkeypatch.setattr(raw_corpus, "_copy", once(copy, original))
    with pytest.raises(FineTuneError, match=words) as raised:
        copy_batch(str(source), str(source / "two"), tmp_path / "out")
    assert "retry" in str(raised.value).lower()


def once(first, then):
    calls = []

    def call(*arguments):
        calls.append(1)
        return (first if len(calls) == 1 else then)(*arguments)

    return call


@pytest.mark.parametrize("name", ["../x.jsonl", "a/../../x.jsonl", "a//b.jsonl", "a\\..\\b", "./x"])
def test_a_name_that_leads_out_of_its_batch_is_refused(tmp_path, name):
    fs = fsspec.filesystem("memory")
    root = f"/{uuid.uuid4().hex}/batch"
    fs.pipe_file(f"{root}/good.jsonl", b"x")
    fs.store[f"{root}/{name}"] = fs.store[f"{root}/good.jsonl"]
    with pytest.raises(FineTuneError, match="leads out of its batch"):
        copy_batch(f"memory:/{root.rpartition('/')[0]}", root, tmp_path / "out")
    assert not list(tmp_path.rglob("x.jsonl"))


def test_a_hub_without_network_says_so_in_plain_words():
    code = (
        "from ft_assets.core.location import *\n"
        "try: find_batches('hf://datasets/org/name@main/data')\n"
        "except access_errors() as error: print(in_words(error))"
    )
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.startswith("no network"), done.stderr
        assert "then retry" in done.stdout


def test_a_missing_folder_is_said_to_be_missing(tmp_path):
    with pytest.raises(access_errors()) as raised:
        find_batches(f"{tmp_path}/nowhere")
    assert in_words(raised.value).startswith("not there")
