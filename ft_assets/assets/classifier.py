"""Asset ``classifier``: the base model, an encoder or a decoder, with a head that gives a text one of a few labels."""

import dagster as dg

from ft_assets.assets.training import training_asset


def build(partitions: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    return training_asset(
        "classifier",
        partitions,
        after=["policy"],
        description="Where the recipe has a `classifier`: the base model trained to give a text its label, as one whole model.",
    )
