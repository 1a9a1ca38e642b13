"""Laws of the sensors: each version of a batch is ingested once and only when whole; each recipe is retrained when due."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from waiting import until

from definitions import build
from ft_assets.assets.making import recipe_run
from ft_assets.core import champion
from ft_assets.core.batches import SHUT_OUT, TRAINED_ON, batch_state
from ft_assets.core.location import MAX_BATCHES
from ft_assets.core.recipe_run import base_of
from resources.environment import Settings, catalog
from resources.injected import resources

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
SOURCES = """
sources:
  rows: {kind: instruction, location: data/rows, format: alpaca, licence: MIT}
  more: {kind: instruction, location: data/more, format: alpaca, licence: MIT}
  held: {kind: instruction, location: data/held, format: alpaca, licence: MIT}
"""
RECIPE = """
name: NAME
base_model: embedded
seed: 1
data: {max_length: 64, overlong: drop, split: {validation: 0.1, test: 0.1}, sft: [SOURCE], test: [held]}
adapter: {method: lora, r: 8, lora_alpha: 16, lora_dropout: 0.0, target_modules: all-linear}
sft: {learning_rate: 1.0e-4, global_batch_size: 8, num_train_epochs: 1}
evaluation: {metric: exact_match, few_shot: 0, max_new_tokens: 8}
publish: {to: out}
retrain: RETRAIN
"""


def rows(count: int, start: int = 0) -> str:
    return "".join(json.dumps({"instruction": f"q{i}", "output": f"a{i}"}) + "\n" for i in range(start, start + count))


BAD = '{"nonsense": 1}\n' * 9


@dataclass
class Place:
    """A folder with sources, a Dagster instance and the sensors over them; a tick is what the daemon does in one."""

    folder: Path
    instance: dg.DagsterInstance
    cursors: dict[str, str | None] = field(default_factory=dict)
    run_keys: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.recipes = self.folder / "recipes"
        for name in ("rows", "more", "held"):
            (self.recipes / "data" / name).mkdir(parents=True)
        (self.recipes / "sources.yaml").write_text(SOURCES)
        self.restart()

    @property
    def settings(self) -> Settings:
        return Settings(
            self.folder / "home", str(self.folder / "home" / "store"), (self.recipes,), self.folder, "disabled"
        )

    @property
    def store(self):
        return self.settings.open_store()

    def restart(self) -> None:
        """Definitions loaded anew, as by another daemon or webserver."""
        self.definitions = build(self.settings, catalog(self.settings))
        self.repository = self.definitions.get_repository_def()

    def recipe(self, name: str, source: str = "rows", retrain: str = "{min_new_rows: 5}") -> None:
        text = RECIPE.replace("NAME", name).replace("SOURCE", source).replace("RETRAIN", retrain)
        (self.recipes / f"{name}.yaml").write_text(text)
        self.restart()

    def drop(self, name: str, text: str) -> Path:
        path = self.recipes / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def evaluate(self, name: str, cursor: str | None):
        with dg.build_sensor_context(
            instance=self.instance, cursor=cursor, repository_def=self.repository, resources=resources(self.settings)
        ) as context:
            return self.repository.get_sensor_def(name).evaluate_tick(context)

    def tick(self, name: str = "new_data_sensor") -> list[dg.RunRequest]:
        """What the daemon would launch: partitions added, run keys seen before dropped, cursor kept."""
        data = self.evaluate(name, self.cursors.get(name))
        return self.accept(name, data)

    def accept(self, name: str, data) -> list[dg.RunRequest]:
        for request in data.dynamic_partitions_requests:
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(request.partitions_def_name, key)
        self.cursors[name] = data.cursor
        self.said = data.skip_message or ""
        fresh = [request for request in data.run_requests if request.run_key not in self.run_keys]
        self.run_keys |= {request.run_key for request in fresh}
        return fresh

    def launch(self, request: dg.RunRequest, job: str = "ingest") -> bool:
        done = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=request.partition_key, raise_on_error=False, run_config=QUIET
        )
        return done.success

    def settle(self) -> list[str]:
        """Two looks, and the runs they ask for."""
        requests = self.tick() + self.tick()
        for request in requests:
            self.launch(request)
        return [request.partition_key for request in requests]

    def retrain(self) -> list[str]:
        return [request.partition_key for request in self.tick("retrain_sensor")]

    def state(self, key: str) -> str:
        return batch_state(catalog(self.settings), self.store, key).word


@contextmanager
def one_ingested(folder: Path) -> Iterator[Place]:
    """A place whose source ``rows`` has one batch, of three rows, that was ingested."""
    with dg.DagsterInstance.ephemeral(tempdir=str(folder / "instance")) as instance:
        place = Place(folder, instance)
        place.drop("rows/one.jsonl", rows(3))
        assert place.settle() == ["rows@one"]
        yield place


@pytest.fixture
def place(tmp_path):
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        yield Place(tmp_path, instance)


def test_a_new_file_is_asked_for_once_over_ticks_and_restarts(place):
    place.drop("rows/one.jsonl", rows(3))
    assert place.tick() == []
    assert "Not yet whole" in place.said
    [request] = place.tick()
    assert request.partition_key == "rows@one"
    assert place.instance.get_dynamic_partitions("source_batch") == ["rows@one"]
    assert place.launch(request)
    assert place.state("rows@one") == "validated"
    place.restart()
    for _ in range(3):
        assert place.tick() == []
    assert place.said == "No new data."


def test_two_sensors_that_look_at_once_ask_with_one_run_key(place):
    place.drop("rows/one.jsonl", rows(3))
    place.tick()
    cursor = place.cursors["new_data_sensor"]
    first, second = (place.evaluate("new_data_sensor", cursor) for _ in range(2))
    keys = [request.run_key for data in (first, second) for request in data.run_requests]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert place.accept("new_data_sensor", first)
    assert not place.accept("new_data_sensor", second)


@pytest.mark.parametrize("cursor", [None, "{}", "nonsense", "[1]", '{"rows": {"pending": 5}}', '{"rows": 1}'])
def test_a_lost_cursor_starts_nothing_twice(place, cursor):
    place.drop("rows/one.jsonl", rows(3))
    requests = place.tick() + place.tick()
    assert len(requests) == 1
    place.cursors["new_data_sensor"] = cursor
    assert place.tick() + place.tick() == []  # its run key is known
    place.run_keys.clear()
    place.launch(requests[0])
    place.cursors["new_data_sensor"] = cursor
    assert place.tick() + place.tick() == []  # it has been ingested


def test_what_was_ingested_by_hand_is_not_ingested_again(place):
    place.drop("rows/one.jsonl", rows(3))
    place.instance.add_dynamic_partitions("source_batch", ["rows@one"])
    place.launch(dg.RunRequest(partition_key="rows@one"))
    assert place.tick() + place.tick() + place.tick() == []


def test_a_file_that_still_grows_waits(place):
    path = place.drop("rows/one.jsonl", rows(1))
    for count in range(2, 5):
        assert place.tick() == []
        path.write_text(rows(count))
    assert place.tick() == []
    assert len(place.tick()) == 1


def test_a_file_written_again_with_the_same_size_waits(place):
    path = place.drop("rows/one.jsonl", rows(2))
    assert place.tick() == []
    path.write_text(rows(2, start=3))
    os.utime(path, (1, 1))
    assert place.tick() == []
    assert len(place.tick()) == 1


def test_a_marker_settles_a_folder_at_once(place):
    place.drop("rows/two/a.jsonl", rows(2))
    assert place.tick() == []
    place.drop("rows/three/a.jsonl", rows(2, 5))
    place.drop("rows/three/_SUCCESS", "")
    assert [request.partition_key for request in place.tick()] == ["rows@three", "rows@two"]


@pytest.mark.parametrize(
    "name",
    [
        "a.jsonl.tmp",
        "a.part",
        ".hidden",
        "_temporary",
        "a.jsonl._COPYING_",
        "a.crdownload",
        "a~",
        "A.TMP",
        ".git/a",
        "new/.a",
    ],
)
def test_names_in_the_making_never_count(place, name):
    place.drop(f"rows/{name}", rows(2))
    assert place.tick() + place.tick() + place.tick() == []
    assert place.instance.get_dynamic_partitions("source_batch") == []


def test_a_changed_batch_is_a_new_version(place):
    path = place.drop("rows/one.jsonl", rows(3))
    assert place.settle() == ["rows@one"]
    first = path.stat().st_mtime_ns, path.read_bytes()
    path.write_text(rows(4))
    assert place.settle() == ["rows@one"]
    assert batch_state(catalog(place.settings), place.store, "rows@one").rows == 4
    path.write_bytes(first[1])
    os.utime(path, ns=(first[0], first[0]))
    assert place.settle() == ["rows@one"], "a version that comes back is ingested again"
    assert batch_state(catalog(place.settings), place.store, "rows@one").rows == 3
    assert place.settle() == []


def test_a_source_that_cannot_be_read_is_named_and_stops_no_other(place):
    place.drop("more/one.jsonl", rows(3))
    (place.recipes / "data" / "rows").rmdir()
    (place.recipes / "broken.yaml").write_text("sources: {broken: {kind: text}}")
    assert place.settle() == ["more@one"]
    assert place.tick() == []
    assert "source rows" in place.said
    assert "broken" in place.said


def test_a_name_that_can_be_no_batch_is_named_and_stops_no_other(place):
    place.drop("rows/good.jsonl", rows(3))
    place.drop("rows/a...b.jsonl", rows(3))
    place.drop("rows/" + "x" * 200, rows(3))
    place.drop("rows/line\nbreak.jsonl", rows(3))
    place.drop("rows/twice.json", rows(3))
    place.drop("rows/twice.jsonl", rows(3))
    (place.recipes / "data" / "rows" / "out.jsonl").symlink_to("/etc/hosts")
    (place.recipes / "data" / "rows" / "round").symlink_to("round")
    os.mkfifo(place.recipes / "data" / "rows" / "pipe.jsonl")
    assert place.settle() == ["rows@good"]
    assert place.tick() == []
    for name in ("a...b", "xxx", "break", "twice", "/etc/hosts", "circle", "pipe.jsonl"):
        assert name in place.said


def test_too_many_batches_are_refused_by_name(place, monkeypatch):
    monkeypatch.setattr("ft_assets.core.location.MAX_BATCHES", 2)
    for name in "abc":
        place.drop(f"rows/{name}.jsonl", rows(1))
    assert place.settle() == []
    assert "3 files and folders, 2 batches are allowed" in place.said
    assert MAX_BATCHES >= 1000


def test_a_tick_waits_a_bounded_time_for_a_source_that_hangs(place, monkeypatch):
    import threading

    from ft_assets.automation import looking, new_data_sensor
    from ft_assets.core import watching

    release = threading.Event()

    def look(known, name):
        if name == "rows":
            release.wait(60)
        return watching.look(known, name)

    monkeypatch.setattr(new_data_sensor, "look", look)
    monkeypatch.setattr(new_data_sensor, "WAIT_SECONDS", 0.2)
    assert looking.Looks(0.2)
    place.restart()
    place.drop("rows/one.jsonl", rows(3))
    place.drop("more/one.jsonl", rows(3))
    assert [request.partition_key for request in place.tick() + place.tick()] == ["more@one"]
    assert place.tick() == []
    assert "source rows: still being listed" in place.said
    release.set()
    until(lambda: "rows@one" in [request.partition_key for request in place.tick()], 90, "the late look is used")


def test_the_cursor_stays_small(place):
    for index in range(300):
        place.drop(f"rows/a-rather-long-name-of-a-batch-{index:04}.jsonl", rows(1))
    while place.tick() or "Not yet whole" in place.said:
        pass
    assert len(place.instance.get_dynamic_partitions("source_batch")) == 300
    assert len(place.cursors["new_data_sensor"]) < 300 * 20


# Failures


def test_a_failed_batch_blocks_nothing_else_and_a_fixed_file_heals(place):
    place.drop("held/one.jsonl", rows(2, 900))
    place.drop("rows/one.jsonl", rows(9))
    bad = place.drop("rows/bad.jsonl", BAD)
    place.drop("more/one.jsonl", rows(9, 20))
    place.recipe("first", "rows")
    place.recipe("second", "more")
    assert set(place.settle()) == {"held@one", "rows@one", "rows@bad", "more@one"}
    assert place.state("rows@bad") == "failed"
    assert place.retrain() == ["second"]
    assert place.retrain() == []
    assert "first waits" in place.said
    assert "rows@bad failed its check: 100%" in place.said
    bad.write_text(rows(2, 50))
    assert place.settle() == ["rows@bad"]
    assert place.retrain() == ["first"]


def test_a_failed_batch_that_is_taken_away_no_longer_counts(place):
    place.drop("held/one.jsonl", rows(2, 900))
    good = place.drop("rows/one.jsonl", rows(9))
    bad = place.drop("rows/bad.jsonl", BAD)
    place.recipe("first")
    place.settle()
    assert place.retrain() == []
    bad.unlink()
    good.unlink()
    place.tick()
    assert place.instance.get_dynamic_partitions("source_batch") == ["held@one", "rows@one"]
    assert place.state("rows@one") == "validated"
    assert place.retrain() == ["first"]


def test_a_batch_that_could_not_be_ingested_is_named(place):
    place.drop("held/one.jsonl", rows(2, 900))
    place.drop("rows/one.jsonl", rows(9))
    place.recipe("first")
    place.settle()
    path = place.drop("rows/two.jsonl", rows(1, 50))
    [request] = place.tick() + place.tick()
    path.unlink()
    path.mkdir()  # an empty folder now
    assert not place.launch(request)
    assert place.state("rows@two") == "failed"
    assert place.retrain() == []
    assert "rows@two could not be ingested" in place.said
    assert "holds no files" in place.said


def test_a_batch_asked_for_and_not_ingested_yet_is_waited_for(place):
    place.drop("held/one.jsonl", rows(2, 900))
    place.drop("rows/one.jsonl", rows(9))
    place.recipe("first")
    place.settle()
    place.drop("rows/two.jsonl", rows(9, 50))
    assert len(place.tick() + place.tick()) == 1
    assert place.retrain() == []
    assert "rows@two has not been ingested" in place.said


# Retraining


@pytest.fixture
def ready(place):
    """A recipe that asks for 5 new rows, and 9 rows."""
    place.drop("held/one.jsonl", rows(2, 900))
    place.drop("rows/one.jsonl", rows(9))
    place.recipe("first")
    place.settle()
    return place


def test_a_retrain_is_asked_for_once_for_its_data(ready):
    assert ready.retrain() == ["first"]
    ready.restart()
    assert ready.retrain() == []
    assert "0 of 5 new rows" in ready.said
    ready.cursors.clear()
    assert ready.retrain() == [], "the run key is known"


def test_rows_add_up_to_a_retrain(ready):
    ready.retrain()
    ready.drop("rows/two.jsonl", rows(3, 100))
    ready.settle()
    assert ready.retrain() == []
    assert "3 of 5 new rows" in ready.said
    ready.drop("rows/three.jsonl", rows(2, 200))
    ready.settle()
    assert ready.retrain() == ["first"]


def test_held_out_rows_are_no_rows_to_train_on(ready):
    ready.retrain()
    ready.drop("held/two.jsonl", rows(9, 300))
    ready.settle()
    assert ready.retrain() == []


@pytest.mark.parametrize("kind", [TRAINED_ON, SHUT_OUT])
def test_data_that_a_run_used_is_not_new_though_the_gate_kept_its_candidate_out(ready, kind):
    states = [batch_state(catalog(ready.settings), ready.store, key) for key in ("rows@one", "held@one")]
    ready.store.set_ref(kind, "first", {"validated": [state.validated for state in states]})
    assert ready.retrain() == []


def test_quarantined_rows_do_not_count(place):
    place.drop("held/one.jsonl", rows(2, 900))
    place.drop("rows/one.jsonl", rows(4) + '{"nonsense": 1}\n' * 3)
    place.recipe("first")
    place.settle()
    assert place.retrain() == []
    assert "4 of 5 new rows" in place.said


@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTING", "STARTED", "CANCELING"])
@pytest.mark.parametrize("job", ["fine_tune", "__ASSET_JOB"])
def test_an_unfinished_run_of_the_recipe_holds_a_retrain_back(ready, job, status):
    run = dg.DagsterRun(job, status=dg.DagsterRunStatus[status], tags={"dagster/partition": "first"})
    ready.instance.add_run(run)
    assert ready.retrain() == []
    assert f"run {run.run_id[:8]} ({status.lower()})" in ready.said
    ready.instance.report_run_failed(run)
    assert ready.retrain() == ["first"]


def test_an_unfinished_run_over_several_recipes_holds_them_back(ready):
    tags = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "z"}
    ready.instance.add_run(dg.DagsterRun("__ASSET_JOB", status=dg.DagsterRunStatus.STARTED, tags=tags))
    assert ready.retrain() == []


def test_a_run_of_another_recipe_holds_nothing_back(ready):
    run = dg.DagsterRun("fine_tune", status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "other"})
    ready.instance.add_run(run)
    assert ready.retrain() == ["first"]


def test_a_killed_ft_run_holds_nothing_back(ready):
    import socket

    tags = {"dagster/partition": "first", "ft/process": f"{socket.gethostname()}/999999999-1.00"}
    ready.instance.add_run(dg.DagsterRun("fine_tune", status=dg.DagsterRunStatus.STARTED, tags=tags))
    assert ready.retrain() == ["first"]


def test_a_schedule_asks_for_a_run_where_there_is_new_data(place, monkeypatch):
    now = [1_800_000_000.0]
    monkeypatch.setattr("ft_assets.automation.retrain_sensor.time", SimpleNamespace(time=lambda: now[0]))
    place.drop("held/one.jsonl", rows(2, 900))
    place.drop("rows/one.jsonl", rows(1))
    place.recipe("first", retrain='{schedule: "0 3 * * *"}')
    place.settle()
    assert place.retrain() == [], "the first look starts the clock"
    now[0] += 86_400
    assert place.retrain() == ["first"]
    now[0] += 86_400
    assert place.retrain() == []
    now[0] -= 40 * 86_400  # the clock steps back
    assert place.retrain() == []
    place.drop("rows/two.jsonl", rows(1, 50))
    place.settle()
    assert place.retrain() == [], "new, and not due"
    now[0] += 86_400
    assert place.retrain() == ["first"]
    now[0] += 86_400
    bad = place.drop("rows/bad.jsonl", BAD)
    place.settle()
    assert place.retrain() == []
    bad.write_text(rows(1, 70))
    place.settle()
    assert place.retrain() == ["first"], "what came due while a batch waited to be mended is answered"


def recipe_runs(ready):
    """What a run of the recipe sees, by its id and the id of the run that it executes again."""
    known = catalog(ready.settings)
    base = base_of(known, known.recipe("first"))
    with ready.store.write(base.name, base.fingerprint, code_version="1", identity={}, upstream={}) as staging:
        staging.metrics = {"content_hash": "0" * 64}
    injected = resources(ready.settings)

    def seen(run_id, root=None):
        context = SimpleNamespace(partition_key="first", run_id=run_id, run=SimpleNamespace(root_run_id=root))
        return recipe_run(context, injected["catalog"], injected["store"])

    return seen


def test_a_run_keeps_the_data_it_began_with(ready):
    seen = recipe_runs(ready)

    def fingerprints(run_id, root=None):
        return {name: stage.fingerprint for name, stage in seen(run_id, root).stages.items()}

    began = fingerprints("run 1")
    ready.drop("rows/two.jsonl", rows(9, 100))
    ready.settle()
    assert fingerprints("run 1") == began
    assert fingerprints("run 2", root="run 1") == began, "a re-execution of run 1"
    assert fingerprints("run 3")["tokenized_splits"] != began["tokenized_splits"]


def test_a_run_keeps_the_incumbent_it_began_with(ready):
    seen = recipe_runs(ready)

    def began(run_id, root=None):
        run = seen(run_id, root)
        return run.published, run.stages["evaluation"].fingerprint

    first = began("run 1")
    merged = ["merged_model", "a" * 64]
    entry = {"release": "r" * 64, "merged": merged, "withdrawn": None, "override": None}
    champion.promote(ready.store, "first", entry, ())
    assert began("run 1") == first
    assert began("run 2", root="run 1") == first, "a re-execution of run 1"
    after = began("run 3")
    assert after[0] == (tuple(merged),)
    assert after[1] != first[1], "it is judged against another incumbent"


def test_a_recipe_with_faults_stops_no_other(ready):
    ready.recipe("lost", "nosuch")
    assert ready.retrain() == ["first"]


def test_a_recipe_newer_than_the_definitions_stops_no_other(ready):
    text = RECIPE.replace("NAME", "late").replace("SOURCE", "rows").replace("RETRAIN", "{min_new_rows: 1}")
    (ready.recipes / "late.yaml").write_text(text)
    assert ready.retrain() == ["first"]
    ready.retrain()
    assert "late is new: reload" in ready.said


def test_recipes_without_retrain_are_left_alone(place):
    assert place.retrain() == []
    assert "No recipe" in place.said


def test_sensors_stand_still_unless_the_deployment_says_otherwise(place):
    def statuses(settings):
        sensors = build(settings, catalog(settings)).get_repository_def().sensor_defs
        return {sensor.name: sensor.default_status.value for sensor in sensors}

    names = ("new_data_sensor", "prediction_sensor", "retrain_sensor")
    assert statuses(place.settings) == dict.fromkeys(names, "STOPPED")
    on = Settings(**{**vars(place.settings), "sensors_run": True})
    assert set(statuses(on).values()) == {"RUNNING"}


ASKED = """
predictions: {sources: [asked], model: champion, max_new_tokens: 4}
sources:
  asked: {kind: prompt, location: data/asked, format: prompt, licence: MIT, duplicates: keep}
