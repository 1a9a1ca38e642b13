"""The graph as pure data: each stage of a recipe with its identity, its inputs and so its fingerprint.

Nothing here reads a disk: what the world contributes (the hashes of raw files and of the base model) comes in as
arguments. Fingerprints follow inputs, so a change re-makes exactly what depends on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ft_assets.core.canonical import fingerprint
from ft_assets.core.contestants import STAGES, contestants
from ft_assets.recipes.evaluation import candidate
from ft_assets.recipes.schema import HELD_OUT_ROLES, SOURCE_ROLES, TRAINING_ROLES, Recipe, Source

CODE_VERSIONS = {
    "raw_corpus": "1",
    "validated_dataset": "3",
    "base_model": "1",
    "prepared_batch": "4",
    "overlap": "2",
    "judged_batch": "2",
    "questions": "1",
    "split_shard": "1",
    "tokenized_splits": "5",
    "training_plan": "3",
    "cpt_adapter": "2",
    "sft_trial": "1",
    "sft_sweep": "1",
    "sft_adapter": "2",
    "reward_model": "2",
    "policy": "2",
    "classifier": "1",
    "merged_model": "2",
    "quantized_model": "3",
    "answers": "1",
    "memorized": "1",
    "rewarded": "1",
    "lm_eval": "1",
    "evaluation": "2",
    "eval_report": "2",
    "published_model": "2",
}

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


@dataclass(frozen=True)
class Stage:
    """One artifact to be: ``upstream`` gives (stage, fingerprint) by role. ``passes`` names the stage whose artifact
    stands in where the recipe leaves this one out; then the fingerprint is that one's.
    """

    name: str
    identity: dict[str, Any]
    upstream: dict[str, tuple[str, str]]
    fingerprint: str
    passes: str | None = None

    @property
    def code_version(self) -> str:
        return CODE_VERSIONS[self.name]

    @property
    def made_by(self) -> str:
        return self.passes or self.name

    def request(self) -> dict[str, Any]:
        """What a worker is told of it."""
        return {
            "stage": self.name,
            "fingerprint": self.fingerprint,
            "code_version": self.code_version,
            "identity": self.identity,
            "upstream": {role: list(entry) for role, entry in self.upstream.items()},
        }


def make_stage(name: str, identity: dict[str, Any], upstream: Mapping[str, tuple[str, str]]) -> Stage:
    digest = fingerprint(name, CODE_VERSIONS[name], identity, {role: entry[1] for role, entry in upstream.items()})
    return Stage(name, identity, dict(upstream), digest)


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
    published: tuple[tuple[str, str], ...] = ()
    overrides: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def model_stages(recipe: Recipe, inputs: Inputs) -> dict[str, Stage]:
    """Every model asset's stage of a recipe, and those behind them: ``evaluation`` of ``eval_report``, and what is made on the
    way (:data:`ON_THE_WAY`).
    """
    base = ("base_model", inputs.base_fingerprint)
    stages = {"base_model": Stage("base_model", {}, {}, inputs.base_fingerprint)}

    def add(name: str, identity: dict[str, Any], **upstream: tuple[str, str]) -> Stage:
        if "base_model" in upstream:
            identity = {**identity, "base_content": inputs.base_content}
        stages[name] = make_stage(name, identity, upstream)
        return stages[name]

    def pass_through(name: str, parent: tuple[str, str]) -> None:
        stages[name] = Stage(name, {}, {"parent": parent}, parent[1], passes=parent[0])

    def made(name: str) -> tuple[str, str]:
        return stages[name].made_by, stages[name].fingerprint

    validated = {
        f"{role}:{key}": ("validated_dataset", digest)
        for role, batches in inputs.validated.items()
        for key, digest in sorted(batches.items(), key=lambda entry: precedence(entry[0]))
    }
    stages |= _batch_stages(recipe, inputs, base, validated)
    data = recipe.data.model_dump(exclude={*SOURCE_ROLES, "triggers"})
    data["epochs"] = {source: times for source, times in data["epochs"].items() if times != 1}
    held_out = {name: entry for name, entry in validated.items() if name.partition(":")[0] in HELD_OUT_ROLES}
    stages["questions"] = make_stage("questions", {}, held_out)
    of_batches = {name: stage.fingerprint for name, stage in on_the_way(stages, "tokenized_splits").items()}
    stages["tokenized_splits"] = make_stage(
        "tokenized_splits",
        {"data": data, "seed": recipe.seed, "base_content": inputs.base_content, "batches": of_batches},
        {"base_model": base, **validated},
    )
    splits = made("tokenized_splits")
    stages["training_plan"] = make_stage(
        "training_plan",
        {"recipe": _planned(recipe)},
        {"base_model": base, "tokenized_splits": splits},
    )

    common = {"seed": recipe.seed, "adapter": recipe.adapter.model_dump(), "max_length": recipe.data.max_length}
    if recipe.cpt is None:
        pass_through("cpt_adapter", base)
    else:
        settings = {**common, "training": recipe.cpt.model_dump()}
        add("cpt_adapter", settings, base_model=base, tokenized_splits=splits)
    cpt = made("cpt_adapter")
    _add_sft(add, pass_through, recipe, common, {"base_model": base, "tokenized_splits": splits, **_adapter(cpt)}, cpt)
    sft = made("sft_adapter")
    if recipe.reward is None:
        pass_through("reward_model", sft)
    else:
        add(
            "reward_model",
            {**common, "training": recipe.reward.model_dump()},
            base_model=base,
            tokenized_splits=splits,
            **_adapter(sft),
        )
    if recipe.policy is None:
        pass_through("policy", sft)
    else:
        add(
            "policy",
            {**common, "training": recipe.policy.model_dump(), "rows": recipe.policy_role},
            base_model=base,
            tokenized_splits=splits,
            **_adapter(sft),
            **({"reward_model": made("reward_model")} if recipe.policy.online else {}),
        )
    if recipe.classifier is None:
        pass_through("classifier", made("policy"))
    else:
        settings = {**common, "training": recipe.classifier.model_dump()}
        add("classifier", settings, base_model=base, tokenized_splits=splits)
    if recipe.merges:
        add("merged_model", {}, base_model=base, **_adapter(made("policy")))
    else:
        pass_through("merged_model", made("classifier"))
    if recipe.quantize:
        add("quantized_model", {"formats": sorted(set(recipe.quantize))}, merged_model=made("merged_model"))
    else:
        pass_through("quantized_model", made("merged_model"))
    _add_answers(stages, recipe, inputs, made)
    _add_evaluation(add, recipe, base, splits, made, stages, inputs.overrides)
    return stages


def on_the_way(stages: Mapping[str, Stage], name: str) -> dict[str, Stage]:
    """The stages whose artifacts a worker makes on the way to that of stage ``name``."""
    kinds = ON_THE_WAY.get(name, ())
    return {key: stage for key, stage in stages.items() if key.partition(":")[0] in kinds}


def parts(stages: Mapping[str, Stage], name: str) -> dict[str, dict[str, Any]]:
    """What the worker of stage ``name`` is told of them, as ``execution["parts"]``."""
    return {key: stage.request() for key, stage in on_the_way(stages, name).items()}


def _planned(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the plan depends on it; what only a classifier has is no part of a recipe without one."""
    left_out: dict[str, Any] = dict.fromkeys(("description", "gate", "publish", "retrain"), True)
    if recipe.classifier is None:
        left_out |= {"classifier": True, "data": {"classification": True}}
    return recipe.model_dump(mode="json", exclude=left_out)


