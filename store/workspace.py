"""A workspace: one dataset with one set of label names, and everything made from it.

Opening reads ``workspace.json`` and the volumes index; it never lists a tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .embeddings import Embeddings
from .errors import DamagedStore, MissingEmbeddings, NewerFormat, NotAWorkspace, UsageError
from .files import canonical_json, check_fields, exclusive, publish, read_json, readable_json
from .keys import FORMAT_VERSION, Recipe
from .runs import Runs, check_name
from .slices import Volume, VolumeRecord
from .splits import Split

DEFAULT_WORKSPACE = "samkit-workspace"

# An id becomes part of folder names on every file system, and of object keys.
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
# Path("s3://bucket/x") has one slash left; a Windows drive has one letter.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


class Volumes(Mapping[str, Volume]):
    """The volumes of a workspace by id, in the order of their ids."""

    def __init__(self, workspace: Path, records: Iterable[VolumeRecord], label_names: Mapping[int, str]) -> None:
        ordered = sorted(records, key=lambda record: record.id)
        self._volumes = {record.id: Volume(workspace, record, label_names) for record in ordered}

    def __getitem__(self, volume_id: str) -> Volume:
        try:
            return self._volumes[volume_id]
        except KeyError:
            message = f"no volume {volume_id!r} in this workspace; it holds {len(self)} volumes"
            raise KeyError(message) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._volumes)

    def __len__(self) -> int:
        return len(self._volumes)

    def __repr__(self) -> str:
        return f"Volumes({len(self)}: {', '.join(list(self)[:3])}{', ...' if len(self) > 3 else ''})"


class Workspace:
    """An open workspace. Make one with `create`, find one with `open_workspace`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._description = _read_description(path)
        self._volumes: Volumes | None = None

    def __repr__(self) -> str:
        return f"Workspace({str(self.path)!r}, {len(self.volumes)} volumes)"

    @classmethod
    def create(cls, path: Path, label_names: Mapping[int, str] | None = None) -> Workspace:
        """Make a workspace at ``path``, which may exist but must not hold anything else.

        Raises
        ------
        NotAWorkspace
            When ``path`` is a file or a folder with other things in it.
        UsageError
            When ``path`` is a URL.
        """
        cls.check_place(path)
        publish(path / "workspace.json", readable_json(_description(label_names)))
        return cls(path)

    @staticmethod
    def check_place(path: Path) -> None:
        """Refuse a place where no workspace can be made; see `create`."""
        _refuse_url(path)
        if path.is_file() or (path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir())):
            message = (
                f"{path} exists and is not a samkit workspace; nothing was written into it. "
                f"Name another place: --workspace NAME"
            )
            raise NotAWorkspace(message)

    # -- the dataset -------------------------------------------------------------------------------

    @property
    def label_names(self) -> dict[int, str]:
        """Label value to name, background left out; empty while nothing labelled has been ingested."""
        return {int(value): name for value, name in (self._description["label_names"] or {}).items()}

    @property
    def volumes(self) -> Volumes:
        """The volumes, an ordered mapping by id."""
        if self._volumes is None:
            self._volumes = Volumes(self.path, self._records(), self.label_names)
        return self._volumes

    def set_label_names(self, label_names: Mapping[int, str]) -> None:
        """Give the dataset's label values their names, once."""
        publish(self.path / "workspace.json", readable_json(_description(label_names)))
        self._description = _read_description(self.path)
        self._volumes = None

    def commit_volumes(self, records: Iterable[VolumeRecord]) -> None:
        """Add or replace volumes in the index; their pixels must be on the disk already."""
        # Two ingests at once: each adds to what the other has written, one after the other.
        with exclusive(self.path / ".volumes.lock"):
            index = {record.id: record for record in self._records()}
            index.update({record.id: record for record in records})
            lines = ",\n".join(canonical_json(index[volume_id].to_json()) for volume_id in sorted(index))
            publish(self.path / "volumes.json", f'{{"format":{FORMAT_VERSION},"volumes":[\n{lines}\n]}}\n'.encode())
        self._volumes = None

    def _records(self) -> list[VolumeRecord]:
        path = self.path / "volumes.json"
        if not path.exists():
            return []
        index = read_json(path)
        _check_format(self.path, index)
        remedy = "Restore it from a copy, or remove it and ingest the dataset again; embeddings stay valid."
        listed = check_fields(path, index, ("format", "volumes"), remedy)["volumes"]
        if not isinstance(listed, list):
            message = f"{path}: its volumes are a {type(listed).__name__}, not a list. {remedy}"
            raise DamagedStore(message)
        return [VolumeRecord.from_json(value) for value in listed]

    # -- embeddings --------------------------------------------------------------------------------

    def recipes(self, pattern: str = "[!.]*") -> dict[str, Embeddings]:
        """Return all embeddings by recipe id, oldest first; ``pattern`` chooses folders below ``embeddings/``."""
        folder = self.path / "embeddings"
        if not folder.is_dir():
            return {}
        kept = sorted(
            folder.glob(f"{pattern}/recipe.json"), key=lambda path: (path.stat().st_mtime_ns, path.parent.name)
        )
        opened = [Embeddings.open(path.parent, self.volumes) for path in kept]
        return {embeddings.recipe.id: embeddings for embeddings in opened}

    def embeddings(self, name: str | None = None) -> Embeddings:
        """Open the embeddings of an encoder's newest recipe, or of one recipe by its id.

        A recipe under which every slice has a row goes before one that was begun and left.

        Parameters
        ----------
        name
            An encoder's name, a recipe id, or None for the newest recipe of all.

        Raises
        ------
        KeyError
            When nothing has been embedded under that name; what there is is listed.
        """
        patterns = ["[!.]*"] if name is None else [f"{name}--*", f"*--{name}", name]
        chosen = [kept for pattern in patterns for kept in self.recipes(pattern).values()]
        if not chosen:
            there = ", ".join(found.folder.name for found in self.recipes().values()) or "none yet"
            wanted = "nothing has been embedded" if name is None else f"no embeddings of {name!r}"
            message = f"{self.path}: {wanted}; there are: {there}. Run `samkit embed`."
            raise MissingEmbeddings(message)
        wanted_keys = [key for volume in self.volumes.values() for key in volume.row_keys()]
        complete = [kept for kept in chosen if not kept.journal.missing(wanted_keys)]
        return (complete or chosen)[-1]

    def create_embeddings(
        self, recipe: Recipe, *, trained: bool, attachments: Mapping[str, bytes] | None = None
    ) -> Embeddings:
        """Open the embeddings of a recipe, writing ``recipe.json`` if it is a new one."""
        folder = self.path / "embeddings" / recipe.folder_name
        if (folder / "recipe.json").exists():
            return Embeddings.open(folder, self.volumes)
        return Embeddings.create(folder, recipe, self.volumes, trained=trained, attachments=attachments)

    # -- splits and runs ---------------------------------------------------------------------------

    @property
    def runs(self) -> Runs:
        """The finished runs, a mapping by id, oldest first."""
        return Runs(self.path / "runs")

    def split(self, name: str = "default") -> Split | None:
        """Return a split, or None if it has not been made."""
        path = self.path / "splits" / f"{name}.json"
        return Split.from_json(read_json(path)) if path.exists() else None

    def keep_split(self, split: Split) -> None:
        """Keep a split under its name."""
        check_identifier("split name", split.name)
        publish(self.path / "splits" / f"{split.name}.json", readable_json(split.to_json()))


