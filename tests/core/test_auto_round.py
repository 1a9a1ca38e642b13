"""Which group of weights shares a scale follows from the model's widths, and one that has none is refused before training."""

import pytest

from ft_assets.core.auto_round import group_size
from ft_assets.core.errors import FineTuneError
from ft_assets.core.shape import Shape


def shape(*widths: int):
    return Shape(1_000, widths[0], 1, 300, {f"layers.0.w{width}": (7, width) for width in widths})


@pytest.mark.parametrize(("widths", "size"), [((4096, 14336), 128), ((576, 1536), 64), ((96, 32), 32)])
def test_the_largest_group_that_fits_every_width(widths: tuple[int, ...], size: int) -> None:
    assert group_size(shape(*widths)) == size


def test_a_width_that_no_group_fits_is_named() -> None:
    with pytest.raises(
        FineTuneError, match=r"layers\.0\.w100 takes 100 numbers, no multiple of 32; leave auto_round out"
    ):
        group_size(shape(64, 100))
