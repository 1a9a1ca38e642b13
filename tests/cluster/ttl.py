"""The TTL controller: finished Jobs go after their ``ttlSecondsAfterFinished``."""

from cluster.api import Api
from cluster.conditions import condition, is_true
from cluster.kinds import JOB, Object
from cluster.store import Change, Store, key_of


class TtlController:
    """Deletes finished Jobs after their ``ttlSecondsAfterFinished``."""

    def __init__(self, store: Store, api: Api) -> None:
        self._store, self._api = store, api

    def changed(self, change: Change) -> None:
        job = change.object
        if change.kind is not JOB or change.type == "DELETED" or job["spec"].get("ttlSecondsAfterFinished") is None:
            return
        ended = next(
            (c for c in (condition(job, "Complete"), condition(job, "Failed")) if c and c["status"] == "True"), None
        )
        if ended is None or (
            change.before and (is_true(change.before, "Complete") or is_true(change.before, "Failed"))
        ):
            return
        self._store.clock.after(job["spec"]["ttlSecondsAfterFinished"], lambda: self._delete(job))

    def _delete(self, job: Object) -> None:
        present = self._store.get(JOB, *key_of(job))
        if present is not None and present["metadata"]["uid"] == job["metadata"]["uid"]:
            self._api.remove(JOB, present, "Foreground")