"""


def asking(place):
    """A recipe that has a batch of questions answered, which is ingested."""
    place.recipe("talks")
    file = place.recipes / "talks.yaml"
    file.write_text(file.read_text() + ASKED)
    place.restart()
    place.drop("asked/one.jsonl", '{"prompt": "A?"}\n{"prompt": "A?"}\n')
    assert place.settle() == ["asked@one"]


def publish_as(place, release: str) -> None:
    """A champion, whatever it is of."""
    with place.store.write("merged_model", release * 64, code_version="1", identity={}, upstream={}):
        pass
    seen = champion.published(champion.read(place.store, "talks"))
    entry = {"release": release * 64, "evaluation": "e", "merged": ["merged_model", release * 64], "folder": "f"}
    more = {"to": "t", "published_at": "", "override": None, "withdrawn": None}
    champion.promote(place.store, "talks", {**entry, **more}, seen)


def test_a_validated_batch_is_answered_once_there_is_a_champion_and_once_for_each_version(place):
    asking(place)
    assert place.tick("prediction_sensor") == []
    assert "talks: recipe talks has no champion" in place.said
    publish_as(place, "1")
    [request] = place.tick("prediction_sensor")
    assert request.partition_key == "talks@asked@one"
    assert place.instance.get_dynamic_partitions("prediction") == ["talks@asked@one"]
    publish_as(place, "2")
    place.restart()
    assert place.tick("prediction_sensor") == []
    place.cursors["prediction_sensor"] = "nonsense"
    assert place.tick("prediction_sensor") == []  # its run key is known
    place.drop("asked/one.jsonl", '{"prompt": "Another?"}\n')
    assert place.settle() == ["asked@one"]
    [again] = place.tick("prediction_sensor")
    assert again.partition_key == "talks@asked@one"
    assert again.run_key != request.run_key


def test_a_batch_that_failed_is_not_answered_and_stops_no_other(place):
    asking(place)
    publish_as(place, "1")
    place.drop("asked/two.jsonl", BAD)
    place.settle()
    assert [request.partition_key for request in place.tick("prediction_sensor")] == ["talks@asked@one"]
