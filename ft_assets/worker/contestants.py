"""The models that answer, loaded one after another, and the memory they take."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ft_assets.core.artifact import Artifact
from ft_assets.core.shape import weights_bytes
from ft_assets.worker.job import Job
from ft_assets.worker.models import is_adapter, load_form, load_trained, without_peft
from ft_assets.worker.speed import peak_memory_bytes, resident_bytes
from ft_assets.worker.tokenizer import load_tokenizer

FORGET_PEAK = Path("/proc/self/clear_refs")  # with "5" (Linux): the most resident memory is counted from now on


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer; ``size_bytes`` of its weights on disk, an adapter with its base, and ``resident_before``, the
    memory of this process before it was loaded.
    """

    model: Any
    tokenizer: Any
    size_bytes: int
    resident_before: int


class Contestants:
    """Loads models for jobs of stages ``answers`` and ``memorized``. The last one stays: the untrained model answers several
    times.
    """

    def __init__(self, device: str, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self._key: Any = None
        self._loaded: Loaded | None = None

    def of(self, job: Job) -> Loaded:
        """The model of a job's upstream artifacts ``model`` and ``base_model``."""
        key = (job.upstream.get("model"), job.upstream.get("base_model"), job.identity.get("form"))
        if self._loaded is None or key != self._key:
            self._loaded = None  # the one before makes room
            before = resident_bytes()
            model, folder, size = self._load(job)
            self._loaded = Loaded(model.to(self.device).eval(), load_tokenizer(folder), size, before)
            self._key = key
        return self._loaded

    def _load(self, job: Job) -> tuple[Any, Path, int]:
        """A model, the folder of its tokenizer, and its size in bytes."""
        base = job.input("base_model") if job.has("base_model") else None
        trained = job.input("model") if job.has("model") else None
        if trained is None or is_adapter(trained):
            assert base is not None, "an adapter has its base model upstream"
            size = weights_bytes(base.folder) + (weights_bytes(trained.folder) if trained else 0)
            return without_peft(load_trained(base, trained, self.dtype)), base.folder, size
        folder = whole_model(trained, job.identity.get("form"))
        return load_form(folder, self.dtype), folder, weights_bytes(folder)


def whole_model(trained: Artifact, form: str | None) -> Path:
    """The folder of a model that needs no other: that of its quantized ``form``, where it has such."""
    return trained.folder if form is None else trained.folder / form


class Peak:
    """The most memory above what the process held before a model was loaded, from here on."""

    def __init__(self, device: str, resident_before: int):
        self.device, self.before = device, resident_before
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif os.access(FORGET_PEAK, os.W_OK):
            FORGET_PEAK.write_text("5")

    @property
    def bytes(self) -> int:
        if self.device == "cuda":
            return peak_memory_bytes(self.device)
        return max(0, _most_resident() - self.before)


def _most_resident() -> int:
    status = Path("/proc/self/status")
    if not status.is_file():
        return peak_memory_bytes("cpu")
    [kib] = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(kib) * 1024
