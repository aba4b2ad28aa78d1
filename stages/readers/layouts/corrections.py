"""``--labels-from FOLDER``: which label in a folder is of which volume of the workspace.

A folder of a layout is paired as ever, and its labels go by the identity or the id of their images. Other labels go by
their name: the volume's id, or what its image was called, or that and ``_gt``, ``_seg``, ``_label``, ``_mask`` or
nnU-Net's ``_0000``. What images were called is known by keyed hashes where ids are hashes; of images that were called
alike (``patient1/ct``, ``patient2/ct``) the folder decides. DICOM-SEG and RTSTRUCT go by the series that they name; of
several volumes of that series, by the only one on whose grid they lie.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from ....store.errors import InputError, UnreadableFile, UsageError
from ....store.slices import VolumeRecord
from ..base import LabelFiles, SourceFiles, SourceGrid
from ..labels import LabelChoice, Overlap
from ..naming import compiled_subject, series_hash, stem
from .base import LayoutOptions, Pairing, Refusal, Tree, hash_of_name, name_of, with_hashes
from .dicom import lies_on
from .endings import LabelOption, image_and_suffix, one_label_each
from .files import label_of
from .find import named, paired
from .loose import LOOSE_LAYOUTS

__all__ = ["FoundLabels", "KnownVolume", "find_labels"]

_CHANNEL = re.compile(r"_\d{4}$")
_OF_SERIES = frozenset({"dicom-seg", "rtstruct"})
_LISTED = 4
_OF_NO_SERIES = "the image series that it names is not in the workspace (or was ingested with another user's key)"


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownVolume:
    """What tells that a label is of a volume of the workspace."""

    identity: str
    """As `SourceFiles.identity`."""
    series_hash: str | None = None
    """As `SourceFiles.series_hash`."""
    called: tuple[str, ...] = ()
    """As `SourceFiles.called`."""
    grid: SourceGrid | None = None
    """Of its source; only needed where a series holds several volumes."""

    @classmethod
    def of(cls, record: VolumeRecord) -> Self:
        """Return what a record says."""
        grid = SourceGrid.from_json(dict(record.source_grid))
        return cls(identity=record.identity, series_hash=record.series, called=record.called, grid=grid)


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


def find_labels(folder: Path, options: LayoutOptions, volumes: Mapping[str, KnownVolume]) -> FoundLabels:
    """Find labels for volumes of a workspace in a folder, or in a single file.

    Parameters
    ----------
    folder
        As the user typed it.
    options
        As when the images were found: the key, the label suffix, and which volume of what is 4-D.
    volumes
        Those of the workspace, by id.

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
            f"`label`, or pictures, named as the volumes (`samkit status --volumes` lists them), or DICOM-SEG and "
            f"RTSTRUCT of their series."
        )
        raise InputError(message)
    matcher = _Matcher(
        volumes=volumes,
        options=options,
        tree=Tree.of_file(folder)
        if folder.is_file()
        else Tree(root=folder, typed=folder, typed_as=options.shown_root or folder, folders={}),
        by_identity={volume.identity: volume_id for volume_id, volume in volumes.items()},
        by_called=_by_called(volumes),
        several=_several(pairing),
    )
    found = named(pairing, options, compiled_subject(options.subject_regex))
    loose = set(pairing.layout.split(" and ")) <= LOOSE_LAYOUTS
    matches = [(source.shown, matcher.of_source(source, loose=loose)) for source in found.sources]
    matches += [(row.shown, matcher.of_orphan(row)) for row in pairing.refused if row.is_label]
    refused = [*options.already_refused, *((shown, reason) for shown, (_, reason) in matches if reason)]
    refused += [(image.shown, image.reason or "") for image in pairing.candidates if image.has_several_labels]
    if matches and not refused and all(label is None for _, (label, _) in matches):
        raise InputError(_mere_images(options.shown_root or folder, found.sources, matcher))
    return _one_each([label for _, (label, _) in matches if label is not None], refused, matcher, pairing)


