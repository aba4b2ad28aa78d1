"""The pixels and labels of a volume, and the record that describes them.

Arrays are in display orientation: image (slices, channels, rows, columns) float16 in
[0, 1], label (slices, rows, columns) unsigned integers. Geometry is RAS+ millimetres.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from .arrays import TORN_ARRAY, open_array, write_array
from .errors import DamagedStore
from .files import check_fields, file_digests, published_folder
from .keys import RowKey, array_digest, content_id

# A shard of pixels is a file; 32 slices of 512 x 512 float16 are 16 MiB.
_SLICES_PER_SHARD = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeRecord:
    """One line of the volumes index: all that is known of a volume but its pixels."""

    id: str
    subject: str
    #: "CT", "MR", ... or None where the source does not say.
    modality: str | None
    #: (slices, channels, rows, columns)
    shape: tuple[int, int, int, int]
    #: Maps (column, row, slice) indices to RAS+ millimetres; None where the source has no geometry.
    affine: tuple[tuple[float, ...], ...] | None
    #: (between slices, between rows, between columns); None where unknown.
    spacing_mm: tuple[float, float, float] | None
    #: How the slices were turned from the source's index order, see `stages.readers.geometry.Orientation`.
    orientation: Mapping[str, Any]
    #: The source's own grid, for writing predictions, see `stages.readers.base.SourceGrid`.
    source_grid: Mapping[str, Any]
    #: Intensity rule, slicing axis and channels.
    ingest_recipe: Mapping[str, Any]
    #: Keyed hash of where the volume came from.
    identity: str
    slice_digests: tuple[str, ...]
    #: None for a volume without a label map.
    label_digest: str | None
    #: Label values other than 0 that occur, in order.
    label_values: tuple[int, ...]
    #: The folder of the pixels, relative to the workspace.
    pixels: str
    #: Digest of every file of that folder, see `store.files.file_digest`.
    files: Mapping[str, str]
    #: Recipe and digests of the generation before, until `gc`: so that "which field differs" can be said.
    predecessor: Mapping[str, Any] | None = field(default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the record as it is kept in ``volumes.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read one record of ``volumes.json``.

        Raises
        ------
        DamagedStore
            When fields are missing, unknown, or not of their form.
        """
        name = value.get("id", "without an id") if isinstance(value, dict) else "without an id"
        place = f"volumes.json, volume {name}"
        remedy = "Restore volumes.json from a copy, or remove it and ingest the dataset again; embeddings stay valid."
        kept = dict(check_fields(place, value, (known.name for known in fields(cls)), remedy))
        try:
            return cls(**cls._typed(kept))
        except (TypeError, ValueError) as error:
            message = f"{place}: a field is not of its form ({error}). {remedy}"
            raise DamagedStore(message) from error

    @staticmethod
    def _typed(kept: dict[str, Any]) -> dict[str, Any]:
        """Turn JSON's lists into the tuples of the record."""
        slices, channels, rows, columns = kept["shape"]
        kept["shape"] = (slices, channels, rows, columns)
        if kept["affine"] is not None:
            kept["affine"] = tuple(tuple(row) for row in kept["affine"])
        if kept["spacing_mm"] is not None:
            between_slices, between_rows, between_columns = kept["spacing_mm"]
            kept["spacing_mm"] = (between_slices, between_rows, between_columns)
        kept["slice_digests"] = tuple(kept["slice_digests"])
        kept["label_values"] = tuple(kept["label_values"])
        return kept


