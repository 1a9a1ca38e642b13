"""What a recipe may say of its predictions, and which sources they take."""

import pytest
import yaml

from ft_assets.core.errors import RecipeError
from ft_assets.core.lineage import Inputs, model_stages
from ft_assets.recipes.load import SHIPPED, load_catalog
from ft_assets.recipes.schema import Source

PREDICTIONS = {"sources": ["asked"], "model": "champion", "max_new_tokens": 8}
SOURCES = {
    "asked": {"kind": "prompt", "location": "asked", "format": "prompt", "licence": "MIT", "duplicates": "keep"},
    "texts": {"kind": "text", "location": "texts", "format": "text", "licence": "MIT"},
}


@pytest.fixture
def loaded(tmp_path):
    """The demo under another name, with what is given in place of its own."""

    def load(predictions, **data):
        document = yaml.safe_load((SHIPPED / "demo.yaml").read_text())
        document |= {"name": "own", "predictions": predictions, "sources": SOURCES}
        document["data"] |= data
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(document))
        return load_catalog([SHIPPED, tmp_path]).recipe("own")

    return load


def test_predictions_change_no_fingerprint_of_what_is_trained(loaded):
    with_them, without = (model_stages(loaded(one), Inputs({}, "b" * 64, "c" * 64)) for one in (PREDICTIONS, None))
    assert {name: stage.fingerprint for name, stage in with_them.items()} == {
        name: stage.fingerprint for name, stage in without.items()
    }


def test_keeping_duplicates_makes_other_rows_and_not_saying_so_the_same_as_before():
    plain = {"kind": "prompt", "location": "x", "format": "prompt", "licence": "MIT"}
    assert "duplicates" not in Source(**plain).identity()
    assert Source(**plain, duplicates="keep").identity()["duplicates"] == "keep"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "nf5"}, "'nf5' is none that this recipe makes: champion, base, cpt, sft, policy, merged, nf4, int8"),
        ({"max_new_tokens": None}, "max_new_tokens is not given"),
        ({"sources": []}, "at least 1 item"),
        ({"sources": ["nowhere"]}, r"own.yaml:\d+: predictions.sources\[0\]: found 'nowhere', which is not declared"),
        ({"sources": ["texts"]}, "a source of kind text; allowed: kind prompt: asked"),
    ],
)
def test_what_cannot_be_predicted_is_refused(loaded, change, told):
    with pytest.raises(RecipeError, match=told):
        loaded(PREDICTIONS | change)


def test_a_source_that_keeps_duplicates_is_not_trained_or_measured_on(loaded):
    with pytest.raises(RecipeError, match=r"data.safety\[0\]: found 'asked', a source with duplicates: keep"):
        loaded(PREDICTIONS, safety=["asked"])
