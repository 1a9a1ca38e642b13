"""Training stages run in this process on the tiny model, over splits of the test's own."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from classifying import EVALUATION as OF_LABELS
from classifying import tickets
from splitting import TEST, TRAINING, Splits, Splitter, documents, pairs, talks

from ft_assets.core.artifact import Artifact
from ft_assets.core.stage import Stage
from ft_assets.recipes.schema import Hardware
from ft_assets.worker import train

LORA = {"method": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}
BATCHES = {
    "cpt:c@1": documents(80),
    "sft:s@1": talks(80),
    "preference:p@1": pairs(80, 100),
    **TEST,
}
LABELLED = {"classification:l@1": tickets(140), "test:t@1": tickets(21, 9000)}
STEPS = 20
GOLDEN = Path(__file__).parent / "golden" / "runs.json"
PLACEMENT = {
    "processes": 1,
    "micro_batch": 2,
    "gradient_accumulation_steps": 1,
    "zero_stage": 0,
    "offload_optimizer": "none",
    "offload_param": "none",
    "activation_checkpointing": False,
}
EXECUTION = {
    "partition": "r",
    "device": "cpu",
    "dtype": "float32",
    "deepspeed": {},
    "torch_compile": False,
    "use_liger_kernel": "auto",
    "full_determinism": False,
    "tracker": {"mode": "disabled"},
    "memory_gib": 8.0,
    **Hardware(checkpoint_every_steps=1000).checkpoints(),
}


def settings(adapter: dict[str, Any] = LORA, **stages: Any) -> dict[str, Any]:
    """A recipe's stages, each of :data:`STEPS` steps, with no other stage than those given."""
    given = {name: {**TRAINING, "max_steps": STEPS, **more} for name, more in stages.items()}
    measures = {"evaluation": OF_LABELS} if "classifier" in stages else {}
    return {"adapter": adapter, "cpt": None, "sft": None, "reward": None, "policy": None, **given, **measures}


@dataclass
class School:
    """Trains the stages of one recipe after another, in one store."""

    splitter: Splitter
    data: dict[str, Any]
    batches: dict[str, list[dict[str, Any]]] | None = None

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        return self.batches or (LABELLED if self.splitter.settings.get("classifier") else BATCHES)

    def stages(self) -> dict[str, Stage]:
        return self.splitter.stages(self.rows(), **self.data)

    def splits(self) -> Splits:
        return self.splitter.make(self.rows(), **self.data)

    def train(self, name: str, **execution: Any) -> Artifact:
        """The artifact of a stage, made now with those it stands on, where they are not there yet, all run alike."""
        stages = self.stages()
        if self.splitter.store.lookup("tokenized_splits", stages["tokenized_splits"].fingerprint) is None:
            self.splits()
        for before in ("cpt_adapter", "sft_adapter", "reward_model"):
            own = stages[before]
            wanted = own.fingerprint in [entry[1] for entry in stages[name].upstream.values()]
            if wanted and not own.passes and self.splitter.store.lookup(before, own.fingerprint) is None:
                self.train(before, **execution)
        stage = stages[name]
        placement = PLACEMENT | execution.pop("placement", {})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", tempfile.tempdir)
            train.run(self.splitter.job(stage, {**EXECUTION, "placement": placement, **execution}))
        found = self.splitter.store.open(name, stage.fingerprint)
        assert found is not None
        return found


def losses(artifact: Artifact) -> list[float]:
    return [entry["loss"] for entry in artifact.json("history.json") if "loss" in entry]


def recorded(name: str) -> dict[str, list[float]]:
    """Loss and gradient norm of each step of a run of ``test_methods``, as they were recorded."""
    return json.loads(GOLDEN.read_text())["runs"][name]
