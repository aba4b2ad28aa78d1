"""Where masks go: their names, the formats that fit their sources, and what they must never take the place of."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..store.errors import UsageError
from ..store.slices import Volume
from .readers.base import SourceFiles, SourceGrid
from .readers.geometry import Orientation, is_sheared
from .readers.index_space import affine_beside
from .readers.mask_writer import MaskFile, MaskFormat, mask_file, read_mask
from .readers.naming import identity_of_text, stem
from .readers.nifti import grid_of_series
from .readers.seg_writer import seg_obstacle

# A message names so many files or volumes, and counts the rest.
_NAMED = 3


# -- names -----------------------------------------------------------------------------------------


def mask_names(sources: Sequence[SourceFiles], *, ids_only: bool = False) -> dict[str, str]:
    """Return the name of each source's mask, without an ending, by volume id.

    A mask lies in the user's own folder, beside files whose names they know: it is called as its source is. A DICOM
    series has no name of its own, and two sources of one name would write one file: both keep their ids.

    Parameters
    ----------
    sources
        As a layout found them.
    ids_only
        Whether all keep their ids: hashes, where these were asked for.
    """
    if ids_only:
        return {source.id: source.id for source in sources}
    stems = {source.id: _own_name(source) for source in sources}
    # Some file systems do not tell capitals from small letters.
    shared = Counter(name.casefold() for name in stems.values())
    return {volume_id: name if shared[name.casefold()] == 1 else volume_id for volume_id, name in stems.items()}


def masks_of_sources(
    folder: Path,
    sources: Iterable[SourceFiles],
    mask_format: MaskFormat,
    names: Mapping[str, str],
    *,
    with_probabilities: bool = False,
) -> dict[str, MaskFile]:
    """Return where the mask of each source goes, by volume id, as far as that is known before it is read.

    Parameters
    ----------
    folder
        Of the masks.
    sources
        As a layout found them. The grid of a series is known from its headers; any other is taken to be straight.
    mask_format
        How masks are written.
    names
        By volume id, without an ending.
    with_probabilities
        Whether they are written too.
    """
    return {
        source.id: mask_file(
            folder, names[source.id], mask_format, _grid_of_series(source), with_probabilities=with_probabilities
        )
        for source in sources
    }


def masks_of_volumes(
    folder: Path,
    volumes: Iterable[Volume],
    mask_format: MaskFormat,
    names: Mapping[str, str] | None = None,
    *,
    with_probabilities: bool = False,
) -> dict[str, MaskFile]:
    """Return where the mask of each volume goes, by volume id.

    Parameters
    ----------
    folder
        Of the masks.
    volumes
        Their grids are known.
    mask_format
        How masks are written.
    names
        By volume id, without an ending; the ids by default.
    with_probabilities
        Whether they are written too.
    """
    return {
        volume.id: mask_file(
            folder,
            (names or {}).get(volume.id, volume.id),
            mask_format,
            grid_of(volume),
            with_probabilities=with_probabilities,
        )
        for volume in volumes
    }


def grid_of(volume: Volume) -> SourceGrid:
    """Return the grid of a volume's source."""
    return SourceGrid.from_json(dict(volume.record.source_grid))


# -- formats ---------------------------------------------------------------------------------------


def check_format_of_sources(mask_format: MaskFormat, sources: Iterable[SourceFiles]) -> None:
    """Refuse a format that does not fit every source.

    Raises
    ------
    UsageError
        With the first source that it does not fit, why, and a format that does.
    UnreadableFile
        A DICOM file is gone.
    """
    for source in sources:
        if mask_format == "png" and source.reader != "picture":
            message = (
                f"{source.shown}: --format png is for pictures (PNG, TIFF, JPEG), and this source has slices or a "
                f"place in space that PNG cannot keep. Nothing was written. --format nifti or nrrd keep it."
            )
            raise UsageError(message)
        if mask_format != "dicom-seg":
            continue
        if source.series is None:
            message = (
                f"{source.shown}: a DICOM-SEG refers to the DICOM images that it was drawn on, and this source is no "
                f"DICOM. Nothing was written. --format nifti or nrrd keep its grid."
            )
            raise UsageError(message)
        obstacle = seg_obstacle(source.series)
        if obstacle is not None:
            message = (
                f"{source.shown}: a DICOM-SEG refers to the images that it was drawn on, and these files {obstacle} "
                f"(tools that anonymise blank it). Nothing was written. --format nifti or nrrd need none."
            )
            raise UsageError(message)


