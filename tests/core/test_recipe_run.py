"""What a worker is told of its placement."""

import pytest

from ft_assets.core.recipe_run import placed


@pytest.mark.parametrize(("gpu", "device"), [("h100", {"device": "cuda"}), ("", {})])
def test_what_is_planned_for_gpus_trains_on_nothing_else_and_pays_their_price(gpu, device):
    chosen = {"gpu": gpu, "memory_gib": 80.0, "usd_per_hour": 24.8}
    assert placed(chosen) == {"placement": chosen, "memory_gib": 80.0, "usd_per_hour": 24.8, **device}
