"""One source -> its slices and its record: read, orient, normalise, compare with what is there, write the pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.errors import DamagedStore, GeometryMismatch, SamkitError, UsageError
from ...store.keys import array_digest
from ...store.places import Place
from ...store.slices import Pixels, Volume, VolumeRecord, slice_digests, write_pixels
from ...store.workspace import Workspace, open_workspace
from ..readers.base import LabelFiles, Scan, SourceFiles, SourceGrid, read_image
from ..readers.geometry import Orientation, choose_orientation, display_spacing_mm, is_same_grid
from ..readers.intensity import Normaliser, choose_intensities
from .changes import change_of, predecessor_of, recipe_differences
from .job import IngestJob, IngestOptions, IngestTask, Read, Refused, Taken
from .labels import as_its_own, fitting_label, label_files, label_recipe


def read_source(job: IngestJob, task: IngestTask) -> Read | Refused:
    """Read one source, compare it with what is there, and write its pixels; those of a single slice are given back.

    Raises
    ------
    UsageError
        The command is wrong, not this file: it would be wrong for every other one too.
    """
    try:
        return _read(job, task)
    except UsageError:
        raise
    except SamkitError as error:
        return Refused(shown=task.source.shown, reason=str(error))


def _read(job: IngestJob, task: IngestTask) -> Read:
    job = as_its_own(job, task.there)
    source, options = task.source, job.options
    scan = read_image(source)
    orientation = choose_orientation(scan.affine, scan.grid.shape, options.axis)
    notes = [*source.notes, *scan.notes]
    keeps_subject = _keeps_subject(task.there, source, options)
    subject = task.there.subject if keeps_subject and task.there is not None else source.subject
    if task.there is not None and task.there.subject != source.subject and task.there.identity == source.identity:
        notes.append(
            f"its subject {subject}, by --subject, is kept; --replace takes the one that it has without the flag"
            if keeps_subject
            else f"subject {task.there.subject} -> {subject}"
        )
    there = None if task.there is None else Volume(job.place, task.there, job.choice.names)
    kept_recipe = None if there is None else _recipe_of_kept_label(there, source, options)
    kept = None if there is None or kept_recipe is None else _kept_label(there, scan.grid, orientation, source.shown)
    label: NDArray[np.unsignedinteger[Any]] | None = kept
    if there is not None and kept_recipe is not None and kept is not None:
        values = there.record.label_values
        notes.append(
            "its label from --labels-from is kept; --replace takes the one beside the image"
            if kept_recipe["apart"]
            else "there is no label beside it now: the one from before is kept; --replace takes it away"
        )
    else:
        label, values, remarks = fitting_label(job, source, scan.grid, orientation)
        notes += remarks
    image, intensities, scale_notes = _slices(scan, orientation, options, source.shown)
    notes += scale_notes
    if scan.affine is None:
        notes.append("geometry unknown: distances will be in voxels")
    slices, channels, rows, columns = image.shape
    record = VolumeRecord(
        id=source.id,
        subject=subject,
        modality=scan.modality,
        shape=(slices, channels, rows, columns),
        affine=None if scan.affine is None else _as_rows(orientation.affine(scan.affine, scan.grid.shape)),
        spacing_mm=None if scan.affine is None else display_spacing_mm(scan.affine, orientation),
        orientation=orientation.to_json(),
        source_grid=scan.grid.to_json(),
        ingest_recipe={
            "intensities": intensities,
            # A window that was left aside (an MR among CTs) made nothing of these slices.
            "windows": [window.to_json() for window in options.windows if intensities[0]["rule"] == "window"],
            "non_finite": options.non_finite,
            "axis": options.axis,
            "channels": channels,
            "volume": dict(source.chosen),
            **({"subject": "typed"} if source.subject_is_typed or keeps_subject else {}),
            "labels": None if label is None else (kept_recipe if kept is not None else label_recipe(job, apart=False)),
        },
        identity=source.identity,
        series=source.series_hash,
        called=source.called,
        label_files=label_files(source, task.there),
        slice_digests=slice_digests(image),
        label_digest=None if label is None else array_digest(label),
        label_values=values,
        pixels="",
        files={},
    )
    change = change_of(record, there, options)
    # After `change_of`, which tells another source of this id first.
    if kept_recipe is not None and kept_recipe["apart"] and kept is None:
        raise GeometryMismatch(_other_grid(source))
    if change == "new pixels" and there is not None:
        differences = recipe_differences(there.ingest_recipe, dict(record.ingest_recipe))
        notes += differences
        if source.series is not None and not differences and not {*record.slice_digests} & {*there.slice_digests}:
            notes.append(
                "it took the place of the volume of this id, and no slice is as it was: either its files have changed, "
                "or they are another scan that bears the same UIDs and PatientID, as some anonymisers write them; "
                "ingest that into another --workspace, and the one before here again"
            )
    taken = Taken(
        shown=source.shown,
        id=source.id,
        change=change,
        slices=slices,
        labelled=label is not None,
        label_values=values,
        geometry_known=scan.affine is not None,
        notes=tuple(notes),
    )
    if change == "unchanged":
        return Read(taken=taken, record=None)
    record = replace(record, predecessor=None if there is None else predecessor_of(record, there.record))
    pixels = Pixels(image=image, label=label)
    if slices == 1:
        return Read(taken=taken, record=record, pixels=pixels)
    workspace_at(job.place, job.choice.names)
    folder, files = write_pixels(job.place, record.id, pixels, [*record.slice_digests, record.label_digest])
    return Read(taken=taken, record=replace(record, pixels=folder, files=files))


def _keeps_subject(there: VolumeRecord | None, source: SourceFiles, options: IngestOptions) -> bool:
    """Tell whether a volume stays with the subject that ``--subject`` gave it, as the flag is not typed now."""
    return (
        there is not None
        and there.identity == source.identity
        and there.ingest_recipe.get("subject") == "typed"
        and not source.subject_is_typed
        and not options.replace
    )


def _recipe_of_kept_label(there: Volume, source: SourceFiles, options: IngestOptions) -> Mapping[str, Any] | None:
    """Return the label recipe of a volume whose label is kept, None for any other.

    It came by ``--labels-from``, or there is none beside the image now: somebody's work does not go by its being
    elsewhere.
    """
    recipe: Mapping[str, Any] | None = there.ingest_recipe["labels"]
    if recipe is None or not there.labelled or options.replace:
        return None
    return recipe if recipe["apart"] or source.label is None else None


def _kept_label(
    there: Volume, grid: SourceGrid, orientation: Orientation, shown: str
) -> NDArray[np.unsignedinteger[Any]] | None:
    """Return the label of a volume, (slices, rows, columns) in another orientation; None where it is of another grid.

    Parameters
    ----------
    there
        The volume as it is in the workspace, labelled.
    grid, orientation
        Of its source now.
    shown
        The source, for messages.

    Raises
    ------
    DamagedStore
        The label is not what was written.
    """
    old = SourceGrid.from_json(dict(there.record.source_grid))
    if not is_same_grid(grid.shape, grid.affine_array, old.shape, old.affine_array):
        return None
    try:
        label = there.read_label()
    except DamagedStore as error:
        message = (
            f"{there.id}: its label in the workspace is missing or damaged, and {shown} does not hold it. "
            f"Give it again: samkit ingest --labels-from LABELS. If its slices are damaged too, first ingest this "
            f"source with --replace, which takes the label beside the image, if there is one."
        )
        raise DamagedStore(message) from error
    if label is None:
        return None
    displayed = Orientation.from_json(dict(there.record.orientation))
    return np.ascontiguousarray(orientation.apply(displayed.undo(label)))


def _other_grid(source: SourceFiles) -> str:
    return (
        f"{source.shown}: the label of {source.id} came by --labels-from and was drawn on another grid than this file "
        f"has now: its size, or where its header says that it lies, has changed. Nothing was written. If the file is "
        f"right: samkit remove {source.id}, then this command again, then the label anew, on the grid of this file: "
        f"samkit ingest --labels-from LABELS"
    )


def _slices(
    scan: Scan, orientation: Orientation, options: IngestOptions, shown: str
) -> tuple[NDArray[np.float16], list[dict[str, Any]], tuple[str, ...]]:
    """Return the slices (slices, channels, rows, columns) in [0, 1], their scales, and what to tell of these."""
    chosen = choose_intensities(
        scan.values,
        scan.modality,
        options.windows,
        options.intensity,
        padding=scan.padding,
        inverted=scan.inverted,
        non_finite=options.non_finite,
        place=shown,
    )
    normaliser = Normaliser(
        dtype=scan.values.dtype, intensities=chosen.intensities, padding=scan.padding, inverted=scan.inverted
    )
    planes = orientation.apply(scan.values)
    image = np.empty((planes.shape[0], len(chosen.intensities), *planes.shape[1:3]), np.float16)
    for number, plane in enumerate(planes):  # plane by plane: a float copy of a whole CT would be twice its size
        image[number] = normaliser(plane)
    return image, [scale.to_json() for scale in chosen.intensities], chosen.notes


def workspace_at(place: Place, names: Mapping[int, str]) -> Workspace:
    """Open the workspace, or make it: before the first pixels, so that they never lie in a folder without a name."""
    return open_workspace(place) if Workspace.is_at(place) else Workspace.create(place, names)


def _as_rows(matrix: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)


# -- a new label for an old volume -----------------------------------------------------------------


def as_source(record: VolumeRecord, label: LabelFiles, shown: str) -> SourceFiles:
    """Return a volume of the workspace as the source of a new label: its own files are not needed for that."""
    return SourceFiles(
        id=record.id,
        subject=record.subject,
        image=(),
        label=label,
        reader="nifti",
        modality=record.modality,
        identity=record.identity,
        shown=shown,
    )


def relabel_volume(job: IngestJob, record: VolumeRecord, source: SourceFiles) -> Read | Refused:
    """Give a volume of the workspace another label map; its slices, and so its embeddings, stay as they are."""
    try:
        return _relabelled(job, record, source)
    except UsageError:
        raise
    except SamkitError as error:
        return Refused(shown=source.shown, reason=str(error))


def _relabelled(job: IngestJob, old: VolumeRecord, source: SourceFiles) -> Read:
    there = Volume(job.place, old, job.choice.names)
    grid = SourceGrid.from_json(dict(there.record.source_grid))
    orientation = Orientation.from_json(dict(there.record.orientation))
    label, values, notes = fitting_label(job, source, grid, orientation)
    record = replace(
        there.record,
        label_digest=None if label is None else array_digest(label),
        label_values=values,
        label_files=label_files(source, there.record),
        ingest_recipe={**there.ingest_recipe, "labels": label_recipe(job, apart=True)},
    )
    changed = record.label_digest != there.record.label_digest
    same = record == there.record
    damaged = same and not there.intact()
    taken = Taken(
        shown=source.shown,
        id=there.id,
        change="new label" if changed else "new details" if not same else "repaired" if damaged else "unchanged",
        slices=record.shape[0],
        labelled=label is not None,
        label_values=values,
        geometry_known=grid.affine is not None,
        notes=tuple(notes),
    )
    if same and not damaged:
        return Read(taken=taken, record=None)
    pixels = Pixels(image=there.read_slices(0, record.shape[0]), label=label)
    if there.record.plane is not None:
        return Read(taken=taken, record=replace(record, pixels="", files={}, plane=None), pixels=pixels)
    folder, files = write_pixels(job.place, record.id, pixels)
    return Read(taken=taken, record=replace(record, pixels=folder, files=files))
