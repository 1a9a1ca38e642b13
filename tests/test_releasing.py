"""``ft gate``, ``override``, ``champion`` and ``rollback``: what they print and write, on artifacts that are written by hand."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from ft_assets.cli import app
from ft_assets.core import champion, overrides
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.batches import RAW
from ft_assets.core.errors import FineTuneError, MissingInput
from ft_assets.core.gate import as_body, judge
from ft_assets.core.lineage import validated_stage
from ft_assets.core.publish import FolderTarget, ListedFile, PublishedFile, folder_of, pointer_to
from ft_assets.core.recipe_run import base_of, stages_of
from ft_assets.recipes.load import load_catalog

RECIPE = """
name: small
base_model: embedded
seed: 1
data: {max_length: 64, overlong: drop, split: {validation: 0.1, test: 0.1}, sft: [rows], test: [held]}
adapter: {method: lora, r: 8, lora_alpha: 16, lora_dropout: 0.0, target_modules: all-linear}
sft: {learning_rate: 1.0e-4, global_batch_size: 8, num_train_epochs: 1}
evaluation: {metric: exact_match, few_shot: 2, max_new_tokens: 8}
gate: [sft.exact_match >= 0.5, sft.exact_match >= base_few_shot.exact_match + 0.02, sft.perplexity <= 3]
publish: {to: out}
sources:
  rows: {kind: instruction, location: rows, format: alpaca, licence: MIT}
  held: {kind: instruction, location: held, format: alpaca, licence: MIT}
