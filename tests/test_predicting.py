"""``ft predict`` and ``ft chat`` on the tiny model: what a shell sees of them."""

import json
import os
import subprocess
import sys

import polars as pl
import pytest
from classifying import RECIPE, SOURCES, make_tiny_encoder
from conftest import ROOT, Workshop

from ft_assets import predicting
from ft_assets.core import champion
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.errors import FineTuneError
from ft_assets.core.input_file import left_beside

ROWS = [{"prompt": f"Question {number}?"} for number in range(5)] + [{"text": "no prompt"}, {"prompt": "Question 0?"}]
PREDICTIONS = """
predictions: {sources: [asked], model: champion, max_new_tokens: 4}
sources:
  asked: {kind: prompt, location: data/asked, format: prompt, licence: CC0-1.0, duplicates: keep}
"""


@pytest.fixture(scope="module")
def shop(made: Workshop, tmp_path_factory) -> Workshop:
    """A copy of the made workshop whose recipe answers a source."""
    shop = made.copy(tmp_path_factory.mktemp("predicting"))
    shop.edit("\nsources:\n", PREDICTIONS)
    shop.write_rows("asked/one.jsonl", ROWS)
    return shop


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Workshop:
    """A recipe with a classifier, of which an untrained one is the champion: what is told of it costs no training."""
    import torch

    from ft_assets.worker.models import load_classifier
    from ft_assets.worker.tokenizer import load_tokenizer

    desk = Workshop(tmp_path_factory.mktemp("desk"))
    base, model = desk.recipes / "base", desk.folder / "model"
    base.mkdir(parents=True)
    make_tiny_encoder(base)
    load_classifier(base, torch.float32, ["fault", "money", "other"]).save_pretrained(model)
    load_tokenizer(base).save_pretrained(model)
    (desk.recipes / "tiny.yaml").write_text(RECIPE + SOURCES)
    store, made = ArtifactStore(str(desk.home / "store"), desk.home / "local"), "a" * 64
    with store.write("classifier", made, code_version="1", identity={"max_length": 16}, upstream={}) as staging:
        for path in model.iterdir():
            staging.file(path.name).write_bytes(path.read_bytes())
    entry = {"release": made, "evaluation": "e", "merged": ["classifier", made], "folder": "f", "to": "t"}
    champion.promote(store, "tiny", {**entry, "published_at": "", "override": None, "withdrawn": None}, ())
    return desk


