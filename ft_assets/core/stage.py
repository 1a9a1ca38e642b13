"""One artifact to be: what identifies it, what it stands on, and so its fingerprint. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ft_assets.core.canonical import fingerprint

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
    "batch_predictions": "1",
}

Entry = tuple[str, str]  # the stage that made an artifact, and its fingerprint


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
