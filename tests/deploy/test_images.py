"""The image files, as far as they can be judged without a builder: what they copy, install and end as."""

import ast
import re
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMAGES = sorted((ROOT / "deploy" / "images").glob("*.Dockerfile"))


def instructions(file: Path) -> list[tuple[str, str]]:
    """(INSTRUCTION, its words), with continued lines joined and comments left out."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in lines if line.strip()]


def kept_out(path: str) -> bool:
    """Whether .dockerignore leaves it out of the build; the last rule that matches decides."""
    out = False
    for rule in (ROOT / ".dockerignore").read_text().split("\n"):
        pattern = rule.strip().removeprefix("!")
        if pattern and not rule.startswith("#") and fnmatch(path.split("/")[0], pattern):
            out = not rule.startswith("!")
    return out


def test_there_are_two() -> None:
    assert [file.stem for file in IMAGES] == ["orchestrator", "worker"]


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.stem)
def test_an_image_copies_what_is_there_and_pins_what_it_installs(file: Path) -> None:
    found = instructions(file)
    copied = [words.split()[:-1] for name, words in found if name == "COPY" and not words.startswith("--from")]
    sources = [source for words in copied for source in words]
    assert {"pyproject.toml", "constraints.txt", "definitions.py", "ft_assets", "resources"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not kept_out(source), source
    installs = [line for name, words in found if name == "RUN" for line in words.split("&&") if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line and "--no-cache-dir" in line for line in installs)
    extras = re.search(r"^ARG EXTRAS=(\S+)$", file.read_text(), re.MULTILINE)
    assert extras is not None
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras[1].split(",")) <= set(offered)
    assert ("worker" in extras[1].split(",")) == (file.stem == "worker")


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.stem)
def test_an_image_ends_as_a_user_in_stages_without_secrets(file: Path) -> None:
    found = instructions(file)
    stages = [words for name, words in found if name == "FROM"]
    assert stages == ["${BASE} AS build", "${BASE}"]
    last = len(found) - [name for name, _ in found][::-1].index("FROM")
    users = [words for name, words in found[last:] if name == "USER"]
    assert users == ["1000:1000"]
    assert "useradd --uid 1000 --gid 1000" in file.read_text()
    assert not re.search(r"(TOKEN|SECRET|PASSWORD|API_KEY)=", file.read_text())
    assert not [words for name, words in found if name == "ADD"]


def test_the_build_sees_nothing_but_the_project() -> None:
    assert not kept_out("pyproject.toml")
    for path in (
        ".git/config",
        ".ft/store",
        ".venv/bin/python",
        "recipes/own.yaml",
        ".env",
        "data/rows.jsonl",
        "deploy",
    ):
        assert kept_out(path), path


def closure(name: str, extras: tuple[str, ...] = ()) -> set[str]:
    """Distributions that pip installs for one, itself included, by what the installed ones say they require."""
    seen: set[tuple[str, tuple[str, ...]]] = set()
    waiting = [(canonicalize_name(name), extras)]
    while waiting:
        wanted = waiting.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        for line in distribution(wanted[0]).requires or []:
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted[1])):
                waiting.append((canonicalize_name(needed.name), tuple(sorted(needed.extras))))
    return {found for found, _ in seen}


def orchestrates(path: Path) -> bool:
    return path.parts[:2] != ("ft_assets", "worker")


def test_the_orchestrators_image_has_what_its_code_imports_and_nothing_that_trains() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [extras] = re.findall(
        r"^ARG EXTRAS=(\S+)$", (ROOT / "deploy/images/orchestrator.Dockerfile").read_text(), re.MULTILINE
    )
    extra = [line for name in extras.split(",") for line in project["optional-dependencies"][name]]
    needed = [Requirement(line) for line in [*project["dependencies"], *extra]]
    installed = set().union(*(closure(one.name, tuple(sorted(one.extras))) for one in needed))
    assert not {"torch", "transformers", "trl", "peft", "deepspeed", "bitsandbytes", "datasets", "wandb"} & installed
    sources = [ROOT / "definitions.py", *ROOT.glob("ft_assets/**/*.py"), *ROOT.glob("resources/**/*.py")]
    imports = {
        module.split(".")[0]
        for path in sources
        if orchestrates(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text()))
        for module in modules(node)
    }
    owners = packages_distributions()
    foreign = imports - set(sys.stdlib_module_names) - {"ft_assets", "resources", "definitions"}
    for module in foreign:
        assert {canonicalize_name(owner) for owner in owners[module]} & installed, module


def modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
