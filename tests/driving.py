"""Training stages driven without Dagster: the worker's own command, on requests that the made workshop left."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil
from conftest import ROOT, Workshop

from resources.processes import worker_command
from resources.worker import worker_environment

RESULT = {"reward_model": "model.safetensors"}
ADAPTER = "adapter_model.safetensors"


class Training:
    """One training stage under a fingerprint of its own, in a store that has its inputs.

    ``ranks`` share the global batch, two of them with ZeRO-2; ``training`` and ``placement`` replace fields of the recipe's stage and of its plan, ``execution`` those of the request.
    """

    def __init__(self, shop: Workshop, name: str, stage: str = "sft_adapter", **changes: Any):
        [found] = shop.home.glob(f"runs/*/{stage}/request.json")
        request = json.loads(found.read_text())
        ranks = changes.pop("ranks", 1)
        spread = {"processes": ranks, "micro_batch": 2 // ranks, "zero_stage": 0 if ranks == 1 else 2}
        self.store, self.folder, self.stage = shop.home / "store", shop.home / "driven" / name, stage
        self.folder.mkdir(parents=True)
        request["identity"]["training"] |= changes.pop("training", {})
        execution = request["execution"]
        execution["placement"] |= spread | changes.pop("placement", {})
        execution |= {"grace_seconds": 30.0, "partition": name, **changes}
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()
        here = {"url": str(self.store), "local": str(self.store)}
        request |= {"fingerprint": self.fingerprint, "store": here, "progress": str(self.folder / "progress.jsonl")}
        self.request = request
        self.environment: dict[str, str] = {}
        self.write()

    def write(self) -> None:
        (self.folder / "request.json").write_text(json.dumps(self.request))

    @property
    def ranks(self) -> int:
        return self.request["execution"]["placement"]["processes"]

    def start(self, *through: str) -> subprocess.Popen:
        """Starts the worker; ``through`` is a command that starts it in turn and waits for it."""
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                [*through, *worker_command(self.stage, self.folder / "request.json", self.ranks)],
                env={**os.environ, **worker_environment(self.ranks, 1), **self.environment},
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def run(self, code: int = 0, seconds: float = 400) -> None:
        """Runs to the end, which must be the one that is expected. (DeepSpeed compiles where it has not yet.)"""
        process = self.start()
        try:
            assert process.wait(seconds) == code, self.log()
        finally:
            process.kill()

    def log(self) -> str:
        return (self.folder / "output.log").read_text(errors="replace")

    def notes(self) -> list[dict[str, Any]]:
        """The progress file, line by line; a line that a kill has cut is left out."""
        found = []
        for line in (self.folder / "progress.jsonl").read_text().splitlines() if self.started() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def started(self) -> bool:
        return (self.folder / "progress.jsonl").is_file()

    def steps(self) -> list[int]:
        """Every step that was done, in the order in which it was done."""
        return [note["step"] for note in self.notes() if note.get("loss") is not None]

    def said(self) -> list[str]:
        return [note["note"] for note in self.notes()]

    @property
    def scratch(self) -> Path:
        return self.store / ".scratch" / self.fingerprint

    def checkpoints(self) -> list[int]:
        """Steps of the checkpoints that are signed."""
        found = self.scratch.glob("checkpoints/checkpoint-*/signature.json")
        return sorted(int(path.parent.name.removeprefix("checkpoint-")) for path in found)

    def checkpoint(self, step: int) -> Path:
        return self.scratch / "checkpoints" / f"checkpoint-{step}"

    @property
    def artifact(self) -> Path:
        return self.store / "artifacts" / self.stage / self.fingerprint

    def finished(self) -> bool:
        return (self.artifact / "manifest.json").is_file()

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.artifact / "manifest.json").read_text())

    def weights(self) -> bytes:
        return (self.artifact / RESULT.get(self.stage, ADAPTER)).read_bytes()

    def processes(self) -> list[psutil.Process]:
        """All of its processes: torchrun first, then the ranks."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            if str(self.folder / "request.json") in words and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return sorted(found, key=lambda process: "ft_assets.worker.torchrun" not in process.info["cmdline"])
