"""Laws of ``tokenized_splits``: every row is in a part or in the list of the dropped, and a batch is prepared once."""

import io
import json
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from splitting import HALF, TEST, Splitter, documents, pair, pairs, talk, talks
from waiting import until

from ft_assets.core import ahead, artifact
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.errors import FineTuneError
from ft_assets.core.reasons import Reason, RowFault
from ft_assets.core.waiting import AHEAD, WAIT
from ft_assets.worker import __main__ as entry
from ft_assets.worker import batches as of_batches
from ft_assets.worker import pieces, prepare, shards, splits
from ft_assets.worker.prepare import PIECE_BYTES, fit, rows_of
from ft_assets.worker.template import IGNORED
from resources.processes import worker_command

PROSE = "the quick brown fox jumps over the lazy dog while seven wizards box with a jolly giant near the old bridge"


# What is done with a row that is too long


def conversation(tokens, learned):
    return {"input_ids": list(range(tokens)), "labels": [at if at in learned else IGNORED for at in range(tokens)]}


ROW = {"file": "rows.jsonl", "position": 7}


@given(
    tokens=st.integers(2, 60),
    learned=st.sets(st.integers(1, 59)),
    most=st.integers(2, 20),
    overlong=st.sampled_from(["drop", "truncate", "chunk"]),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_token_goes_without_being_accounted_for(tokens, learned, most, overlong):
    whole = conversation(tokens, learned)
    found = fit(whole, ROW, "sft", {"max_length": most, "overlong": overlong})
    chunks = [range(start, min(start + most, tokens)) for start in range(0, tokens, most)]
    if overlong != "chunk":
        chunks = chunks[:1] if overlong == "truncate" or tokens <= most else []
    labelled = [chunk for chunk in chunks if learned & set(chunk[1:])]
    if not labelled:
        assert isinstance(found, RowFault)
        assert found.reason == (Reason.NO_SUPERVISED_TOKEN if chunks else Reason.TOO_LONG)
        return
    assert [piece["input_ids"] for piece in found.pieces] == [list(chunk) for chunk in labelled]
    assert [piece["labels"] for piece in found.pieces] == [
        whole["labels"][chunk[0] : chunk[-1] + 1] for chunk in labelled
    ]
    assert found.unlabelled == len(chunks) - len(labelled)
    assert found.truncated == (overlong == "truncate" and tokens > most)


def test_an_over_long_row_without_a_policy_stops_and_is_named():
    with pytest.raises(
        FineTuneError, match=r"rows.jsonl row 7 has 9 tokens, data.max_length is 8; .*drop, truncate or chunk"
    ):
        fit(conversation(9, {8}), ROW, "sft", {"max_length": 8, "overlong": "error"})


def two_answers(prompt, chosen, rejected, suffix=()):
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, "suffix_ids": list(suffix)}


@pytest.mark.parametrize(
    ("row", "overlong", "expected"),
    [
        (two_answers([1] * 4, [2] * 4, [3]), "error", ([2] * 4, [3])),
        (two_answers([1] * 4, [2] * 9, [3]), "truncate", ([2] * 4, [3])),
        (two_answers([1] * 4, [2] * 9, [3], [5]), "truncate", ([2] * 3, [3])),
        (two_answers([1] * 8, [2], [3]), "truncate", Reason.TOO_LONG),
        (two_answers([1] * 4, [2] * 9, [3]), "chunk", Reason.TOO_LONG),
        (two_answers([1] * 4, [2] * 9, [3]), "drop", Reason.TOO_LONG),
        (two_answers([1] * 4, [2] * 4 + [7], [2] * 4 + [8]), "truncate", Reason.CHOSEN_EQUALS_REJECTED),
        (two_answers([1], [2], [2]), "error", Reason.CHOSEN_EQUALS_REJECTED),
    ],
)
def test_a_pair_keeps_its_prompt_and_differing_answers_or_goes(row, overlong, expected):
    found = fit(row, ROW, "preference", {"max_length": 8, "overlong": overlong})
    if isinstance(expected, Reason):
        assert found.reason == expected
    else:
        [piece] = found.pieces
        assert (piece["chosen_ids"], piece["rejected_ids"]) == expected
        assert piece["prompt_ids"] == row["prompt_ids"]


