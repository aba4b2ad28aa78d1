"""ingest: raw files -> slices. Read, orient, normalise, compare with what is there, keep, and say what was refused."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..store.errors import IdentifierTaken, InputError, SamkitError, UnusableLabel, UsageError
from ..store.keys import array_digest
from ..store.places import Place, place_of
from ..store.slices import Pixels, Volume, VolumeRecord, slice_digests, write_packs, write_pixels
from ..store.workspace import Workspace, check_identifier, open_workspace
from .readers.base import Scan, SourceFiles, read_image, read_label
from .readers.geometry import Orientation, choose_orientation, compare_grids, display_spacing_mm
from .readers.intensity import IntensityRule, Window, choose_intensity, normalise
from .readers.layouts import Found

# Every commit is a file of the index, and of the packs of one-slice volumes; every two seconds keeps a kill cheap.
_SECONDS_BETWEEN_COMMITS = 2.0
# One-slice volumes wait in memory for their pack, up to about so many bytes.
_BYTES_BETWEEN_COMMITS = 256 << 20
# Class indices are bytes, and 255 marks what lies outside a slice.
_LARGEST_CLASS_COUNT = 254


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestOptions:
    """What the user chooses."""

    window: Window | None = None
    intensity: IntensityRule = "auto"
    axis: str | None = None
    #: From ``--labels``; None for those of the dataset, or numbers.
    label_names: Mapping[int, str] | None = None
    require_labels: bool = False
    #: Take a volume whose id belongs to another source, as its new generation.
    replace: bool = False
    #: Take an image without its label, and note why, where the label cannot be used.
    spare_labels: bool = False
    #: What the user named as the source, for messages.
    shown: str = "SOURCE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A volume that is in the workspace now."""

    shown: str
    id: str
    #: "new", "unchanged", "new pixels", "new label", "new details", "repaired".
    change: str
    slices: int
    labelled: bool
    label_values: tuple[int, ...]
    geometry_known: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A source that was not taken, and why."""

    shown: str
    reason: str


def ingest(workspace: str | Path | Place, found: Found, options: IngestOptions) -> Iterator[Taken | Refused]:
    """Bring the sources into the workspace one by one, yielding what became of each.

    The workspace is made with its first volume. A volume counts when the index lists it, which is written
    after its pixels; a kill loses at most the volumes of the last two seconds, and the same command takes them again.

    Parameters
    ----------
    workspace
        A directory or an fsspec URL; it may not exist yet.
    found
        What a layout found, see `readers.layouts`.
    options
        The user's choices.

    Raises
    ------
    InputError
        When the dataset's label names are not those of the workspace.
    """
    for shown, reason in found.refused:
        yield Refused(shown=shown, reason=reason)
    place = place_of(workspace)
    there = open_workspace(place) if Workspace.is_at(place) else None
    if there is None:
        Workspace.check_place(place)
    names = decide_label_names(there, found, options, place)
    keeper = _Keeper(place, there, names)
    known = _Known({} if there is None else dict(there.volumes))
    try:
        for source in found.sources:
            try:
                fresh, taken = _take(source, options, names, known)
            except UsageError:
                raise  # the command is wrong, not this file: it would be wrong for every other one too
            except SamkitError as error:
                yield Refused(shown=source.shown, reason=str(error))
                continue
            if fresh is not None:
                known.add(Volume(place, keeper.keep(*fresh), names))
            yield taken
    finally:
        keeper.commit()
    if keeper.workspace is not None and keeper.workspace.label_names != names:
        keeper.workspace.set_label_names(names)


class _Keeper:
    """Writes what was taken: the pixels of a volume at once, those of one-slice volumes in packs, then the index."""

    def __init__(self, place: Place, workspace: Workspace | None, names: Mapping[int, str]) -> None:
        self._place = place
        #: None until there is one.
        self.workspace = workspace
        self._names = names
        self._written: list[VolumeRecord] = []
        self._waiting: dict[str, tuple[VolumeRecord, Pixels]] = {}
        self._waiting_bytes = 0
        self._committed = time.monotonic()

    def keep(self, record: VolumeRecord, pixels: Pixels) -> VolumeRecord:
        """Take a volume over, and commit where it is time; return its record, without a place where it waits."""
        if self.workspace is None:
            self.workspace = Workspace.create(self._place, self._names)
        if len(pixels.image) == 1:
            self._waiting[record.id] = (record, pixels)
            self._waiting_bytes += pixels.nbytes
        else:
            folder, files = write_pixels(self._place, record.id, pixels)
            record = replace(record, pixels=folder, files=files)
            self._written.append(record)
        late = time.monotonic() - self._committed > _SECONDS_BETWEEN_COMMITS
        if late or self._waiting_bytes > _BYTES_BETWEEN_COMMITS:
            self.commit()
        return record

    def commit(self) -> None:
        """Put what was kept since the last time into the index."""
        packed = write_packs(self._place, {volume_id: pixels for volume_id, (_, pixels) in self._waiting.items()})
        for volume_id, (record, _) in self._waiting.items():
            lies = packed[volume_id]
            self._written.append(replace(record, pixels=lies.pixels, files=lies.files, plane=lies.plane))
        if self._written and self.workspace is not None:
            if self.workspace.label_names != self._names:
                self.workspace.set_label_names(self._names)
            self.workspace.commit_volumes(self._written)
        self._written, self._waiting, self._waiting_bytes = [], {}, 0
        self._committed = time.monotonic()


def decide_label_names(there: Workspace | None, found: Found, options: IngestOptions, place: Place) -> dict[int, str]:
    """Return the names of the dataset's label values, background left out.

    From ``--labels``, else from the dataset, else the workspace's own, else the numbers that occur in the labels.

    Raises
    ------
    InputError
        When they are not the names that the workspace has already; the message has the command for one of its own.
    """
    given = options.label_names if options.label_names is not None else found.label_names
    volumes = [] if there is None else list(there.volumes.values())
    kept = there.label_names if there is not None and volumes else {}
    if given is None and not kept:
        names = {value: str(value) for value in _values_in_labels(found)}
    elif given is None:
        names = kept
        # Names that are numbers say nothing, so the values have to: another dataset has others.
        unnamed = all(name == str(value) for value, name in kept.items())
        all_new = not {volume.record.identity for volume in volumes} & {source.identity for source in found.sources}
        values = set(_values_in_labels(found)) if unnamed and all_new else set()
        if values and values < set(kept):
            raise InputError(_other_labels(place, kept, {value: str(value) for value in sorted(values)}, options))
    else:
        names = {value: name for value, name in sorted(given.items()) if value != 0}
        # The whole dataset again may give its numbers names, or add values, until a run was trained on what they were.
        again = {volume.record.identity for volume in volumes} <= {source.identity for source in found.sources}
        grown = all(value in names and name in (names[value], str(value)) for value, name in kept.items())
        untouched = there is None or len(there.runs) == 0
        if kept and names != kept and not (again and grown and untouched):
            raise InputError(_other_labels(place, kept, names, options))
    if len(names) > _LARGEST_CLASS_COUNT:
        message = f"{len(names)} label values: samkit takes up to {_LARGEST_CLASS_COUNT}. Are these instance numbers?"
        raise InputError(message)
    return names


def _other_labels(place: Place, kept: Mapping[int, str], names: Mapping[int, str], options: IngestOptions) -> str:
    name_all = ",".join(f"{value}={name}" for value, name in kept.items())
    return (
        f"{place} holds a dataset with the labels {_listed(kept)}; this one has {_listed(names)}. A workspace "
        f"holds one dataset with one set of label names. Give this one its own: "
        f"samkit ingest {shlex.quote(options.shown)} --workspace {_own_workspace(options.shown)} "
        f"(or, if it is more of the same dataset, say so: --labels {shlex.quote(name_all)})"
    )


def parse_labels(text: str) -> dict[int, str]:
    """Read ``--labels 1=RV,2=Myo``.

    Raises
    ------
    UsageError
        For anything else, or a value or name that occurs twice.
    """
    names: dict[int, str] = {}
    for part in text.split(","):
        value, separator, name = part.partition("=")
        if not separator or not value.strip().isdecimal() or not name.strip():
            message = f"--labels {text!r}: {part!r} is not VALUE=NAME. For example: --labels 1=RV,2=Myo,3=LV"
            raise UsageError(message)
        if int(value) in names or name.strip() in names.values():
            message = f"--labels {text!r}: {part.strip()!r} repeats a value or a name."
            raise UsageError(message)
        names[int(value)] = name.strip()
    return names


class _Known:
    """The volumes of the workspace, and those taken so far, by what tells that a source is one of them."""

    def __init__(self, volumes: Mapping[str, Volume]) -> None:
        self.by_id: dict[str, Volume] = {}
        self.by_identity: dict[str, Volume] = {}
        self.by_slices: dict[tuple[str, ...], Volume] = {}
        for volume in volumes.values():
            self.add(volume)

    def add(self, volume: Volume) -> None:
        """Add or replace a volume."""
        self.by_id[volume.id] = volume
        self.by_identity[volume.record.identity] = volume
        self.by_slices.setdefault(volume.slice_digests, volume)


# -- one source ------------------------------------------------------------------------------------


def _take(
    source: SourceFiles, options: IngestOptions, names: Mapping[int, str], known: _Known
) -> tuple[tuple[VolumeRecord, Pixels] | None, Taken]:
    """Read one source; return what is to be kept of it (None when nothing has changed) and what to tell."""
    _check_id(source)
    there = known.by_id.get(source.id)
    elsewhere = known.by_identity.get(source.identity)
    if there is None and elsewhere is not None:
        message = (
            f"{source.shown}: this source is in the workspace already, as {elsewhere.id}. Under a second id the same "
            f"patient could be trained on and scored. Ingest it as before (--ids, the same folder), or leave it."
        )
        raise IdentifierTaken(message)
    scan = read_image(source)
    orientation = choose_orientation(scan.affine, scan.grid.shape, options.axis)
    notes = list(scan.notes)
    label, values, remarks = _fitting_label(source, scan, orientation, options, names)
    notes += remarks
    intensity = choose_intensity(scan.values, scan.modality, options.window, options.intensity, place=source.shown)
    planes = np.ascontiguousarray(orientation.apply(normalise(scan.values, intensity)))
    image = planes[:, None]
    if scan.affine is None:
        notes.append("geometry unknown: distances will be in voxels")
    slices, channels, rows, columns = image.shape
    record = VolumeRecord(
        id=source.id,
        subject=source.subject,
        modality=scan.modality,
        shape=(slices, channels, rows, columns),
        affine=None if scan.affine is None else _as_rows(orientation.affine(scan.affine, scan.grid.shape)),
        spacing_mm=None if scan.affine is None else display_spacing_mm(scan.affine, orientation),
        orientation=orientation.to_json(),
        source_grid=scan.grid.to_json(),
        ingest_recipe={
            "intensity": intensity.to_json(),
            "window": None if options.window is None else asdict(options.window),
            "axis": options.axis,
            "channels": 1,
        },
        identity=source.identity,
        slice_digests=slice_digests(image),
        label_digest=None if label is None else array_digest(label),
        label_values=values,
        pixels="",
        files={},
    )
    change = _change(record, there, options)
    if change == "new pixels" and there is not None:
        notes += recipe_differences(there.ingest_recipe, dict(record.ingest_recipe))
    twin = known.by_slices.get(record.slice_digests)
    if twin is not None and twin.subject != source.subject:
        notes.append(f"the same slices as {twin.id} of another subject: if it is one patient, train and test overlap")
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
        return None, taken
    predecessor = None if there is None else _predecessor(record, there.record)
    return (replace(record, predecessor=predecessor), Pixels(image=image, label=label)), taken


def _predecessor(new: VolumeRecord, old: VolumeRecord) -> Mapping[str, Any] | None:
    """Return what is remembered of the generation before: of the slices that these ones took the place of.

    Where only a label or a detail is new, the slices are still those that replaced the predecessor's.
    """
    same_slices = new.slice_digests == old.slice_digests
    # Without a predecessor, a record of another source is taken for a clash when it is committed.
    if same_slices and (old.predecessor is not None or new.identity == old.identity):
        return old.predecessor
    return {
        "ingest_recipe": old.ingest_recipe,
        "slice_digests": old.slice_digests,
        "label_digest": old.label_digest,
    }


def _fitting_label(
    source: SourceFiles, scan: Scan, orientation: Orientation, options: IngestOptions, names: Mapping[int, str]
) -> tuple[NDArray[np.unsignedinteger[Any]] | None, tuple[int, ...], list[str]]:
    """Return the label map in display orientation, (slices, rows, columns), its values, and what to tell of it."""
    if source.label is None and options.require_labels:
        message = (
            f"{source.shown}: no label belongs to this image, and --require-labels asks for one. "
            f"Add the label, or leave the flag out to take the image as unlabelled."
        )
        raise InputError(message)
    try:
        label_map = read_label(source)
        if label_map is None:
            return None, (), []
        fit = compare_grids(scan.grid.shape, scan.affine, label_map.values.shape, label_map.affine, place=source.shown)
        values = _named_values(source.shown, label_map.values, names)
    except InputError as error:
        if not options.spare_labels:
            raise
        return None, (), [f"its label is left out: {error}"]
    notes = [fit.warning] if fit.warning else []
    notes += [] if values else ["the label map is empty"]
    kind = np.min_scalar_type(max(names, default=1))
    return np.ascontiguousarray(orientation.apply(label_map.values)).astype(kind), values, notes


def _change(new: VolumeRecord, there: Volume | None, options: IngestOptions) -> str:
    """Say what is new about a volume.

    Raises
    ------
    IdentifierTaken
        When the id belongs to another source whose pixels differ.
    """
    if there is None:
        return "new"
    old = there.record
    same_pixels = old.slice_digests == new.slice_digests
    if old.identity != new.identity and not same_pixels and not options.replace:
        message = (
            f"the volume id {new.id!r} already belongs to another source in this workspace, with other pixels. Two "
            f"files of one name in different folders are usually two patients: ingest one of them with --ids hash, or "
            f"into another --workspace. If the dataset has only moved and was meant to change, add --replace."
        )
        raise IdentifierTaken(message)
    if not same_pixels:
        return "new pixels"
    if old.label_digest != new.label_digest:
        return "new label"
    unlike = (old.affine, old.subject, dict(old.source_grid), dict(old.ingest_recipe)) != (
        new.affine,
        new.subject,
        dict(new.source_grid),
        dict(new.ingest_recipe),
    )
    if unlike:
        return "new details"
    waits = not old.pixels  # of the same ingest, for its pack
    return "unchanged" if waits or there.intact() else "repaired"


def _check_id(source: SourceFiles) -> None:
    try:
        check_identifier("volume id", source.id)
    except UsageError as error:
        message = f"{source.shown}: {error} Rename the file, or let samkit make the ids: --ids hash"
        raise InputError(message) from error


def recipe_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say which fields of two ingest recipes differ: ``window 400/40 -> 350/40``."""

    def scale(recipe: Mapping[str, Any]) -> str:
        window = recipe["window"]
        return (
            f"scale: {recipe['intensity']['rule']}"
            if window is None
            else f"window {window['width']:g}/{window['level']:g}"
        )

    def axis(recipe: Mapping[str, Any]) -> str:
        return f"axis {recipe['axis'] or 'through-plane'}"

    changes = [(told(old), told(new)) for told in (scale, axis)]
    return [
        # "window 400/40 -> 350/40": the word that both begin with is said once.
        f"{before} -> {after.removeprefix(f'{before.split()[0]} ')}"
        for before, after in changes
        if before != after
    ]