def open_workspace(path: str | Path = DEFAULT_WORKSPACE) -> Workspace:
    """Open the workspace at ``path``.

    Raises
    ------
    NotAWorkspace
        When there is none; the message says how to make one.
    NewerFormat
        When a later samkit wrote it.
    DamagedStore
        When its description is not what samkit writes.
    UsageError
        When ``path`` is a URL.
    """
    _refuse_url(path)
    return Workspace(Path(path))


def check_identifier(kind: str, text: str) -> str:
    """Return ``text`` if it can be an id: letters, digits and ``. _ + -``, at most 128.

    Raises
    ------
    UsageError
        Otherwise.
    """
    if not _SAFE_ID.fullmatch(text):
        message = f"{kind} {text!r}: use letters, digits and . _ + - only, at most 128, a letter or digit first."
        raise UsageError(message)
    return text


def _description(label_names: Mapping[int, str] | None) -> dict[str, Any]:
    names = None if not label_names else {str(value): name for value, name in sorted(label_names.items())}
    return {"format": FORMAT_VERSION, "made_by": f"samkit {version('samkit')}", "label_names": names}


def _read_description(path: Path) -> dict[str, Any]:
    file = path / "workspace.json"
    if not file.exists():
        message = f"{path} is not a samkit workspace. Make one: samkit ingest FOLDER --workspace {path}"
        raise NotAWorkspace(message)
    description = read_json(file)
    _check_format(path, description)
    remedy = "Restore it from a copy."
    kept = dict(check_fields(file, description, ("format", "made_by", "label_names"), remedy))
    names = kept["label_names"]
    if names is not None and not (isinstance(names, dict) and all(value.isdecimal() for value in names)):
        message = f"{file}: label_names is {names!r}, not label values with their names. {remedy}"
        raise DamagedStore(message)
    return kept


def _check_format(path: Path, kept: object) -> None:
    """Refuse a later format before anything else of a file is looked at."""
    found = kept.get("format") if isinstance(kept, dict) else None
    if isinstance(found, int) and found > FORMAT_VERSION:
        maker = kept.get("made_by", "a later samkit") if isinstance(kept, dict) else "a later samkit"
        message = (
            f"{path} was written in format {found} by {maker}; "
            f"this samkit reads formats up to {FORMAT_VERSION}. Update it: pip install --upgrade samkit"
        )
        raise NewerFormat(message)
    if isinstance(kept, dict) and not isinstance(found, int):
        message = (
            f"{path}: it says format {found!r}, not a number. Restore workspace.json and volumes.json from a copy."
        )
        raise DamagedStore(message)


def _refuse_url(path: str | Path) -> None:
    if found := _URL.match(str(path)):
        message = f"{path}: workspaces behind {found[1]}:// URLs are not supported by this version; give a directory."
        raise UsageError(message)


__all__ = ["DEFAULT_WORKSPACE", "Volumes", "Workspace", "check_identifier", "check_name", "open_workspace"]
