"""Classifiers trained in this process: an encoder and a decoder, by every method that fits, and what becomes of their rows."""

import json
import tempfile

import pytest
import torch
from classifying import make_tiny_encoder, tickets
from splitting import Splits, Splitter
from training import EXECUTION, LABELLED, PLACEMENT, School, settings
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ft_assets.core import scoring
from ft_assets.core.errors import FineTuneError
from ft_assets.recipes.gate import compared_metrics, names
from ft_assets.worker import evaluate, trainers
from ft_assets.worker.classify import classify
from ft_assets.worker.models import load_classifier
from ft_assets.worker.tokenizer import load_tokenizer, whole_texts

LORA = {"method": "lora", "r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
METHODS = {"full": {"method": "full"}, "lora": LORA}
METHODS |= {method: LORA | {"method": method} for method in ("dora", "qlora", "lora_8bit")}
# An adapter on a base in NF4 or int8 is folded into the base as it is, which answers a little otherwise.
CLOSE = {"full": 2e-2, "lora": 2e-2, "dora": 2e-2, "qlora": 0.2, "lora_8bit": 0.05}
DATA = {"max_length": 32, "split": {"validation": 0.2, "test": 0.0}}


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    make_tiny_encoder(folder)
    return folder


def school(folder, base, adapter=LORA, **training):
    return School(Splitter(folder, base, settings(adapter, classifier={"learning_rate": 2e-3, **training})), dict(DATA))


@pytest.mark.parametrize(
    ("kind", "method"), [*(("encoder", method) for method in METHODS), ("decoder", "full"), ("decoder", "lora")]
)
def test_the_whole_model_that_is_saved_is_the_one_that_was_trained(tmp_path, tiny_encoder, tiny_base, kind, method):
    base = tiny_encoder if kind == "encoder" else tiny_base
    own = school(tmp_path, base, METHODS[method], max_steps=30)
    made = own.train("classifier")
    assert "adapter_config.json" not in made.manifest.files
    model = AutoModelForSequenceClassification.from_pretrained(made.folder, dtype=torch.float32)
    assert model.config.id2label == {0: "fault", 1: "money", 2: "other"}
    rows = own.splits().rows("classification", "validation")
    wanted = torch.tensor([model.config.label2id[row["label"]] for row in rows])
    with torch.inference_mode():  # one by one, so that nothing is padded
        logits = torch.cat([model(input_ids=torch.tensor([row["input_ids"]])).logits for row in rows])
    loss = float(torch.nn.functional.cross_entropy(logits, wanted))
    # The trainer weighs batches evenly, whatever they hold; these hold two rows each.
    assert len(rows) % 2 == 0
    assert loss == pytest.approx(made.manifest.metrics["validation_loss"], abs=CLOSE[method])


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_classifier_learns_by_lora(tmp_path, tiny_encoder, tiny_base, kind):
    own = school(tmp_path, tiny_encoder if kind == "encoder" else tiny_base, num_train_epochs=4, max_steps=None)
    made = own.train("classifier")
    assert made.manifest.metrics["validation_accuracy"] > 0.8
    assert made.manifest.metrics["validation_macro_f1"] > 0.8
    rows, tokenizer = tickets(21, 9000), load_tokenizer(made.folder)
    ids = whole_texts(tokenizer, [row["text"] for row in rows])
    found = classify(load_classifier(made.folder, torch.float32), tokenizer, ids, 8, lambda done: None)
    assert sum(label == row["label"] for (label, _), row in zip(found, rows, strict=True)) > 16


def test_texts_are_padded_after_their_end_while_a_classifier_trains(tmp_path, tiny_encoder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
    own = school(tmp_path, tiny_encoder)
    own.splits()
    job = own.splitter.job(own.stages()["classifier"], {**EXECUTION, "placement": {**PLACEMENT, "micro_batch": 64}})
    trainer = trainers.build(job, "cpu", torch.float32, tmp_path / "checkpoints").trainer
    mask = next(iter(trainer.get_train_dataloader()))["attention_mask"]
    assert not mask.all()
    assert mask[:, 0].all()


def test_accumulation_changes_no_loss(tmp_path, tiny_base):
    runs = []
    for name, micro in (("whole", 4), ("halves", 2)):
        (tmp_path / name).mkdir()
        own = school(tmp_path / name, tiny_base, global_batch_size=4, max_steps=5)
        made = own.train("classifier", placement={"micro_batch": micro, "gradient_accumulation_steps": 4 // micro})
        runs.append([entry[key] for entry in made.json("history.json")[:5] for key in ("loss", "grad_norm")])
    assert runs[0] == pytest.approx(runs[1], abs=1e-4)


def test_a_label_does_not_hang_on_what_shares_the_batch(tmp_path, tiny_encoder):
    made = school(
        tmp_path, tiny_encoder, METHODS["full"], learning_rate=1e-3, num_train_epochs=3, max_steps=None
    ).train("classifier")
    model, tokenizer = load_classifier(made.folder, torch.float32), load_tokenizer(made.folder)
    ids = [tokenizer(row["text"] + " and so on" * (n % 5))["input_ids"] for n, row in enumerate(tickets(20))]
    alone = [classify(model, tokenizer, [each], 1, lambda done: None)[0] for each in ids]
    assert len({label for label, _ in alone}) > 1
    for batch_size in (3, 64):
        found = classify(model, tokenizer, ids, batch_size, lambda done: None)
        assert [label for label, _ in found] == [label for label, _ in alone]
        assert [sure for _, sure in found] == pytest.approx([sure for _, sure in alone], abs=1e-5)


def labelled(*labels):
    return [{"text": f"ticket {n}", "label": label} for n, label in enumerate(labels)]


def split(folder, base, train, test, **data) -> Splits:
    batches = {"classification:s@1": train, "test:t@1": test}
    return Splitter(folder, base, settings(classifier={})).make(batches, **{"max_length": 64, **data})


TEST = [{"text": "another", "label": "a"}]


def test_labels_are_counted_and_kept_as_they_are(tmp_path, tiny_encoder):
    made = split(tmp_path, tiny_encoder, labelled("b", "a", "A ", "b"), TEST)
    assert made.artifact.json("labels.json") == {"train": {"A ": 1, "a": 1, "b": 2}, "validation": {}, "test": {}}
    assert made.part("classification")["labels"] == made.artifact.json("labels.json")


def test_a_held_out_label_that_no_training_row_has_is_named_with_its_row(tmp_path, tiny_encoder):
    with pytest.raises(
        FineTuneError, match=r"1 held-out rows .*\('c'\), the first is rows.jsonl row 2 of t@1; .*'a', 'b'"
    ):
        split(tmp_path, tiny_encoder, labelled("a", "b"), [*TEST, {"text": "strange", "label": "c"}])


def test_one_label_alone_is_refused(tmp_path, tiny_encoder):
    with pytest.raises(FineTuneError, match=r"every training row under data.classification has the label 'a'"):
        split(tmp_path, tiny_encoder, labelled("a", "a"), TEST)


LONG = {"text": " ".join(["price"] * 40), "label": "a"}


def test_an_overlong_text_is_dropped_with_its_reason(tmp_path, tiny_encoder):
    made = split(tmp_path, tiny_encoder, [*labelled("a", "b"), LONG], TEST, max_length=16, overlong="drop")
    assert made.reasons() == ["too_long"]
    assert made.accounts_for("classification")


def test_an_overlong_text_that_is_cut_keeps_the_tokens_that_frame_it(tmp_path, tiny_encoder):
    made = split(tmp_path, tiny_encoder, [*labelled("a", "b"), LONG], TEST, max_length=16, overlong="truncate")
    longest = max((row["input_ids"] for row in made.rows("classification")), key=len)
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    assert tokenizer.convert_ids_to_tokens(longest) == ["[CLS]", *["price"] * 14, "[SEP]"]
    assert made.part("classification")["truncated"] == 1


def test_an_overlong_text_stops_the_run_where_it_is_an_error(tmp_path, tiny_encoder):
    with pytest.raises(FineTuneError, match=r"row 3 has 42 tokens.*set data.overlong to drop, truncate$"):
        split(tmp_path, tiny_encoder, [*labelled("a", "b"), LONG], TEST, max_length=16)


def test_a_max_length_beyond_the_positions_of_the_model_is_refused(tmp_path, tiny_encoder):
    with pytest.raises(FineTuneError, match=r"data.max_length is 65, the base model reads 64 tokens"):
        split(tmp_path, tiny_encoder, labelled("a", "b"), TEST, max_length=65)


def test_a_rare_label_that_fell_to_validation_alone_is_no_label_of_the_model(tmp_path, tiny_encoder, monkeypatch):
    rows, tokenizer = tickets(140), AutoTokenizer.from_pretrained(tiny_encoder)
    validation = school(tmp_path, tiny_encoder).splits().rows("classification", "validation")
    texts = [tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in validation]
    at = next(number for number, row in enumerate(rows) if row["text"] in texts)
    rows[at] = {**rows[at], "label": "rare"}
    monkeypatch.setitem(LABELLED, "classification:l@1", rows)
    own = school(tmp_path, tiny_encoder, max_steps=2)
    made = own.train("classifier")
    assert own.splits().part("classification")["labels"]["validation"]["rare"] == 1
    assert "rare" not in json.loads((made.folder / "config.json").read_text())["label2id"]


def test_held_out_rows_are_all_classified_and_read_as_far_as_they_fit(tmp_path, tiny_encoder, monkeypatch):
    test = [*tickets(4, 9000), {"text": " ".join(["price"] * 90), "label": "money"}]
    monkeypatch.setitem(LABELLED, "test:t@1", test)
    own = school(tmp_path, tiny_encoder, METHODS["full"], max_steps=2)
    own.train("classifier")
    stage = own.stages()["evaluation"]
    execution = {
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 2,
        "partition": "r",
        "tracker": {"mode": "disabled"},
        "usd_per_hour": 0.5,
    }
    evaluate.run(own.splitter.job(stage, execution))
    found = own.splitter.store.open("evaluation", stage.fingerprint).json("results.json")
    contestants = found["contestants"]
    assert {name: result["scores"]["accuracy"]["n"] for name, result in contestants.items()} == {
        "majority": 5,
        "classifier": 5,
    }
    assert contestants["classifier"]["truncated"] == {"test": 1}
    assert sum(entry["rows"] for entry in contestants["classifier"]["calibration"]) == 5
    assert all(1 / 3 <= row["confidence"] <= 1 for row in contestants["classifier"]["answers"]["test"])
    gated = own.splitter.recipe
    assert set(names(gated)) == set(scoring.names(found)), "a gate may name every number, and no other"
    assert (
        {entry["metric"] for entry in found["comparisons"]} == set(compared_metrics(gated)) == {"accuracy", "macro_f1"}
    )
