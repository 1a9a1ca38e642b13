"""Examples are training rows that are near the question, and no other rows; the same ones each time."""

import pytest
from splitting import HALF, TEST, talk, talks

from ft_assets.core.errors import FineTuneError
from ft_assets.core.row_ids import content_id
from ft_assets.worker.retrieval import Nearest, asked, training_conversations


def turns(text):
    return talk(text, "An answer.")["messages"]


def test_the_nearest_comes_last():
    nearest = Nearest([turns(text) for text in ("red fox", "blue fox in the snow", "grey whale", "blue whale")])
    assert [asked(found) for found in nearest.to(turns("a blue whale"), 2)][-1] == "blue whale"


def test_equally_near_ones_are_taken_in_their_order():
    nearest = Nearest([turns(text) for text in ("one fox", "two fox", "six fox", "ten fox", "a whale")])
    assert [asked(found) for found in nearest.to(turns("fox"), 3)] == ["six fox", "two fox", "one fox"]
    assert [asked(found) for found in nearest.to(turns("unheard of"), 2)] == ["two fox", "one fox"]
    assert [asked(found) for found in nearest.to(turns("!"), 2)] == ["two fox", "one fox"], "no words at all"


def test_there_may_be_fewer_than_are_wanted():
    assert len(Nearest([turns("one fox")]).to(turns("fox"), 5)) == 1
    with pytest.raises(FineTuneError, match="no training conversation is left"):
        Nearest([])


@pytest.mark.parametrize("packing", [False, True])
def test_only_rows_that_are_trained_on_are_shown(splitter, packing):
    rows = talks(60)
    batches = {"sft:a@1": [*rows, rows[0], *TEST["test:t@1"]], "sft:b@2": [rows[1], *talks(20, 100)], **TEST}
    trained = splitter.make(batches, split=HALF, max_train_rows=30).ids("sft")
    made = splitter.make(batches, split=HALF, max_train_rows=30, packing=packing)
    ids = {asked(row["messages"]): content_id(row) for some in batches.values() for row in some}
    found = [ids[asked(each)] for each in training_conversations(made.artifact, splitter.store)]
    assert found == sorted(trained)