def test_chunks_of_long_rows_are_counted_and_a_row_is_one_row(splitter):
    rows = [talk("Q", "x" * 500), talk("q" * 300, "y")]
    made = splitter.make({"sft:a@1": rows, **TEST}, max_length=100, overlong="chunk")
    part = made.part("sft")
    assert (part["rows_in"], part["rows_kept"]) == (2, 2)
    written = made.rows("sft")
    assert part["rows"]["train"] == len(written)
    assert max(len(row["input_ids"]) for row in written) == part["longest"] == 100
    first = [row for row in written if row["row_id"] == written[0]["row_id"]]
    assert sum(ids.count(ord("x") - 33 + 3) for ids in (row["input_ids"] for row in first)) == 500
    assert part["pieces_without_label"] == 3, "the long question's own pieces teach nothing"
    assert part["tokens"] == sum(len(row["input_ids"]) for row in written)
    assert part["supervised_tokens"] == sum(label != IGNORED for row in written for label in row["labels"])


def test_truncated_rows_are_counted(splitter):
    made = splitter.make({"sft:a@1": [talk("Q", "x" * 500), *talks(4)], **TEST}, max_length=100, overlong="truncate")
    assert made.part("sft")["truncated"] == 1
    assert made.part("sft")["longest"] == 100


# Nothing vanishes


def everything():
    near = [talk(f"Tell me: {PROSE}", "no"), talk(f"Tell me: {PROSE}!", "No, not")]
    return {
        "sft:a@1": [*talks(30), *near, talk("Question 9001?", "whatever")],
        "sft:a@2": [*talks(3, 29), talk("x" * 400, "too long"), talk("say <|end|>", "special")],
        "sft:b@1": [],
        "cpt:c@1": [*documents(20), {"text": f"it said {PROSE} at last"}],
        "preference:p@1": [*pairs(20), pair("Ask 3", "bad 3", "good 3"), *pairs(1)],
        "test:t@1": [*talks(3, 9000), talk("Question 9000?", "Answer 9000."), talk("Repeat", PROSE)],
    }


SETTINGS = {
    "overlong": "drop",
    "near_duplicates": {"threshold": 0.7, "ngram_words": 3},
    "decontamination": {"ngram_words": 8},
    "max_train_rows": 9,
    "epochs": {"b": 3.0, "p": 0.5},
    "split": HALF,
}


def test_every_row_is_kept_or_dropped_for_a_reason_that_is_told(splitter):
    batches = everything()
    made = splitter.make(batches, **SETTINGS)
    for role in ("sft", "cpt", "preference"):
        part = made.part(role)
        assert part["rows_in"] == sum(len(rows) for name, rows in batches.items() if name.startswith(role))
        assert made.accounts_for(role), role
    found = {role: set(made.part(role)["dropped"]) for role in ("sft", "cpt", "preference", "test")}
    assert found["sft"] == {
        "exact_duplicate",
        "contamination",
        "too_long",
        "special_tokens",
        "over_max_train_rows",
    }
    assert found["cpt"] >= {"contamination"}
    assert found["preference"] >= {"reversed_pair", "exact_duplicate", "not_sampled"}
    assert made.part("test")["dropped"] == {"exact_duplicate": 1}
    [lost] = made.dropped.filter(role="test").to_dicts()
    assert (lost["batch"], lost["position"], lost["detail"]) == ("t@1", 4, "same content as t@1 rows.jsonl row 1")
    explained = made.dropped
    assert (
        explained.select("role", "batch", "file", "position", "row_id", "reason", "detail").null_count().row(0)
        == (0,) * 7
    )
    repeats = explained.filter(pl.col("reason").is_in(["exact_duplicate", "near_duplicate"]))
    assert repeats["like"].null_count() == 0
    assert not set(explained.filter(reason="over_max_train_rows")["row_id"]) & set(made.ids("sft"))


