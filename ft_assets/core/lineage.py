"""The graph as pure data: each stage of a recipe with its identity, its inputs and so its fingerprint.

Nothing here reads a disk: what the world contributes (the hashes of raw files and of the base model) comes in as
arguments. Fingerprints follow inputs, so a change re-makes exactly what depends on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ft_assets.core.auto_round import FORM as AUTO_ROUND
from ft_assets.core.contestants import answer_stages
from ft_assets.core.stage import Entry, Stage, make_stage
from ft_assets.recipes.evaluation import candidate
from ft_assets.recipes.roles import HELD_OUT_ROLES, SOURCE_ROLES, TRAINING_ROLES, precedence
from ft_assets.recipes.schema import Recipe, Source
from ft_assets.recipes.training import Training

DATA_ASSETS = ("raw_corpus", "validated_dataset")
MODEL_ASSETS = (
    "base_model",
    "tokenized_splits",
    "training_plan",
    "cpt_adapter",
    "sft_sweep",
    "sft_adapter",
    "reward_model",
    "policy",
    "classifier",
    "merged_model",
    "quantized_model",
    "eval_report",
    "published_model",
)
# What a worker makes on the way to an artifact, by the first word of its key.
ON_THE_WAY = {
    "tokenized_splits": ("prepared", "overlap", "judged", "questions"),
    "evaluation": ("questions", "answers", "memorized", "rewarded", "lm_eval"),
}
BEST_TRIAL = "of the sweep's best trial"
# What of ``data`` decides how a batch of a role is tokenized; text is cut into blocks after it is joined.
PREPARED_BY = {
    "cpt": {"near_duplicates"},
    "sft": {"max_length", "overlong", "loss_on", "near_duplicates"},
    "preference": {"max_length", "overlong", "near_duplicates"},
    "prompt": {"max_length", "overlong", "near_duplicates"},
    "classification": {"max_length", "overlong", "near_duplicates"},
}


def raw_stage(source_name: str, source: Source, files: Mapping[str, str]) -> Stage:
    """``files``: sha-256 of each file of the batch by its path inside the batch."""
    return make_stage("raw_corpus", {"source": source_name, "kind": source.kind, "files": dict(files)}, {})


def validated_stage(source: Source, raw_fingerprint: str) -> Stage:
    return make_stage(
        "validated_dataset", {"source": source.identity()}, {"raw_corpus": ("raw_corpus", raw_fingerprint)}
    )


def base_stage(identity: dict[str, Any]) -> Stage:
    return make_stage("base_model", identity, {})


@dataclass(frozen=True)
class Inputs:
    """What a recipe's model stages stand on.

    ``validated``: fingerprint by role and ``source@batch``; ``base``: the base model's artifact and the hash of its
    weights and tokenizer; ``published``: (made by, fingerprint) of merged models that were published, the champion first;
    ``overrides``: who let a candidate through its gate and why, by the fingerprint that its eval_report had without it.
    """

    validated: dict[str, dict[str, str]]
    base_fingerprint: str
    base_content: str
    published: tuple[Entry, ...] = ()
    overrides: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def model_stages(recipe: Recipe, inputs: Inputs) -> dict[str, Stage]:
    """Every model asset's stage of a recipe, and those behind them: ``evaluation`` of ``eval_report``, and what is made on the
    way (:data:`ON_THE_WAY`).
    """
    adding = _Adding(recipe, inputs)
    adding.data()
    adding.training()
    adding.forms()
    adding.stages |= answer_stages(recipe, adding.made, inputs.published, inputs.base_content)
    adding.evaluation()
    adding.report_and_release()
    return adding.stages


class _Adding:
    """The stages of a recipe, each added after those it stands on."""

    def __init__(self, recipe: Recipe, inputs: Inputs):
        self.recipe, self.inputs = recipe, inputs
        self.base = ("base_model", inputs.base_fingerprint)
        self.stages = {"base_model": Stage("base_model", {}, {}, inputs.base_fingerprint)}

    def add(self, name: str, identity: dict[str, Any], **upstream: Entry) -> Stage:
        if "base_model" in upstream:
            identity = {**identity, "base_content": self.inputs.base_content}
        self.stages[name] = make_stage(name, identity, upstream)
        return self.stages[name]

    def pass_through(self, name: str, parent: str) -> None:
        entry = self.made(parent)
        self.stages[name] = Stage(name, {}, {"parent": entry}, entry[1], passes=entry[0])

    def made(self, name: str) -> Entry:
        return self.stages[name].made_by, self.stages[name].fingerprint

    def data(self) -> None:
        """Up to ``training_plan``."""
        recipe, inputs = self.recipe, self.inputs
        validated = {
            f"{role}:{key}": ("validated_dataset", digest)
            for role, batches in inputs.validated.items()
            for key, digest in sorted(batches.items(), key=lambda entry: precedence(entry[0]))
        }
        self.stages |= _batch_stages(recipe, inputs, self.base, validated)
        data = recipe.data.model_dump(exclude={*SOURCE_ROLES, "triggers"})
        data["epochs"] = {source: times for source, times in data["epochs"].items() if times != 1}
        held_out = {name: entry for name, entry in validated.items() if name.partition(":")[0] in HELD_OUT_ROLES}
        self.stages["questions"] = make_stage("questions", {}, held_out)
        of_batches = {name: stage.fingerprint for name, stage in on_the_way(self.stages, "tokenized_splits").items()}
        identity = {"data": data, "seed": recipe.seed, "batches": of_batches}
        splits = self.add("tokenized_splits", identity, base_model=self.base, **validated)
        self.stages["training_plan"] = make_stage(
            "training_plan",
            {"recipe": _planned(recipe)},
            {"base_model": self.base, "tokenized_splits": (splits.name, splits.fingerprint)},
        )

    def training(self) -> None:
        """Every stage that trains, each on what the one before it made."""
        self._trained("cpt_adapter", self.recipe.cpt, "base_model")
        self._sft()
        self._trained("reward_model", self.recipe.reward, "sft_adapter")
        policy = self.recipe.policy
        rewarding = {"reward_model": self.made("reward_model")} if policy and policy.online else {}
        self._trained("policy", policy, "sft_adapter", {"rows": self.recipe.policy_role}, rewarding)
        self._trained("classifier", self.recipe.classifier, "policy", continues=False)

    def _trained(
        self,
        name: str,
        training: Training | None,
        parent: str,
        more: Mapping[str, Any] | None = None,
        beside: Mapping[str, Entry] | None = None,
        continues: bool = True,
    ) -> None:
        """A stage that goes on from its parent's adapter, if it ``continues``; its parent's artifact where it is left out."""
        if training is None:
            self.pass_through(name, parent)
            return
        settings = {**self._common(), "training": training.model_dump(), **(more or {})}
        self.add(name, settings, **self._trains_on(parent if continues else "base_model"), **(beside or {}))

    def _common(self) -> dict[str, Any]:
        recipe = self.recipe
        return {"seed": recipe.seed, "adapter": recipe.adapter.model_dump(), "max_length": recipe.data.max_length}

    def _trains_on(self, parent: str) -> dict[str, Entry]:
        return {"base_model": self.base, "tokenized_splits": self.made("tokenized_splits"), **self._adapter(parent)}

    def _adapter(self, parent: str) -> dict[str, Entry]:
        """The adapter a stage continues; none where its parent is the base model itself."""
        entry = self.made(parent)
        return {} if entry[0] == "base_model" else {"adapter": entry}

    def _sft(self) -> None:
        """``sft_sweep`` and ``sft_adapter``. The settings of an adapter that a sweep decides are known when the sweep is made;
        its fingerprint is known before, as it names the sweep in their place.
        """
        recipe, common = self.recipe, self._common()
        if recipe.sft is None or recipe.hyperparameters is None:
            self.pass_through("sft_sweep", "cpt_adapter")
            self._trained("sft_adapter", recipe.sft, "cpt_adapter")
            return
        upstream = self._trains_on("cpt_adapter")
        tried = {"training": recipe.sft.model_dump(), "sweep": recipe.hyperparameters.model_dump()}
        sweep = self.add("sft_sweep", {**common, **tried}, **upstream)
        chosen = {**common, "adapter": BEST_TRIAL, "training": BEST_TRIAL}
        self.add("sft_adapter", chosen, **upstream, sft_sweep=("sft_sweep", sweep.fingerprint))

    def forms(self) -> None:
        """What is made of the trained model: merged, and quantized."""
        recipe = self.recipe
        if recipe.merges:
            self.add("merged_model", {}, base_model=self.base, **self._adapter("policy"))
        else:
            self.pass_through("merged_model", "classifier")
        if recipe.quantize:
            learned = {"tokenized_splits": self.made("tokenized_splits")} if AUTO_ROUND in recipe.quantize else {}
            settings = {"formats": sorted(recipe.quantize), **({"seed": recipe.seed} if learned else {})}
            self.add("quantized_model", settings, merged_model=self.made("merged_model"), **learned)
        else:
            self.pass_through("quantized_model", "merged_model")

    def _of(self, wanted: Mapping[str, Any]) -> dict[str, Entry]:
        """Those stages that the recipe wants."""
        return {name: self.made(name) for name, setting in wanted.items() if setting}

    def evaluation(self) -> None:
        recipe = self.recipe
        on_way = {name: stage.fingerprint for name, stage in on_the_way(self.stages, "evaluation").items()}
        upstream = {
            "base_model": True,
            "tokenized_splits": True,
            "merged_model": True,
            "cpt_adapter": recipe.cpt,
            "sft_adapter": recipe.sft,
            "policy": recipe.policy,
            "classifier": recipe.classifier,
            "quantized_model": recipe.quantize,
            "reward_model": recipe.reward,
        }
        identity = {
            "evaluation": recipe.evaluation.model_dump(exclude_none=True),
            "seed": recipe.seed,
            "candidate": candidate(recipe),
            "parts": on_way,
        }
        self.add("evaluation", identity, **self._of(upstream))

    def report_and_release(self) -> None:
        """``eval_report`` and ``published_model``. An override is part of both; it is known by the report's fingerprint
        without it.
        """
        recipe = self.recipe
        upstream = {
            "evaluation": True,
            "tokenized_splits": True,
            "base_model": True,
            "merged_model": True,
            "cpt_adapter": recipe.cpt,
            "sft_sweep": recipe.hyperparameters,
            "sft_adapter": recipe.sft,
            "reward_model": recipe.reward,
            "policy": recipe.policy,
            "classifier": recipe.classifier,
            "quantized_model": recipe.quantize,
        }
        judged = {"recipe": recipe.name, **({"gate": recipe.gate} if recipe.gate else {})}
        report = self.add("eval_report", judged, **self._of(upstream))
        override = {"override": found} if (found := self.inputs.overrides.get(report.fingerprint)) else {}
        if override:
            self.add("eval_report", {**judged, **override}, **self._of(upstream))
        licence = {"license": recipe.publish.license} if recipe.publish.license else {}
        released = {"eval_report": True, "merged_model": True, "policy": True, "quantized_model": recipe.quantize}
        self.add("published_model", {"to": recipe.publish.to, **licence, **override}, **self._of(released))


def on_the_way(stages: Mapping[str, Stage], name: str) -> dict[str, Stage]:
    """The stages whose artifacts a worker makes on the way to that of stage ``name``."""
    kinds = ON_THE_WAY.get(name, ())
    return {key: stage for key, stage in stages.items() if key.partition(":")[0] in kinds}


def parts(stages: Mapping[str, Stage], name: str) -> dict[str, dict[str, Any]]:
    """What the worker of stage ``name`` is told of them, as ``execution["parts"]``."""
    return {key: stage.request() for key, stage in on_the_way(stages, name).items()}


def _planned(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the plan depends on it; what only a classifier has is no part of a recipe without one."""
    left_out: dict[str, Any] = dict.fromkeys(("description", "gate", "publish", "retrain", "predictions"), True)
    if recipe.classifier is None:
        left_out |= {"classifier": True, "data": {"classification": True}}
    return recipe.model_dump(mode="json", exclude=left_out)


