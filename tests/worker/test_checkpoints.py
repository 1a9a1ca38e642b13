"""A checkpoint is used only when it is whole and of this code; one that is not is named."""

import json

import pytest

from ft_assets.core.errors import FineTuneError
from ft_assets.worker.checkpoints import SIGNATURE, newest, sign

WORLD = "1 processes and ZeRO 0"


@pytest.fixture
def folder(tmp_path):
    """Two signed checkpoints, at steps 9 and 10."""
    for step in (9, 10):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "optimizer.pt").write_bytes(b"state" * step)
        sign(checkpoint, "float32", seconds=float(step), world=WORLD)
    return tmp_path


def test_the_newest_by_number_is_taken_with_what_it_settled(folder) -> None:
    found = newest(folder, WORLD, say=lambda _: None)
    assert (found.step, found.dtype, found.seconds) == (10, "float32", 10.0)


@pytest.mark.parametrize("damage", ["cut", "removed", "unsigned", "older code", "signature cut"])
def test_a_damaged_one_is_named_and_the_one_before_taken(folder, damage: str) -> None:
    newest_one = folder / "checkpoint-10"
    if damage == "cut":
        (newest_one / "optimizer.pt").write_bytes(b"sta")
    elif damage == "removed":
        (newest_one / "optimizer.pt").unlink()
    elif damage == "unsigned":
        (newest_one / SIGNATURE).unlink()
    elif damage == "older code":
        signature = json.loads((newest_one / SIGNATURE).read_text())
        del signature["world"]
        (newest_one / SIGNATURE).write_text(json.dumps(signature))
    else:
        (newest_one / SIGNATURE).write_text('{"files"')
    said: list[str] = []
    assert newest(folder, WORLD, said.append).step == 9
    assert "checkpoint-10" in said[0]


def test_another_world_size_is_refused(folder) -> None:
    with pytest.raises(FineTuneError, match="Put hardware back"):
        newest(folder, "2 processes and ZeRO 2", say=lambda _: None)