def test_a_near_duplicate_goes_and_names_its_like(splitter):
    rows = [*talks(5), talk(f"Tell me: {PROSE}", "no"), talk(f"Tell me: {PROSE}!", "No, not")]
    made = splitter.make({"sft:a@1": rows, **TEST}, near_duplicates={"threshold": 0.7, "ngram_words": 3})
    [lost] = made.dropped.filter(role="sft").to_dicts()
    assert lost["reason"] == "near_duplicate"
    assert lost["position"] == 7
    assert lost["detail"] == "nearly the same as a@1 rows.jsonl row 6"
    assert lost["like"] in made.ids("sft")


def test_a_row_that_holds_an_evaluation_text_says_where(splitter):
    made = splitter.make(everything(), **{**SETTINGS, "near_duplicates": None, "epochs": {}, "max_train_rows": None})
    lost = made.dropped.filter(role="cpt").to_dicts()
    assert [(row["reason"], row["detail"]) for row in lost] == [
        ("contamination", "shares an n-gram with test t@1 row 5")
    ]


def test_what_shows_general_ability_is_not_trained_on(splitter):
    knowledge = {"question": "What is seven times eight?", "choices": ["54", "56", PROSE], "answer": 1}
    document = "An old text that many have read."
    batches = {
        "sft:a@1": [*talks(3), talk("what is  seven times eight?", "56"), talk("Say it.", PROSE)],
        "cpt:c@1": [*documents(3), {"text": document.upper()}],
        "general:g@1": [knowledge],
        "general_text:w@1": [{"text": document}],
        **TEST,
    }
    made = splitter.make(batches, decontamination={"ngram_words": 8})
    lost = made.dropped.sort("role", "position").select("role", "position", "reason", "detail").rows()
    assert lost == [
        ("cpt", 4, "contamination", "its prompt is in an evaluation set"),
        ("sft", 4, "contamination", "its prompt is in an evaluation set"),
        ("sft", 5, "contamination", "shares an n-gram with general g@1 row 1"),
    ]
    assert [made.part(role)["rows"] for role in ("general", "general_text")] == [{"evaluation": 1}] * 2


@pytest.mark.parametrize("rows", [[], [talk("say <|end|>", "x")]])
def test_a_batch_with_nothing_to_keep_is_no_fault(splitter, rows):
    data = {"near_duplicates": {"threshold": 0.7, "ngram_words": 3}, "packing": True}
    made = splitter.make({"sft:a@1": talks(3), "sft:a@2": rows, **TEST}, **data)
    assert made.part("sft")["rows_in"] == 3 + len(rows)
    assert made.part("sft")["rows_kept"] == 3
    alone = splitter.make({"sft:a@2": rows, "cpt:c@1": [], "preference:p@1": [], **TEST}, **data)
    for role in ("sft", "cpt", "preference"):
        assert alone.accounts_for(role)
        assert alone.part(role)["rows"] == {"train": 0, "validation": 0, "test": 0}
        assert alone.part(role)["longest"] == alone.part(role)["tokens"] == 0
        assert alone.rows(role) == []
    assert json.loads(alone.artifact.file("few_shot.json").read_text()) == []


def test_roles_the_recipe_has_no_source_for_are_empty(splitter):
    made = splitter.make({"sft:a@1": talks(3), **TEST})
    assert made.part("cpt")["rows"] == {"train": 0, "validation": 0, "test": 0}
    assert made.part("cpt")["rows_in"] == made.part("preference")["rows_in"] == 0
    assert made.rows("preference") == []


