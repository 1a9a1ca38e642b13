"""Laws of publishing to the Hub: the champion is whole at every moment, what was cut short is finished and not repeated, and
each fault ends with its cause and the next step. Against a stand-in on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub import READER, TOKEN, Refused
from publishing import publish_to as publish
from waiting import until

from ft_assets.core.errors import FineTuneError
from ft_assets.core.publish import ListedFile, PublishedFile, folder_of, is_champion
from resources.hub import HubTarget

OLD, NEW = "a" * 64, "b" * 64
CARD = b"---\nlicense: apache-2.0\n---\n# a model\n"


@pytest.fixture
def waits(monkeypatch):
    """The seconds that are waited, without waiting them."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def target(hub, token=TOKEN, **more):
    return HubTarget("hub://org/model", endpoint=hub.url, token=token, **more)


def weights(mark: bytes, size: int = 50_000) -> bytes:
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    return len(header).to_bytes(8, "little") + header + mark * size


def release(folder: Path, mark: bytes, parts: int = 3) -> list[PublishedFile]:
    folder.mkdir(exist_ok=True)
    names = ["model.safetensors", *(f"quantized/{part}/model.safetensors" for part in range(parts - 1))]
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(weights(mark, 50_000 + number))
    card = PublishedFile("README.md", CARD + mark)
    return [card, PublishedFile("config.json", b"{}"), *(PublishedFile(name, folder / name) for name in names)]


def contents(files):
    return {file.name: file.content if isinstance(file.content, bytes) else file.content.read_bytes() for file in files}


def main(hub):
    """What who loads ``org/model`` gets."""
    return {name: content for name, content in hub.files("org/model").items() if name not in OWN}


OWN = (".gitattributes", "champion.json")


def quiet(line):
    pass


def test_a_release_has_a_branch_and_main_is_the_champion(hub, tmp_path):
    files, place = release(tmp_path / "new", b"n"), target(hub)
    assert place.missing(folder_of(NEW), files) == [file.name for file in files]
    publish(place, NEW, files, quiet)
    assert main(hub) == contents(files)
    kept = hub.files("org/model", f"release-{folder_of(NEW)}")
    assert {name: kept[name] for name in kept if name != ".gitattributes"} == contents(files)
    assert place.read_pointer() == {"fingerprint": NEW, "folder": folder_of(NEW)}
    assert place.missing(folder_of(NEW), files) == []
    assert hub.repos["org/model"].private


def test_what_is_not_in_the_next_release_goes_from_main_and_stays_in_its_own(hub, tmp_path):
    old, new, place = release(tmp_path / "old", b"o", parts=3), release(tmp_path / "new", b"n", parts=2), target(hub)
    publish(place, OLD, old, quiet)
    publish(place, NEW, new, quiet)
    assert main(hub) == contents(new)
    assert place.missing(folder_of(OLD), old) == []
    place.write_pointer({"fingerprint": OLD, "folder": folder_of(OLD), "why": "worse answers"})
    assert main(hub) == contents(old)
    assert place.read_pointer()["why"] == "worse answers"


def test_the_champion_moves_in_one_commit(hub, tmp_path):
    old, new, place = release(tmp_path / "old", b"o"), release(tmp_path / "new", b"n", parts=2), target(hub)
    publish(place, OLD, old, quiet)
    publish(place, NEW, new, quiet)
    repo = hub.repos["org/model"]
    states = [
        {name: files[name] for name in files if name not in OWN}
        for files in repo.commits.values()
        if "champion.json" in files
    ]
    named = [
        json.loads(files["champion.json"])["fingerprint"] for files in repo.commits.values() if "champion.json" in files
    ]
    assert named == [OLD, NEW] or named == [OLD, OLD, NEW]  # the branch of a release begins at the champion
    whole = [{name: hub.objects[e] if isinstance(e, str) else e for name, e in state.items()} for state in states]
    assert whole[0] == contents(old)
    assert whole[-1] == contents(new)


def test_publishing_again_uploads_and_commits_nothing(hub, tmp_path):
    files, place = release(tmp_path / "new", b"n"), target(hub)
    publish(place, NEW, files, quiet)
    before, commits = len(hub.uploaded), len(hub.repos["org/model"].commits)
    publish(place, NEW, files, quiet)
    assert (len(hub.uploaded), len(hub.repos["org/model"].commits)) == (before, commits)


def test_content_that_another_release_has_is_not_uploaded_again(hub, tmp_path):
    place = target(hub)
    publish(place, OLD, release(tmp_path / "old", b"s"), quiet)
    sent = len(hub.uploaded)
    publish(place, NEW, release(tmp_path / "new", b"s"), quiet)
    assert len(hub.uploaded) == sent
    assert is_champion(place, NEW)


def test_a_connection_cut_in_the_middle_of_an_upload_is_survived(hub, tmp_path, waits):
    files, hub.cuts = release(tmp_path / "new", b"n"), 2
    publish(target(hub), NEW, files, quiet)
    assert hub.cuts == 0
    assert main(hub) == contents(files)
    assert sorted(size for _, size in hub.uploaded) == sorted(
        file.size for file in files if file.name.endswith("tensors")
    )


