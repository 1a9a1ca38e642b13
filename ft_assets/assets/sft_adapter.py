"""Asset ``sft_adapter``: supervised fine-tuning, continuing the adapter before it."""

import dagster as dg

from ft_assets.assets.training import training_asset


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    return training_asset(
        "sft_adapter",
        partitions,
        after=["cpt_adapter"],
        description="Supervised fine-tuning on instruction rows; continues the adapter of continued pretraining.",
    )
