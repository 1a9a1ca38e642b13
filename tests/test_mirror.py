"""A pod without a shared volume: request, words and checkpoints lie in a bucket, on an S3 server on loopback."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from buckets import Bucket
from pods import Job, prepare
from splitting import Splitter
from waiting import until

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.errors import FineTuneError
from ft_assets.worker import mirror
from ft_assets.worker.checkpoints import SIGNATURE, newest, sign
from ft_assets.worker.mirror import Mirror, mirrored

RUN = "runs/0123/sft_adapter"
WORLD = "1 processes and ZeRO 0"


@pytest.fixture
def url(bucket: Bucket, tmp_path: Path) -> str:
    """A request in the bucket, whose work is done in ``pod``."""
    put(bucket, {"stage": "sft_adapter", "fingerprint": "f" * 64}, tmp_path / "pod")
    return bucket.url(f"{RUN}/request.json")


def put(bucket: Bucket, body: dict[str, Any], local: Path) -> None:
    store = {"url": bucket.url("store"), "local": str(local)}
    bucket.put(f"{RUN}/request.json", json.dumps({**body, "store": store, "progress": "elsewhere"}))


def save(scratch: Path, step: int, signed: bool = True, best: int | None = None) -> Path:
    checkpoint = scratch / "checkpoints" / f"checkpoint-{step}"
    (checkpoint / "deep").mkdir(parents=True)
    (checkpoint / "deep" / "optimizer.pt").write_bytes(b"state" * step)
    if signed:
        sign(checkpoint, "float32", 1.0, WORLD, None if best is None or best > step else best)
    return checkpoint


def kept(bucket: Bucket) -> set[str]:
    root = f"{bucket.name}/store/.scratch/{'f' * 64}"
    bucket.other.invalidate_cache()
    return {path[len(root) + 1 :] for path in bucket.other.find(root)} if bucket.other.exists(root) else set()


def steps(bucket: Bucket) -> set[int]:
    return {int(name.split("-")[1].split("/")[0]) for name in kept(bucket) if name.endswith(SIGNATURE)}


def kept_5_and_10(url: str) -> Path:
    one = Mirror(url)
    for step in (5, 10):
        save(one.scratch, step)
        one.push()
    return one.scratch


def test_what_the_worker_says_lies_in_the_bucket_and_the_next_pod_goes_on_with_it(url, bucket, tmp_path):
    with mirrored(url) as path:
        body = json.loads(path.read_text())
        assert Path(body["progress"]).parent == path.parent
        Path(body["progress"]).write_text("one\n")
        path.with_name("output.log").write_text("said\n")
    shutil.rmtree(tmp_path / "pod")
    with mirrored(url) as path, path.with_name("progress.jsonl").open("a") as stream:
        stream.write("two\n")
    assert bucket.other.cat_file(f"{bucket.name}/{RUN}/progress.jsonl") == b"one\ntwo\n"
    assert bucket.other.cat_file(f"{bucket.name}/{RUN}/output.log") == b"said\n"


def test_a_long_log_is_kept_to_its_end_alone(url, bucket, monkeypatch):
    monkeypatch.setattr(mirror, "MOST_BYTES", 20)
    with mirrored(url) as path:
        path.with_name("output.log").write_text("".join(f"line {at}\n" for at in range(10)))
    assert bucket.other.cat_file(f"{bucket.name}/{RUN}/output.log") == b"line 8\nline 9\n"


def test_signed_checkpoints_are_kept_and_found_whole_by_a_fresh_pod(url, bucket, tmp_path):
    scratch = kept_5_and_10(url)
    save(scratch, 15, signed=False)
    with mirrored(url):
        pass
    assert steps(bucket) == {5, 10}
    shutil.rmtree(tmp_path / "pod")
    with mirrored(url):
        assert newest(scratch / "checkpoints", WORLD, print).step == 10


def test_the_newest_the_one_before_and_the_best_stay(url, bucket):
    one = Mirror(url)
    for step in (5, 10, 15, 20):
        save(one.scratch, step, best=10)
        one.push()
    assert steps(bucket) == {10, 15, 20}


def test_one_that_is_rotated_away_while_it_is_uploaded_arrives_whole(url, bucket, monkeypatch):
    one = Mirror(url)
    checkpoint = save(one.scratch, 5)
    put_file = one.store.fs.put_file

    def rotated(*words):
        shutil.rmtree(checkpoint, ignore_errors=True)
        put_file(*words)

    monkeypatch.setattr(one.store.fs, "put_file", rotated)
    one.push()
    monkeypatch.undo()
    assert steps(bucket) == {5}
    Mirror(url).restore()
    assert newest(checkpoint.parent, WORLD, print).step == 5


@pytest.mark.parametrize("damage", ["changed", "cut short"])
def test_a_copy_that_is_not_whole_is_passed_over(url, bucket, tmp_path, damage):
    scratch = kept_5_and_10(url)
    at = f"store/.scratch/{'f' * 64}/checkpoints/checkpoint-10"
    bucket.put(f"{at}/deep/optimizer.pt", "planted") if damage == "changed" else bucket.delete(f"{at}/{SIGNATURE}")
    shutil.rmtree(tmp_path / "pod")
    with mirrored(url):
        assert newest(scratch / "checkpoints", WORLD, print).step == 5


def test_once_the_artifact_is_made_nothing_partial_stays(url, bucket, tmp_path):
    with mirrored(url):
        save(tmp_path / "pod" / ".scratch" / ("f" * 64), 5)
        store = ArtifactStore(bucket.url("store"), tmp_path / "pod")
        with store.write("sft_adapter", "f" * 64, code_version="1", identity={}, upstream={}) as staging:
            staging.write_json("made.json", True)
    assert kept(bucket) == set()


def test_a_request_that_is_not_there_is_named(bucket, tmp_path):
    with (
        pytest.raises(FineTuneError, match=r"runs/none/request\.json: not there"),
        mirrored(bucket.url("runs/none/request.json")),
    ):
        pass


@pytest.fixture
def school(tmp_path: Path, tiny_base: Path) -> Splitter:
    return prepare(tmp_path / "made", tiny_base, 300)


class InBucket(Job):
    """A job of one pod, whose inputs are in the bucket; each attempt works in a folder of its own."""

    def __init__(self, splitter: Splitter, name: str, bucket: Bucket):
        super().__init__(splitter, name, nodes=1, checkpoint_every_steps=5)
        self.bucket = bucket
        bucket.other.put(str(splitter.folder / "store" / "artifacts"), f"{bucket.name}/store/artifacts", recursive=True)

    def attempt(self, local: Path) -> Any:
        put(self.bucket, self.request, local)
        return self.start(0, self.bucket.url(f"{RUN}/request.json"))

    def made(self) -> bool:
        return self.bucket.other.exists(f"{self.bucket.name}/store/artifacts/sft_adapter/{self.stage.fingerprint}")

    def kept(self) -> list[str]:
        self.bucket.other.invalidate_cache()
        return self.bucket.other.glob(f"{self.bucket.name}/store/.scratch/*/checkpoints/*/{SIGNATURE}")


@pytest.mark.slow
def test_a_killed_training_goes_on_in_a_fresh_pod_to_the_same_bits(
    school: Splitter,
    bucket: Bucket,
    tmp_path: Path,
) -> None:
    plain = Job(school, "plain", nodes=1, checkpoint_every_steps=5)
    job = InBucket(school, "bucket", bucket)
    assert plain.run() == [0], plain.said()
    try:
        pod = job.attempt(tmp_path / "first")
        until(job.kept, 240, f"a checkpoint in the bucket\n{job.said()}")
        job.kill(pod)
        assert not job.made(), "it ended before it was killed: this tests nothing"
        shutil.rmtree(tmp_path / "first")
        assert job.wait(job.attempt(tmp_path / "second")) == 0, job.said()
    finally:
        job.close()
    notes = bucket.other.cat_file(f"{bucket.name}/{RUN}/progress.jsonl").decode()
    assert "resuming from step" in notes
    made = ArtifactStore(bucket.url("store"), tmp_path / "reader").open("sft_adapter", job.stage.fingerprint)
    assert made is not None
    assert made.file("adapter_model.safetensors").read_bytes() == plain.weights()
    assert job.kept() == []