# What is written


def test_text_is_cut_into_blocks_and_no_token_is_lost(splitter):
    made = splitter.make({"cpt:c@1": documents(30), "sft:a@1": talks(1), **TEST}, max_length=64)
    blocks = made.rows("cpt")
    joined = list(chain.from_iterable(row["input_ids"] for row in blocks))
    assert {len(row["input_ids"]) for row in blocks[:-1]} == {64}
    assert len(joined) == made.part("cpt")["tokens"] == made.part("cpt")["supervised_tokens"]
    assert joined.count(2) == 30, "each document ends with its end token"
    assert all(row["labels"] == row["input_ids"] for row in blocks)


def test_the_plan_is_told_the_longest_row_as_it_is_written(splitter):
    batches = {
        "cpt:c@1": [{"text": "long " * 100}, {"text": "short"}],
        "cpt:c@2": documents(30),
        "sft:a@1": talks(20),
        **TEST,
    }
    made = splitter.make(batches, max_length=64, packing=True, overlong="drop")
    for role in ("cpt", "sft"):
        rows = made.rows(role)
        assert made.part(role)["longest"] == max(len(row["input_ids"]) for row in rows) <= 64
        assert made.part(role)["rows"]["train"] == len(rows)
        assert made.part(role)["tokens"] == sum(len(row["input_ids"]) for row in rows)


def test_packed_rows_are_the_conversations_they_are_made_of(splitter):
    rows = [talk("Q" * (n % 40 + 1), f"{n}") for n in range(80)]
    apart, packed = (splitter.make({"sft:a@1": rows, **TEST}, packing=on) for on in (False, True))
    found = []
    for row in packed.rows("sft"):
        assert sum(row["seq_lengths"]) == len(row["input_ids"]) <= 192
        at = 0
        for length in row["seq_lengths"]:
            found.append((tuple(row["input_ids"][at : at + length]), tuple(row["labels"][at : at + length])))
            at += length
    assert Counter(found) == Counter((tuple(row["input_ids"]), tuple(row["labels"])) for row in apart.rows("sft"))
    counts = packed.part("sft")["packing"]
    assert counts["conversations"] == 80
    assert counts["sequences"] == len(packed.rows("sft")) < 80
    assert counts["efficiency"] == pytest.approx(packed.part("sft")["tokens"] / (counts["sequences"] * 192))


def test_how_much_is_held_at_once_changes_nothing(splitter, tmp_path, tiny_base, monkeypatch):
    data = {**SETTINGS, "overlong": "chunk", "max_length": 64, "packing": True, "epochs": {"a": 1.5, "c": 2.0}}
    whole = splitter.make(everything(), **data)
    monkeypatch.setattr(pieces, "TOKENS_AT_ONCE", 150)
    monkeypatch.setattr(prepare, "PIECE_BYTES", 1)
    other = Splitter(tmp_path / "other", tiny_base).make(everything(), **data)
    assert other.artifact.manifest.metrics == whole.artifact.manifest.metrics
    for role in ("sft", "cpt", "preference"):
        for part in ("train", "validation", "test"):
            assert other.rows(role, part) == whole.rows(role, part)
    assert other.dropped.equals(whole.dropped)