def check_format_of_volumes(mask_format: MaskFormat, volumes: Iterable[Volume]) -> None:
    """Refuse a format that does not fit the grids of all volumes.

    Parameters
    ----------
    mask_format
        How masks are written. Whether a DICOM-SEG fits is for `check_format_of_sources` to say.
    volumes
        Of a workspace.

    Raises
    ------
    UsageError
        With the first volume that it does not fit, and formats that do.
    """
    if mask_format != "png":
        return
    for volume in volumes:
        grid = grid_of(volume)
        if grid.affine is not None or grid.shape[2] != 1:
            message = (
                f"{volume.id}: --format png is for pictures, one slice without geometry, and this volume has "
                f"{grid.shape[2]} slice(s){'' if grid.affine is None else ' and a place in space'}. Nothing was "
                f"written. --format nifti or nrrd keep it."
            )
            raise UsageError(message)


def warning_of_shear(mask: MaskFile, grid: SourceGrid) -> str | None:
    """Say what the user of a mask on a sheared grid has to know; None where there is nothing.

    Parameters
    ----------
    mask
        Where it is written, and as what.
    grid
        Of its source.
    """
    affine = grid.affine_array
    if mask.format not in ("nifti", "nrrd") or affine is None or not is_sheared(affine, grid.shape):
        return None
    if not mask.in_index_space:
        return (
            f"{mask.path.name}: the axes of its source are not at right angles; the mask has the identical header. "
            f"Tools built on ITK (SimpleITK, 3D Slicer, ITK-SNAP) open neither"
        )
    return (
        f"{mask.path.name}: the axes of its source are not at right angles (a tilted gantry), which this format cannot "
        f"say. The mask is in index space, voxel for voxel as the source, and lies nowhere in the patient; the true "
        f"affine is in {affine_beside(mask.path).name}. For DICOM, --format dicom-seg keeps the place of every slice"
    )


# -- what is there already -------------------------------------------------------------------------


def check_targets(
    masks: Iterable[MaskFile], sources: Iterable[SourceFiles], *, overwrite: bool, own: Container[Path] = frozenset()
) -> None:
    """Refuse to write masks over files that exist; over sources always, over others unless ``overwrite``.

    Parameters
    ----------
    masks
        Those to be written.
    sources
        Whose images and labels are never replaced.
    overwrite
        Whether other files may be.
    own
        Masks that the same command wrote before it was stopped; they may be, too.

    Raises
    ------
    UsageError
        With the first names and what to type.
    """
    # A link counts even if what it points to is gone: it is the user's.
    there = [path for mask in masks for path in mask.files if os.path.lexists(path)]
    if not there:
        return
    # By inode, which sees through links, relative paths and capitals that a file system does not tell apart.
    inodes = {_inode(path) for source in sources for path in _files_of(source) if path.exists()}
    _refuse_sources([path for path in there if path.exists() and _inode(path) in inodes])
    others = [path for path in there if path not in own]
    if others and not overwrite:
        message = (
            f"{_first(map(str, others))}: there already. Nothing was written. Name another folder: --output MASKS, or "
            f"add --overwrite to replace them."
        )
        raise UsageError(message)


