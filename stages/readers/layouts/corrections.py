"""``--labels-from FOLDER``: which label in a folder is of which volume of the workspace.

A folder of a layout is paired as ever, and its labels go by the identity or the id of their images. Other labels go by
their name: the volume's id, or the id and ``_gt``, ``_seg``, ``_label``, ``_mask`` or nnU-Net's ``_0000``. DICOM-SEG
and RTSTRUCT go by the series that they name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ....store.errors import InputError, UsageError
from ..base import LabelFiles, SourceFiles
from ..labels import LabelChoice, Overlap
from ..naming import compiled_subject, identity_of_text, stem
from .base import LayoutOptions, Pairing, Refusal, Tree
from .endings import LabelOption, image_and_suffix, one_label_each
from .files import label_of
from .find import named, paired
from .loose import LOOSE_LAYOUTS

__all__ = ["FoundLabels", "find_labels"]

_CHANNEL = re.compile(r"_\d{4}$")
_OF_NO_SERIES = "the image series that it names is not in the workspace (or was ingested with another user's key)"


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundLabels:
    """Labels for volumes that are in a workspace already."""

    pairs: list[tuple[str, LabelFiles, str]]
    """(volume id, its label, the label's path as shown), in the order of the ids."""
    refused: list[tuple[str, str]]
    """(path as shown, reason): labels of no volume, or several of one; for the terminal only."""
    labels: LabelChoice | None = None
    """As `Found.labels`."""
    label_names: dict[int, str] | None = None
    """As `Found.label_names`."""
    overlap: Overlap | None = None
    """As `Found.overlap`."""
    notes: tuple[str, ...] = ()
    """As `Found.notes`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Label:
    """A label, and the volume that it is of."""

    label: LabelFiles
    path: Path
    shown: str
    volume_id: str
    suffix: str
    """What follows the volume's id, or the stem of its image, in the label's name."""


def find_labels(folder: Path, options: LayoutOptions, volumes: Mapping[str, str]) -> FoundLabels:
    """Find labels for volumes of a workspace in a folder, or in a single file.

    Parameters
    ----------
    folder
        As the user typed it.
    options
        As when the images were found: the key, the label suffix, and which volume of what is 4-D.
    volumes
        Volume id to identity (`SourceFiles.identity`).

    Raises
    ------
    UsageError
        There is no such folder; a label suffix that is not there.
    InputError
        Nothing in it is understood.
    """
    if not folder.exists():
        message = f"{folder}: there is no such file or folder. Check the spelling; `ls {folder.parent}`."
        raise UsageError(message)
    pairing = paired(folder, options)
    if pairing is None or not (pairing.candidates or pairing.refused):
        message = (
            f"{options.shown_root or folder}: nothing here that samkit reads as a label: NIfTI, NRRD, h5 with "
            f"`label`, or pictures, named as the volumes (`samkit status` lists them), or DICOM-SEG and RTSTRUCT of "
            f"their series."
        )
        raise InputError(message)
    matcher = _Matcher(
        volumes=volumes,
        options=options,
        tree=Tree.of_file(folder)
        if folder.is_file()
        else Tree(root=folder, typed=folder, typed_as=options.shown_root or folder, folders={}),
        by_identity={identity: volume_id for volume_id, identity in volumes.items()},
    )
    found = named(pairing, options, compiled_subject(options.subject_regex))
    loose = set(pairing.layout.split(" and ")) <= LOOSE_LAYOUTS
    matches = [(source.shown, matcher.of_source(source, loose=loose)) for source in found.sources]
    matches += [(row.shown, matcher.of_orphan(row)) for row in pairing.refused if row.is_label]
    refused = [*options.already_refused, *((shown, reason) for shown, (_, reason) in matches if reason)]
    refused += [(image.shown, image.reason or "") for image in pairing.candidates if image.has_several_labels]
    return _one_each([label for _, (label, _) in matches if label is not None], refused, matcher, pairing)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Matcher:
    """Finds the volume that a label is of."""

    volumes: Mapping[str, str]
    """Volume id to identity."""
    options: LayoutOptions
    tree: Tree
    by_identity: Mapping[str, str]
    """Identity to volume id."""

    def of_source(self, source: SourceFiles, *, loose: bool) -> tuple[_Label | None, str]:
        """Return the label of an image that lies here too, or a file that looks like an image and is a label by name.

        Returns
        -------
        _Label or None
            None for a mere image.
        str
            Why a label is refused.
        """
        path, label = source.image[0], source.label
        volume_id = self.by_identity.get(source.identity) or (source.id if source.id in self.volumes else None)
        if label is not None:
            own = path in label.paths
            if volume_id is None and own:
                volume_id, _ = self.by_name(path)
            if volume_id is None:
                return None, _of_nobody(path)
            name, shown = stem(label.paths[0]), source.shown if own else self.tree.shown(_place(label))
            suffix = name[len(stem(path)) + 1 :] if name.startswith(f"{stem(path)}_") else ""
            return _Label(label=label, path=label.paths[0], shown=shown, volume_id=volume_id, suffix=suffix), ""
        if source.identity in self.by_identity or source.series is not None or not loose:
            return None, ""
        volume_id, suffix = self.by_name(path)
        if volume_id is None:
            return None, _of_nobody(path)
        label = label_of(path, self.options)
        return _Label(label=label, path=path, shown=source.shown, volume_id=volume_id, suffix=suffix), ""

    def of_orphan(self, row: Refusal) -> tuple[_Label | None, str]:
        """Return a label whose image is not here, for the volume of the series that it names, or of its own name."""
        if row.label is None:
            return None, row.reason
        hashed = [identity_of_text(self.options.id_key, "series", uid) for uid in row.series_uids]
        ids = [self.by_identity[identity] for identity in hashed if identity in self.by_identity]
        volume_id, suffix = (ids[0], "") if len(ids) == 1 else self.by_name(row.path)
        if volume_id is None:
            return None, _OF_NO_SERIES if row.series_uids else _of_nobody(row.path)
        return _Label(label=row.label, path=row.path, shown=row.shown, volume_id=volume_id, suffix=suffix), ""

    def by_name(self, path: Path) -> tuple[str | None, str]:
        """Return the volume that a file is named after, and what follows its id."""
        name = stem(path)
        split = image_and_suffix(path, None)
        for start, suffix in ((name, ""), split or ("", ""), (_CHANNEL.sub("", name), "")):
            if start in self.volumes:
                return start, suffix
        return None, ""


def _place(label: LabelFiles) -> Path:
    """Return the file of a label, or the folder of many."""
    return label.paths[0] if len(label.paths) == 1 else label.paths[0].parent


def _of_nobody(path: Path) -> str:
    return (
        f"no volume of the workspace is called {stem(path)}: name the label as the volume (or the id and _seg), "
        f"`samkit status` lists them"
    )


def _one_each(
    labels: Sequence[_Label], refused: list[tuple[str, str]], matcher: _Matcher, pairing: Pairing
) -> FoundLabels:
    """Give each volume one label; refuse all where it has several and nothing chooses."""
    by_volume: dict[str, list[LabelOption]] = defaultdict(list)
    for one in labels:
        option = LabelOption(label=one.label, path=one.path, stem=stem(one.path), suffix=one.suffix)
        by_volume[one.volume_id].append(option)
    shown = {(one.volume_id, one.path): one.shown for one in labels}
    # Where each volume has one label, there is nothing to choose.
    several = any(len(there) > 1 for there in by_volume.values())
    chosen = one_label_each(
        matcher.tree, by_volume, matcher.options if several else replace(matcher.options, label_suffix=None)
    )
    named_structures = {name for one in labels for name in one.label.names}
    return FoundLabels(
        pairs=[
            (volume_id, option.label, shown[volume_id, option.path])
            for volume_id, option in sorted(chosen.by_image.items())
        ],
        refused=[*refused, *((f"labels of {volume_id}", reason) for volume_id, reason in chosen.ambiguous.items())],
        labels=pairing.labels or (LabelChoice.of_structures(named_structures) if named_structures else None),
        label_names=pairing.label_names,
        overlap=pairing.overlap,
        notes=pairing.notes,
    )
