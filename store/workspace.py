"""A workspace: one dataset with one set of label names, and everything made from it.

Opening reads ``workspace.json`` and the volumes index; it never lists a tree.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from .documents import read_json, sealed_json, unsealed
from .embeddings import Embeddings
from .errors import DamagedStore, IdentifierTaken, MissingEmbeddings, NotAWorkspace, StoreError, UsageError
from .index import IndexChange, IndexState, VolumesIndex, index_line
from .keys import FORMAT_VERSION, Recipe, refuse_later_format
from .places import DEFAULT_WORKSPACE, Place, place_of
from .pretrained import Pretrainings
from .runs import Run, Runs, check_name
from .slices import Volume, VolumeRecord
from .splits import DEFAULT_SPLIT, Split

# An id becomes part of folder names on every file system, and of object keys.
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
# A record is parsed from its line when it is asked for; this many are kept, so that memory does not grow with the
# dataset and most datasets are parsed once.
_VOLUMES_KEPT = 8192


class Volumes(Mapping[str, Volume]):
    """The volumes of a workspace by id, in the order of their ids."""

    def __init__(self, workspace: Place, state: IndexState) -> None:
        self._state = state
        label_names = dict(state.label_names or {})

        @lru_cache(_VOLUMES_KEPT)
        def volume(volume_id: str) -> Volume:
            return Volume(workspace, VolumeRecord.from_json(state.record(volume_id)), label_names)

        self._volume = volume

    def __getitem__(self, volume_id: str) -> Volume:
        if volume_id not in self._state.lines:
            message = f"no volume {volume_id!r} in this workspace; it holds {len(self)} volumes"
            raise KeyError(message)
        return self._volume(volume_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.lines)

    def __len__(self) -> int:
        return len(self._state.lines)

    def __contains__(self, volume_id: object) -> bool:
        return volume_id in self._state.lines

    def __repr__(self) -> str:
        return f"Volumes({len(self)}: {', '.join(list(self)[:3])}{', ...' if len(self) > 3 else ''})"


class Workspace:
    """An open workspace. Make one with `create`, find one with `open_workspace`."""

    def __init__(self, path: str | Path | Place) -> None:
        #: The directory, or the place in an object store.
        self.path: Place = place_of(path)
        _check_description(self.path)
        self._index = VolumesIndex(self.path / "volumes")
        self._state: IndexState | None = None
        self._volumes: Volumes | None = None

    def __repr__(self) -> str:
        return f"Workspace({str(self.path)!r}, {len(self.volumes)} volumes)"

    @classmethod
    def create(cls, path: str | Path | Place, label_names: Mapping[int, str] | None = None) -> Workspace:
        """Make a workspace at ``path``, which may exist but must not hold anything else.

        Of several processes that make one at the same moment, each gets it. One that was there already is opened, and
        keeps the label names that it has.

        Raises
        ------
        NotAWorkspace
            When ``path`` is a file or a folder with other things in it.
        UsageError
            When ``path`` is a URL that no installed library serves.
        """
        place = place_of(path)
        cls.check_place(place)
        description = sealed_json({"format": FORMAT_VERSION, "made_by": f"samkit {version('samkit')}"})
        (place / "workspace.json").publish_if_absent(description)
        if (place / "workspace.json").publish_if_absent(description):
            message = (
                f"{place}: this store writes over what is there although it was asked to write only if nothing is; two "
                f"commands at once would lose each other's work. Give a store that can (S3 and what follows it), a "
                f"newer version of the library that serves {place}, or a directory."
            )
            raise StoreError(message)
        made = cls(place)
        if label_names and not made.label_names:
            made.set_label_names(label_names)
        return made

    @classmethod
    def check_place(cls, path: str | Path | Place) -> None:
        """Refuse a place where no workspace can be made; see `create`."""
        place = place_of(path)
        volumes, other = (place / "volumes").children(), place.exists() or place.children()
        # Looked for last: what is there may be a workspace that another process has made since it was asked for.
        if not other or cls.is_at(place):
            return
        if volumes:
            raise DamagedStore(_lost_description(place))
        message = (
            f"{place} exists and is not a samkit workspace; nothing was written into it. "
            f"Name another place: --workspace NAME"
        )
        raise NotAWorkspace(message)

    @staticmethod
    def is_at(path: str | Path | Place) -> bool:
        """Whether there is a workspace at a place."""
        return (place_of(path) / "workspace.json").exists()

    # -- the dataset -------------------------------------------------------------------------------

    @property
    def label_names(self) -> dict[int, str]:
        """Label value to name, background left out; empty while nothing labelled has been ingested."""
        return dict(self._read_index().label_names or {})

    @property
    def volumes(self) -> Volumes:
        """The volumes, an ordered mapping by id, as they were when this was first asked for."""
        if self._volumes is None:
            self._volumes = Volumes(self.path, self._read_index())
        return self._volumes

    def set_label_names(self, label_names: Mapping[int, str], *, instead_of: Mapping[int, str] | None = None) -> None:
        """Give the dataset's label values their names.

        Parameters
        ----------
        label_names
            Of all values, background left out.
        instead_of
            The names that were there when these were decided; by default those that this workspace was read with.

        Raises
        ------
        StoreError
            When somebody has given them other names since.
        """
        names, known = dict(sorted(label_names.items())), dict(self.label_names if instead_of is None else instead_of)

        def decide(now: IndexState) -> IndexChange:
            if dict(now.label_names or {}) not in (known, names):
                message = (
                    f"{self.path}: another command has named the labels {dict(now.label_names or {})} meanwhile, and "
                    f"this one names them {names}. Run the same command again: it says what does not fit."
                )
                raise StoreError(message)
            return IndexChange(label_names=names)

        self._learn(self._index.append(decide))

    def commit_volumes(self, records: Iterable[VolumeRecord]) -> None:
        """Add or replace volumes in the index; their pixels must be on the disk already.

        Two ingests at once each add a segment of their own.

        Raises
        ------
        IdentifierTaken
            When a new volume's id was given to another source meanwhile; nothing is committed.
        """
        added = {record.id: record for record in records}

        def decide(now: IndexState) -> IndexChange:
            for volume_id in added.keys() & now.lines.keys():
                new = added[volume_id]
                if new.predecessor is None and now.record(volume_id)["identity"] != new.identity:
                    message = (
                        f"the volume id {volume_id!r} was given to another source while this one was read. Run the "
                        f"same command again: what was finished is kept, and it says which files clash."
                    )
                    raise IdentifierTaken(message)
            return IndexChange(records={volume_id: record.to_json() for volume_id, record in added.items()})

        self._learn(self._index.append(decide))

    def exchange_records(self, pairs: Iterable[tuple[VolumeRecord, VolumeRecord]]) -> None:
        """Replace records by others, but not one that somebody has changed meanwhile."""
        exchanged = {old.id: (index_line(old.id, old.to_json()), new.to_json()) for old, new in pairs}

        def decide(now: IndexState) -> IndexChange:
            return IndexChange(
                records={
                    volume_id: new for volume_id, (line, new) in exchanged.items() if now.lines.get(volume_id) == line
                }
            )

        self._learn(self._index.append(decide))

    def remove_volumes(self, volume_ids: Iterable[str]) -> None:
        """Take volumes out of the index; what only they held stays on the disk until `gc`.

        Raises
        ------
        KeyError
            When there is no such volume; nothing is removed.
        """
        removed = sorted(set(volume_ids))
        for volume_id in removed:
            _ = self.volumes[volume_id]
        self._learn(self._index.append(lambda _: IndexChange(removed=removed)))

    @property
    def index(self) -> VolumesIndex:
        """The log behind `volumes`."""
        return self._index

    def _read_index(self) -> IndexState:
        if self._state is None:
            self._state = self._index.read()
        return self._state

    def _learn(self, state: IndexState) -> None:
        self._state, self._volumes = state, None

    # -- embeddings --------------------------------------------------------------------------------

    def recipes(self, pattern: str = "*") -> dict[str, Embeddings]:
        """Return all embeddings by recipe id, oldest first; ``pattern`` chooses folders below ``embeddings/``."""
        folder = self.path / "embeddings"
        kept = [folder / name for name in folder.children() if fnmatch.fnmatchcase(name, pattern)]
        opened = [Embeddings.open(place, self.volumes) for place in kept if (place / "recipe.json").exists()]
        return {one.recipe.id: one for one in sorted(opened, key=lambda one: (one.created, one.recipe.id))}

    def embeddings(self, name: str | None = None) -> Embeddings:
        """Open the embeddings of an encoder's newest recipe, or of one recipe by its id.

        A recipe under which every slice has a row goes before one that was begun and left. Rows of an inner layer are
        no embeddings: they are opened by their recipe's id alone.

        Parameters
        ----------
        name
            An encoder's name, a recipe id, or None for the newest recipe of all.

        Raises
        ------
        MissingEmbeddings
            When nothing has been embedded under that name; what there is is listed.
        """
        found = self.recipes_named(name)
        chosen = [kept for kept in found if kept.recipe.block is None or name in (kept.recipe.id, kept.folder.name)]
        if not chosen:
            inner = ", ".join(f"{kept.recipe.tap} in {kept.folder.name}" for kept in found)
            message = (
                f"{self.path}: only what enters blocks of an encoder is embedded ({inner}), not what it ends with. "
                f"Make that: samkit embed --encoder {found[-1].recipe.encoder}"
            )
            raise MissingEmbeddings(message)
        return self.whole(chosen)[-1]

    def recipes_named(self, name: str | None = None) -> list[Embeddings]:
        """Return the embeddings of every recipe of an encoder, of the one with that id, or, for None, of all.

        Raises
        ------
        MissingEmbeddings
            When there are none.
        """
        patterns = ["*"] if name is None else [f"{name}--*", f"*--{name}", name]
        found = [kept for pattern in patterns for kept in self.recipes(pattern).values()]
        if not found:
            there = ", ".join(kept.folder.name for kept in self.recipes().values())
            wanted = "nothing has been embedded" if name is None else f"no embeddings of {name!r}"
            others = f"; there are: {there}" if there else ""
            which = "" if name is None else " --encoder ENCODER"  # what was named may be a recipe, or a misspelling
            message = f"{self.path}: {wanted}{others}. Run `samkit embed{which}`."
            raise MissingEmbeddings(message)
        return found

    def whole(self, found: Sequence[Embeddings]) -> Sequence[Embeddings]:
        """Return those under which every slice has a row, whole or in tiles; all of them where none is so."""
        if len(found) == 1:
            return found
        slices = {digest for volume in self.volumes.values() for digest in volume.slice_digests}
        return [kept for kept in found if slices <= {key.slice_digest for key in kept.journal}] or found

    def create_embeddings(
        self, recipe: Recipe, *, trained: bool, attachments: Mapping[str, bytes] | None = None
    ) -> Embeddings:
        """Open the embeddings of a recipe, writing ``recipe.json`` if it is new, and what is damaged beside it."""
        folder = self.path / "embeddings" / recipe.folder_name
        if (folder / "recipe.json").exists():
            kept = Embeddings.open(folder, self.volumes)
            kept.mend_attachments(attachments or {})
            return kept
        return Embeddings.create(folder, recipe, self.volumes, trained=trained, attachments=attachments)

    def recipe_folders(self, name: str) -> list[Place]:
        """Return the folders of an encoder's recipes, or of the one with that id, whatever a kill has left in them."""
        folder = self.path / "embeddings"
        kept = folder.children()
        return [folder / one for one in kept if name in (one, *one.rsplit("--", maxsplit=1))]

    def remove_recipe(self, folder: Place) -> None:
        """Take a recipe with all its rows away, see `recipe_folders`.

        The records go first: killed in between, it is a recipe with fewer rows.
        """
        (folder / "journal").remove()
        folder.remove()

    # -- splits and runs ---------------------------------------------------------------------------

    @property
    def runs(self) -> Runs:
        """The finished runs, a mapping by id, oldest first."""
        return Runs(self.path / "runs")

    @property
    def labelled_subjects(self) -> set[str]:
        """The subjects that have a labelled volume now: those who may be drawn and scored."""
        return {volume.subject for volume in self.volumes.values() if volume.labelled}

    def remove_run(self, run: Run) -> None:
        """Take a run away, its scores and masks with it.

        What says that it is finished goes first: killed in between, `gc` takes the rest.
        """
        (run.folder / "run.json").remove()
        run.folder.remove()

    @property
    def splits(self) -> dict[str, Split]:
        """Every split by its name, in the order of names."""
        folder = self.path / "splits"
        files = sorted(name for name in folder.children() if name.endswith(".json"))
        return {name.removesuffix(".json"): Split.read(folder / name) for name in files}

    @property
    def pretrainings(self) -> Pretrainings:
        """What was learned from slices without labels, a mapping by id."""
        return Pretrainings(self.path / "pretrained")

    def split(self, name: str = DEFAULT_SPLIT) -> Split | None:
        """Return a split, or None if it has not been made."""
        place = self.path / "splits" / f"{name}.json"
        return Split.read(place) if place.exists() else None

    def remove_split(self, name: str) -> None:
        """Take a split away that no run has used, so that it can be made anew."""
        (self.path / "splits" / f"{name}.json").remove()

    def keep_split(self, split: Split) -> Split:
        """Keep a split under its name; return the one that stands.

        A split is made once: where another command has made it meanwhile, that one stands, and the subjects of this
        one that it does not know join its pool.
        """
        check_identifier("split name", split.name)
        place = self.path / "splits" / f"{split.name}.json"
        if place.publish_if_absent(sealed_json(split.to_json())):
            return split
        standing = Split.read(place)
        joined = standing.joined_by({*split.pool, *split.test})
        if joined != standing:
            place.publish(sealed_json(joined.to_json()))
        return joined


