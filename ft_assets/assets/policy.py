"""Asset ``policy``: the SFT adapter, optimised on preferences (DPO or RLOO)."""

import dagster as dg

from ft_assets.assets.training import training_asset


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    return training_asset(
        "policy",
        partitions,
        after=["sft_adapter", "reward_model"],
        description="The SFT adapter optimised on preferences: DPO on the pairs, or RLOO against the reward model.",
    )