class Volume:
    """One volume of a workspace; pixels are opened when first asked for."""

    def __init__(self, workspace: Path, record: VolumeRecord, label_names: Mapping[int, str]) -> None:
        self.record = record
        #: Label value to name, background left out.
        self.label_names = dict(label_names)
        self._folder = workspace / record.pixels

    def __repr__(self) -> str:
        label = "labelled" if self.record.label_digest else "no label"
        return f"Volume({self.id!r}, shape={self.record.shape}, {label})"

    @property
    def id(self) -> str:
        """The volume's name in its workspace."""
        return self.record.id

    @property
    def subject(self) -> str:
        """The patient; several volumes may share one."""
        return self.record.subject

    @property
    def image(self) -> zarr.Array[Any]:
        """The slices, (slices, channels, rows, columns), float16 in [0, 1], display orientation."""
        return self._open("image")

    @property
    def label(self) -> zarr.Array[Any] | None:
        """The label map, (slices, rows, columns), unsigned integers; None for an unlabelled volume."""
        return self._open("label") if self.labelled else None

    @property
    def labelled(self) -> bool:
        """Whether the volume has a label map."""
        return self.record.label_digest is not None

    @property
    def affine(self) -> NDArray[np.float64] | None:
        """4x4, maps (column, row, slice) indices to RAS+ millimetres; None where unknown."""
        return None if self.record.affine is None else np.array(self.record.affine, dtype=np.float64)

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """(between slices, between rows, between columns) in millimetres; None where unknown."""
        return self.record.spacing_mm

    @property
    def ingest_recipe(self) -> dict[str, Any]:
        """How the slices were made: intensity rule and numbers, slicing axis, channels."""
        return dict(self.record.ingest_recipe)

    @property
    def slice_digests(self) -> tuple[str, ...]:
        """The digest of each slice's pixels, in order."""
        return self.record.slice_digests

    @property
    def content(self) -> str:
        """``<digest of the slices>/<digest of the label>``: what a run that used this volume depends on."""
        return f"{content_id(self.record.slice_digests)}/{self.record.label_digest}"

    def row_keys(self, view: str = "identity") -> list[RowKey]:
        """Return the keys of the volume's embedding rows, in the order of its slices."""
        return [RowKey(slice_digest=digest, view=view) for digest in self.record.slice_digests]

    def read_slice(self, position: int) -> NDArray[np.float16]:
        """Return one slice, (channels, rows, columns), verified against its digest.

        Raises
        ------
        DamagedStore
            When the pixels are missing, torn or not those that were ingested.
        """
        array = self._open("image")
        try:
            plane: NDArray[np.float16] = np.asarray(array[position])
        except TORN_ARRAY as error:
            self._damaged("image", f"torn ({error})")
        if array_digest(plane) != self.slice_digests[position]:
            self._damaged("image", f"not what was ingested: slice {position} does not match its digest")
        return plane

    def read_label(self) -> NDArray[np.unsignedinteger[Any]] | None:
        """Return the whole label map, (slices, rows, columns), verified against its digest; None without one.

        Raises
        ------
        DamagedStore
            When the label is missing, torn or not the one that was ingested.
        """
        if not self.labelled:
            return None
        array = self._open("label")
        try:
            label: NDArray[np.unsignedinteger[Any]] = np.asarray(array[:])
        except TORN_ARRAY as error:
            self._damaged("label", f"torn ({error})")
        if array_digest(label) != self.record.label_digest:
            self._damaged("label", "not what was ingested: it does not match its digest")
        return label

    def intact(self) -> bool:
        """Whether every file of the volume is on the disk as it was written."""
        return file_digests(self._folder) == dict(self.record.files)

    def _open(self, name: str) -> zarr.Array[Any]:
        try:
            return open_array(self._folder / name)
        except TORN_ARRAY as error:
            self._damaged(name, f"missing or torn ({error})")

    def _damaged(self, name: str, what: str) -> NoReturn:
        message = (
            f"{self.id}: its {name} at {self._folder / name} is {what}. "
            f"Ingest its source again: samkit ingest writes what is damaged anew."
        )
        raise DamagedStore(message)


def slice_digests(image: NDArray[np.float16]) -> tuple[str, ...]:
    """Return the digest of each slice of (slices, channels, rows, columns)."""
    return tuple(array_digest(plane) for plane in image)


def write_pixels(
    workspace: Path, volume_id: str, image: NDArray[np.float16], label: NDArray[np.unsignedinteger[Any]] | None
) -> str:
    """Write a volume's arrays and return their folder, relative to the workspace.

    The folder's name holds a hash of the content: a new generation of a volume never
    touches the files of the one before.

    Parameters
    ----------
    image
        (slices, channels, rows, columns), float16 in [0, 1].
    label
        (slices, rows, columns), or None.
    """
    digests = [*slice_digests(image), None if label is None else array_digest(label)]
    relative = Path("slices") / f"{volume_id}--{content_id(digests)}"
    folder = workspace / relative
    # An earlier generation with the same content may be in use: it is left alone if it is whole.
    with published_folder(folder, keep=lambda: _holds(folder, digests)) as part:
        write_array(part / "image", image, planes_per_shard=_SLICES_PER_SHARD)
        if label is not None:
            write_array(part / "label", label, planes_per_shard=_SLICES_PER_SHARD)
    return relative.as_posix()


def _holds(folder: Path, digests: Sequence[str | None]) -> bool:
    """Whether a folder holds slices, and a label or none, of these digests."""
    label_digest = digests[-1]
    try:
        image = np.asarray(open_array(folder / "image")[:])
        label = None if label_digest is None else np.asarray(open_array(folder / "label")[:])
    except TORN_ARRAY:
        return False
    return [*slice_digests(image), None if label is None else array_digest(label)] == list(digests)
