"""Asset ``reward_model``: a scorer of answers, trained on preference pairs."""

import dagster as dg

from ft_assets.assets.training import training_asset


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    return training_asset(
        "reward_model",
        partitions,
        after=["sft_adapter"],
        description="A model that scores answers, trained on preference pairs from the SFT model.",
    )
