"""What Dagster loads: fast, light and whole."""

import os
import resource
import subprocess
import sys

import pytest
from conftest import ROOT

HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "deepspeed",
    "bitsandbytes",
    "datasets",
    "wandb",
    "matplotlib",
    "kubernetes",
)


@pytest.mark.parametrize("launcher", ["local", "kubernetes"])
def test_definitions_load_in_under_three_seconds_without_heavy_libraries(tmp_path, launcher: str) -> None:
    where = {**os.environ, "FT_LAUNCHER": launcher, "FT_PODS": str(tmp_path / "pods.yaml")}
    code = f"import definitions, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=where, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.strip() == "[]"
    # Of the processor: what the others on a busy machine take counts for nothing.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 3


def test_the_command_validates_without_what_pandera_imports_for_tests_alone() -> None:
    code = """
import sys, polars
from ft_assets import cli
cli.app = lambda: None
cli.main()
from ft_assets.core.rows import _schema_faults, schema_for
from ft_assets.recipes.schema import Source
source = Source(kind="text", location="here", format="text", licence="MIT")
print(*_schema_faults([{"text": "good"}, {"text": " "}], schema_for(source)))
print(*[name for name in sys.modules if name.startswith("hypothesis.")])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_dg_accepts_the_project() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dagster_dg_cli.cli", "check", "defs", "--no-check-yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_assets_say_what_they_are() -> None:
    from definitions import defs

    for spec in defs.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners, spec.key
        assert spec.kinds, spec.key
        assert spec.code_version, spec.key
        assert spec.group_name in ("data", "model", "release")
    assert {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")} == {
        "ingest",
        "fine_tune",
        "predict",
    }
