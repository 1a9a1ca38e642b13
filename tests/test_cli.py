"""Laws of the ``ft`` command: its exit codes, what it prints where, and that reading creates nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.batches import RAW
from ft_assets.core.lineage import MODEL_ASSETS, raw_stage, validated_stage
from ft_assets.core.rows import validate_batch
from ft_assets.recipes.load import SHIPPED, load_catalog

OWN = (
    "FT_HOME",
    "FT_STORE",
    "FT_RECIPES",
    "FT_CACHE",
    "FT_WANDB",
    "FT_SENSORS",
    "FT_SENSOR_SECONDS",
    "FT_LAUNCHER",
    "FT_PODS",
    "WANDB_API_KEY",
    "DAGSTER_HOME",
)


@pytest.fixture
def ft(tmp_path):
    """Runs ``ft`` as a shell would, in an empty folder, with a home that does not exist yet."""
    (tmp_path / "here").mkdir()

    def run(*arguments, program=("-m", "ft_assets.cli"), **environment):
        env = {key: value for key, value in os.environ.items() if key not in OWN}
        env |= {"FT_HOME": str(tmp_path / "home"), "FT_CACHE": str(tmp_path / "cache"), **environment}
        return subprocess.run(
            [sys.executable, *program, *arguments],
            cwd=tmp_path / "here",
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def created(tmp_path):
    """What lies in the folders after a command, besides what a test put there."""
    return lambda: sorted(path.name for path in [*tmp_path.glob("*"), *tmp_path.glob("here/*")]) != ["here"]


def bad_recipe(folder):
    document = yaml.safe_load((SHIPPED / "demo.yaml").read_text())
    del document["seed"]
    document["name"] = "bad"
    document["adapter"]["r"] = 0
    document["sft"]["learning_rte"] = 1
    file = folder / "bad.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


FIELDS = ("seed", "adapter.r", "sft.learning_rte")


def test_checking_a_bad_recipe_prints_every_problem_and_creates_nothing(ft, tmp_path, created):
    (tmp_path / "here" / "in").mkdir()
    file = bad_recipe(tmp_path / "here" / "in")
    done = ft("recipe", "check", "in/bad.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    for field in FIELDS:
        assert [line for line in done.stderr.splitlines() if f"{file}:" in line and f" {field}: " in line], field
    assert "did you mean" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]


def test_checking_a_bad_recipe_as_json(ft, tmp_path):
    file = bad_recipe(tmp_path / "here")
    done = ft("recipe", "check", str(file), "--json")
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert {problem["field"] for problem in found["problems"]} == set(FIELDS)
    lines = file.read_text().splitlines()
    for problem in found["problems"]:
        assert problem["file"] == str(file)
        assert problem["field"] == "seed" or problem["field"].rpartition(".")[2] in lines[problem["line"] - 1]


def test_checking_finds_faults_of_every_kind_at_once(ft, tmp_path):
    document = yaml.safe_load((SHIPPED / "demo.yaml").read_text())
    document |= {"name": "bad", "base_model": "nowhere"}
    document["data"]["cpt"] = ["demo_txt"]
    document["adapter"]["r"] = 0
    (tmp_path / "here" / "bad.yaml").write_text(yaml.safe_dump(document))
    done = ft("recipe", "check", "bad.yaml", "--json")
    assert done.returncode == 2
    assert {problem["field"] for problem in json.loads(done.stdout)["problems"]} == {
        "adapter.r",
        "data.cpt[0]",
        "base_model",
    }


def test_checking_a_good_recipe(ft, created):
    plain, as_json = (
        ft("recipe", "check", str(SHIPPED / "demo.yaml")),
        ft("recipe", "check", str(SHIPPED / "demo.yaml"), "--json"),
    )
    assert (plain.returncode, as_json.returncode) == (0, 0)
    assert "Next: ft run" in plain.stdout
    assert json.loads(as_json.stdout) == {"ok": True, "problems": []}
    assert not created()


def test_checking_a_file_that_is_not_there(ft, created):
    done = ft("recipe", "check", "nowhere.yaml")
    assert done.returncode == 2
    assert "nowhere.yaml" in done.stderr
    assert "Traceback" not in done.stderr
    assert not created()


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "nosuch"),
        ("run", "demmo"),
        ("run", "nowhere.yaml"),
        ("run", "demo", "--until", "nosuch"),
        ("plan", "nosuch"),
        ("status", "nosuch"),
        ("quarantine", "nosuch"),
        ("quarantine", "@2026-01"),
        ("deploy", "render", "nosuch"),
        ("deploy", "render", "demo", "--stage", "nosuch"),
    ],
)
def test_bad_input_exits_2_in_words_and_creates_nothing(ft, created, arguments):
    done = ft(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert arguments[-1].removesuffix(".yaml") in done.stderr
    assert "Traceback" not in done.stderr
    assert not created()


def test_a_near_miss_is_suggested(ft):
    assert "did you mean demo?" in ft("run", "demmo").stderr


def test_a_bad_setting_exits_2_in_words(ft, created):
    done = ft("sources", FT_WANDB="maybe")
    assert done.returncode == 2
    assert "FT_WANDB" in done.stderr
    assert "offline, online, disabled" in done.stderr
    assert "Traceback" not in done.stderr
    assert not created()


def test_a_home_that_is_a_file_exits_2_in_words(ft, tmp_path):
    (tmp_path / "file").touch()
    done = ft("run", "demo", FT_HOME=str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path / 'file'}" in done.stderr
    assert "FT_HOME" in done.stderr
    assert "Traceback" not in done.stderr


def test_records_of_dagster_that_cannot_be_written_are_said_in_words(ft, tmp_path):
    (tmp_path / "home" / "dagster_home" / "storage" / "runs.db").mkdir(parents=True)
    (tmp_path / "home" / "dagster_home" / "history" / "runs.db").mkdir(parents=True)
    (tmp_path / "home" / "dagster_home" / "schedules" / "schedules.db").mkdir(parents=True)
    done = ft("run", "demo", "--json")
    assert done.returncode == 1
    (failed,) = json.loads(done.stdout)["failed"]
    assert str(tmp_path / "home" / "dagster_home") in failed[1]
    assert "disk full or read-only" in failed[1]
    assert "Traceback" not in done.stderr


def test_a_setting_that_is_empty_counts_as_unset(ft, tmp_path, created):
    done = ft("sources", FT_HOME="", FT_STORE="", FT_RECIPES="", FT_CACHE="", FT_WANDB="")
    assert done.returncode == 0, done.stderr
    assert settings_with(tmp_path, FT_HOME="", FT_STORE="", FT_CACHE="", FT_RECIPES="") == settings_with(tmp_path)
    assert not created()


def settings_with(folder, **environment):
    """The settings as a process in a folder finds them."""
    env = {key: value for key, value in os.environ.items() if key not in OWN} | environment
    code = "from resources.environment import settings; print(settings())"
    return subprocess.check_output([sys.executable, "-c", code], cwd=folder, env=env, text=True)


def test_a_relative_dagster_home_is_taken_from_the_current_folder(tmp_path):
    code = "from resources.environment import settings; print(settings().dagster_home)"
    env = os.environ | {"DAGSTER_HOME": "home of dagster"}
    found = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=env, text=True)
    assert found.strip() == str(tmp_path / "home of dagster")


@pytest.mark.parametrize(
    ("name", "value"), [("FT_SENSORS", "yes"), ("FT_SENSOR_SECONDS", "0"), ("FT_SENSOR_SECONDS", "soon")]
)
def test_a_bad_sensor_setting_exits_2_in_words(ft, name, value):
    done = ft("sources", **{name: value})
    assert done.returncode == 2
    assert f"{name} is {value!r}; allowed" in done.stderr


def test_a_quarantine_that_was_not_made_says_the_next_step(ft, created):
    done = ft("quarantine", "demo_text@2026-01")
    assert (done.returncode, done.stdout) == (3, "")
    assert "demo_text@2026-01 has not been ingested" in done.stderr
    assert "ft run" in done.stderr
    assert not created()


@pytest.fixture
def quarantined(tmp_path):
    """A store with two validated batches; the first has rows of two reasons."""
    folder = tmp_path / "here" / "recipes"
    (folder / "data").mkdir(parents=True)
    (folder / "rows.yaml").write_text(
        "sources: {rows: {kind: instruction, location: data, format: alpaca, licence: MIT, max_quarantined_share: 0.9}}"
    )
    bad = '{"instruction": "a", "output": "b"}\n{"bad": "\\u001b[31m"}\nno json\nno json either\n'
    (folder / "data" / "one.jsonl").write_text(bad)
    (folder / "data" / "other.jsonl").write_text('{"instruction": "c", "output": "d"}\n')
    known, store = load_catalog([folder]), ArtifactStore(str(tmp_path / "home" / "store"))
    source = known.source("rows")
    for batch, path in known.batches("rows").items():
        raw = raw_stage("rows", source, {"x": batch})
        store.set_ref(RAW, f"rows@{batch}", {"fingerprint": raw.fingerprint})
        stage = validated_stage(source, raw.fingerprint)
        writing = store.write(stage.name, stage.fingerprint, code_version="2", identity={}, upstream={})
        with writing as staging:
            counts = validate_batch("rows", source, {Path(path).name: Path(path)}, staging.folder)
            share = counts.quarantined / counts.rows_in
            about = {"rows_in": counts.rows_in, "rows_kept": counts.kept, "quarantined": counts.quarantined}
            staging.metrics = {**about, "quarantined_share": share, "reasons": dict(sorted(counts.reasons.items()))}
    return folder


def test_quarantined_rows_are_printed_with_counts_first(ft, quarantined):
    done = ft("quarantine", "rows@one", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["reasons"] == {"malformed": 2, "missing_field": 1}
    assert [(row["file"], row["position"], row["reason"]) for row in found["rows"]] == [
        ("one.jsonl", 2, "missing_field"),
        ("one.jsonl", 3, "malformed"),
        ("one.jsonl", 4, "malformed"),
    ]
    plain = ft("quarantine", "rows@one", "--reason", "malformed", "--limit", "1")
    assert plain.stdout.index("missing_field\t1") < plain.stdout.index("one.jsonl\t3\tmalformed")
    assert "one.jsonl\t4" not in plain.stdout
    assert "1 more; --limit 2" in plain.stderr


def test_a_row_cannot_steer_the_terminal(ft, quarantined):
    done = ft("quarantine", "rows@one")
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 3 + 1 + 4


def test_the_start_of_a_batch_is_enough_where_it_is_the_only_one(ft, quarantined):
    assert json.loads(ft("quarantine", "rows@on", "--json").stdout)["batch"] == "rows@one"
    several = ft("quarantine", "rows@o")
    assert several.returncode == 2
    assert "2 batches start with rows@o: rows@one, rows@other" in several.stderr
    unknown = ft("quarantine", "rows@one", "--reason", "tie")
    assert unknown.returncode == 2
    assert "malformed, missing_field" in unknown.stderr


def test_a_failed_batch_is_seen_in_sources(ft, quarantined):
    file = quarantined / "rows.yaml"
    file.write_text(file.read_text().replace("0.9", "0.1"))
    rows = {row["batch"]: row for row in json.loads(ft("sources", "--json").stdout) if row["source"] == "rows"}
    assert (rows["one"]["state"], rows["other"]["state"]) == ("failed", "validated")
    assert "75% of its rows are quarantined" in rows["one"]["note"]


def test_sources_as_json_names_each_batch(ft, created):
    done = ft("sources", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    known = load_catalog([SHIPPED])
    expected = {(name, batch) for name in known.sources for batch in known.batches(name)}
    rows = json.loads(done.stdout)
    assert {(row["source"], row["batch"]) for row in rows} == expected
    assert {row["state"] for row in rows} == {"new"}
    assert all(row["licence"] and row["kind"] for row in rows)
    assert not created()


def test_status_as_json_names_each_recipe(ft, created):
    done = ft("status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    states = json.loads(done.stdout)
    assert set(states) == set(load_catalog([SHIPPED]).recipes)
    for entries in states.values():
        assert {entry["status"] for entry in entries} == {"absent"}
        assert entries[0]["asset"] == "base_model"
    assert not created()


def test_a_plan_without_artifacts_exits_3_and_says_the_next_command(ft, created):
    done = ft("plan", "demo")
    assert (done.returncode, done.stdout) == (3, "")
    assert "base_model" in done.stderr
    assert "ft run demo --until base_model" in done.stderr
    assert not created()


def test_rendering_pods_wants_the_deployments_file(ft, created, tmp_path):
    done = ft("deploy", "render", "demo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "FT_PODS" in done.stderr
    assert not created()
    done = ft("deploy", "render", "demo", FT_PODS=str(tmp_path / "nosuch.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "nosuch.yaml" in done.stderr


def test_a_recipe_of_ones_own_folder_is_found(ft, tmp_path):
    (tmp_path / "here" / "recipes").mkdir()
    document = yaml.safe_load((SHIPPED / "demo.yaml").read_text()) | {"name": "mine"}
    (tmp_path / "here" / "recipes" / "mine.yaml").write_text(yaml.safe_dump(document))
    assert "mine" in json.loads(ft("status", "--json").stdout)
    done = ft("recipe", "check", "recipes/mine.yaml", "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True)


HEAVY = (
    "dagster",
    "kubernetes",
    "torch",
    "transformers",
    "trl",
    "peft",
    "deepspeed",
    "datasets",
    "bitsandbytes",
    "wandb",
    "matplotlib",
)
LOOK = f"""
import sys
from ft_assets.cli import main
try:
    main()