def _mere_images(folder: Path, sources: Sequence[SourceFiles], matcher: _Matcher) -> str:
    """Say that no file is a label, and which were taken for images when they were ingested."""
    ids = [matcher.by_identity[source.identity] for source in sources if source.identity in matcher.by_identity]
    listed = " ".join(ids[:_LISTED])
    more = f" (and {len(ids) - _LISTED} more)" if len(ids) > _LISTED else ""
    return (
        f"{folder}: no label, as far as names tell: {len(ids)} of its {len(sources)} files are volumes of the "
        f"workspace themselves. If these are label maps that were taken for images: samkit remove {listed}{more}, then "
        f"the same command again"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Matcher:
    """Finds the volume that a label is of."""

    volumes: Mapping[str, KnownVolume]
    """By id."""
    options: LayoutOptions
    tree: Tree
    by_identity: Mapping[str, str]
    """Identity to volume id."""
    by_called: Mapping[str, Sequence[str]]
    """The keyed hash of what an image was called to the ids of the volumes that were."""
    several: frozenset[str]
    """What more than one file here is called."""

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
            if volume_id is None and source.series is None:
                volume_id, _ = self.by_name(path)
            reason = self.of_nobody(path)
            if volume_id is None and source.series_hash is not None and label.reader in _OF_SERIES:
                volume_id, reason = self.of_series({source.series_hash}, label)
            if volume_id is None:
                return None, reason
            name, shown = stem(label.paths[0]), source.shown if own else self.tree.shown(_place(label))
            suffix = name[len(stem(path)) + 1 :] if name.startswith(f"{stem(path)}_") else ""
            return _Label(label=label, path=label.paths[0], shown=shown, volume_id=volume_id, suffix=suffix), ""
        if source.identity in self.by_identity or source.series is not None or not loose:
            return None, ""
        volume_id, suffix = self.by_name(path)
        if volume_id is None:
            return None, self.of_nobody(path)
        label = label_of(path, self.options)
        return _Label(label=label, path=path, shown=source.shown, volume_id=volume_id, suffix=suffix), ""

    def of_orphan(self, row: Refusal) -> tuple[_Label | None, str]:
        """Return a label whose image is not here, for the volume of the series that it names, or of its own name."""
        if row.label is None:
            return None, row.reason
        hashes = {series_hash(self.options.id_key, uid) for uid in row.series_uids} - {None}
        volume_id, reason = self.of_series(hashes, row.label) if hashes else (None, self.of_nobody(row.path))
        suffix = ""
        if volume_id is None:
            # One that names another series belongs to an image of its file's name only where the user called it so.
            volume_id, suffix = self.by_id(row.path) if row.series_uids else self.by_name(row.path)
        if volume_id is None:
            return None, reason
        return _Label(label=row.label, path=row.path, shown=row.shown, volume_id=volume_id, suffix=suffix), ""

    def of_series(self, hashes: Collection[str | None], label: LabelFiles) -> tuple[str | None, str]:
        """Return the volume of the series that a label names, or why there is none.

        Of several (stacks, echoes, moments) it is the one that the file is named after, else the only one on whose grid
        it was drawn.
        """
        path = label.paths[0]
        ids = sorted(volume_id for volume_id, volume in self.volumes.items() if volume.series_hash in hashes)
        if len(ids) <= 1:
            return (ids[0], "") if ids else (None, _OF_NO_SERIES)
        named_after, _ = self.by_name(path)
        if named_after in ids:
            return named_after, ""
        try:
            lying = [volume_id for volume_id in ids if self._lies_on(label, volume_id)]
        except UnreadableFile as error:
            return None, str(error)
        if len(lying) == 1:
            return lying[0], ""
        grids = f"on the grid of {len(lying)} of them" if lying else "on the grid of none of them"
        return None, (
            f"the series that it names is {len(ids)} volumes of the workspace, {', '.join(ids[:_LISTED])}"
            f"{', ...' if len(ids) > _LISTED else ''}, and it lies {grids}: name the label as its volume (or the id "
            f"and _seg)"
        )

    def _lies_on(self, label: LabelFiles, volume_id: str) -> bool:
        grid = self.volumes[volume_id].grid
        return grid is not None and lies_on(label.reader, label.paths[0], grid.shape, grid.affine_array)

    def by_name(self, path: Path) -> tuple[str | None, str]:
        """Return the volume whose id a file is named after, or whose image, and what follows that in its name."""
        volume_id, suffix = self.by_id(path)
        if volume_id is not None:
            return volume_id, suffix
        folder = name_of(path.parent, self.options)
        for within in (folder, None):
            for start, suffix in _starts(path):
                ids = self._called(start, within)
                if len(ids) == 1 and (within is not None or start not in self.several):
                    return ids[0], suffix
        return None, ""

    def by_id(self, path: Path) -> tuple[str | None, str]:
        """Return the volume whose id a file is named after, and what follows it."""
        return next(((start, suffix) for start, suffix in _starts(path) if start in self.volumes), (None, ""))

    def _called(self, name: str, folder: str | None) -> Sequence[str]:
        return self.by_called.get(hash_of_name(name, self.options, folder=folder), ())

    def of_nobody(self, path: Path) -> str:
        """Say why a label is of no volume, and how it would be of one."""
        rename = "name it as the volume (or the id and _seg); `samkit status --volumes` lists the ids"
        if not self.by_called:
            return f"no volume of the workspace is called {stem(path)}: {rename}"
        rename += ", samkit ingest IMAGES --dry-run --id-map FILE tells which is whose"
        if any(self._called(start, None) for start, _ in _starts(path)):
            return (
                f"several images or labels are called as {stem(path)} is: put it into a folder that is called as its "
                f"image's, or {rename}"
            )
        return (
            f"no volume of the workspace is called {stem(path)}, and none was made from an image of that name (with "
            f"this key, see SAMKIT_ID_KEY): {rename}"
        )


def _starts(path: Path) -> list[tuple[str, str]]:
    """Return what an image may be called that a label of this name is of, and what follows it."""
    name = stem(path)
    split = image_and_suffix(path, None)
    return [(name, ""), *([split] if split else []), (_CHANNEL.sub("", name), "")]


def _by_called(volumes: Mapping[str, KnownVolume]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = defaultdict(list)
    for volume_id, volume in volumes.items():
        for name in volume.called:
            ids[name].append(volume_id)
    return dict(ids)


def _several(pairing: Pairing) -> frozenset[str]:
    """Return what more than one label here says that its image is called."""
    paths: Iterable[Path] = (
        *(image.image[0] for image in pairing.candidates if image.series is None),
        *(row.path for row in pairing.refused if row.is_label),
    )
    counted = Counter(start for path in paths for start in {start for start, _ in _starts(path)})
    return frozenset(start for start, count in counted.items() if count > 1)


def _place(label: LabelFiles) -> Path:
    """Return the file of a label, or the folder of many."""
    return label.paths[0] if len(label.paths) == 1 else label.paths[0].parent


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
            (volume_id, with_hashes(option.label, matcher.options), shown[volume_id, option.path])
            for volume_id, option in sorted(chosen.by_image.items())
        ],
        refused=[*refused, *((f"labels of {volume_id}", reason) for volume_id, reason in chosen.ambiguous.items())],
        labels=pairing.labels or (LabelChoice.of_structures(named_structures) if named_structures else None),
        label_names=pairing.label_names,
        overlap=pairing.overlap,
        notes=pairing.notes,
    )