def test_large_files_go_in_parts_and_a_cut_part_is_sent_again(hub, tmp_path, waits):
    files, hub.part_bytes, hub.cuts = release(tmp_path / "new", b"n"), 20_000, 1
    publish(target(hub), NEW, files, quiet)
    assert main(hub) == contents(files)


def test_an_upload_that_fails_for_good_leaves_the_champion_and_is_finished_later(hub, tmp_path, waits):
    old, new, place = release(tmp_path / "old", b"o"), release(tmp_path / "new", b"n"), target(hub)
    publish(place, OLD, old, quiet)
    last = new[-1].sha256

    def broken(method, path):
        if method == "PUT" and last in path:
            raise Refused(500, "storage is down")

    hub.faults.append(broken)
    with pytest.raises(FineTuneError, match=r"fails at the moment.*HTTP 500, storage is down.*goes on from there"):
        publish(place, NEW, new, quiet)
    assert sum(waits) < 300
    assert main(hub) == contents(old)
    assert is_champion(place, OLD)
    hub.faults.clear()
    sent = len(hub.uploaded)
    publish(place, NEW, new, quiet)
    assert [oid for oid, _ in hub.uploaded[sent:]] == [last]
    assert main(hub) == contents(new)


PUBLISH = """
import sys
from pathlib import Path
from ft_assets.core.publish import PublishedFile
from publishing import publish_to
from resources.hub import HubTarget
folder = Path(sys.argv[1])
files = [PublishedFile("README.md", (folder / "README.md").read_bytes())]
files += [PublishedFile(str(p.relative_to(folder)), p) for p in sorted(folder.rglob("*.safetensors"))]
publish_to(HubTarget("hub://org/model"), "b" * 64, files, print)
"""


def test_a_publisher_that_is_killed_is_followed_by_one_that_finishes(hub, tmp_path):
    new = release(tmp_path / "new", b"n", parts=4)
    (tmp_path / "new" / "README.md").write_bytes(CARD)
    passed, held = [], []

    def stall(method, path):
        if method != "PUT":
            return
        with hub.lock:
            (passed if len(passed) < 2 else held).append(path)
        if path in held:
            until(lambda: child.poll() is not None, 60, "the end of the publisher")
            raise Refused(500, "nobody is there to hear it")

    hub.faults.append(stall)
    tests = str(Path(__file__).parent.parent)
    paths = os.pathsep.join([tests, str(Path(tests).parent), os.environ.get("PYTHONPATH", "")])
    env = {
        **os.environ,
        "PYTHONPATH": paths,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    command = [sys.executable, "-c", PUBLISH, str(tmp_path / "new")]
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until(lambda: held and len(hub.uploaded) == 2, 60, "two uploads and a third in the middle")
    child.send_signal(signal.SIGKILL)
    child.wait()
    hub.faults.clear()
    there = {oid for oid, _ in hub.uploaded}
    assert len(there) == 2
    assert "champion.json" not in hub.files("org/model")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(hub.uploaded) == len({oid for oid, _ in hub.uploaded}) == len(new) - 2
    assert main(hub)["model.safetensors"] == new[2].content.read_bytes()
    assert TOKEN not in done.stdout + done.stderr


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub, tmp_path, waits):
    files, place = release(tmp_path / "new", b"n"), target(hub)
    lost = []

    def lose(method, path):
        if path.endswith(f"/commit/release-{folder_of(NEW)}") and not lost:
            lost.append(path)
            repo = hub.repos["org/model"]
            done = {
                file.name: file.sha256 if file.name.endswith("tensors") else contents([file])[file.name]
                for file in files
            }
            repo.commit(
                f"release-{folder_of(NEW)}",
                {".gitattributes": hub.files("org/model")[".gitattributes"], **done},
                "lost",
            )
            raise Refused(504, "gateway timeout")

    hub.faults.append(lose)
    publish(place, NEW, files, quiet)
    assert lost
    assert hub.repos["org/model"].titles == ["initial commit", "lost", f"Champion: release-{folder_of(NEW)}"]
    assert main(hub) == contents(files)


def test_a_champion_that_others_moved_in_between_is_not_mixed_with_this_one(hub, tmp_path, waits):
    files, place = release(tmp_path / "new", b"n"), target(hub)
    publish(place, OLD, files, quiet)
    seen = []

    def between(method, path):
        if path.endswith("/commit/main") and not seen:
            seen.append(path)
            repo = hub.repos["org/model"]
            here = {**repo.commits[repo.branches["main"]], ".gitattributes": b"by hand", "of_another.json": b"{}"}
            repo.commit("main", here, "another's")

    hub.faults.append(between)
    publish(place, NEW, files, quiet)
    assert hub.files("org/model")[".gitattributes"] == b"by hand"
    assert main(hub) == contents(files)
    assert is_champion(place, NEW)


