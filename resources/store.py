"""The artifact store as a Dagster resource."""

from pathlib import Path

import dagster as dg
from pydantic import PrivateAttr

from ft_assets.core.artifact import ArtifactStore


class StoreResource(dg.ConfigurableResource):
    """Where artifacts live: ``url`` is a path or fsspec URL, ``local`` a folder for staging when the url is remote."""

    url: str
    local: str
    _store: ArtifactStore | None = PrivateAttr(default=None)

    def open(self) -> ArtifactStore:
        if self._store is None:
            self._store = ArtifactStore(self.url, Path(self.local))
        return self._store
