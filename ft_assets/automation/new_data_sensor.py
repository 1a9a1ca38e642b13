"""Sensor ``new_data_sensor``: a new or changed batch becomes a partition and one run of job ``ingest``."""

import hashlib
from collections.abc import Mapping
from functools import partial

import dagster as dg

from ft_assets.assets.partitions import SOURCE_BATCHES
from ft_assets.automation.looking import Looks
from ft_assets.automation.runs import request
from ft_assets.core.artifact import ArtifactStore
from ft_assets.core.batches import RAW, withdraw_gone
from ft_assets.core.watching import Look, Seen, look, read_cursor, whole, write_cursor
from resources.catalog import CatalogResource
from resources.store import StoreResource

WAIT_SECONDS = 20.0  # a tick may take 60 s; Dagster then ends it
MOST_RUNS_PER_TICK = 100
SIGNATURE_TAG = "ft/signature"


def build(seconds: int, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    looks = Looks(WAIT_SECONDS)

    @dg.sensor(
        job_name="ingest",
        minimum_interval_seconds=seconds,
        default_status=status,
        description="Looks at every source and asks for the ingestion of each batch that is new or has changed, once it "
        "is whole: unchanged between two looks, or marked by _SUCCESS.",
    )
    def new_data_sensor(
        context: dg.SensorEvaluationContext, catalog: CatalogResource, store: StoreResource
    ) -> dg.SensorResult:
        known, artifacts = catalog.load(), store.open()
        before = read_cursor(context.cursor)
        seen = {name: entry for name, entry in before.items() if name in known.sources}
        found, faults = looks.take(sorted(known.sources), partial(look, known))
        faults += [str(problem) for problems in known.source_faults.values() for problem in problems]
        requests: list[dg.RunRequest] = []
        keys: list[str] = []
        gone: list[str] = []
        waiting: list[str] = []
        for name, now in found.items():
            faults += now.faults
            if not now.faults:
                gone += withdraw_gone(known, artifacts, name, now.batches)
            due, after = whole(seen.get(name, Seen()), now, MOST_RUNS_PER_TICK - len(requests))
            seen[name] = remembered(seen.get(name, Seen()), after, now)
            keys += due
            requests += requests_for(due, now, artifacts)
            waiting += [name] if after.pending else []
        for line in [*faults, *(f"{key} failed and its files are gone: it no longer counts" for key in gone)]:
            context.log.warning(line)
        present = set(context.instance.get_dynamic_partitions("source_batch"))
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason(summary(faults, waiting)),
            dynamic_partitions_requests=[
                SOURCE_BATCHES.build_add_request(sorted(set(keys) - present)),
                SOURCE_BATCHES.build_delete_request(sorted(set(gone) & present)),
            ],
            cursor=write_cursor(seen),
        )

    return new_data_sensor


def remembered(before: Seen, after: Seen, now: Look) -> Seen:
    """Nothing that was asked for is forgotten while a part of the source cannot be read."""
    return Seen(after.pending, after.asked | before.asked) if now.faults else after


def requests_for(due: list[str], now: Look, store: ArtifactStore) -> list[dg.RunRequest]:
    """A run for each batch whose files as they are now have not been ingested yet, by this sensor or by hand.

    The run key names the files and the version they replace: Dagster starts one run for it, however often it is asked,
    and a version that comes back after another is ingested again.
    """
    requests = []
    for key in due:
        signature = now.batches[key].signature
        ref: Mapping[str, str] = store.get_ref(RAW, key) or {}
        if ref.get("signature") == signature:
            continue
        digest = hashlib.sha256(f"{signature} {ref.get('fingerprint', '')}".encode()).hexdigest()[:16]
        requests.append(request(key, digest, {SIGNATURE_TAG: signature}))
    return requests


def summary(faults: list[str], waiting: list[str]) -> str:
    """Why a tick asked for nothing."""
    lines = [f"Not yet whole, looked at again next time: {', '.join(waiting)}."] if waiting else []
    return "\n".join([*faults, *lines]) or "No new data."