SAID = {
    400: "not accepted",
    401: "set HF_TOKEN",
    402: "plan does not allow",
    403: "may not write to org/model",
    404: "there is no org/model",
    409: "others write to org/model",
    412: "others write to org/model",
    413: "too large",
    429: "too many requests",
    500: "fails at the moment",
    503: "fails at the moment",
}
STEPS = ["/api/repos/create", "/branch/", "/validate-yaml", "/preupload/", "/objects/batch", "/lfs/", "/commit/main"]


@pytest.mark.parametrize(
    ("step", "status"),
    [*(("/commit/release", status) for status in SAID), *((step, status) for step in STEPS for status in (403, 503))],
)
def test_what_the_hub_refuses_is_told_with_the_next_step(hub, tmp_path, waits, step, status):
    def refuse(method, path):
        if step in path and method != "GET":
            raise Refused(status, "no reason given")

    hub.faults.append(refuse)
    with pytest.raises(FineTuneError, match=SAID[status]) as failed:
        publish(target(hub), NEW, release(tmp_path / "new", b"n"), quiet)
    assert "running again goes on" in str(failed.value)
    assert TOKEN not in str(failed.value)
    assert sum(waits) < 300
    assert "org/model" not in hub.repos or "champion.json" not in hub.files("org/model")


@pytest.mark.parametrize("token", [None, READER, "hf_revoked"])
def test_a_token_that_may_not_write_is_told_so_and_not_shown(hub, tmp_path, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(FineTuneError, match=r"HF_TOKEN|may not write") as failed:
        publish(target(hub, token=token or False), NEW, release(tmp_path / "new", b"n"), quiet)
    assert str(token) not in str(failed.value)


def test_no_network_is_told_within_its_bound(tmp_path, waits, hub):
    hub.close()
    with pytest.raises(FineTuneError, match="cannot be reached: check the network"):
        publish(target(hub), NEW, release(tmp_path / "new", b"n"), quiet)
    assert sum(waits) < 300


def test_a_wait_that_nobody_would_wait_is_refused(hub, tmp_path, waits):
    def busy(method, path):
        raise Refused(429, "slow down", headers={"Retry-After": "86400"})

    hub.faults.append(busy)
    with pytest.raises(FineTuneError, match="left alone for 86400 seconds"):
        publish(target(hub), NEW, release(tmp_path / "new", b"n"), quiet)
    assert sum(waits) < 300


def test_a_hub_that_is_making_another_repository_is_not_asked_for_ever(hub, tmp_path, waits):
    def busy(method, path):
        if path == "/api/repos/create":
            raise Refused(409, "Cannot create repo: another conflicting operation is in progress")

    hub.faults.append(busy)
    with pytest.raises(FineTuneError, match="is making another repository"):
        publish(target(hub), NEW, release(tmp_path / "new", b"n"), quiet)
    assert hub.asks("POST", "/api/repos/create") < 10


def test_a_public_repository_gets_no_private_model(hub, tmp_path):
    files = release(tmp_path / "new", b"n")
    publish(target(hub, private=False), NEW, files, quiet)
    assert not hub.repos["org/model"].private
    with pytest.raises(FineTuneError, match=r"is public.*publish.private"):
        publish(target(hub), OLD, files, quiet)
    assert "release-" + folder_of(OLD) not in hub.repos["org/model"].branches


def test_a_release_that_is_not_there_cannot_be_champion(hub, tmp_path):
    place = target(hub)
    publish(place, NEW, release(tmp_path / "new", b"n"), quiet)
    with pytest.raises(FineTuneError, match="has no release"):
        place.write_pointer({"fingerprint": OLD, "folder": folder_of(OLD)})
    assert is_champion(place, NEW)


@pytest.mark.parametrize("pointer", [b"", b"[]", b"no json"])
def test_a_damaged_champion_is_none(hub, tmp_path, pointer):
    place = target(hub)
    assert place.read_pointer() is None
    publish(place, NEW, release(tmp_path / "new", b"n"), quiet)
    repo = hub.repos["org/model"]
    repo.commit("main", {**repo.commits[repo.branches["main"]], "champion.json": pointer}, "damaged")
    assert place.read_pointer() is None


def test_a_list_of_files_without_their_content_finds_what_was_changed_by_hand(hub, tmp_path):
    files, place = release(tmp_path / "new", b"n"), target(hub)
    publish(place, NEW, files, quiet)
    listed = [ListedFile(file.name, file.size, file.sha256, file.git_blob) for file in files]
    repo, branch = hub.repos["org/model"], f"release-{folder_of(NEW)}"
    repo.commit(branch, {**repo.commits[repo.branches[branch]], "config.json": b"[]"}, "by hand")
    assert place.missing(folder_of(NEW), listed) == ["config.json"]


@pytest.mark.parametrize(
    "to", ["hub://", "hub://model", "hub://a/b/c", "hub://org/na me", "hub://../x", "s3://org/model"]
)
def test_what_names_no_repository_is_refused(to):
    with pytest.raises(FineTuneError, match="names no repository"):
        HubTarget(to)
