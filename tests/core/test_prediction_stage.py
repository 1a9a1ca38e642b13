"""Laws of predictions: which artifact a name stands for, what makes them other ones, and how a file comes into the store."""

import json

import pytest

from ft_assets.core import champion
from ft_assets.core.artifact import ArtifactStore, Manifest
from ft_assets.core.errors import FineTuneError, MissingInput
from ft_assets.core.input_file import ingest_file
from ft_assets.core.predicting import Model, file_source, find_model, prediction_stage, split_prediction_key
from ft_assets.recipes.load import SHIPPED, load_catalog


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path / "store"), tmp_path / "local")


@pytest.fixture(scope="module")
def catalog():
    return load_catalog([SHIPPED])


def model(name="merged", stage="merged_model", fingerprint="a" * 64, form=None, **identity):
    return Model(name, Manifest(stage, fingerprint, "1", identity, {}, {}), form)


def made(store, stage, fingerprint):
    with store.write(stage, fingerprint, code_version="1", identity={}, upstream={}):
        pass


def test_a_key_is_taken_apart_and_a_batch_may_hold_an_at():
    assert split_prediction_key("demo@tickets@2026@01") == ("demo", "tickets", "2026@01")
    for key in ("demo", "demo@tickets", "@tickets@one", "demo@@one"):
        with pytest.raises(FineTuneError, match="recipe@source@batch"):
            split_prediction_key(key)


def test_predictions_are_known_by_the_model_and_the_rows_not_by_the_models_name():
    stage = prediction_stage(model(), "b" * 64, 8)
    assert prediction_stage(model("champion"), "b" * 64, 8) == stage
    others = [
        prediction_stage(model(fingerprint="c" * 64), "b" * 64, 8),
        prediction_stage(model(form="nf4"), "b" * 64, 8),
        prediction_stage(model(), "d" * 64, 8),
        prediction_stage(model(), "b" * 64, 9),
    ]
    assert len({stage.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_a_classifier_reads_as_far_as_it_was_trained_to():
    one, other = (model("classifier", "classifier", max_length=length) for length in (16, 32))
    assert prediction_stage(one, "b" * 64, None) != prediction_stage(other, "b" * 64, None)


def test_the_champion_is_the_one_of_the_record(store, catalog):
    recipe = catalog.recipe("demo")
    with pytest.raises(MissingInput, match="no champion"):
        find_model(catalog, recipe, store, "champion")
    for release in ("1" * 64, "2" * 64):
        made(store, "merged_model", release)
        seen = champion.published(champion.read(store, "demo"))
        entry = {"release": release, "evaluation": "e", "merged": ["merged_model", release], "folder": "f", "to": "t"}
        champion.promote(store, "demo", {**entry, "published_at": "", "override": None, "withdrawn": None}, seen)
    assert find_model(catalog, recipe, store, "champion").manifest.fingerprint == "2" * 64
    champion.roll_back(store, "demo", None, {"by": "a", "reason": "b", "at": "c"})
    assert find_model(catalog, recipe, store, "champion").manifest.fingerprint == "1" * 64


def test_a_model_that_the_recipe_does_not_make_is_named_with_those_it_does(store, catalog):
    with pytest.raises(FineTuneError, match=r"no model 'int4'.*champion, base, cpt, sft, policy, merged, nf4, int8"):
        find_model(catalog, catalog.recipe("demo"), store, "int4")


def rows_file(folder, *rows):
    file = folder / "rows.jsonl"
    file.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return file


def test_every_row_of_a_file_is_to_be_answered_or_has_a_reason(store, tmp_path):
    mail = {"prompt": "Write to a.person@example.com"}
    file = rows_file(tmp_path, {"prompt": "A?"}, {"prompt": "A?"}, mail, {"question": "?"}, "{broken\n")
    found = ingest_file(store, file, file_source(False, []))
    metrics = found.manifest.metrics
    assert (metrics["rows_in"], metrics["rows_kept"]) == (5, 3)
    assert metrics["reasons"] == {"malformed": 1, "missing_field": 1}
    assert ingest_file(store, file, file_source(False, [])).manifest == found.manifest
    named = ingest_file(store, file, file_source(False, ["question"]))
    assert named.manifest.metrics["rows_kept"] == 1


@pytest.mark.parametrize(
    ("rows", "why"),
    [([{"question": "?"}], "row 1: missing_field: no column 'prompt'; found question"), ([], "it holds no rows")],
)
def test_a_file_without_a_row_to_answer_says_why(store, tmp_path, rows, why):
    with pytest.raises(FineTuneError, match=why):
        ingest_file(store, rows_file(tmp_path, *rows), file_source(False, []))
    assert not list((tmp_path / "store" / ".staging").glob("*"))


def test_a_file_in_the_store_that_was_changed_is_brought_there_again(store, tmp_path):
    file, source = rows_file(tmp_path, {"prompt": "A?"}), file_source(False, [])
    first = ingest_file(store, file, source)
    first.file("rows.parquet").write_bytes(b"PAR1")
    again = ingest_file(store, file, source)
    assert again.manifest.files == first.manifest.files
    assert again.file("rows.parquet").stat().st_size == first.manifest.files["rows.parquet"]["bytes"]
