"""What a release tells of itself: its card holds what the results hold and the Hub reads it, its bill of materials is valid
and lists every file, and its signature finds every change."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from answered import classified, evaluated
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard
from sample import CLASSIFIER, NO_GATE, demo, gate

from ft_assets.core.bill import BILL, bill, listed
from ft_assets.core.errors import FineTuneError
from ft_assets.core.publish import PublishedFile
from ft_assets.core.release import Base, Batch, Release, base_of
from ft_assets.core.signing import SIGNATURE, faults, public_key, sign
from ft_assets.recipes.schema import Recipe
from ft_assets.report.card import model_card
from ft_assets.report.forms import FORMS
from ft_assets.report.measures import measure

BATCH = Batch(
    key="tickets@2026-01",
    roles=("sft", "test"),
    licence="CC-BY-SA-4.0",
    description="What people asked.",
    languages=("en", "de"),
    dataset="org/tickets",
    fingerprint="1" * 64,
    rows="2" * 64,
    rows_kept=400,
    quarantined=9,
)
FILES = [
    PublishedFile("README.md", b"card"),
    PublishedFile("model.safetensors", b"weights"),
    PublishedFile("quantized/nf4/model.safetensors", b"fewer bits"),
]


def release(**changed) -> Release:
    made = Release(
        recipe=demo(),
        fingerprint="f" * 64,
        verdict="Fine-tuning was needed: policy scores 0.84.",
        results=evaluated(rows=24),
        gate=gate(),
        base=base_of("embedded", "c" * 64),
        batches=(BATCH, replace(BATCH, key="own@one", licence="ours alone", dataset=None, languages=())),
        lineage={"sft_adapter": "a" * 64, "policy": "b" * 64},
        versions=(("python", "3.11.7"), ("torch", "2.13.0")),
        made_at=1_790_000_000.0,
    )
    return replace(made, **changed)


def classifier() -> Release:
    return release(recipe=Recipe.model_validate(CLASSIFIER), results=classified(), gate=NO_GATE)


@pytest.fixture(scope="module", params=["answers", "overridden", "labels"])
def made(request) -> Release:
    if request.param == "labels":
        return classifier()
    return release(gate=gate(failed=True, overridden=True)) if request.param == "overridden" else release()


def read(made: Release, signed: bool = False) -> ModelCard:
    return ModelCard(model_card(made, ["nf4", "int8"], signed))


def test_the_hub_reads_the_cards_metadata(made):
    data = read(made).data
    assert data.base_model == made.base.repository
    assert data.to_dict()["base_model_relation"] == "finetune"
    assert (data.library_name, data.pipeline_tag) == ("transformers", made.task)
    assert (data.language, data.datasets) == (["de", "en"], ["org/tickets"])
    told = {(result.dataset_name, result.metric_type): result for result in data.eval_results}
    for name, score in made.scores.items():
        part = "out-of-domain rows" if name.startswith("out_of_domain.") else "held-out rows of the recipe"
        result = told.pop((part, name.removeprefix("out_of_domain.")))
        assert result.metric_value == round(score["mean"], 4)
        assert result.metric_args == {
            "low": round(score["low"], 4),
            "high": round(score["high"], 4),
            "rows": score["n"],
        }
    assert not told


def told(score: dict, form: str) -> str:
    mean, low, high = (FORMS[form](score[name]) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def test_what_is_not_known_is_not_claimed():
    data = read(
        release(base=Base("ours", None, None, None, "c" * 64), batches=(replace(BATCH, dataset=None, languages=()),))
    ).data
    assert (data.base_model, data.license, data.language, data.datasets) == (None, None, None, None)
    assert "base_model_relation" not in data.to_dict()


def test_the_card_tells_every_score_with_its_interval_and_what_the_gate_said(made):
    text = read(made).text
    metric = made.results["metric"]
    priced = any(body["costs"].get("usd_per_1000_requests") for body in made.results["contestants"].values())
    assert ("| per thousand requests |" in text) == priced, "a cost of nothing is none"
    for body in made.results["contestants"].values():
        score = body["scores"][metric]
        assert f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" in text
    for entry in made.results["comparisons"]:
        assert told(entry, "difference") in text
    for name, found in made.results["measures"].items():
        title, form, _ = measure(name)
        assert re.search(rf"\| {re.escape(title)} \| {re.escape(told(found, form))} \|", text)
    for line in [made.verdict, *made.results["warnings"], *made.lineage.values(), made.fingerprint]:
        assert line in text
    for each in made.gate["conditions"]:
        assert each["condition"] in text.replace("&lt;", "<")
    if override := made.gate["override"]:
        assert f"Overridden by {override['by']}" in text
        assert override["reason"] in text
    for batch in made.batches:
        assert f"| {batch.key} | sft, test | 400 | 9 | {batch.licence} |" in text


def test_the_card_holds_the_recipe_as_it_was_given():
    text = read(release()).text
    found = yaml.safe_load(re.search(r"## Recipe\n\n```yaml\n(.*?)```", text, re.DOTALL)[1])
    recipe = demo().model_dump(mode="json", exclude_unset=True)
    assert found == {name: value for name, value in recipe.items() if name not in ("hardware", "retrain", "publish")}


def test_text_of_others_starts_no_tag_and_breaks_no_table():
    hostile = replace(BATCH, key="a@b", licence="x | y\n\n# title <script>alert(1)</script>")
    text = read(release(batches=(hostile,))).text
    assert "<script>" not in text
    assert "| x \\| y # title &lt;script>" in text


def valid(body: dict) -> None:
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(body))
    assert fault is None, fault


def test_the_bill_is_valid_and_lists_every_file_batch_and_library(made):
    body = bill(made, FILES)
    valid(body)
    assert listed(body) == {file.name: file.sha256 for file in FILES}
    parts = {part["bom-ref"]: part for part in body["components"]}
    assert set(parts) == {
        "base-model",
        "data:tickets@2026-01",
        "data:own@one",
        "library:python@3.11.7",
        "library:torch@2.13.0",
    }
    assert parts["data:tickets@2026-01"]["licenses"] == [{"expression": "CC-BY-SA-4.0"}]
    assert parts["data:own@one"]["licenses"] == [{"license": {"name": "ours alone"}}]
    assert parts["base-model"]["hashes"] == [{"alg": "SHA-256", "content": "c" * 64}]
    told = body["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {(entry["type"], entry["value"]) for entry in told} == {
        (name, f"{score['mean']:.6g}") for name, score in made.scores.items()
    }
    assert {entry["ref"] for entry in body["dependencies"]} == {"model"}


def test_a_bill_of_one_release_is_always_the_same():
    assert bill(release(), FILES) == bill(release(), FILES)
    assert bill(release(), FILES)["serialNumber"] != bill(release(fingerprint="e" * 64), FILES)["serialNumber"]


def test_the_validator_would_find_a_fault():
    body = bill(release(), FILES)
    body["metadata"]["component"]["modelCard"]["no such field"] = 1
    with pytest.raises(AssertionError, match="no such field"):
        valid(body)


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> Path:
    return new_key(tmp_path_factory.mktemp("key") / "key.pem")


def new_key(path: Path, curve: str = "prime256v1") -> Path:
    subprocess.run(["openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", path], check=True)
    return path


@pytest.fixture
def public(key, tmp_path) -> Path:
    return public_key(key, tmp_path / "key.pub")


@pytest.fixture
def folder(tmp_path, key) -> Path:
    """A signed release."""
    root = tmp_path / "release"
    for file in FILES:
        (root / file.name).parent.mkdir(parents=True, exist_ok=True)
        (root / file.name).write_bytes(file.content)
    (root / BILL).write_text(json.dumps(bill(release(), FILES)))
    (root / SIGNATURE).write_bytes(sign(root, key))
    return root


def test_a_release_as_it_was_published_has_no_fault(folder, public):
    assert faults(folder, public) == faults(folder, None) == []


def test_what_others_put_beside_it_is_no_fault(folder, public):
    for name in ("champion.json", ".gitattributes", ".cache/huggingface/model.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    assert faults(folder, public) == []


def test_a_download_of_links_is_verified_too(folder, public, tmp_path):
    links = tmp_path / "links"
    for path in folder.rglob("*"):
        if path.is_file():
            (links / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (links / path.relative_to(folder)).symlink_to(path)
    assert faults(links, public) == []


CHANGES = {
    "changed": lambda root: (root / "model.safetensors").write_bytes(b"weightz"),
    "cut": lambda root: (root / "model.safetensors").write_bytes(b""),
    "missing": lambda root: (root / "quantized/nf4/model.safetensors").unlink(),
    "added": lambda root: (root / "modeling_evil.py").write_text("import os"),
    "renamed": lambda root: (root / "model.safetensors").rename(root / "other.safetensors"),
    "swapped": lambda root: (root / "quantized/nf4/model.safetensors").write_bytes(b"weights"),
}
NAMED = {
    "missing": "quantized/nf4/model.safetensors",
    "added": "modeling_evil.py",
    "swapped": "quantized/nf4/model.safetensors",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("with_key", [False, True])
def test_each_change_is_found_and_its_file_named(folder, public, change, with_key):
    CHANGES[change](folder)
    found = faults(folder, public if with_key else None)
    assert any(NAMED.get(change, "model.safetensors") in line for line in found), found
    assert not with_key or any(line.startswith(SIGNATURE) for line in found)


def test_a_forger_who_writes_another_bill_is_found_by_the_key(folder, public):
    CHANGES["changed"](folder)
    forged = [replace(file, content=(folder / file.name).read_bytes()) for file in FILES]
    (folder / BILL).write_text(json.dumps(bill(release(), forged)))
    assert faults(folder, None) == []
    wanted = [f"{SIGNATURE}: {name} was changed" for name in (BILL, "model.safetensors")]
    assert faults(folder, public) == wanted


def test_another_key_is_not_the_releases(folder, tmp_path):
    other = public_key(new_key(tmp_path / "other.pem"), tmp_path / "other.pub")
    assert faults(folder, other) == [f"{SIGNATURE}: it is of another key"]


def test_a_signature_by_another_key_is_not_taken_for_this_one(folder, public, tmp_path):
    (folder / SIGNATURE).write_bytes(sign(folder, new_key(tmp_path / "other.pem")))
    assert faults(folder, public) == [f"{SIGNATURE}: it is of another key"]


@pytest.mark.parametrize("damage", ["cut", "empty", "no JSON", "a list", "gone", "signature changed"])
def test_a_damaged_signature_is_a_fault(folder, public, damage):
    path = folder / SIGNATURE
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "signature changed":
        body = json.loads(whole)
        mark = body["dsseEnvelope"]["signatures"][0]
        mark["sig"] = ("A" if mark["sig"][40] != "A" else "B").join([mark["sig"][:40], mark["sig"][41:]])
        path.write_text(json.dumps(body))
    else:
        path.write_bytes({"cut": whole[:100], "empty": b"", "no JSON": b"\x80\x04", "a list": b"[]"}[damage])
    found = faults(folder, public)
    assert len(found) == 1, found
    assert found[0].startswith(SIGNATURE)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"no json", b'{"metadata": {"component": {"components": [{}]}}}']
)
def test_a_damaged_bill_is_a_fault(folder, content):
    (folder / BILL).write_bytes(content)
    assert faults(folder, None)[0].startswith(f"{BILL} cannot be read")


def test_a_folder_without_a_bill_is_no_release(tmp_path):
    with pytest.raises(FineTuneError, match="is no release"):
        faults(tmp_path, None)


@pytest.mark.parametrize("curve", ["secp384r1", "secp521r1"])
def test_larger_keys_sign_too(folder, tmp_path, curve):
    larger = new_key(tmp_path / "larger.pem", curve)
    (folder / SIGNATURE).unlink()
    (folder / SIGNATURE).write_bytes(sign(folder, larger))
    assert faults(folder, public_key(larger, tmp_path / "larger.pub")) == []


@pytest.mark.parametrize("kind", ["public", "nothing", "rubbish", "wrong curve", "password"])
def test_a_key_that_cannot_sign_is_refused_with_what_to_do(folder, tmp_path, public, key, kind):
    path = tmp_path / "given.pem"
    if kind == "public":
        shutil.copy(public, path)
    elif kind == "rubbish":
        path.write_bytes(b"no key")
    elif kind == "wrong curve":
        new_key(path, "secp256k1")
    elif kind == "password":
        subprocess.run(
            ["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:x", "-out", path],
            check=True,
            capture_output=True,
        )
    with pytest.raises(FineTuneError, match=r"cannot be used.*openssl ecparam"):
        sign(folder, path)
