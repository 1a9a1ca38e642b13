"""Workers in pods of a Kubernetes cluster, behind the same resource as those on this machine."""

from functools import cache, partial
from os.path import normpath
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from ft_assets.core.errors import FineTuneError
from resources.kubernetes.client import Api
from resources.kubernetes.cluster import load_cluster
from resources.kubernetes.following import Bounds, Materialization
from resources.kubernetes.watch import Watch
from resources.kubernetes.workload import workload
from resources.launching import Launcher


class KubernetesLauncher(Launcher):
    """One Job for each stage, in the namespace and with the settings of the file ``pods`` (FT_PODS).

    A run that is started again takes up the Job that runs for it, or for the same fingerprint. A Job that waits for an image
    longer than ``image_seconds``, or for anything else before its start longer than ``start_seconds``, is deleted with the
    reason; how long it may wait to be scheduled is the recipe's or the deployment's ``pending_seconds``.
    """

    pods: str
    kubeconfig: str = ""
    image_seconds: float = Field(default=1800.0, gt=0)
    start_seconds: float = Field(default=900.0, gt=0)

    def run(
        self, context: dg.AssetExecutionContext, request: dict[str, Any], processes: int | None, threads: int | None
    ) -> Path:
        cluster = load_cluster(Path(self.pods))
        self._check_places(request["store"], cluster.mount)
        folder, request = self.write_request(context.run_id, request)
        make = partial(
            workload,
            request,
            cluster,
            run_id=context.run_id,
            asset=context.asset_key.path[-1],
            processes=processes,
            threads=threads,
            request_path=str(folder / "request.json"),
            grace_seconds=self.grace_seconds,
        )
        api, watch = connect(cluster.namespace, self.kubeconfig)
        settings = make(attempt=0).settings
        bounds = Bounds(
            pending=float(settings.pending_seconds or 0),
            image=self.image_seconds,
            start=self.start_seconds,
            queue=float(settings.active_deadline_seconds or 0),
            silent=self.silent_seconds,
            grace=self.grace_seconds,
        )
        return Materialization(api, watch, context, make, request, folder, bounds).run()

    def _check_places(self, store: dict[str, str], mount: str) -> None:
        """Refuses what would be found missing in a pod, or be written to its own disk and lost, after hours of training."""
        url = store["url"].removeprefix("file://")
        places = [("FT_HOME", self.runs), ("FT_CACHE", self.cache)]
        places.append(("FT_HOME", store["local"]) if "://" in url else ("FT_STORE", url))
        for variable, place in places:
            if not Path(normpath(place)).is_relative_to(mount):
                bucket = ", or the URL of a bucket" if variable == "FT_STORE" else ""
                raise FineTuneError(
                    f"{variable}: {place} is not on the volume that pods see; it must be {mount} (`mount` in {self.pods}) or "
                    f"a folder in it{bucket}"
                )


@cache
def connect(namespace: str, kubeconfig: str) -> tuple[Api, Watch]:
    """This process's connection to a namespace, and its one watch."""
    api = Api(namespace, kubeconfig)
    return api, Watch(api)
