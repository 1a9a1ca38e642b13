"""A checkpoint is used only when it is whole and of this code; one that is not is named."""

import json
import os
import pickle
import shutil

import pytest

from ft_assets.core.errors import FineTuneError
from ft_assets.worker import checkpoints, universal
from ft_assets.worker.checkpoints import SIGNATURE, newest, rotate, sign, step_of

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


def test_order_is_by_step_whatever_the_clock_said(folder) -> None:
    shutil.copytree(folder / "checkpoint-9", folder / "checkpoint-8")
    for step in (8, 9):
        os.utime(folder / f"checkpoint-{step}", (4e9, 4e9))
    assert newest(folder, WORLD, say=lambda _: None).step == 10
    rotate(folder / "checkpoint-10", 2, None)
    assert sorted(step_of(path) for path in folder.iterdir()) == [9, 10]


def test_what_another_node_wrote_is_signed_though_it_is_not_listed_here_yet(folder, monkeypatch) -> None:
    newest_one = folder / "checkpoint-10"
    (newest_one / "rng_state_1.pth").write_bytes(b"of another node")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "listed", lambda _: {"optimizer.pt"})
        sign(newest_one, "float32", 1.0, WORLD, others={"optimizer.pt", "rng_state_1.pth"})
    assert newest(folder, WORLD, say=lambda _: None).step == 10


@pytest.mark.parametrize("strange", ["checkpoint-11-backup/", "checkpoint-12", "checkpoint-old/"])
def test_what_is_no_checkpoint_is_passed_by(folder, strange: str) -> None:
    if strange.endswith("/"):
        (folder / strange).mkdir()
    else:
        (folder / strange).write_text("a file")
    assert newest(folder, WORLD, say=lambda _: None).step == 10
    assert (folder / strange).exists()


@pytest.mark.parametrize("signature", ["[1]", '{"files": [1], "dtype": 1, "seconds": 1, "world": 1, "best": 1}', "7"])
def test_a_signature_of_another_form_is_no_signature(folder, signature: str) -> None:
    (folder / "checkpoint-10" / SIGNATURE).write_text(signature)
    assert newest(folder, WORLD, say=lambda _: None).step == 9


def test_a_file_that_was_put_beside_makes_a_checkpoint_count_no_more(folder) -> None:
    (folder / "checkpoint-10" / "scaler.pt").write_bytes(b"planted")
    said: list[str] = []
    assert newest(folder, WORLD, said.append).step == 9
    assert "scaler.pt was not saved with it" in said[0]


@pytest.mark.parametrize("wanted", ["2 processes and ZeRO 2", "1 processes and ZeRO 2", "2 processes and ZeRO 0"])
def test_another_world_is_refused_where_it_cannot_be_converted(folder, wanted: str) -> None:
    with pytest.raises(FineTuneError, match="Put hardware back"):
        newest(folder, wanted, say=lambda _: None)


def test_of_zero_only_the_first_two_stages_fit_another_number_of_processes() -> None:
    assert universal.fits("2 processes and ZeRO 2", "4 processes and ZeRO 2")
    assert universal.fits("2 processes and ZeRO 1", "1 processes and ZeRO 1")
    assert not universal.fits("2 processes and ZeRO 3", "4 processes and ZeRO 3")
    assert not universal.fits("2 processes and ZeRO 1", "2 processes and ZeRO 2")


@pytest.mark.parametrize("missing", [False, True])
def test_one_whose_best_checkpoint_is_not_whole_is_passed_over(folder, missing: bool) -> None:
    newest_one = folder / "checkpoint-10"
    sign(newest_one, "float32", seconds=1.0, world=WORLD, best=8)
    if not missing:
        shutil.copytree(folder / "checkpoint-9", folder / "checkpoint-8")
        (folder / "checkpoint-8" / "optimizer.pt").write_bytes(b"cut")
    said: list[str] = []
    assert newest(folder, WORLD, said.append).step == 9
    assert "of the best checkpoint so far, that of step 8" in said[0]
    assert not newest_one.exists()


@pytest.mark.parametrize(
    ("keep", "best", "left"), [(1, None, [10]), (2, None, [9, 10]), (1, 7, [7, 10]), (3, 7, [7, 8, 9, 10])]
)
def test_the_last_ones_and_the_best_stay(folder, keep: int, best: int | None, left: list[int]) -> None:
    for step in (2, 7, 8):
        shutil.copytree(folder / "checkpoint-9", folder / f"checkpoint-{step}")
    rotate(folder / "checkpoint-10", keep, best)
    assert sorted(step_of(path) for path in folder.iterdir()) == left


class Planted:
    """Pickles to a call."""

    def __reduce__(self):
        return (print, ("loaded",))


@pytest.mark.parametrize("form", ["torch", "legacy torch", "plain pickle", "pointer out of the folder"])
def test_a_planted_deepspeed_checkpoint_is_refused(folder, form: str) -> None:
    import torch

    planted = folder / "checkpoint-11"
    (planted / "global_step11").mkdir(parents=True)
    (planted / "latest").write_text("global_step11" if form != "pointer out of the folder" else "../elsewhere")
    state = planted / "global_step11" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    if form == "plain pickle":
        state.write_bytes(pickle.dumps(Planted()))
    elif form == "pointer out of the folder":
        torch.save({"a": torch.zeros(1)}, state)
    else:
        torch.save({"a": Planted()}, state, _use_new_zipfile_serialization=form == "torch")
    sign(planted, "float32", seconds=1.0, world=WORLD)
    with pytest.raises(FineTuneError, match="is not loaded"):
        newest(folder, WORLD, say=lambda _: None)
    assert planted.exists()
