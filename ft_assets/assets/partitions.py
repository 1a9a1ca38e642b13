"""The partition keys: ``source@batch`` for data, the recipe's name for models, ``recipe@source@batch`` for predictions."""

import dagster as dg

from ft_assets.core.errors import FineTuneError

SOURCE_BATCHES = dg.DynamicPartitionsDefinition(name="source_batch")
PREDICTIONS = dg.DynamicPartitionsDefinition(name="prediction")


def recipe_partitions(names: list[str]) -> dg.StaticPartitionsDefinition:
    return dg.StaticPartitionsDefinition(sorted(names))


def split_key(key: str) -> tuple[str, str]:
    """``source@batch`` taken apart.

    Raises:
        FineTuneError: the key has another form.
    """
    source, at, batch = key.partition("@")
    if not (source and at and batch):
        raise FineTuneError(f"partition {key!r} is not of the form source@batch")
    return source, batch
