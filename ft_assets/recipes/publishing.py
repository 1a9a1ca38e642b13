"""Where a recipe publishes to. All of it is identity."""

import re
from typing import Annotated

from fsspec import available_protocols
from pydantic import Field, StringConstraints, field_validator

from ft_assets.recipes.strict import Strict

HUB_REPOSITORY = r"hub://[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
READ_ONLY = ("http", "https", "data", "git", "github", "zip", "tar", "reference")


class Publish(Strict):
    """Where the model goes: a folder, an fsspec URL, or ``hub://org/name``, a repository of the Hugging Face Hub. A relative
    path is under the project's home folder. ``private`` is of a repository, which must not be public then. ``license`` is the
    released model's, by the Hub's name of it (``apache-2.0``); its base model's and its data's may bind it.
    """

    to: Annotated[str, Field(min_length=1)]
    private: bool = True
    license: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,60}$")] | None = None

    @field_validator("to")
    @classmethod
    def _can_be_written(cls, to: str) -> str:
        scheme, url, rest = to.partition("://")
        if scheme == "hub" and url and not re.fullmatch(HUB_REPOSITORY, to):
            raise ValueError("hub://org/name, of letters, digits, -, _ and .")
        if scheme in READ_ONLY or (url and scheme != "hub" and scheme not in available_protocols()):
            raise ValueError("hub://org/name, a folder, or an fsspec URL that can be written (s3://bucket/models)")
        if url and "@" in rest.partition("/")[0]:
            raise ValueError(
                "a URL without a user or a key: recipes are kept in manifests; give keys in the environment"
            )
        return to
