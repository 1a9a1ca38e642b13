"""``ft verify``: a release that is as it was published, and each way in which it is not."""

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from publishing import publish_to
from typer.testing import CliRunner

from ft_assets.cli import app
from ft_assets.core import champion
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.errors import FineTuneError, MissingInput
from ft_assets.core.publish import FolderTarget, ListedFile, PublishedFile, folder_of
from ft_assets.core.signing import SIGNATURE, public_key, sign

NEW, OLD = "b" * 64, "a" * 64


@pytest.fixture
def key(tmp_path) -> Path:
    path = tmp_path / "key.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path], check=True)
    return path


@pytest.fixture
def folder(tmp_path, key, monkeypatch) -> Path:
    """The signed release that is the champion of the recipe ``demo``."""
    monkeypatch.setenv("FT_HOME", str(tmp_path / "home"))
    place, source = FolderTarget(str(tmp_path / "published")), tmp_path / "source"
    (source / "adapter").mkdir(parents=True)
    files = {"README.md": b"card", "adapter/config.json": b"{}", "config.json": b"[]"}
    for name, content in files.items():
        (source / name).write_bytes(content)
    hashes = [{"name": name, "hashes": [{"content": PublishedFile(name, files[name]).sha256}]} for name in files]
    bill = json.dumps({"metadata": {"component": {"components": hashes}}}).encode()
    (source / "bill.cdx.json").write_bytes(bill)
    everything = {**files, "bill.cdx.json": bill, SIGNATURE: sign(source, key)}
    released = [PublishedFile(name, content) for name, content in everything.items()]
    publish_to(place, NEW, released, lambda line: None)
    store = ArtifactStore(str(tmp_path / "home" / "store"))
    with store.write("published_model", NEW, code_version="1", identity={}, upstream={}) as staging:
        listed = [asdict(ListedFile(file.name, file.size, file.sha256, file.git_blob)) for file in released]
        staging.write_json("release.json", {"url": place.url, "folder": folder_of(NEW), "files": listed})
    entry = {
        "release": NEW,
        "evaluation": OLD,
        "merged": ["merged_model", OLD],
        "folder": folder_of(NEW),
        "to": place.url,
    }
    entry |= {"published_at": "2026-01-01T00:00:00+00:00", "override": None, "withdrawn": None}
    champion.promote(store, "demo", entry, ())
    return Path(place.url) / folder_of(NEW)


def verify(*words: object):
    return CliRunner().invoke(app, ["verify", *map(str, words)])


def test_a_recipes_champion_is_as_it_was_published(folder, key, tmp_path):
    done = verify("demo")
    assert (done.exit_code, str(folder) in done.output) == (0, True), done.output
    assert verify("demo", "--key", public_key(key, tmp_path / "key.pub")).exit_code == 0
    assert json.loads(verify("demo", "--json").stdout)["differs"] == []


@pytest.mark.parametrize("of", ["recipe", "folder"])
def test_the_file_that_differs_is_named(folder, key, tmp_path, of):
    (folder / "adapter" / "config.json").write_bytes(b"[]")
    named = "demo" if of == "recipe" else folder
    for words in ([named], [named, "--key", public_key(key, tmp_path / "key.pub")]):
        done = verify(*words)
        assert done.exit_code == 3
        assert "adapter/config.json" in done.output
    assert "adapter/config.json" in json.loads(verify(named, "--json").stdout)["differs"][0]


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"[" * 100_000, b"\xff", b"without signatures"])
@pytest.mark.parametrize("name", ["bill.cdx.json", SIGNATURE])
def test_a_bill_or_signature_that_cannot_be_read_is_told(folder, key, tmp_path, name, content):
    if content == b"without signatures":
        bundle = json.loads((folder / SIGNATURE).read_bytes())
        bundle["dsseEnvelope"]["signatures"] = []
        content = json.dumps(bundle).encode()
    (folder / name).write_bytes(content)
    done = verify(folder, "--key", public_key(key, tmp_path / "key.pub"))
    assert (done.exit_code, f"{name}" in done.output) == (3, True), done.output


def test_what_is_no_file_is_named_and_not_waited_for(folder):
    (folder / "README.md").unlink()
    for name in ("README.md", "more"):
        os.mkfifo(folder / name)
    (folder / "loop").symlink_to("loop")
    assert json.loads(verify(folder, "--json").stdout)["differs"] == [
        "loop is not part of the release",
        "more is not part of the release",
        "README.md was changed",
    ]


def test_a_pointer_to_another_release_is_told(folder):
    (folder.parent / "champion.json").write_text(json.dumps({"fingerprint": OLD, "folder": folder_of(OLD)}))
    done = verify("demo")
    assert done.exit_code == 3
    assert f"champion.json does not point to {folder_of(NEW)}" in done.output


def test_a_release_without_its_signature_is_not_signed(folder, key, tmp_path):
    (folder / SIGNATURE).unlink()
    assert verify(folder).exit_code == 0
    done = verify(folder, "--key", public_key(key, tmp_path / "key.pub"))
    assert (done.exit_code, "is not signed" in done.output) == (3, True)


def test_a_folder_that_merely_has_a_recipes_name_is_not_taken_for_it(folder, tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    done = verify("demo")
    assert (done.exit_code, str(folder) in done.output) == (0, True), done.output


def test_a_folder_that_is_not_there_is_told_so(folder, tmp_path):
    with pytest.raises(FineTuneError, match=r"there is no .*/nowhere; name a recipe, or a release's folder"):
        raise verify(tmp_path / "nowhere").exception


def test_what_was_never_published_is_told_so(folder):
    with pytest.raises(MissingInput, match="nothing of demo_rloo has been published"):
        raise verify("demo_rloo").exception


def test_a_key_that_is_none_is_refused(folder, tmp_path):
    with pytest.raises(FineTuneError, match="cannot be used"):
        raise verify(folder, "--key", tmp_path / "none.pem").exception