def _batch_stages(recipe: Recipe, inputs: Inputs, base: Entry, validated: Mapping[str, Entry]) -> dict[str, Stage]:
    """What ``tokenized_splits`` makes of each training batch, and so once: ``prepared:ROLE:SOURCE@BATCH``,
    ``overlap:ROLE:SOURCE@BATCH`` where the recipe decontaminates, and ``judged:ROLE:SOURCE@BATCH``, which stands on those
    of the batch before it.
    """
    stages: dict[str, Stage] = {}
    training, evaluation = (
        {name: entry for name, entry in validated.items() if name.partition(":")[0] in roles}
        for roles in (TRAINING_ROLES, HELD_OUT_ROLES)
    )
    before: dict[str, dict[str, Entry]] = {}

    def add(kind: str, stage: Stage) -> Entry:
        stages[f"{kind}:{name}"] = stage
        return stage.name, stage.fingerprint

    for name, rows in training.items():
        role = name.partition(":")[0]
        data = recipe.data.model_dump(include=PREPARED_BY[role])
        alike = data["near_duplicates"]
        threshold = alike.pop("threshold") if alike else None
        identity = {"role": role, "data": data, "base_content": inputs.base_content}
        made = {"prepared": add("prepared", make_stage("prepared_batch", identity, {"base_model": base, "rows": rows}))}
        if recipe.data.decontamination and evaluation:
            settings = recipe.data.decontamination.model_dump()
            made["overlap"] = add("overlap", make_stage("overlap", settings, {"rows": rows, **evaluation}))
        upstream = {**made, **evaluation, **before.get(role, {})}
        before[role] = {"before": add("judged", make_stage("judged_batch", {"threshold": threshold}, upstream))}
    return stages