def _named_values(shown: str, label: NDArray[np.unsignedinteger[Any]], names: Mapping[int, str]) -> tuple[int, ...]:
    values = tuple(int(value) for value in np.unique(label) if value != 0)
    nameless = [value for value in values if value not in names]
    if nameless:
        named = [f"{value}={name}" for value, name in names.items()] + [f"{value}=NAME" for value in nameless[:3]]
        message = (
            f"{shown}: the label has the value(s) {', '.join(map(str, nameless[:8]))}, which have no name here "
            f"({_listed(names)}). Name them, e.g. --labels {','.join(named)}, or, if this is another dataset, "
            f"ingest it into a workspace of its own: --workspace NAME"
        )
        raise UnusableLabel(message)
    return values


# -- the workspace ---------------------------------------------------------------------------------


def _values_in_labels(found: Found) -> list[int]:
    """Return the label values that occur in a dataset without names; labels that cannot be read are refused later."""
    values: set[int] = set()
    for source in found.sources:
        try:
            label = read_label(source)
        except SamkitError:
            continue
        if label is not None:
            values.update(int(value) for value in np.unique(label.values))
    return sorted(values - {0})


def _own_workspace(shown: str) -> str:
    """Return a name for a workspace that holds one source alone."""
    return shlex.quote(f"{Path(shown).resolve().name.split('.')[0] or 'other'}-workspace")


def _as_rows(matrix: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)


def _listed(names: Mapping[int, str]) -> str:
    return ", ".join(f"{value}={name}" for value, name in names.items()) or "none"