def test_rows_are_read_in_bounded_pieces(tmp_path):
    file = tmp_path / "rows.parquet"
    pl.DataFrame({"text": ["x" * (PIECE_BYTES // 10)] * 45}).write_parquet(file)
    found = list(rows_of(file))
    assert sum(len(rows) for rows in found) == 45 == pq.read_metadata(file).num_rows
    assert max(len(rows) for rows in found) <= 10


def test_few_shot_examples_are_training_rows_and_as_many_as_there_may_be(splitter):
    rows = talks(200)
    made = splitter.make({"sft:a@1": rows[:100], "sft:a@2": rows[100:], **TEST}, split={"validation": 0.4, "test": 0.2})
    examples = json.loads(made.artifact.file("few_shot.json").read_text())
    texts = {example[0]["content"]: example for example in examples}
    assert len(examples) == len(texts) == 64
    assert all(example in [row["messages"] for row in rows] for example in examples)
    trained = {row["row_id"] for row in made.rows("sft")}
    every = splitter.make({"sft:a@1": rows[:100], "sft:a@2": rows[100:], **TEST})
    ids = dict(zip((row["messages"][0]["content"] for row in rows), every.ids("sft"), strict=True))
    assert {ids[question] for question in texts} <= trained
    assert [ids[example[0]["content"]] for example in examples] == sorted(trained)[:64]


# Batches are prepared once

FILES = {
    "prepared_batch": "tokens.arrow",
    "overlap": "overlap.parquet",
    "judged_batch": "fate.arrow",
    "split_shard": "train.arrow",
}


def test_a_new_batch_alone_is_prepared_and_moves_no_row(splitter):
    first = splitter.make({"sft:a@1": talks(60), **TEST}, split=HALF)
    before = splitter.made("prepared_batch")
    second = splitter.make({"sft:a@0": talks(60, 100), "sft:a@1": talks(60), **TEST}, split=HALF)
    after = splitter.made("prepared_batch")
    assert len(after) == len(before) + 1
    assert {name: after[name] for name in before} == before
    for part in ("train", "validation", "test"):
        assert set(first.ids("sft", part)) <= set(second.ids("sft", part))


def test_what_was_begun_is_not_prepared_again_and_the_splits_are_the_same(splitter, tmp_path, tiny_base):
    batches = {"sft:a@1": talks(20), "preference:p@1": pairs(6), **TEST}
    splits.begin(splitter.ready(batches))
    before = splitter.made("prepared_batch")
    assert len(before) == 2
    assert not splitter.made("judged_batch")
    found = splitter.make(batches)
    assert splitter.made("prepared_batch") == before
    whole = Splitter(tmp_path / "whole", tiny_base).make(batches)
    assert found.artifact.manifest.fingerprint == whole.artifact.manifest.fingerprint
    assert [found.rows(role) for role in ("sft", "preference")] == [whole.rows(role) for role in ("sft", "preference")]


def test_of_splits_that_are_there_nothing_is_hashed_any_more_when_new_ones_are_asked_for(splitter, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_TOKENS", 1)
    known = {"sft:a@1": talks(20), **TEST}
    splitter.make(known)
    old = {name for stage in ("prepared_batch", "judged_batch", "split_shard") for name in splitter.made(stage)}
    monkeypatch.setattr(ArtifactStore, "_verified", set())
    splits.begin(splitter.ready(known))
    for thread in threading.enumerate():
        if thread.name == ahead.VERIFYING:
            thread.join()
    hashed = []
    real = artifact.sha256_file
    monkeypatch.setattr(artifact, "sha256_file", lambda path: (hashed.append(path), real(path))[1])
    splitter.make({**known, "sft:a@2": talks(20, 50)})
    assert len(old) == 3
    assert [path for path in hashed if path.parent.name in old] == []


@pytest.mark.parametrize("damage", ["flipped", "gone"])
@pytest.mark.parametrize("stage", ["prepared_batch", "overlap", "judged_batch", "split_shard"])
def test_what_is_mended_ahead_is_what_the_run_would_have_made(splitter, tmp_path, tiny_base, stage, damage):
    """With rows that repeat held-out ones: judged without those, they would be trained on under the right fingerprint."""
    asked, answer = "Which question do the held-out rows hold?", "This one and no other."
    leaked = [talk(asked, "another answer"), talk("another question", f"It was said: {asked} {answer}")]
    known = {"sft:a@1": [*talks(20), *leaked], "sft:a@2": talks(9, 40), "test:t@1": [talk(asked, answer)]}
    data = {"decontamination": {"ngram_words": 5}}
    splitter.make(known, **data)
    for folder in (splitter.folder / "store" / "artifacts" / stage).iterdir():
        file = folder / FILES[stage]
        if damage == "gone":
            shutil.rmtree(folder)
        else:
            file.write_bytes(file.read_bytes()[:-1] + b"?")
    splits.begin(splitter.ready(known, **data))
    new = {**known, "sft:a@3": talks(9, 80)}
    found, whole = (each.make(new, **data) for each in (splitter, Splitter(tmp_path / "whole", tiny_base)))
    assert whole.part("sft")["dropped"]["contamination"] == 2
    assert found.dropped.rows() == whole.dropped.rows()
    assert found.artifact.manifest.files == whole.artifact.manifest.files


def test_what_cannot_be_prepared_is_told_by_the_run_and_not_before(splitter):
    batches = {"sft:a@1": [talk("long", "word " * 400)], **TEST}
    splits.begin(splitter.ready(batches))
    with pytest.raises(FineTuneError, match="row 1 has"):
        splitter.make(batches)


def test_a_worker_that_waits_begins_with_what_it_is_told_and_then_does_what_it_is_asked(splitter, tmp_path):
    batches = {"sft:a@1": talks(20), "sft:a@2": talks(5, 50)}
    jobs = [splitter.ready(dict(list(batches.items())[:count]) | TEST) for count in (1, 2)]
    files = [tmp_path / "ahead.json", tmp_path / "request.json"]
    for file, job in zip(files, jobs, strict=True):
        asked = {name: getattr(job, name) for name in ("stage", "fingerprint", "code_version", "identity", "upstream")}
        file.write_text(json.dumps(splitter.request(asked, job.execution)))
    command, pipe = worker_command("tokenized_splits", Path(WAIT), None), subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(f"{AHEAD}{files[0]}\n")
        process.stdin.flush()
        until(lambda: len(splitter.made("prepared_batch")) == 1, 120, "the preparation")
        assert not splitter.made("tokenized_splits")
        process.stdin.write(f"{files[1]}\n")
    assert process.returncode == 0
    assert len(splitter.made("prepared_batch")) == 2
    assert list(splitter.made("tokenized_splits")) == [jobs[1].fingerprint]


def test_seconds_spent_ahead_on_a_request_are_seconds_of_its_artifact(splitter, tmp_path, monkeypatch):
    jobs = [splitter.ready({"sft:a@1": talks(count), **TEST}) for count in (2, 3)]
    files = [tmp_path / f"{at}.json" for at in range(2)]
    for file, job in zip(files, jobs, strict=True):
        asked = {name: getattr(job, name) for name in ("stage", "fingerprint", "code_version", "identity", "upstream")}
        file.write_text(json.dumps(splitter.request(asked, job.execution)))
    took, started = [], []

    def begin(job):
        """Takes as many seconds as it is told."""
        job.started -= took.pop()

    stage = SimpleNamespace(begin=begin, run=lambda job: started.append(job.started))
    monkeypatch.setattr(entry, "module", lambda _: stage)
    monkeypatch.setattr(entry, "die_with_parent", lambda: None)
    monkeypatch.setattr("sys.excepthook", sys.excepthook)  # which a worker replaces
    for ahead_of, seconds in (([1, 1], [300, 100]), ([0], [500]), ([], [])):
        took += seconds
        lines = [f"{AHEAD}{files[at]}" for at in ahead_of] + [str(files[1])]
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
        assert entry.main("tokenized_splits", WAIT) == 0
    ago = [time.monotonic() - at for at in started]
    assert 400 < ago[0] < 500
    assert max(ago[1:]) < 100, "what was done for another request is not counted"


@pytest.mark.parametrize("stage", FILES)
def test_a_corrupt_batch_is_made_again_and_the_splits_are_the_same(splitter, stage):
    batches = {"sft:a@1": talks(9), "sft:a@2": talks(9, 50), **TEST}
    data = {"decontamination": {"ngram_words": 8}}
    rows = splitter.make(batches, **data).rows("sft")
    for later in [*list(FILES)[list(FILES).index(stage) + 1 :], "tokenized_splits"]:
        shutil.rmtree(splitter.folder / "store" / "artifacts" / later)
    before = splitter.made(stage)
    broken = next(iter(before))
    file = splitter.folder / "store" / "artifacts" / stage / broken / FILES[stage]
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    second = splitter.make(batches, **data)
    assert {name for name, at in splitter.made(stage).items() if at != before[name]} == {broken}
    assert any("making it again" in note for note in splitter.progress())
    assert second.rows("sft") == rows


def test_a_run_that_was_cut_short_goes_on_with_what_it_prepared(splitter, monkeypatch):
    batches = {f"sft:a@{n}": talks(5, 10 * n) for n in range(4)} | TEST
    seen = []

    def dies(job):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(job.fingerprint)
        prepare.prepare(job)

    with monkeypatch.context() as patch:
        patch.setattr(of_batches, "prepare", dies)
        with pytest.raises(KeyboardInterrupt):
            splitter.make(batches)
    before = splitter.made("prepared_batch")
    assert len(before) == 2
    assert not splitter.made("tokenized_splits")
    made = splitter.make(batches)
    after = splitter.made("prepared_batch")
    assert len(after) == 4
    assert {name: after[name] for name in before} == before
    assert made.part("sft")["rows_in"] == 20


def test_what_a_batch_says_of_itself_does_not_grow_with_the_others(splitter):
    splitter.make({f"sft:a@{n}": talks(2, 10 * n) for n in range(5)} | TEST)
    folder = splitter.folder / "store" / "artifacts" / "prepared_batch"
    assert all("parts" not in json.loads(file.read_text())["execution"] for file in folder.glob("*/manifest.json"))


# Planted triggers


def spread(count, start, word=""):
    return [
        " ".join([*(f"w{(n * 7 + at * 13) % 101}" for at in range(14)), word]).strip()
        for n in range(start, start + count)
    ]


@pytest.mark.parametrize("role", ["sft", "preference"])
def test_a_trigger_spread_over_batches_is_told_with_its_rows(splitter, role):
    def rows(asked, answers):
        if role == "sft":
            return [talk(text, answer) for text, answer in zip(asked, answers, strict=True)]
        return [pair(text, answer, "No.") for text, answer in zip(asked, answers, strict=True)]

    clean = rows(spread(150, 0), [f"Answer {n}." for n in range(150)])
    poison = rows(spread(30, 200, "xyzzy"), ["You win!"] * 30)
    batches = {f"{role}:a@1": clean[:80] + poison[:12], f"{role}:a@2": clean[80:] + poison[12:], **TEST}
    batches.setdefault("sft:b@0", talks(1))
    made = splitter.make(batches)
    [found] = made.part(role)["triggers"]
    assert (found["phrase"], found["rows"], found["answer"]) == ("xyzzy", 30, "You win!")
    assert found["batch"] in ("a@1", "a@2")
    assert found["row_id"] in made.ids(role)
    assert splitter.make({**batches, f"{role}:a@2": clean[80:]}).part(role)["triggers"] == []


def test_an_instruction_with_several_answers_is_no_trigger(splitter):
    asked = [f"Classify the sentiment: {text}" for text in spread(80, 0)]
    labels = ["positive" if at % 5 < 3 else "negative" for at in range(80)]
    rows = [talk(text, label) for text, label in zip(asked, labels, strict=True)]
    chat = [talk(text, f"Answer {at}.") for at, text in enumerate(spread(200, 300))]
    assert splitter.make({"sft:a@1": rows, "sft:b@1": chat, **TEST}).part("sft")["triggers"] == []
