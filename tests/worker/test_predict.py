"""Laws of batch predictions: every row has an answer or a reason, and a kill changes nothing of what comes out."""

import hashlib
import json
import os
import signal
import subprocess
import time
from dataclasses import replace

import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from classifying import make_tiny_encoder, tickets
from conftest import ROOT

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.input_file import ingest_file
from ft_assets.core.predicting import Model, file_source, prediction_stage
from ft_assets.worker import predict
from ft_assets.worker.job import Job
from resources.processes import worker_command
from resources.worker import worker_environment

EXECUTION = {"device": "cpu", "dtype": "float32", "batch_size": 32, "partition": "tiny"}
FILES = ("predictions.jsonl", "predictions.parquet", "quarantine.parquet")


class Batch:
    """Rows in a store with a model, and the job that answers them."""

    def __init__(self, folder, model, rows, stage="merged_model", most=4, **identity):
        self.folder, self.store = folder, ArtifactStore(str(folder / "store"), folder / "store")
        file = folder / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with self.store.write(stage, "a" * 64, code_version="1", identity=identity, upstream={}) as staging:
            for path in model.iterdir():
                staging.file(path.name).write_bytes(path.read_bytes())
        manifest = self.store.lookup(stage, "a" * 64)
        self.model = Model("merged", manifest)
        self.rows = ingest_file(self.store, file, file_source(self.model.classifies, []))
        self.stage = prediction_stage(self.model, self.rows.manifest.fingerprint, most)

    def request(self):
        told = {"store": {"url": str(self.store.root), "local": str(self.store.root)}, "execution": EXECUTION}
        return {**self.stage.request(), **told, "progress": str(self.folder / "p.jsonl"), "cache": str(self.folder)}

    def run(self):
        predict.run(Job.of(self.request()))
        return self.made()

    def made(self):
        return self.store.open(self.stage.name, self.stage.fingerprint)

    def lines(self):
        return [json.loads(line) for line in self.made().file("predictions.jsonl").read_text().splitlines()]

    def chunks(self):
        return sorted(self.store.scratch(self.stage.fingerprint).glob("chunk-*.json"))


def digests(artifact):
    return {name: hashlib.sha256(artifact.file(name).read_bytes()).hexdigest() for name in FILES}


def questions(count):
    return [{"prompt": f"Question {number}?"} for number in range(count)]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(predict, "CHUNK_ROWS", 8)


def test_every_row_has_an_answer_or_a_reason(tmp_path, tiny_base):
    odd = [
        {"prompt": "long " * 600},
        {"prompt": "a <|start|> b"},
        {"prompt": "<|pad|>"},
        {"text": "?"},
        {"prompt": " "},
    ]
    batch = Batch(tmp_path, tiny_base, [*questions(3), *odd, questions(1)[0], {"prompt": "Last?", "label": "yes"}])
    made = batch.run()
    metrics, lines = made.manifest.metrics, batch.lines()
    assert metrics["rows_in"] == 10
    assert metrics["predicted"] + metrics["quarantined"] == 10
    assert metrics["reasons"] == {"empty": 1, "missing_field": 1, "special_tokens": 2, "too_long": 1}
    left = pl.read_parquet(made.file("quarantine.parquet"))
    assert sorted([*left["position"], *(line["position"] for line in lines)]) == list(range(1, 11))
    assert [line["expected"] for line in lines] == ["", "", "", "", "yes"]
    assert lines[0]["answer"] == lines[3]["answer"]
    assert {line["model"] for line in lines} == {"a" * 64}
    assert pl.read_parquet(made.file("predictions.parquet")).to_dicts() == lines
    assert all(0 < line["answer_tokens"] <= 4 and line["prompt_tokens"] > 10 for line in lines)


@pytest.mark.usefixtures("small_chunks")
def test_what_was_cut_short_ends_as_what_was_done_in_one_go(tmp_path, tiny_base, monkeypatch):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    rows = [*questions(20), {"prompt": "long " * 600}, *questions(3)]
    whole = Batch(tmp_path / "whole", tiny_base, rows).run()
    cut = Batch(tmp_path / "cut", tiny_base, rows)
    job = Job.of(cut.request())
    generate, asked = predict.generate, []

    def stopping(*arguments):
        asked.append(len(arguments[2]))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return generate(*arguments)

    monkeypatch.setattr(predict, "generate", stopping)
    with pytest.raises(KeyboardInterrupt):
        predict.run(job)
    assert [chunk.name for chunk in cut.chunks()] == ["chunk-000000.json"]
    assert cut.made() is None
    predict.run(replace(job))
    assert asked == [8, 8, 8, 7]
    assert digests(cut.made()) == digests(whole)
    assert cut.made().manifest.execution["resumed_chunks"] == 1


@pytest.mark.usefixtures("small_chunks")
def test_a_chunk_that_is_not_what_was_kept_is_made_again(tmp_path, tiny_base):
    batch = Batch(tmp_path, tiny_base, questions(12))
    first = batch.run()
    was = digests(first)
    text = batch.chunks()[0].read_text()
    batch.chunks()[0].write_text(text.replace("Question 3?", "Question 4?"))
    batch.store.set_aside(batch.stage.name, batch.stage.fingerprint)
    again = batch.run()
    assert digests(again) == was
    assert again.manifest.execution["resumed_chunks"] == 1


def test_a_worker_killed_in_the_middle_loses_one_chunk_at_most(tmp_path, tiny_base):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    rows = questions(3 * predict.CHUNK_ROWS)
    killed = Batch(tmp_path / "killed", tiny_base, rows, most=16)
    (tmp_path / "request.json").write_text(json.dumps(killed.request()))
    process = subprocess.Popen(
        worker_command("batch_predictions", tmp_path / "request.json", None),
        env={**os.environ, **worker_environment(None, torch.get_num_threads())},  # the same to the byte needs as many
        cwd=ROOT,
    )
    deadline = time.monotonic() + 120
    while not killed.chunks() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(killed.chunks())
    assert 1 <= done < 3
    assert killed.made() is None
    again = killed.run()
    assert again.manifest.execution["resumed_chunks"] == done
    assert digests(again) == digests(Batch(tmp_path / "whole", tiny_base, rows, most=16).run())


def test_a_classifier_gives_every_label_its_probability(tmp_path):
    from ft_assets.worker.models import load_classifier
    from ft_assets.worker.tokenizer import load_tokenizer

    encoder, model = tmp_path / "encoder", tmp_path / "model"
    encoder.mkdir()
    make_tiny_encoder(encoder)
    import torch

    load_classifier(encoder, torch.float32, ["fault", "money", "other"]).save_pretrained(model)
    load_tokenizer(encoder).save_pretrained(model)
    texts = [{"text": row["text"]} for row in tickets(5)] + [{"text": "ticket " * 40}]
    batch = Batch(tmp_path, model, texts, stage="classifier", most=None, max_length=16)
    metrics = batch.run().manifest.metrics
    assert (metrics["rows_in"], metrics["predicted"]) == (6, 6)
    for line in batch.lines():
        assert [one["label"] for one in line["probabilities"]] == ["fault", "money", "other"]
        assert sum(one["probability"] for one in line["probabilities"]) == pytest.approx(1.0)
        assert line["probability"] == max(one["probability"] for one in line["probabilities"])
    assert [line["cut_short"] for line in batch.lines()] == [False] * 5 + [True]
    assert pq.read_table(batch.made().file("predictions.parquet")).num_rows == 6