def precedence(key: str) -> tuple[str, str]:
    """Sort key of ``source@batch``: batch names first. Of rows that are alike the first is kept, and where batches are
    named by their date, one that is new comes last whatever its source.
    """
    source, _, batch = key.partition("@")
    return batch, source


def _batch_stages(
    recipe: Recipe, inputs: Inputs, base: tuple[str, str], validated: Mapping[str, tuple[str, str]]
) -> dict[str, Stage]:
    """What ``tokenized_splits`` makes of each training batch, and so once: ``prepared:ROLE:SOURCE@BATCH``,
    ``overlap:ROLE:SOURCE@BATCH`` where the recipe decontaminates, and ``judged:ROLE:SOURCE@BATCH``, which stands on those
    of the batch before it.
    """
    stages: dict[str, Stage] = {}
    training, evaluation = (
        {name: entry for name, entry in validated.items() if name.partition(":")[0] in roles}
        for roles in (TRAINING_ROLES, HELD_OUT_ROLES)
    )
    before: dict[str, dict[str, tuple[str, str]]] = {}

    def add(kind: str, stage: Stage) -> tuple[str, str]:
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


def _adapter(parent: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """The adapter a stage continues; none where its parent is the base model itself."""
    return {} if parent[0] == "base_model" else {"adapter": parent}


def _add_sft(
    add: Any,
    pass_through: Any,
    recipe: Recipe,
    common: dict[str, Any],
    upstream: dict[str, tuple[str, str]],
    cpt: tuple[str, str],
) -> None:
    """``sft_sweep`` and ``sft_adapter``. The settings of an adapter that a sweep decides are known when the sweep is made;
    its fingerprint is known before, as it names the sweep in their place.
    """
    if recipe.sft is None or recipe.hyperparameters is None:
        pass_through("sft_sweep", cpt)
    if recipe.sft is None:
        pass_through("sft_adapter", cpt)
        return
    settings = {**common, "training": recipe.sft.model_dump()}
    if recipe.hyperparameters is None:
        add("sft_adapter", settings, **upstream)
        return
    sweep = add("sft_sweep", {**settings, "sweep": recipe.hyperparameters.model_dump()}, **upstream)
    chosen = {**common, "adapter": BEST_TRIAL, "training": BEST_TRIAL}
    add("sft_adapter", chosen, **upstream, sft_sweep=("sft_sweep", sweep.fingerprint))


def _add_answers(stages: dict[str, Stage], recipe: Recipe, inputs: Inputs, made: Any) -> None:
    """``answers:CONTESTANT``, what each says to the held-out questions. None depends on the training data, on a metric or on
    another contestant, but where it is shown examples.

    Beside them ``memorized:CONTESTANT``, ``rewarded:CONTESTANT`` and ``lm_eval:CONTESTANT`` of the untrained model and the
    candidate, where the recipe wants the first and the last, and trains a reward model for the second.
    """
    if recipe.classifier is not None:
        return
    settings = recipe.evaluation
    asked = {"max_new_tokens": settings.max_new_tokens, "max_rows": settings.max_rows}
    splits, compared = made("tokenized_splits"), ("base_zero_shot", candidate(recipe))
    for name, (identity, upstream) in contestants(recipe, made, inputs.published).items():
        of_base = {"base_content": inputs.base_content} if "base_model" in upstream else {}
        own = make_stage("answers", {**asked, **identity, **of_base}, {"questions": made("questions"), **upstream})
        stages[f"answers:{name}"] = own
        if name in compared and settings.memorization:
            sample = {"rows": settings.memorization, "seed": recipe.seed, **of_base}
            stages[f"memorized:{name}"] = make_stage("memorized", sample, {**upstream, "tokenized_splits": splits})
        if name in compared and recipe.reward is not None:
            judged = {"answers": ("answers", own.fingerprint), "reward_model": made("reward_model")}
            stages[f"rewarded:{name}"] = make_stage("rewarded", {}, judged)
        if name in compared and settings.lm_eval:
            tasks = {"tasks": sorted(set(settings.lm_eval)), "max_rows": settings.max_rows, **of_base}
            stages[f"lm_eval:{name}"] = make_stage("lm_eval", tasks, upstream)


def _add_evaluation(
    add: Any,
    recipe: Recipe,
    base: tuple[str, str],
    splits: tuple[str, str],
    made: Any,
    stages: Mapping[str, Stage],
    overrides: Mapping[str, dict[str, Any]],
) -> None:
    answering = {stage: made(stage) for name, stage in STAGES.items() if getattr(recipe, name) is not None}
    answering |= {"classifier": made("classifier")} if recipe.classifier else {}
    quantized = {"quantized_model": made("quantized_model")} if recipe.quantize else {}
    on_way = {name: stage.fingerprint for name, stage in on_the_way(stages, "evaluation").items()}
    add(
        "evaluation",
        {
            "evaluation": recipe.evaluation.model_dump(exclude_none=True),
            "seed": recipe.seed,
            "candidate": candidate(recipe),
            "parts": on_way,
        },
        base_model=base,
        tokenized_splits=splits,
        merged_model=made("merged_model"),
        **answering,
        **quantized,
        **({"reward_model": made("reward_model")} if recipe.reward else {}),
    )
    trained = {
        name: made(name)
        for name, wanted in (
            ("cpt_adapter", recipe.cpt),
            ("sft_sweep", recipe.hyperparameters),
            ("sft_adapter", recipe.sft),
            ("reward_model", recipe.reward),
            ("policy", recipe.policy),
            ("classifier", recipe.classifier),
        )
        if wanted
    }
    gate = {"gate": recipe.gate} if recipe.gate else {}
    shown = {
        "evaluation": made("evaluation"),
        "tokenized_splits": splits,
        "base_model": base,
        "merged_model": made("merged_model"),
        **trained,
        **quantized,
    }
    judged = add("eval_report", {"recipe": recipe.name, **gate}, **shown)
    override = {"override": found} if (found := overrides.get(judged.fingerprint)) else {}
    if override:
        add("eval_report", {"recipe": recipe.name, **gate, **override}, **shown)
    licence = {"license": recipe.publish.license} if recipe.publish.license else {}
    add(
        "published_model",
        {"to": recipe.publish.to, **licence, **override},
        eval_report=made("eval_report"),
        merged_model=made("merged_model"),
        policy=made("policy"),
        **quantized,
    )
