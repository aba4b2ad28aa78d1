"""What every layout speaks: a folder as a `Tree`, images that may become volumes, and what is refused.

A layout is a function from a tree and options to a `Pairing`, or None where it does not recognise the folder. Layouts
look at names, at small text files beside the scans, and at headers; they read no voxel and give nobody an id: `find`
does that for all of them alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Literal, Self, TypeAlias

from ..base import LabelFiles, ReaderName
from ..dicom_series import ReadHeaders, Series, VolumeChoice, read_headers
from ..folders import walk, why_closed
from ..labels import LabelChoice, Overlap
from ..naming import identity_of_text

__all__ = [
    "LABEL",
    "UNKNOWN",
    "Candidate",
    "LayoutOptions",
    "Pairing",
    "Refusal",
    "Rule",
    "Tree",
    "counted_files",
    "hash_of_name",
    "identity_text",
    "name_of",
    "note_of_stems",
    "unzipped_name",
    "with_hashes",
]

# As `archives` unpacks them, whose `logical` puts an exclamation mark behind.
_ARCHIVE_ENDING = re.compile(r"\.(zip|tar|tar\.(gz|bz2|xz)|tgz|tbz2|txz)$", re.IGNORECASE)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

UNKNOWN = "?"
"""For a modality that nobody states, as in `dicom_series.Finding`."""

LABEL = "label"
"""In the place of a modality, for a label that is refused."""

_LABELS = frozenset({LABEL, "DICOM-SEG", "RTSTRUCT"})


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutOptions:
    """What the user may choose about a folder."""

    id_key: bytes = field(repr=False)
    """The secret under which ids and identities are hashed."""
    ids: Literal["auto", "stem", "hash"] = "auto"
    """auto: stems in named research layouts, hashes elsewhere."""
    subject_regex: str | None = None
    """Searched in the stem; its first group, or else the whole match, is the subject."""
    channel: int | None = None
    """Which of ``_0000``, ``_0001``, ... to take, or which volume of a file whose fourth axis is the channel."""
    channel_is_preferred: bool = False
    """Whether `channel` is only what a run was trained on, and nobody asked for it: files without channels are taken as
    they are, and loose ones have some where one of a case ends in ``_0000``."""
    label_suffix: str | None = None
    """Which label to take where an image has several: what follows the image's stem, as ``seg-manual``; of a label
    that is not named after its image, the end of its own stem."""
    volume: VolumeChoice = field(default_factory=VolumeChoice)
    """Which volume of a 4-D series; its time index for 4-D files of other formats too."""
    logical: Callable[[Path], str] | None = None
    """What a file is called where it came from an archive, for identities; None: its resolved path."""
    already_refused: tuple[tuple[str, str], ...] = ()
    """(path as shown, reason): archives that could not be unpacked."""
    read_headers: ReadHeaders = read_headers
    """Where the headers of DICOM files are read: in this process, one after the other, by default."""
    shown_root: Path | None = None
    """What the user typed, where the folder that is searched is another one, with what was unpacked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One image with its label, not named yet; or one that is refused, with the reason."""

    image: tuple[Path, ...]
    label: LabelFiles | None = None
    reader: ReaderName
    stem: str
    """The id, where stems are ids; what ``--subject`` is searched in, without a ``/`` in it."""
    stem_is_id: bool
    """Whether the layout is one whose stems are safe to keep."""
    patient: str | None
    """The subject where stems are ids; None where only a hash may be kept."""
    patient_secret: str = field(repr=False)
    """What the subject is a hash of elsewhere; empty: the volume is a subject of its own."""
    series: Series | None = None
    """The plan of a DICOM series, whose `uid` then names the source; None: its path does."""
    volume_index: int | None = None
    chosen: tuple[tuple[str, int | float], ...] = ()
    """As `SourceFiles.chosen`."""
    modality: str | None = None
    shown: str
    size: str = ""
    """Its matrix, as ``512 x 512 x 120``."""
    reason: str | None = None
    """Why it is refused."""
    label_shown: str = ""
    """Where the label is, as shown; empty where there is none."""
    notes: tuple[str, ...] = ()
    """What to tell of it beside the reader's own notes."""
    test_of: str | None = None
    """The named split on whose test side the dataset's authors put it."""

    has_several_labels: bool = False
    """Whether that is why."""

    def refused(self, reason: str, *, has_several_labels: bool = False) -> Candidate:
        """Return it as refused."""
        return replace(self, reason=reason, label=None, label_shown="", has_several_labels=has_several_labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A file that is no image of a volume, and that nobody took."""

    path: Path
    """For the order of the table."""
    shown: str
    reason: str
    modality: str = UNKNOWN
    """Of a label `LABEL`, or which kind of DICOM it is."""
    size: str = ""
    label: LabelFiles | None = None
    """What it holds, where it is a label without an image: one may be found in the workspace."""
    series_uids: tuple[str, ...] = field(default=(), repr=False)
    """The image series that such a label names; for matching only."""

    @property
    def is_label(self) -> bool:
        """Whether it is a label, and no image or other file."""
        return self.label is not None or self.modality in _LABELS


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """What a layout found."""

    layout: str
    candidates: list[Candidate]
    refused: list[Refusal] = field(default_factory=list)
    label_names: dict[int, str] | None = None
    """What the values in the label files mean; None where nothing says."""
    labels: LabelChoice | None = None
    """Which classes to make of them, where the layout knows better than "one a value"."""
    overlap: Overlap | None = None
    label_suffix: str | None = None
    """The one ending that all labels found share, where labels go by ending."""
    notes: tuple[str, ...] = ()
    """What holds for the whole dataset, one sentence each."""
    leftover: tuple[Path, ...] = ()
    """Files that are no part of the layout, and may be scans all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """The visible files under a folder, listed once."""

    root: Path
    """Where the layout begins: what the user named, or a folder within that holds everything."""
    typed: Path
    """The whole folder; paths are shown relative to it."""
    typed_as: Path
    """What the user named: `typed`, or the archive that it was."""
    folders: Mapping[Path, tuple[Path, ...]]
    """Each folder that holds files directly, and those files, sorted by name. Hidden ones are left out."""
    closed: Mapping[Path, str] = field(default_factory=dict)
    """Folders that could not be listed, and why."""

    @classmethod
    def of(cls, folder: Path, options: LayoutOptions) -> Self:
        """List a folder. Links to folders are followed, each real folder once."""
        closed: dict[Path, str] = {}
        listed = walk(folder, onerror=lambda error: closed.update({Path(error.filename): why_closed(error)}))
        folders = {place: tuple(place / name for name in names) for place, _, names in listed if names}
        return cls(root=folder, typed=folder, typed_as=options.shown_root or folder, folders=folders, closed=closed)

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Take one file; it is shown by its name."""
        return cls(root=path, typed=path.parent, typed_as=path.parent, folders={path.parent: (path,)})

    @property
    def files(self) -> list[Path]:
        """All files, sorted by path."""
        return sorted((path for files in self.folders.values() for path in files), key=lambda path: path.parts)

    def within(self, folder: Path) -> list[Path]:
        """Return the files directly in a folder; none where there is no such folder."""
        return list(self.folders.get(folder, ()))

    def under(self, folder: Path) -> list[Path]:
        """Return the files in a folder and its subfolders, sorted by path; none where there is no such folder."""
        there = [files for place, files in self.folders.items() if place.is_relative_to(folder)]
        return sorted((path for files in there for path in files), key=lambda path: path.parts)

    def at(self, root: Path) -> Tree:
        """Return the part of it below a folder; paths are shown as before."""
        folders = {place: files for place, files in self.folders.items() if place.is_relative_to(root)}
        return replace(self, root=root, folders=folders)

    def roots(self) -> list[Path]:
        """Return the folders where a layout may begin: the root, then each only subfolder, as zips like to have."""
        if not self.folders or not self.root.is_dir():
            return [self.root]
        deepest = Path(os.path.commonpath(self.folders))
        between = deepest.relative_to(self.root).parts
        return [self.root.joinpath(*between[:depth]) for depth in range(len(between) + 1)]

    def shown(self, path: Path) -> str:
        """Return a path for the terminal, relative to what the user typed.

        Line breaks, which would tear its row, and other control characters are escaped; bytes that are no text stay as
        they are, for the file of ids.
        """
        relative = path.relative_to(self.typed).as_posix()
        return _CONTROL.sub(_escaped, self.typed_as.resolve().name if relative == "." else relative)

    def refusal(
        self, path: Path, reason: str, *, modality: str | None = None, size: str = "", label: LabelFiles | None = None
    ) -> Refusal:
        """Return the row of a file in it that is refused."""
        kind = modality or (UNKNOWN if label is None else LABEL)
        return Refusal(path=path, shown=self.shown(path), reason=reason, modality=kind, size=size, label=label)

    @property
    def closed_rows(self) -> list[Refusal]:
        """The rows of folders that could not be listed."""
        return [self.refusal(folder, reason) for folder, reason in self.closed.items()]

    def same_name(self, path: Path, other: Path, *, modality: str | None = None) -> Refusal:
        """Return the row of a file that is refused because another has its name, but for the ending."""
        return self.refusal(path, f"{self.shown(other)} has the same name; rename one of them", modality=modality)

    def named(self, path: Path) -> str:
        """Return a path for a message that stops the command, beginning with what the user typed."""
        return str(self.typed_as / path.relative_to(self.typed))


Rule: TypeAlias = Callable[[Tree, LayoutOptions], Pairing | None]


def _escaped(control: re.Match[str]) -> str:
    return control[0].encode("unicode_escape").decode()


def identity_text(path: Path, options: LayoutOptions) -> str:
    """Return what names a file for good: its resolved path, or where in which archive it lies."""
    return str(path.resolve()) if options.logical is None else options.logical(path)


def hash_of_name(name: str, options: LayoutOptions, *, folder: str | None = None) -> str:
    """Return the keyed hash of what an image or a label is called, without endings, in whatever folder or in one."""
    return identity_of_text(options.id_key, "name", name if folder is None else f"{folder}/{name}")


def note_of_stems(options: LayoutOptions) -> tuple[str, ...]:
    """Say that file names become ids, in a layout whose names are research ids as a rule, and are anybody's choice."""
    if options.ids != "auto":
        return ()
    return (
        "ids are the files' names, as research datasets of this layout have them; if they name patients: --ids hash",
    )


def with_hashes(label: LabelFiles, options: LayoutOptions) -> LabelFiles:
    """Return a label with the keyed hash of where it lies: its one file, or the folders of many."""
    if len(label.paths) == 1:
        hashes = [identity_of_text(options.id_key, "path", identity_text(label.paths[0], options))]
    else:
        folders = sorted({path.parent for path in label.paths})
        hashes = [identity_of_text(options.id_key, "folder", identity_text(folder, options)) for folder in folders]
    return replace(label, hashes=tuple(hashes))


def name_of(folder: Path, options: LayoutOptions) -> str:
    """Return the name of a folder, or of the archive that it was."""
    return unzipped_name(PurePath(identity_text(folder, options)).name)


def unzipped_name(name: str) -> str:
    """Return the name of a folder without the ending of the archive that it was.

    Examples
    --------
    >>> unzipped_name("3Dircadb1.7.zip!"), unzipped_name("3Dircadb1.7")
    ('3Dircadb1.7', '3Dircadb1.7')
    """
    return _ARCHIVE_ENDING.sub("", name.removesuffix("!"))


def counted_files(count: int) -> str:
    """Return "1 file", "20 files"."""
    return f"{count} file{'' if count == 1 else 's'}"
