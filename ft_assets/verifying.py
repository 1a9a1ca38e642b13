"""``ft verify``: whether a release is as it was published, and by whom."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ft_assets.arguments import AsJson, open_recipe
from ft_assets.core import champion as champions
from ft_assets.core.errors import FineTuneError, MissingInput
from ft_assets.core.publish import FolderTarget, ListedFile
from resources.environment import Settings, catalog, settings

DIFFERS = 3


def verify(
    release: Annotated[
        str, typer.Argument(metavar="RECIPE|FOLDER", help="A recipe, for its champion, or a release's folder.")
    ],
    key: Annotated[Path | None, typer.Option(help="The public key (PEM) that the release must be signed by.")] = None,
    as_json: AsJson = False,
) -> None:
    """Whether a release's files are those that were published; names each that is not (exit code 3 then)."""
    folder = Path(release) if _is_folder(release) else None
    if folder:
        place, differs = str(folder), _faults(folder, key)
    else:
        place, differs = _published(settings(), release, key)
    checked = ("its bill of materials" if folder else "its record") + (f" and {key}" if key else "")
    if as_json:
        print(json.dumps({"release": place, "checked_against": checked, "differs": differs}, indent=1))
    elif differs:
        print("\n".join(differs))
        print(f"\n{place} is not as it was published.")
    else:
        print(f"{place} is as it was published, by {checked}.")
    raise typer.Exit(DIFFERS if differs else 0)


def _is_folder(release: str) -> bool:
    """Whether a folder is meant: one that merely has a recipe's name, and is no release, is not.

    Raises:
        FineTuneError: it is a path at which nothing is.
    """
    from ft_assets.core.bill import BILL

    path = Path(release)
    if path.is_dir():
        return (path / BILL).is_file() or release not in catalog(settings()).recipes
    if len(path.parts) > 1 and not path.exists():
        raise FineTuneError(f"there is no {release}; name a recipe, or a release's folder")
    return False


def _faults(folder: Path, key: Path | None) -> list[str]:
    from ft_assets.core.signing import faults

    return faults(folder, key)


def _published(found: Settings, release: str, key: Path | None) -> tuple[str, list[str]]:
    """Where a recipe's champion lies, and what of it is not as the store's record of it says."""
    from resources.target import target_of

    _, _, name = open_recipe(release)
    store = found.open_store()
    record = champions.read(store, name)
    entry = champions.entry_of(record, record["champion"]) if record else None
    manifest = store.lookup("published_model", entry["release"]) if entry else None
    if entry is None or manifest is None:
        raise MissingInput(f"nothing of {name} has been published, and {release} is no folder; run: ft run {name}")
    place = target_of(entry["to"], str(found.home))
    listed: list[dict[str, Any]] = json.loads(store.file(manifest, "release.json").read_text(encoding="utf-8"))["files"]
    differs = [
        f"{file} is missing or was changed"
        for file in place.missing(entry["folder"], [ListedFile(**file) for file in listed])
    ]
    pointer = place.read_pointer()
    if pointer is None or pointer.get("fingerprint") != entry["release"]:
        differs.append(f"champion.json does not point to {entry['folder']}, which is the champion by its record")
    if key is not None:
        differs += _signed(place, entry["folder"], key)
    return place.at(entry["folder"]), differs


def _signed(place: Any, folder: str, key: Path) -> list[str]:
    local = Path(place.at(folder))
    if not isinstance(place, FolderTarget) or not local.is_dir():
        raise FineTuneError(
            f"--key wants the files on this machine: download {place.at(folder)}, then: ft verify FOLDER --key {key}"
        )
    return [fault for fault in _faults(local, key) if fault.startswith("model.sig")]
