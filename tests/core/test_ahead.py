"""Laws of verifying ahead: what was verified, or is being verified, is not hashed again; what is wrong is found all the same."""

import threading

import pytest

from ft_assets.core import artifact
from ft_assets.core.ahead import verify_ahead
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.errors import CorruptArtifact

FILES = ("a", "b", "c")


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were hashed, with how often."""
    names = []
    real = artifact.sha256_file
    monkeypatch.setattr(artifact, "sha256_file", lambda path: (names.append(path.name), real(path))[1])
    return names


def put(tmp_path, fingerprint="f" * 64):
    store = ArtifactStore(str(tmp_path))
    with store.write("rows", fingerprint, code_version="1", identity={}, upstream={}) as staging:
        for name in FILES:
            staging.file(name).write_text(name * 100)
    return store


def test_what_was_verified_ahead_is_not_hashed_again(tmp_path, hashed):
    store = put(tmp_path)
    hashed.clear()
    verify_ahead(store, [("rows", "0" * 64, None), ("rows", "f" * 64, ["a", "b"])]).join()
    assert sorted(hashed) == ["a", "b"]
    ArtifactStore(str(tmp_path)).open("rows", "f" * 64)
    assert sorted(hashed) == [*FILES]


def test_a_file_that_is_being_verified_is_waited_for(tmp_path, hashed, monkeypatch):
    store = put(tmp_path)
    hashed.clear()
    begun, waits, real = threading.Event(), threading.Event(), artifact.sha256_file

    class Watched:
        """A lock that says when somebody waits for it."""

        def __init__(self):
            self.lock = threading.Lock()

        def __enter__(self):
            if not self.lock.acquire(blocking=False):
                waits.set()
                self.lock.acquire()

        def __exit__(self, *_):
            self.lock.release()

    def slowly(path):
        begun.set()
        assert waits.wait(60), "nobody waits for a file that is being hashed"
        return real(path)

    class Locks(dict):
        def setdefault(self, path, lock):
            return super().setdefault(path, Watched())

    monkeypatch.setattr(ArtifactStore, "_busy", Locks())
    monkeypatch.setattr(artifact, "sha256_file", slowly)
    ahead = verify_ahead(store, [("rows", "f" * 64, None)])
    assert begun.wait(60)
    opener = threading.Thread(target=store.open, args=("rows", "f" * 64))
    opener.start()
    opener.join()
    ahead.join()
    assert sorted(hashed) == [*FILES]


def test_one_that_is_corrupt_stops_neither_the_others_nor_its_own_discovery(tmp_path, hashed):
    put(tmp_path, "e" * 64)
    store = put(tmp_path)
    (tmp_path / "artifacts" / "rows" / ("e" * 64) / "a").write_text("x" * 100)
    hashed.clear()
    verify_ahead(store, [("rows", fingerprint * 64, None) for fingerprint in "ef"]).join()
    assert sorted(hashed) == ["a", *FILES]
    with pytest.raises(CorruptArtifact, match="a at"):
        store.open("rows", "e" * 64)


def test_a_store_that_does_not_answer_is_left_to_whoever_opens_it(tmp_path, monkeypatch):
    raised = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    store = put(tmp_path)
    monkeypatch.setattr(store, "lookup", lambda *_: (_ for _ in ()).throw(ConnectionError("gone")))
    verify_ahead(store, [("rows", "f" * 64, None)]).join()
    assert raised == []
