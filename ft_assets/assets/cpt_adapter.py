"""Asset ``cpt_adapter``: continued pretraining on plain text."""

import dagster as dg

from ft_assets.assets.training import training_asset


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    return training_asset(
        "cpt_adapter",
        partitions,
        after=[],
        description="Continued pretraining on plain text, as a LoRA adapter on the base model.",
    )