def check_not_ingested(
    masks: Mapping[str, MaskFile], volumes: Mapping[str, Volume], key: bytes, sources: Iterable[SourceFiles] = ()
) -> None:
    """Refuse to write masks over the images and labels that a workspace's volumes were read from.

    A workspace keeps no paths. Images and labels are told by the keyed hash of where they lie (labels of many files by
    that of their folders), also labels that others took the place of since. What was ingested with another key, or has
    moved, is told by what it says: a file in the place of a volume's mask whose values decide every voxel of that
    volume's label, however its values were merged and renamed, is that label (or is no mask at all, but an image).

    Parameters
    ----------
    masks
        Those to be written, by volume id.
    volumes
        Of the workspace, by id.
    key
        Of the hashes, see `readers.naming.identity_of_text`.
    sources
        New files that the masks are of, some of which may be in the workspace, under another id.

    Raises
    ------
    UsageError
        With the first names and what to type.
    """
    known = {volume.record.identity: volume for volume in volumes.values()}
    same = {source.id: known[source.identity] for source in sources if source.identity in known}
    marks = {"", *(f"\nvolume {number}" for volume in volumes.values() for number in _indices_of(volume))}
    labels = {place for volume in volumes.values() for place in volume.record.label_files}
    own = []
    for volume_id, mask in masks.items():
        there = [path for path in mask.files if os.path.lexists(path)]
        own += [
            path
            for path in there
            if any(identity_of_text(key, "path", f"{path.resolve()}{mark}") in known for mark in marks)
            or identity_of_text(key, "path", str(path.resolve())) in labels
            or identity_of_text(key, "folder", str(path.resolve().parent)) in labels
        ]
        # By its source, by its id, or by the name that the mask of a volume of the workspace would have.
        volume = same.get(volume_id) or volumes.get(volume_id) or volumes.get(mask.name)
        if mask.path in there and volume is not None and _holds_label_of(volume, mask.path):
            own.append(mask.path)
    _refuse_sources(list(dict.fromkeys(own)))


# -- parts -----------------------------------------------------------------------------------------


def _own_name(source: SourceFiles) -> str:
    """Return the id where it is a part of the file's name already (nnU-Net's without its channel), else the stem."""
    if source.reader == "dicom":
        return source.id
    name = stem(source.image[0])
    return source.id if source.id in name or not name else name


def _grid_of_series(source: SourceFiles) -> SourceGrid | None:
    return None if source.series is None else grid_of_series(source.series)


def _indices_of(volume: Volume) -> Iterator[int]:
    """Yield which volumes of 4-D files were chosen: a part of what names such a source, see `readers.layouts.find`."""
    chosen = volume.ingest_recipe.get("volume") or {}
    yield from (chosen[name] for name in ("time_index", "channel") if chosen.get(name) is not None)


def _files_of(source: SourceFiles) -> Iterator[Path]:
    """Yield all the files that a source was found in."""
    yield from source.image
    if source.series is not None:
        yield from source.series.paths
    if source.label is not None:
        yield from source.label.paths
        for _, paths in source.label.structures:
            yield from paths


def _holds_label_of(volume: Volume, path: Path) -> bool:
    """Tell whether a file's values decide those of a volume's label: one value there for each value here."""
    label = volume.read_label()
    values = None if label is None else read_mask(path)
    if label is None or values is None or not label.any():
        return False
    expected = Orientation.from_json(dict(volume.record.orientation)).undo(label)
    return values.shape == expected.shape and _decides(values, expected)


def _decides(values: NDArray[Any], label: NDArray[np.unsignedinteger[Any]]) -> bool:
    distinct, group = np.unique(values, return_inverse=True)
    least = np.full(len(distinct), np.iinfo(label.dtype).max, label.dtype)
    most = np.zeros(len(distinct), label.dtype)
    np.minimum.at(least, group.ravel(), label.ravel())
    np.maximum.at(most, group.ravel(), label.ravel())
    return bool((least == most).all())


def _refuse_sources(own: Sequence[Path]) -> None:
    if not own:
        return
    message = (
        f"{_first(map(str, own))}: these are source files, and the masks would take their place. Nothing was "
        f"written. Name another folder: --output MASKS"
    )
    raise UsageError(message)


def _inode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
