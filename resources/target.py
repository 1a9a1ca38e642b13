"""Where releases go, as a Dagster resource."""

from pathlib import Path

import dagster as dg

from ft_assets.core.publish import FolderTarget, Target
from resources.hub import SCHEME, HubTarget


class TargetResource(dg.ConfigurableResource):
    """``home``: the project's folder, under which a relative path of a recipe's ``publish.to`` lies. ``signing_key``: file
    of the private key that releases are signed with, if any.
    """

    home: str
    signing_key: str | None = None

    def key(self) -> Path | None:
        return Path(self.signing_key) if self.signing_key else None

    def open(self, to: str, private: bool) -> Target:
        return target_of(to, self.home, private)


def target_of(to: str, home: str, private: bool = True) -> Target:
    """The target of a recipe's ``publish.to``: ``hub://org/name``, a path (relative to ``home`` or not), or an fsspec URL.

    Raises:
        FineTuneError: it names no repository of the Hub.
    """
    if to.startswith(SCHEME):
        return HubTarget(to, private)
    return FolderTarget(to if "://" in to or to.startswith("/") else f"{home}/{to}")
