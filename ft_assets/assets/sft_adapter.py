"""Asset ``sft_adapter``: supervised fine-tuning, continuing the adapter before it."""

import dagster as dg

from ft_assets.assets.training import training_asset


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    return training_asset(
        "sft_adapter",
        partitions,
        after=["cpt_adapter", "sft_sweep"],
        description="Supervised fine-tuning on instruction rows; continues the adapter of continued pretraining, with the "
        "settings of the sweep's best trial where the recipe has a sweep.",
    )
