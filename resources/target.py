"""Where releases go, as a Dagster resource."""

import dagster as dg

from ft_assets.core.publish import FolderTarget, Target


class TargetResource(dg.ConfigurableResource):
    """``home``: the project's folder, under which a relative path of a recipe's ``publish.to`` lies."""

    home: str

    def open(self, to: str) -> Target:
        return target_of(to, self.home)


def target_of(to: str, home: str) -> Target:
    """The target of a recipe's ``publish.to``: a path, relative to ``home`` or not, or an fsspec URL."""
    return FolderTarget(to if "://" in to or to.startswith("/") else f"{home}/{to}")