"""
NUMBERS = {"sft.exact_match": 0.7, "base_few_shot.exact_match": 0.69, "sft.perplexity": 4.0}
RESULTS = {"metric": "exact_match", "candidate": "sft", "incumbent": None, "comparisons": []}
FAILED = ["sft.exact_match >= base_few_shot.exact_match + 0.02", "sft.perplexity <= 3"]
WHO = ("--by", "Ada", "--reason", "for the demo")


class Place:
    """A home with one recipe, whose batches, base model and evaluation are there as far as ``ft`` looks at them."""

    def __init__(self, folder):
        self.home = folder / "home"
        self.store = ArtifactStore(str(self.home / "store"))
        (folder / "recipes").mkdir()
        (folder / "recipes" / "small.yaml").write_text(RECIPE)
        self.catalog = load_catalog([folder / "recipes"])
        self.recipe = self.catalog.recipe("small")
        self.write("base_model", base_of(self.catalog, self.recipe).fingerprint, {"content_hash": "c"})
        metrics = {"rows_in": 1, "rows_kept": 1, "quarantined": 0, "quarantined_share": 0.0}
        for name in ("rows", "held"):
            self.store.set_ref(RAW, f"{name}@one", {"fingerprint": name * 16})
            self.write("validated_dataset", validated_stage(self.catalog.source(name), name * 16).fingerprint, metrics)

    def write(self, stage, fingerprint, metrics=None, **files):
        with self.store.write(stage, fingerprint, code_version="1", identity={}, upstream={}) as staging:
            staging.metrics = metrics or {}
            for name, body in files.items():
                staging.write_json(f"{name}.json", body)

    def stage(self, name):
        return stages_of(self.catalog, self.recipe, self.store).stages[name]

    def evaluate(self, numbers=NUMBERS):
        """What eval_report leaves of a gate."""
        stage = self.stage("eval_report")
        override = stage.identity.get("override")
        body = as_body(judge(self.recipe.gate, numbers, RESULTS, override), override)
        self.write("eval_report", stage.fingerprint, gate=body)

    def publish(self, letter):
        """A release in the folder ``out``, made the champion."""
        release, target = letter * 64, FolderTarget(str(self.home / "out"))
        file = PublishedFile("README.md", letter.encode())
        target.put(folder_of(release), [file], print)
        listed = asdict(ListedFile(file.name, file.size, file.sha256, file.git_blob))
        self.write("published_model", release, release={"url": target.url, "files": [listed]})
        entry = {
            "release": release,
            "evaluation": "e",
            "merged": ["merged_model", letter * 64],
            "folder": folder_of(release),
        }
        entry |= {"to": "out", "published_at": "2026-11-26T16:00:00+00:00", "override": None, "withdrawn": None}
        champion.promote(self.store, "small", entry, champion.published(champion.read(self.store, "small")))
        target.write_pointer(pointer_to(release))

    def pointer(self):
        return json.loads((self.home / "out" / "champion.json").read_text())["fingerprint"][0]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("FT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FT_RECIPES", str(tmp_path / "recipes"))
    monkeypatch.delenv("FT_STORE", raising=False)
    return Place(tmp_path)


def ft(*words, code=0):
    done = CliRunner().invoke(app, words)
    if isinstance(done.exception, FineTuneError):
        raise done.exception
    assert done.exit_code == code, (done.exit_code, done.output, done.exception)
    return done.stdout


def test_a_gate_is_shown_with_its_numbers_and_its_verdict_is_the_exit_code(place):
    with pytest.raises(
        MissingInput, match=r"eval_report of small has not been made .* ft run small --until eval_report"
    ):
        ft("gate", "small")
    place.evaluate()
    shown = ft("gate", "small", code=3)
    assert "sft.exact_match is 0.7, at least 0.5." in shown
    assert "NOT MET\tsft.perplexity is 4, not at most 3." in shown
    assert "shut by 2 of 3 conditions" in shown
    body = json.loads(ft("gate", "small", "--json", code=3))
    assert (body["recipe"], body["passed"], body["override"]) == ("small", False, None)
    assert [each["condition"] for each in body["conditions"] if not each["passed"]] == FAILED


def test_a_gate_that_is_met_is_open_and_cannot_be_overridden(place):
    place.evaluate({**NUMBERS, "base_few_shot.exact_match": 0.1, "sft.perplexity": 2.0})
    assert "open" in ft("gate", "small")
    with pytest.raises(FineTuneError, match="the gate of small is open"):
        ft("override", "small", *WHO)
    assert overrides.read(place.store, "small") == {}


def test_an_override_opens_the_gate_for_this_evaluation_and_is_part_of_what_is_published(place):
    place.evaluate()
    before = {name: place.stage(name).fingerprint for name in ("evaluation", "eval_report", "published_model")}
    assert "overridden: sft.perplexity <= 3" in ft("override", "small", *WHO)
    assert place.stage("evaluation").fingerprint == before["evaluation"], "nothing is evaluated again"
    assert place.stage("eval_report").fingerprint != before["eval_report"]
    published = place.stage("published_model")
    assert published.fingerprint != before["published_model"]
    assert {**published.identity["override"], "at": ""} == {
        "by": "Ada",
        "reason": "for the demo",
        "at": "",
        "conditions": FAILED,
    }
    place.evaluate()
    shown = ft("gate", "small")
    assert "overridden by Ada at 20" in shown
    assert shown.count("overridden\tsft.") == 2
    with pytest.raises(FineTuneError, match="the gate of small is open"):
        ft("override", "small", *WHO)


def test_an_override_holds_for_no_other_evaluation(place):
    place.evaluate()
    ft("override", "small", *WHO)
    place.store.set_ref(RAW, "rows@two", {"fingerprint": "two"})
    metrics = {"rows_in": 1, "rows_kept": 1, "quarantined": 0, "quarantined_share": 0.0}
    place.write("validated_dataset", validated_stage(place.catalog.source("rows"), "two").fingerprint, metrics)
    assert "override" not in place.stage("eval_report").identity
    assert "override" not in place.stage("published_model").identity


def test_an_override_is_written_once(place):
    place.evaluate()
    report, body = place.stage("eval_report").fingerprint, place.store
    ft("override", "small", *WHO)
    (kept,) = overrides.read(place.store, "small").values()
    shut = as_body(judge(place.recipe.gate, NUMBERS, RESULTS, None), None)
    with pytest.raises(FineTuneError, match="was overridden a moment ago"):
        overrides.write(body, "small", report, shut, [], overrides.signed("Eve", "because"))
    assert list(overrides.read(place.store, "small").values()) == [kept]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--by", " ", "--reason", "x"), "--by ''"),
        (("--by", "Ada", "--reason", ""), "--reason ''"),
        (("--by", "Ada\x1b[2J", "--reason", "x"), "printable"),
        (("--by", "Ada", "--reason", "x" * 2001), "1 to 2000"),
        ((*WHO, "--condition", "sft.exact_match >= 0.5"), "is none that failed"),
        ((*WHO, "--condition", FAILED[0]), "the gate would stay shut by: sft.perplexity <= 3"),
        ((*WHO, "--condition", "sft >"), "at letter"),
    ],
)
def test_an_override_without_a_name_a_reason_or_what_failed_is_refused(place, words, told):
    place.evaluate()
    with pytest.raises(FineTuneError) as refused:
        ft("override", "small", *words)
    assert told in str(refused.value)
    assert overrides.read(place.store, "small") == {}


def test_conditions_may_be_named_as_they_were_typed(place):
    place.evaluate()
    ft("override", "small", *WHO, "--condition", "sft.perplexity<=3", "--condition", FAILED[0])
    assert len(overrides.read(place.store, "small")) == 1


def test_the_champion_and_those_before_it_are_shown(place):
    assert json.loads(ft("champion", "small", "--json")) == {"recipe": "small", "champion": None, "history": []}
    with pytest.raises(MissingInput, match="nothing of small has been published"):
        ft("champion", "small")
    for letter in "ab":
        place.publish(letter)
    shown = ft("champion", "small")
    assert [line.split("\t")[:2] for line in shown.splitlines()[1:]] == [["a" * 16, ""], ["b" * 16, "champion"]]


def test_a_rollback_moves_record_and_pointer_back_and_forth(place):
    for letter in "abc":
        place.publish(letter)
    assert ft("rollback", "small", *WHO).startswith(f"champion of small was {'c' * 16}, is {'b' * 16} at out")
    assert place.pointer() == "b"
    assert "withdrawn by Ada at 20" in ft("champion", "small")
    ft("rollback", "small", "--to", "a" * 8, *WHO)
    assert place.pointer() == "a"
    ft("rollback", "small", "--to", "c" * 8, *WHO)
    assert place.pointer() == "c"
    record = champion.read(place.store, "small")
    assert [bool(entry["withdrawn"]) for entry in record["history"]] == [True, True, False]


def test_a_release_that_is_not_whole_is_not_rolled_back_to(place):
    for letter in "ab":
        place.publish(letter)
    (place.home / "out" / folder_of("a" * 64) / "README.md").write_text("cut")
    with pytest.raises(FineTuneError, match=r"is not whole \(1 files, README.md the first\), so nothing was changed"):
        ft("rollback", "small", *WHO)
    assert (place.pointer(), champion.read(place.store, "small")["champion"][0]) == ("b", "b")


def test_a_pointer_that_could_not_be_moved_is_moved_by_the_command_that_is_told(place, monkeypatch):
    for letter in "abc":
        place.publish(letter)

    def refuse(self, body):
        raise FineTuneError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(FolderTarget, "write_pointer", refuse)
        with pytest.raises(FineTuneError, match=f"disk full\nTo move it: ft rollback small --to {'b' * 16}"):
            ft("rollback", "small", *WHO)
    assert place.pointer() == "c"
    assert f"was {'b' * 16}, is {'b' * 16}" in ft("rollback", "small", "--to", "b" * 16, *WHO)
    assert place.pointer() == "b"
    assert [bool(entry["withdrawn"]) for entry in champion.read(place.store, "small")["history"]] == [
        False,
        False,
        True,
    ]


def test_reading_commands_import_neither_dagster_nor_torch(place):
    place.evaluate()
    place.publish("a")
    code = (
        "import sys; from typer.testing import CliRunner; from ft_assets.cli import app\n"
        "for word in ('gate', 'champion'): CliRunner().invoke(app, [word, 'small'])\n"
        "print([name for name in ('dagster', 'torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
