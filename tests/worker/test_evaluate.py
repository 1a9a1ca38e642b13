"""Results kept from an evaluation that was cut short are taken as they were written, or made again."""

from pathlib import Path

import pytest

from ft_assets.worker.evaluate import keep, kept

RESULT = {"perplexity": 3.25, "test": {"mean": 0.5, "n": 4}, "answers": {"test": [{"answer": "\u00e9 \n"}]}}


def test_what_was_kept_is_found(tmp_path: Path) -> None:
    keep(tmp_path / "sft.json", RESULT)
    assert kept(tmp_path / "sft.json") == RESULT
    assert [path.name for path in tmp_path.iterdir()] == ["sft.json"]
    assert kept(tmp_path / "policy.json") is None


@pytest.mark.parametrize("damage", ["emptied", "cut", "a score changed", "no longer text"])
def test_what_was_damaged_is_made_again(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "sft.json"
    keep(place, RESULT)
    good = place.read_bytes()
    place.write_bytes(
        {
            "emptied": b"",
            "cut": good[:-9],
            "a score changed": good.replace(b"0.5", b"0.9"),
            "no longer text": b"\xff" + good,
        }[damage]
    )
    assert kept(place) is None
