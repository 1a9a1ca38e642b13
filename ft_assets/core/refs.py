"""Names in a store that stand for something now: a batch's newest fingerprint, a recipe's champion."""

import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import fsspec

from ft_assets.core.durable import sync, write_durably
from ft_assets.core.errors import CorruptArtifact


class Refs:
    """The names of each kind, and what each points to, in ``refs/<kind>/<key>.json`` below a root.

    Args:
        root: an fsspec URL or a local path.
    """

    def __init__(self, root: str):
        self.root = root
        self.fs, self.base = fsspec.core.url_to_fs(root)
        self.is_local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def _key(self, *parts: str) -> str:
        return "/".join([self.base.rstrip("/"), *parts])

    def _place(self, kind: str, key: str) -> str:
        return self._key("refs", kind, f"{quote(key, safe='@')}.json")

    def set_ref(self, kind: str, key: str, value: dict[str, Any]) -> None:
        """Points a name at something, atomically on a local store."""
        path = self._place(kind, key)
        self.fs.makedirs(os.path.dirname(path), exist_ok=True)
        if self.is_local:
            temporary = Path(f"{path}.{uuid.uuid4().hex[:8]}")
            write_durably(temporary, json.dumps(value))
            os.replace(temporary, path)
        else:
            self.fs.pipe_file(path, json.dumps(value).encode())

    def create_ref(self, kind: str, key: str, value: dict[str, Any]) -> bool:
        """Points a name at something where it points at nothing yet, and says whether it did: of two writers one does.

        On a local store that is sure. On an object store it is as sure as its exclusive write (S3's ``If-None-Match``).
        """
        path = self._place(kind, key)
        self.fs.makedirs(os.path.dirname(path), exist_ok=True)
        if not self.is_local:
            try:
                self.fs.pipe_file(path, json.dumps(value).encode(), mode="create")
            except FileExistsError:
                return False
            return True
        temporary = Path(f"{path}.{uuid.uuid4().hex[:8]}")
        write_durably(temporary, json.dumps(value))
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        sync(Path(path).parent)
        return True

    def drop_ref(self, kind: str, key: str) -> None:
        """Forgets a name; what it pointed to stays."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(self._place(kind, key))

    def ref_names(self, kind: str, prefix: str) -> list[str]:
        """Every name of a kind that starts with ``prefix``, in order."""
        self.fs.invalidate_cache()  # another process may have added names since this one listed them
        try:
            paths = self.fs.ls(self._key("refs", kind), detail=False)
        except FileNotFoundError:
            return []
        names = (unquote(os.path.basename(path).removesuffix(".json")) for path in paths if path.endswith(".json"))
        return sorted(name for name in names if name.startswith(prefix))

    def refs(self, kind: str, prefix: str) -> dict[str, dict[str, Any]]:
        """Every name of a kind that starts with ``prefix``, and what it points to, in name order."""
        found = {name: self.get_ref(kind, name) for name in self.ref_names(kind, prefix)}
        return {name: value for name, value in found.items() if value is not None}

    def get_ref(self, kind: str, key: str) -> dict[str, Any] | None:
        """What a name points to, None where it is no name.

        Raises:
            CorruptArtifact: its file is damaged.
        """
        path = self._place(kind, key)
        try:
            found = json.loads(self.fs.cat_file(path))
            fault = None if isinstance(found, dict) else f"it holds {found!r:.40}"
        except FileNotFoundError:
            return None
        except ValueError as error:  # no JSON, or no text
            fault = str(error)
        if fault is not None:
            raise CorruptArtifact(
                f"{path} cannot be read ({fault}). Bring it back from a backup, or remove it: then the store knows nothing by "
                "this name, as if it had never been written"
            )
        return dict(found)