@pytest.mark.graph
def test_a_classifier_gives_labels_to_a_file_and_to_lines(desk, tmp_path):
    file, table = tmp_path / "texts.csv", tmp_path / "labels.parquet"
    file.write_text("ticket,id\nticket 1 refund,7\nticket 2 crash,8\n,9\nticket 1 refund,10\n")
    asked = ("predict", "tiny", "--input", str(file), "--column", "ticket", "--output", str(table), "--json")
    told = json.loads(desk.ft(*asked).stdout)
    assert (told["rows_in"], told["predicted"], told["quarantined"]) == (4, 3, 1)
    assert told["reasons"] == {"empty": 1}
    found = pl.read_parquet(table)
    assert found["position"].to_list() == [2, 3, 5]
    assert set(found["label"]) <= {"fault", "money", "other"}
    assert [row["status"] for row in json.loads(desk.ft(*asked).stdout)["rows"]] == ["reused"]
    command = desk.command("chat", "tiny")
    lines = "ticket 1 refund\n/reset\nticket 2 crash\n/quit\nticket 3\n"
    done = subprocess.run(command, env=desk.env, cwd=ROOT, input=lines, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    first, second = done.stdout.splitlines()
    for line, row in zip((first, second), found.to_dicts(), strict=False):
        assert line.startswith(f"{row['label']} {row['probability']:.3f}, ")


@pytest.mark.graph
def test_the_recipes_batches_are_answered_by_the_champion_and_a_second_time_reused(shop):
    first = json.loads(shop.ft("predict", "tiny", "--json").stdout)
    key = "tiny@asked@one"
    assert [(row["asset"], row["partition"], row["status"]) for row in first["rows"]] == [
        ("raw_corpus", "asked@one", "made"),
        ("validated_dataset", "asked@one", "made"),
        ("batch_predictions", key, "made"),
    ]
    assert first["rows"][-1]["key_metric"] == "6 predicted, 1 quarantined"
    assert first["checks"] == []
    manifest = json.loads((shop.artifact("batch_predictions") / "manifest.json").read_text())
    assert manifest["upstream"]["model"] == shop.artifact("merged_model").name
    shop.write_rows("asked/two.jsonl", ROWS[:2])
    second = json.loads(shop.ft("predict", "tiny", "--json").stdout)
    found = {row["partition"]: row["status"] for row in second["rows"] if row["asset"] == "batch_predictions"}
    assert found == {key: "reused", "tiny@asked@two": "made"}


@pytest.mark.graph
def test_a_file_is_answered_beside_it_and_the_same_again_is_reused(shop, tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    done = shop.ft("predict", "tiny", "--input", str(file), "--model", "policy")
    output = tmp_path / "questions.predictions.jsonl"
    assert f"6 rows of {file} answered by policy" in done.stdout
    assert "1 rows have no answer (missing_field 1)" in done.stdout
    assert done.stdout.splitlines()[-1] == "Next: ft chat tiny --model policy"
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["position"] for line in lines] == [1, 2, 3, 4, 5, 7]
    assert {line["file"] for line in lines} == {"questions.jsonl"}
    [left] = [json.loads(line) for line in (tmp_path / "questions.quarantine.jsonl").read_text().splitlines()]
    assert (left["position"], left["reason"]) == (6, "missing_field")
    table = tmp_path / "again.parquet"
    again = shop.ft("predict", "tiny", "--input", str(file), "--model", "policy", "--output", str(table), "--json")
    told = json.loads(again.stdout)
    assert [row["status"] for row in told["rows"]] == ["reused"]
    assert (told["rows_in"], told["predicted"], told["quarantined"]) == (7, 6, 1)
    assert pl.read_parquet(table).to_dicts() == lines


@pytest.mark.graph
def test_a_talk_through_a_pipe(shop):
    command = shop.command("chat", "tiny", "--max-new-tokens", "3", "--system", "Be brief.")
    lines = "Hello\n\n/reset\nHello\nwith <|end|>\n/quit\nnever asked\n"
    done = subprocess.run(
        command, env=shop.env, cwd=ROOT, input=lines, capture_output=True, text=True, timeout=300, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    first, rest = done.stdout[: len(done.stdout) // 2], done.stdout[len(done.stdout) // 2 :]
    assert first == rest
    assert first.endswith("\n")
    assert done.stderr.startswith("not asked: special_tokens")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.graph
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("predict", "tiny", "--input", "nowhere.jsonl"), "--input nowhere.jsonl is not there"),
        (("predict", "tiny", "--input", "README.md", "--output", "README.md"), "its name ends in .jsonl or .parquet"),
        (("predict", "tiny", "--model", "sft"), "--model: only with --input"),
        (("chat", "tiny", "--model", "gpt"), "recipe tiny makes no model 'gpt'; it has: champion, base"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_makes_nothing(shop, words, told):
    assert told in shop.ft(*words, code=2).stderr


@pytest.mark.parametrize(
    ("file", "output", "told"),
    [
        ("in.jsonl", "in.jsonl", "in.jsonl would be written, which is the input"),
        ("in.quarantine.jsonl", "in.predictions.jsonl", "in.quarantine.jsonl would be written, which is the input"),
        ("in.quarantine.jsonl", "in.parquet", "in.quarantine.jsonl would be written, which is the input"),
        ("in.jsonl", "folder.jsonl", "is a folder; name a file in it"),
        ("folder.jsonl", None, "is a folder; give one of its files"),
        ("/dev/null", None, "is no file; save what it gives in one"),
        ("in.jsonl", "nowhere/out.jsonl", "nowhere is not there"),
    ],
)
def test_no_file_is_lost_to_the_answers(tmp_path, file, output, told):
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("in.jsonl", "in.quarantine.jsonl"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(FineTuneError, match=told):
        predicting._output(tmp_path / file, tmp_path / output if output else None)


def test_files_whose_names_hold_dots_have_answers_of_their_own(tmp_path):
    found = []
    for name in ("2026.01.jsonl", "2026.02.jsonl.gz", "rows.csv", ".hidden"):
        (tmp_path / name).write_text("{}")
        output = predicting._output(tmp_path / name, None)
        found.append((output.name, left_beside(output).name))
    assert found == [
        ("2026.01.predictions.jsonl", "2026.01.quarantine.jsonl"),
        ("2026.02.predictions.jsonl", "2026.02.quarantine.jsonl"),
        ("rows.predictions.jsonl", "rows.quarantine.jsonl"),
        (".hidden.predictions.jsonl", ".hidden.quarantine.jsonl"),
    ]


def test_the_commands_import_no_torch_until_the_worker_runs():
    code = "import sys; import ft_assets.cli; print([m for m in ('torch', 'dagster', 'polars') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
