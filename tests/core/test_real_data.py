"""What is found in public data sets is what a plain count, written here by other means, finds in them.

The sets are no part of the project. They are looked for beside it, or where ``FT_TEST_DATA`` says.
"""

import csv
import gzip
import json
import os
import re
import tarfile
import unicodedata
from collections import Counter
from pathlib import Path

import batches as batch
import pytest

from ft_assets.recipes.schema import Source

DATA = Path(os.environ.get("FT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no public data sets in {DATA} (set FT_TEST_DATA)")

SPECIAL = re.compile(r"<\|\w{1,40}\|>", re.ASCII)
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
NO_WIDTH = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u2060-\u2064\ufeff]")


def lines(path):
    with gzip.open(DATA / path, "rb") as file:
        return [json.loads(line) for line in file.read().split(b"\n") if line.strip()]


def array(path):
    with gzip.open(DATA / path, "rb") as file:
        return json.load(file)


def table(path):
    with gzip.open(DATA / path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def ingest(path, kind, form, personal_data="keep", **settings):
    source = Source(kind=kind, location="x", format=form, licence="x", personal_data=personal_data, **settings)
    found = batch.validate(source, *([DATA / path] if isinstance(path, str) else path))
    assert found.rows_in == found.rows.height + found.quarantine.height
    return found


def plain(text):
    return " ".join(NO_WIDTH.sub("", unicodedata.normalize("NFKC", text)).lower().split())


def counted(rows, longest=100_000):
    """How many of some rows, each the list of its texts, are kept, and why the others are not: the plain count."""
    reasons, seen = Counter(), set()
    for texts in rows:
        together = "\n".join(texts)
        key = tuple(map(plain, texts))
        if not all(text.strip() for text in texts):
            reasons["empty"] += 1
        elif CONTROL.search(together):
            reasons["control_characters"] += 1
        elif SPECIAL.search(together):
            reasons["special_tokens"] += 1
        elif len(together) > longest:
            reasons["too_long"] += 1
        elif key in seen:
            reasons["exact_duplicate"] += 1
        else:
            seen.add(key)
    return len(seen), dict(sorted(reasons.items()))


def same(found, rows):
    assert (found.rows.height, found.counts()) == counted(rows)
    assert found.rows_in == len(rows)
    return found.counts()


def asked(question, context=""):
    return f"{question}\n\n{context}" if context else question


@pytest.mark.parametrize(("part", "rows"), [("train", 7473), ("test", 1319)])
def test_gsm8k(part, rows):
    path = f"gsm8k/{part}.jsonl.gz"
    found = ingest(path, "instruction", "question_answer")
    assert same(found, [[row["question"], row["answer"]] for row in lines(path)]) == {}
    assert found.rows_in == rows


ALPACA = {
    "rasbt_instruct/instruction-data.json.gz": ({}, ("instruction", "input", "output"), 1100),
    "gpteacher/codegen-instruct.json.gz": ({"output": "response"}, ("instruction", "input", "response"), 4535),
    "gpteacher/roleplay-simple-deduped-roleplay-instruct.json.gz": (
        {"output": "response"},
        ("instruction", "input", "response"),
        1923,
    ),
}


@pytest.mark.parametrize("path", ALPACA)
def test_instructions(path):
    columns, (question, context, answer), rows = ALPACA[path]
    found = ingest(path, "instruction", "alpaca", columns=columns)
    same(found, [[asked(row[question], row[context]), row[answer]] for row in array(path)])
    assert found.rows_in == rows


def test_dolly_keeps_its_line_ends():
    path = "dolly_safety_kw/databricks-dolly-15k-safety-only.jsonl.gz"
    rows = lines(path)
    found = ingest(path, "instruction", "alpaca", columns={"input": "context", "output": "response"})
    counts = same(found, [[asked(row["instruction"], row["context"]), row["response"]] for row in rows])
    assert counts == {"exact_duplicate": 1}
    with gzip.open(DATA / path) as file:
        assert file.read().count(b"\r\n") >= len(rows) - 1
    assert found.rows["position"].to_list()[-1] == len(rows)


def test_rasbt_preferences_hold_pairs_of_equals():
    path = "rasbt_instruct/instruction-data-with-preference.json.gz"
    rows = array(path)
    columns = {"prompt": ["instruction", "input"]}
    found = ingest(path, "preference", "preference", columns=columns)
    equal = [row for row in rows if row["chosen"].strip() == row["rejected"].strip()]
    others = [row for row in rows if row not in equal]
    kept, reasons = counted(
        [[asked(row["instruction"], row["input"]), row["chosen"], row["rejected"]] for row in others]
    )
    assert (found.rows.height, found.counts()) == (kept, reasons | {"chosen_equals_rejected": len(equal)})
    assert (found.rows_in, len(equal)) == (1100, 6)


def test_hh_rlhf():
    path = "hh_rlhf_harmless/test.jsonl.gz"
    reasons, texts = Counter(), []
    for row in lines(path):
        (asked_chosen, _, chosen), (asked_rejected, _, rejected) = (
            row[name].rpartition("\n\nAssistant:") for name in ("chosen", "rejected")
        )
        chosen, rejected = chosen.removeprefix(" "), rejected.removeprefix(" ")
        turns = (
            re.findall(r"\n\n(Human|Assistant):", row["chosen"]),
            re.findall(r"\n\n(Human|Assistant):", row["rejected"]),
        )
        if any(speakers[-1] == "Human" for speakers in turns):
            reasons["no_assistant_turn"] += 1
        elif any(speakers != ["Human", "Assistant"] * (len(speakers) // 2) for speakers in turns):
            reasons["bad_role_order"] += 1
        elif asked_chosen != asked_rejected:
            reasons["no_shared_prompt"] += 1
        elif not chosen.strip() or not rejected.strip():
            reasons["empty"] += 1
        elif chosen.strip() == rejected.strip():
            reasons["chosen_equals_rejected"] += 1
        else:
            said = re.split(r"\n\n(?:Human|Assistant):[ ]?", asked_chosen)[1:]
            texts.append([*said, chosen, rejected])
    found = ingest(path, "preference", "hh_rlhf")
    kept, more = counted(texts)
    assert (found.rows_in, found.rows.height) == (2312, kept)
    assert found.counts() == dict(Counter(more) + reasons)


def test_pandalm_judges():
    path = "pandalm/testset-v1.json.gz"
    reasons, texts = Counter(), []
    for row in array(path):
        votes = Counter(row[f"annotator{number}"] for number in (1, 2, 3))
        best, most = votes.most_common(1)[0]
        answers = [row["response1"], row["response2"]]
        if not all(isinstance(answer, str) for answer in answers):
            reasons["wrong_type"] += 1
        elif best == 0 or most == 1:
            reasons["tie"] += 1
        elif answers[0].strip() == answers[1].strip() != "":
            reasons["chosen_equals_rejected"] += 1
        else:
            texts.append([asked(row["instruction"], row["input"]), *(answers if best == 1 else answers[::-1])])
    judges = {"verdict": ["annotator1", "annotator2", "annotator3"]}
    found = ingest(path, "preference", "comparison", columns=judges)
    kept, more = counted(texts)
    assert (found.rows_in, found.rows.height) == (999, kept)
    assert found.counts() == dict(Counter(more) + reasons)
    assert (reasons["wrong_type"], sum(found.counts().values())) == (6, 999 - kept)


def path_of_the_best(node):
    turns = []
    while node:
        turns.append((node["role"], node["text"]))
        replies = node["replies"]
        ranked = sorted((reply for reply in replies if "rank" in reply), key=lambda reply: reply["rank"])
        node = (ranked or replies or [None])[0]
    return turns if turns[-1][0] == "assistant" else turns[:-1]


def test_oasst_conversations():
    path = "oasst_trees/en_100_tree.jsonl.gz"
    found = ingest(path, "instruction", "oasst")
    turns = [path_of_the_best(row["prompt"]) for row in lines(path)]
    same(found, [[text for _, text in one] for one in turns])
    assert [len(one) for one in found.rows["messages"].to_list()] == [len(one) for one in turns]


def test_oasst_pairs():
    path = "oasst_trees/en_100_tree.jsonl.gz"
    pairs = []
    for row in lines(path):
        ranks = {reply["rank"]: reply["text"] for reply in row["prompt"]["replies"] if "rank" in reply}
        if len(ranks) > 1:
            pairs.append([row["prompt"]["text"], ranks[min(ranks)], ranks[max(ranks)]])
    found = ingest(path, "preference", "oasst")
    kept, more = counted(pairs)
    assert (found.rows.height, found.counts()) == (
        kept,
        dict(sorted((Counter(more) + Counter(missing_field=100 - len(pairs))).items())),
    )
    assert found.rows.select("chosen", "rejected").rows()[0] == tuple(pairs[0][1:])


def test_flyte_docs(tmp_path):
    with tarfile.open(DATA / "flyte_docs/content_md.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    files = sorted(tmp_path.rglob("*.md"))
    found = ingest(files, "text", "text")
    same(found, [[file.read_bytes().decode().rstrip("\r\n")] for file in files])
    assert found.rows_in == 721


@pytest.mark.parametrize("part", ["valid", "test"])
def test_wikitext_is_one_long_row(part):
    path = f"wikitext2/{part}.txt.gz"
    with gzip.open(DATA / path, "rt", encoding="utf-8", newline="") as file:
        text = file.read()
    assert same(ingest(path, "text", "text"), [[text]]) == {"too_long": 1}
    found = ingest(path, "text", "text", max_characters=10_000_000)
    assert found.rows["text"].to_list() == [text.rstrip("\n")]


def test_truthfulqa_in_csv():
    path = "truthfulqa/TruthfulQA.csv.gz"
    columns = {"prompt": "Question", "chosen": "Best Answer", "rejected": "Best Incorrect Answer"}
    found = ingest(path, "preference", "preference", columns=columns)
    same(found, [[row[column] for column in columns.values()] for row in table(path)])
    assert found.rows_in == 790


def test_truthfulqa_in_json():
    found = ingest("truthfulqa/mc_task.json.gz", "prompt", "prompt", columns={"prompt": "question"})
    same(found, [[row["question"]] for row in array("truthfulqa/mc_task.json.gz")])


def test_ifeval():
    found = ingest("ifeval/input_data.jsonl.gz", "prompt", "prompt")
    same(found, [[row["prompt"]] for row in lines("ifeval/input_data.jsonl.gz")])
    assert found.rows_in == 541


def test_xstest_prompts():
    path = "xstest/xstest_prompts.csv.gz"
    found = ingest(path, "prompt", "prompt")
    same(found, [[row["prompt"]] for row in table(path)])
    assert Counter(found.rows["label"].to_list()) == {"safe": 250, "unsafe": 200}


@pytest.mark.parametrize("model", ["gpt4", "llama2new", "llama2orig", "mistralguard", "mistralinstruct"])
def test_xstest_completions(model):
    path = f"xstest/xstest_v2_completions_{model}.csv.gz"
    rows = table(path)
    columns = {"text": ["prompt", "completion"], "label": "final_label"}
    found = ingest(path, "classification", "classification", columns=columns)
    assert found.rows_in == len(rows) == 450
    kept, reasons = counted([[asked(row["prompt"], row["completion"])] for row in rows if row["final_label"].strip()])
    assert found.rows.height == kept
    unlabelled = Counter(empty=sum(not row["final_label"].strip() for row in rows))
    assert found.counts() == dict(Counter(reasons) + unlabelled)


EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")


def test_addresses_in_gpteacher_are_found_and_redacted():
    path = "gpteacher/codegen-instruct.json.gz"
    columns = {"output": "response"}
    holding = [
        row for row in array(path) if EMAIL.search("\n".join((row["instruction"], row["input"], row["response"])))
    ]
    found = ingest(path, "instruction", "alpaca", "quarantine", columns=columns)
    details = found.quarantine.filter(found.quarantine["reason"] == "personal_data")["detail"]
    assert details.str.contains(r"\bemail\b").sum() == len(holding) >= 30
    redacted = ingest(path, "instruction", "alpaca", "redact", columns=columns)
    assert redacted.found.redacted["email"] >= len(holding)
    kept = [turn["content"] for turns in redacted.rows["messages"].to_list() for turn in turns]
    assert not [text for text in kept if EMAIL.search(text)]
    assert sum(text.count("[EMAIL]") for text in kept) == redacted.found.redacted["email"]


def test_every_set_is_played():
    """A new set beside these wants a test of its own."""
    text = Path(__file__).read_text()
    assert [folder.name for folder in sorted(DATA.iterdir()) if folder.is_dir() and f"{folder.name}/" not in text] == []
