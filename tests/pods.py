"""Pods as local processes: the command of a pod and its environment, without Kubernetes."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from conftest import ROOT
from splitting import Splitter
from training import EXECUTION, LORA, PLACEMENT, School, settings

from ft_assets.core.artifact import ArtifactStore


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prepare(folder: Path, base: Path, steps: int = 20) -> "Splitter":
    """Splits and stages of a recipe with an SFT of so many steps, in a store of their own."""
    splitter = Splitter(folder, base, settings(LORA, sft={"max_steps": steps, "num_train_epochs": 50}))
    School(splitter, {}).splits()
    return splitter


class Job:
    """An SFT in ``nodes`` pods of a rank each, with ZeRO-2, that lies where the launcher would have it."""

    def __init__(self, splitter: Splitter, name: str, nodes: int = 2, **execution: Any):
        self.splitter, self.nodes = splitter, nodes
        self.folder = splitter.folder / "runs" / name / "sft_adapter"
        self.folder.mkdir(parents=True)
        self.stage = School(splitter, {}).stages()["sft_adapter"]
        placement = PLACEMENT | {"processes": nodes, "micro_batch": 2 // nodes, "zero_stage": 2}
        self.request = {
            **self.stage.request(),
            "execution": {**EXECUTION, "placement": placement, "grace_seconds": 20.0, **execution},
            "store": {"url": str(splitter.folder / "store"), "local": str(splitter.folder / "store")},
            "progress": str(self.folder / "progress.jsonl"),
            "cache": str(
                Path("~/.cache/ft-assets").expanduser()
            ),  # what DeepSpeed compiles is there after the first time
        }
        self.path.write_text(json.dumps(self.request))
        self.port = free_port()
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def path(self) -> Path:
        return self.folder / "request.json"

    @property
    def store(self) -> ArtifactStore:
        return self.splitter.store

    def environment(self, index: int) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "FT_NODES": str(self.nodes),
            "FT_PROCESSES_PER_NODE": "1",
            "JOB_COMPLETION_INDEX": str(index),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.port),
            "FT_TERMINATION_LOG": str(self.message(index)),
        }

    def start(
        self, index: int = 0, request: str | None = None, through: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "ft_assets.worker.pod", "sft_adapter", request or str(self.path)]
        with self.log(index).open("ab") as log:
            pod = subprocess.Popen(
                [*through, *words], env=self.environment(index), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )
        self.started.append(pod)
        return pod

    def run(self, seconds: float = 240) -> list[int]:
        """All pods to their end; their exit codes."""
        pods = [self.start(index) for index in range(self.nodes)]
        return [self.wait(pod, seconds) for pod in pods]

    def wait(self, pod: subprocess.Popen[bytes], seconds: float = 240) -> int:
        try:
            return pod.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"a pod did not end\n{self.said()}") from error

    def kill(self, pod: subprocess.Popen[bytes]) -> None:
        """As the end of its node would: every process of it, at once."""
        for process in [psutil.Process(pod.pid), *psutil.Process(pod.pid).children(recursive=True)]:
            process.send_signal(signal.SIGKILL)
        pod.wait(20)

    def close(self) -> None:
        for pod in self.started:
            if pod.poll() is None:
                self.kill(pod)

    def log(self, index: int) -> Path:
        """What the pod prints."""
        return self.folder / f"pod-{index}.log"

    def message(self, index: int) -> Path:
        return self.folder / f"termination-{index}"

    def said(self) -> str:
        return "\n".join(f"pod {at}: {self.log(at).read_text()}" for at in range(self.nodes) if self.log(at).exists())

    def notes(self) -> list[dict[str, Any]]:
        path = self.folder / "progress.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def steps(self) -> list[int]:
        return [note["step"] for note in self.notes() if note.get("loss") is not None]

    def weights(self) -> bytes:
        made = self.store.open("sft_adapter", self.stage.fingerprint)
        assert made is not None, self.said()
        return made.file("adapter_model.safetensors").read_bytes()
