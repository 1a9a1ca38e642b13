"""A training in two pods, through the launcher of a cluster, is the training of two processes on one machine."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from cluster import Cluster, Script
from cluster.kinds import JOB
from conftest import ROOT
from following import Site
from pods import prepare
from training import EXECUTION, PLACEMENT, School

from ft_assets.core.stage import Stage
from resources.kubernetes import launcher as kubernetes_launcher
from resources.launching import Launcher
from resources.local import LocalLauncher

GIB = 2**30
STEPS = 20
CACHE = Path("~/.cache/ft-assets").expanduser()  # what DeepSpeed compiles is there after the first time
TWO = {
    **PLACEMENT,
    **{
        "processes": 2,
        "nodes": 2,
        "micro_batch": 1,
        "zero_stage": 2,
        "gpu": "",
        "gpu_resource": "",
        "gpus_per_node": 0,
    },
    **{"node_selector": {}, "spot": False, "cpus": 1.0, "host_bytes": 4 * GIB, "node_memory_bytes": 0},
    **{"shm_bytes": GIB, "disk_bytes": GIB},
}


class Made:
    """The stage in a store of its own, below ``home``."""

    def __init__(self, home: Path, base: Path, **execution: Any):
        self.splitter = prepare(home, base, STEPS)
        self.stage: Stage = School(self.splitter, {}).stages()["sft_adapter"]
        store = str(home / "store")
        self.request = {
            **self.stage.request(),
            "store": {"url": store, "local": store},
            "execution": {**EXECUTION, "placement": TWO, "pods": {}, **execution},
        }

    def weights(self) -> bytes:
        made = self.splitter.store.open("sft_adapter", self.stage.fingerprint)
        assert made is not None
        return made.file("adapter_model.safetensors").read_bytes()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cluster whose pods are processes of this machine."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with Cluster() as cluster:
        cluster.kubelet.script = lambda pod: Script(process=True, starting_seconds=1.0)
        site = Site(tmp_path, cluster)
        monkeypatch.setattr(kubernetes_launcher, "connect", lambda *_: (site.api, site.watch))
        with cluster.running_clock():
            yield site


def materialize(launcher: Launcher, made: Made) -> None:
    """The stage as an asset, which knows no more of its launcher than this."""

    @dg.asset(name="sft_adapter")
    def adapter(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        launcher.run(context, made.request, 2, 1)
        return dg.MaterializeResult()

    assert dg.materialize([adapter]).success


@pytest.mark.slow
def test_two_pods_with_zero_2_end_in_the_same_weights_as_two_processes(here: Site, tiny_base: Path) -> None:
    pods = Made(here.folder / "home", tiny_base)
    local = Made(here.folder / "local", tiny_base, placement={**TWO, "nodes": 1})
    CACHE.mkdir(parents=True, exist_ok=True)
    on_volume = here.folder / "home" / "cache"
    on_volume.symlink_to(CACHE)
    materialize(here.launcher(cache=str(on_volume)), pods)
    [job] = here.cluster.all(JOB)
    assert [pod["status"]["phase"] for pod in here.cluster.pods_of(job["metadata"]["name"])] == ["Succeeded"] * 2
    materialize(LocalLauncher(runs=str(here.folder / "local" / "runs"), cache=str(CACHE)), local)
    assert local.stage.fingerprint == pods.stage.fingerprint
    assert local.weights() == pods.weights()
