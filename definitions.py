"""What Dagster loads: assets, checks, jobs, sensors and resources for this environment. Imports no torch."""

import dagster as dg

from ft_assets.assets import (
    base_model,
    classifier,
    cpt_adapter,
    eval_report,
    gating,
    merged_model,
    policy,
    published_model,
    quantized_model,
    reward_model,
    sft_adapter,
    sft_sweep,
    tokenized_splits,
    training_plan,
)
from ft_assets.assets.batch_predictions import batch_predictions
from ft_assets.assets.partitions import PREDICTIONS, SOURCE_BATCHES, recipe_partitions
from ft_assets.assets.raw_corpus import raw_corpus
from ft_assets.assets.validated_dataset import validated_dataset
from ft_assets.automation import new_data_sensor, prediction_sensor, retrain_sensor
from ft_assets.recipes.load import Catalog
from resources.environment import Settings, catalog, settings
from resources.injected import resources

MODEL_MODULES = (
    base_model,
    tokenized_splits,
    training_plan,
    cpt_adapter,
    sft_sweep,
    sft_adapter,
    reward_model,
    policy,
    classifier,
    merged_model,
    quantized_model,
    eval_report,
    published_model,
)


def build(found: Settings, known: Catalog) -> dg.Definitions:
    """The definitions for these settings; every recipe of the catalog is a partition of the model assets."""
    recipes = recipe_partitions(list(known.recipes))
    data_assets = [raw_corpus, validated_dataset]
    more = {eval_report: {"conditions": gating.conditions(known)}}
    model_assets = [module.build(recipes, **more.get(module, {})) for module in MODEL_MODULES]
    status = dg.DefaultSensorStatus.RUNNING if found.sensors_run else dg.DefaultSensorStatus.STOPPED
    return dg.Definitions(
        assets=[*data_assets, *model_assets, batch_predictions],
        jobs=[
            dg.define_asset_job(
                "ingest",
                data_assets,
                partitions_def=SOURCE_BATCHES,
                description="One batch of a source: copied, validated, its bad rows quarantined.",
            ),
            dg.define_asset_job(
                "fine_tune",
                model_assets,
                partitions_def=recipes,
                description="Everything from the base model to the published model of one recipe.",
            ),
            dg.define_asset_job(
                "predict",
                [batch_predictions],
                partitions_def=PREDICTIONS,
                description="A model's answers to one batch of a source.",
            ),
        ],
        sensors=[
            new_data_sensor.build(found.sensor_seconds, status),
            prediction_sensor.build(found.sensor_seconds, status),
            retrain_sensor.build(list(known.recipes), found.sensor_seconds, status),
        ],
        resources=resources(found),
        executor=dg.in_process_executor,
    )


_settings = settings()
defs = build(_settings, catalog(_settings))