def open_workspace(path: str | Path | Place = DEFAULT_WORKSPACE) -> Workspace:
    """Open the workspace at ``path``, a directory or an fsspec URL (``s3://bucket/folder``).

    Raises
    ------
    NotAWorkspace
        When there is none; the message says how to make one.
    NewerFormat
        When a later samkit wrote it.
    DamagedStore
        When its description is not what samkit writes.
    UsageError
        When ``path`` is a URL that no installed library serves.
    """
    return Workspace(path)


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


def _lost_description(path: Place) -> str:
    return (
        f"{path / 'workspace.json'} is missing, and the rest of a workspace is there. It says nothing of this dataset: "
        f"copy that of any other workspace here (samkit ingest ANY-FILE --workspace OTHER makes one)."
    )


def _check_description(path: Place) -> None:
    """Refuse a place that is no workspace, and one of a later format before anything else of it is looked at."""
    place = path / "workspace.json"
    if not place.exists():
        if (path / "volumes").children():
            raise DamagedStore(_lost_description(path))
        message = f"{path} is not a samkit workspace. Make one: samkit ingest FOLDER --workspace {path}"
        raise NotAWorkspace(message)
    remedy = "Restore it from a copy."
    description = read_json(place, remedy)
    if isinstance(description, dict):
        refuse_later_format(path, description.get("format"), description.get("made_by", "a later samkit"))
    kept = unsealed(description, place, ("format", "made_by"), remedy)
    if not isinstance(kept["format"], int):
        message = f"{place}: it says format {kept['format']!r}, not a number. {remedy}"
        raise DamagedStore(message)


__all__ = ["DEFAULT_WORKSPACE", "Volumes", "Workspace", "check_identifier", "check_name", "open_workspace"]
