"""What is told of a release, in its model card and its bill of materials."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ft_assets.recipes.base import EMBEDDED, EMBEDDED_ID, HUB_ID
from ft_assets.recipes.schema import Recipe


@dataclass(frozen=True)
class Batch:
    """A batch of a source in a release: ``roles`` it plays in the recipe, ``rows`` the sha-256 of its validated rows, and its
    ``dataset`` on the Hub, if it is from there. ``languages`` are ISO 639-1 codes, none where any is allowed.
    """

    key: str
    roles: tuple[str, ...]
    licence: str
    description: str
    languages: tuple[str, ...]
    dataset: str | None
    fingerprint: str
    rows: str
    rows_kept: int
    quarantined: int


@dataclass(frozen=True)
class Base:
    """A release's base model: what the recipe calls it, its repository, revision and licence on the Hub where they are
    known, and the hash of its weights and tokenizer.
    """

    name: str
    repository: str | None
    revision: str | None
    licence: str | None
    content_hash: str


@dataclass(frozen=True)
class Release:
    """``results`` and ``gate`` are results.json and gate.json, ``lineage`` the fingerprint of each stage that was made,
    ``versions`` of each library that made one, ``made_at`` seconds since 1970.
    """

    recipe: Recipe
    fingerprint: str
    verdict: str
    results: Mapping[str, Any]
    gate: Mapping[str, Any]
    base: Base
    batches: tuple[Batch, ...]
    lineage: Mapping[str, str]
    versions: tuple[tuple[str, str], ...]
    made_at: float

    @property
    def candidate(self) -> str:
        return self.results["candidate"]

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """The candidate's: mean, low, high (95%) and n by metric."""
        return self.results["contestants"][self.candidate]["scores"]

    @property
    def classifies(self) -> bool:
        return self.recipe.classifier is not None

    @property
    def task(self) -> str:
        """The Hub's name for what it does."""
        return "text-classification" if self.classifies else "text-generation"


def base_of(spec: str, content_hash: str) -> Base:
    """``spec``: a recipe's ``base_model``."""
    if spec == "embedded":
        return Base(EMBEDDED_ID, EMBEDDED_ID, None, EMBEDDED["licence"], content_hash)
    if match := HUB_ID.match(spec):
        return Base(match["id"], match["id"], match["revision"], None, content_hash)
    return Base(spec.rstrip("/").rpartition("/")[2], None, None, None, content_hash)