finally:
    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("sources",),
        ("status",),
        ("quarantine", "demo_text@2026-01"),
        ("plan", "demo"),
        ("recipe", "check", str(SHIPPED / "demo.yaml")),
        ("deploy", "render", "demo"),
        ("--help",),
    ],
    ids=" ".join,
)
def test_reading_loads_nothing_heavy(ft, tmp_path, arguments):
    (tmp_path / "pods.yaml").write_text("{namespace: a, claim: b, mount: /ft}")
    done = ft(*arguments, program=("-c", LOOK), FT_PODS=str(tmp_path / "pods.yaml"))
    assert done.returncode == (3 if arguments[0] in ("plan", "quarantine", "deploy") else 0)
    assert done.stderr.splitlines()[-1] == "[]"


def test_help_names_every_command(ft):
    done = ft("--help")
    assert done.returncode == 0
    for command in ("run", "plan", "status", "sources", "quarantine", "recipe", "deploy"):
        assert f" {command} " in done.stdout


def test_until_names_the_assets_there_are(ft):
    done = ft("run", "demo", "--until", "nosuch")
    assert done.returncode == 2
    for asset in MODEL_ASSETS:
        assert asset in done.stderr


def test_one_faulty_source_hides_no_other(ft, tmp_path):
    (tmp_path / "here" / "recipes").mkdir()
    (tmp_path / "here" / "recipes" / "gone.yaml").write_text(
        "sources:\n  gone: {kind: text, location: nowhere, format: text, licence: CC0-1.0}\n"
    )
    done = ft("sources", "--json")
    assert done.returncode == 0, done.stderr
    states = {row["source"]: row["state"] for row in json.loads(done.stdout)}
    assert states["gone"].startswith("faulty")
    assert states["demo_text"] == "new"


def test_one_faulty_recipe_hides_no_other(ft, tmp_path):
    (tmp_path / "here" / "recipes").mkdir()
    text = (SHIPPED / "demo.yaml").read_text().replace("name: demo", "name: lost").replace("[demo_text]", "[nosuch]")
    (tmp_path / "here" / "recipes" / "lost.yaml").write_text(text)
    done = ft("status", "--json")
    assert done.returncode == 0, done.stderr
    states = json.loads(done.stdout)
    assert [state["status"] for state in states["lost"]] == ["faulty"]
    assert states["demo"][0]["asset"] == "base_model"
    assert ft("status", "lost").returncode == 2
