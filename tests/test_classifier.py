"""A recipe with a classifier, really run through Dagster on a made-up encoder: from labelled texts to what others load."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from classifying import RECIPE, SOURCES, WORDS, make_tiny_encoder, tickets
from conftest import Workshop, outcome_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer

pytestmark = pytest.mark.graph


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    shop = Workshop(tmp_path_factory.mktemp("classifier"))
    (shop.recipes / "base").mkdir(parents=True)
    make_tiny_encoder(shop.recipes / "base")
    shop.write_rows("tickets/one.jsonl", [*tickets(140), {"text": "no label"}])
    shop.write_rows("test/one.jsonl", [*tickets(40, 9000), {"text": "ticket 9999 refund", "label": "fault"}])
    (shop.recipes / "tiny.yaml").write_text(RECIPE + SOURCES)
    shop.first = outcome_of(shop.ft("run", "tiny", "--json").stdout)
    return shop


def results(shop):
    return json.loads((shop.artifact("evaluation") / "results.json").read_text())


def release(shop):
    pointer = json.loads((shop.home / "published" / "tiny" / "champion.json").read_text())
    return shop.home / "published" / "tiny" / pointer["folder"]


def test_a_run_makes_the_classifier_and_passes_every_other_stage_through(shop):
    status = {key[0]: row["status"] for key, row in shop.first.items() if key and key[1] == "tiny"}
    made = {name for name, word in status.items() if word == "made"}
    assert made == {"base_model", "tokenized_splits", "training_plan", "classifier", "eval_report", "published_model"}
    assert set(status.values()) == {"made", "passes through"}
    assert shop.first[None]["checks"] == []


def test_it_beats_the_most_frequent_label_beyond_its_interval(shop):
    found = results(shop)
    contestants = found["contestants"]
    assert list(contestants) == ["majority", "classifier"]
    for metric in ("accuracy", "macro_f1"):
        assert contestants["classifier"]["scores"][metric]["low"] > contestants["majority"]["scores"][metric]["high"]
    assert {row["answer"] for row in contestants["majority"]["answers"]["test"]} == {"money"}
    assert {(each["metric"], each["outcome"]) for each in found["comparisons"]} == {
        ("accuracy", "better"),
        ("macro_f1", "better"),
    }
    assert shop.first["eval_report", "tiny"]["key_metric"].startswith("classifier ")


def test_what_is_published_says_in_plain_transformers_what_the_report_says(shop):
    folder, answers = release(shop), results(shop)["contestants"]["classifier"]["answers"]["test"]
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "fault", 1: "money", 2: "other"}
    batch = tokenizer([row["question"] for row in answers], padding=True, return_tensors="pt")
    with torch.inference_mode():
        best = model(**batch).logits.argmax(-1)
    assert [model.config.id2label[int(number)] for number in best] == [row["answer"] for row in answers]
    assert not [path.name for path in folder.rglob("*") if path.name.startswith("adapter_model")]


def test_the_card_says_what_it_is_for(shop):
    card = (release(shop) / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "text-classification"
    assert front["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"
    assert "AutoModelForSequenceClassification" in card
    assert "| fault | money | 1 |" in card
    for label in set(WORDS.values()):
        assert re.search(rf"^\| {label} \| [\d.]+ \| [\d.]+ \| [\d.]+ \| \d+ \|$", card, re.MULTILINE)


def test_the_page_shows_each_label_and_every_mistake(shop):
    page, found = Path(shop.first[None]["report"]).read_text(), results(shop)["contestants"]["classifier"]
    lines = {
        tuple(re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line))
        for line in re.findall(r"<tr>(.*?)</tr>", page)
    }
    for entry in found["classes"]:
        assert any(line[:3] == (entry["label"], str(entry["rows"]), str(entry["predicted"])) for line in lines)
    assert {"expected": "fault", "predicted": "money", "rows": 1} in found["confusion"]
    for pair in found["confusion"]:
        shown = (pair["expected"], pair["predicted"], str(pair["rows"])) in lines
        assert shown == (pair["expected"] != pair["predicted"])
    assert "The labels were learned: classifier scores" in re.sub("<[^>]+>", "", page)
    assert "perplexity" not in page.lower()


def test_a_second_run_reuses_it(shop):
    assert {row["status"] for key, row in shop.run().items() if key} == {"reused", "passes through"}
