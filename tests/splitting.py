"""``tokenized_splits`` made in this process, from rows given as they are, over a store of the test's own."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from ft_assets.core.artifact import Artifact, ArtifactStore
from ft_assets.core.lineage import Inputs, model_stages, parts
from ft_assets.core.row_ids import content_id
from ft_assets.core.rows import KEPT_SCHEMAS
from ft_assets.core.stage import Stage
from ft_assets.recipes.roles import kind_of_role
from ft_assets.recipes.schema import Recipe
from ft_assets.worker import splits
from ft_assets.worker.job import Job

TRAINING = {"learning_rate": 1e-3, "global_batch_size": 2, "num_train_epochs": 1}
ADAPTER = {"method": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}
EVALUATION = {"metric": "exact_match", "few_shot": 0, "max_new_tokens": 4}


def talk(*contents: str, system: str | None = None) -> dict[str, Any]:
    """A conversation, the user first."""
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(contents)]
    return {"messages": turns}


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": prompt}], "chosen": chosen, "rejected": rejected}


def talks(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [talk(f"Question {n}?", f"Answer {n}.") for n in range(start, start + count)]


def documents(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"Document {n} is about {n * n}."} for n in range(start, start + count)]


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [pair(f"Ask {n}", f"good {n}", f"bad {n}") for n in range(start, start + count)]


TEST = {"test:t@1": talks(3, 9000)}
HALF = {"validation": 0.25, "test": 0.25}


@dataclass
class Splits:
    """A finished ``tokenized_splits``."""

    artifact: Artifact

    def part(self, role: str) -> dict[str, Any]:
        return self.artifact.manifest.metrics["parts"][role]

    def rows(self, role: str, part: str = "train") -> list[dict[str, Any]]:
        found = []
        for file in self.artifact.below(f"{role}_{part}"):
            with pa.memory_map(str(file)) as source:
                found += pa.ipc.open_stream(source).read_all().to_pylist()
        return found

    def ids(self, role: str, part: str = "train") -> list[str]:
        return [row["row_id"] for row in self.rows(role, part)]

    @property
    def dropped(self) -> pl.DataFrame:
        return pl.read_parquet(self.artifact.file("dropped.parquet"))

    def reasons(self) -> list[str]:
        return self.dropped["reason"].to_list()

    def accounts_for(self, role: str) -> bool:
        part = self.part(role)
        listed = dict(self.dropped.filter(pl.col("role") == role)["reason"].value_counts().iter_rows())
        return part["rows_in"] == part["rows_kept"] + sum(part["dropped"].values()) and listed == part["dropped"]


@dataclass
class Splitter:
    """Makes splits of batches, given as ``{"role:source@batch": rows}``, in one store.

    ``settings`` stand in place of the recipe's own: another adapter, more stages.
    """

    folder: Path
    base: Path
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None  # that of the stages asked for last
    published: tuple[tuple[str, str], ...] = ()

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(str(self.folder / "store"))

    def make(self, batches: dict[str, list[dict[str, Any]]], **data: Any) -> Splits:
        job = self.ready(batches, **data)
        splits.run(job)
        found = self.store.open("tokenized_splits", job.fingerprint)
        assert found is not None
        return Splits(found)

    def ready(self, batches: dict[str, list[dict[str, Any]]], **data: Any) -> Job:
        """The job of the splits of some batches, with all that it reads."""
        stages = self.stages(batches, **data)
        stage = stages["tokenized_splits"]
        if self.store.lookup("base_model", "base") is None:
            with self.store.write("base_model", "base", code_version="1", identity={}, upstream={}) as staging:
                staging.metrics = {"content_hash": "content"}
                for path in self.base.iterdir():
                    staging.file(path.name).write_bytes(path.read_bytes())
        for name, rows in batches.items():
            kind = kind_of_role(name.partition(":")[0], bool(self.settings.get("classifier")))
            self._write_rows(stage.upstream[name][1], kind, rows)
        return self.job(stage, {"parts": parts(stages, "tokenized_splits")})

    def stages(self, batches: dict[str, list[dict[str, Any]]], **data: Any) -> dict[str, Stage]:
        sources: dict[str, list[str]] = {}
        validated: dict[str, dict[str, str]] = {}
        for name, rows in batches.items():
            role, _, key = name.partition(":")
            sources.setdefault(role, []).append(key.partition("@")[0])
            validated.setdefault(role, {})[key] = content_id({"rows": rows, "role": role})
        settings = {"max_length": 192, "overlong": "error", "split": {"validation": 0.0, "test": 0.0}, "test": ["t"]}
        recipe = Recipe.model_validate(
            {
                "name": "r",
                "base_model": "b",
                "seed": data.pop("seed", 5),
                "data": settings | {role: sorted(set(names)) for role, names in sources.items()} | data,
                "adapter": ADAPTER,
                "sft": TRAINING if "sft" in sources else None,
                "cpt": TRAINING if "cpt" in sources else None,
                "policy": {**TRAINING, "method": "dpo", "beta": 0.1} if "preference" in sources else None,
                "evaluation": EVALUATION,
                "publish": {"to": "p"},
                **self.settings,
            }
        )
        self.recipe = recipe
        return model_stages(recipe, Inputs(validated, "base", "content", self.published))

    def _write_rows(self, fingerprint: str, kind: str, rows: list[dict[str, Any]]) -> None:
        if self.store.lookup("validated_dataset", fingerprint) is not None:
            return
        placed = [
            {"row_id": content_id(row), "file": "rows.jsonl", "position": at + 1, **row} for at, row in enumerate(rows)
        ]
        with self.store.write("validated_dataset", fingerprint, code_version="1", identity={}, upstream={}) as staging:
            pl.DataFrame(placed, schema=KEPT_SCHEMAS[kind]).write_parquet(staging.file("rows.parquet"))
            staging.metrics = {"rows_kept": len(rows)}

    def job(self, stage: Stage, execution: dict[str, Any]) -> Job:
        return Job.of(self.request(stage.request(), execution))

    def request(self, asked: dict[str, Any], execution: dict[str, Any]) -> dict[str, Any]:
        """What a worker reads."""
        store = {"url": str(self.folder / "store"), "local": str(self.folder / "store")}
        places = {"store": store, "progress": str(self.folder / "progress.jsonl"), "cache": str(self.folder / "cache")}
        found: dict[str, Any] = json.loads(json.dumps({**asked, "execution": execution, **places}))
        return found

    def progress(self) -> list[str]:
        return [json.loads(line)["note"] for line in (self.folder / "progress.jsonl").read_text().splitlines()]

    def made(self, stage: str) -> dict[str, float]:
        """When each artifact of a stage was made, by fingerprint."""
        folder = self.folder / "store" / "artifacts" / stage
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return {each.name: json.loads((each / "manifest.json").read_text())["created_at"] for each in found}
