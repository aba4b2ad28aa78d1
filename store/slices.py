"""The pixels and labels of a volume, and the record that describes them.

Arrays are in display orientation: image (slices, channels, rows, columns) float16 in
[0, 1], label (slices, rows, columns) unsigned integers. Geometry is RAS+ millimetres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import NodeNotFoundError

from .arrays import write_array
from .errors import DamagedStore
from .files import published_folder
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
    #: Recipe and digests of the generation before, until `gc`: so that "which field differs" can be said.
    predecessor: Mapping[str, Any] | None = field(default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the record as it is kept in ``volumes.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read one record of ``volumes.json``."""
        kept = dict(value)
        slices, channels, rows, columns = kept["shape"]
        kept["shape"] = (slices, channels, rows, columns)
        if kept["affine"] is not None:
            kept["affine"] = tuple(tuple(row) for row in kept["affine"])
        if kept["spacing_mm"] is not None:
            between_slices, between_rows, between_columns = kept["spacing_mm"]
            kept["spacing_mm"] = (between_slices, between_rows, between_columns)
        kept["slice_digests"] = tuple(kept["slice_digests"])
        kept["label_values"] = tuple(kept["label_values"])
        return cls(**kept)


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

    def row_keys(self, view: str = "identity") -> list[RowKey]:
        """Return the keys of the volume's embedding rows, in the order of its slices."""
        return [RowKey(slice_digest=digest, view=view) for digest in self.record.slice_digests]

    def _open(self, name: str) -> zarr.Array[Any]:
        try:
            return zarr.open_array(self._folder / name, mode="r")
        except (NodeNotFoundError, FileNotFoundError, ValueError) as error:
            message = (
                f"{self.id}: its {name} at {self._folder / name} is missing or torn ({error}). "
                f"Run `samkit ingest` on its source again."
            )
            raise DamagedStore(message) from error


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
    with published_folder(workspace / relative) as part:
        write_array(part / "image", image, planes_per_shard=_SLICES_PER_SHARD)
        if label is not None:
            write_array(part / "label", label, planes_per_shard=_SLICES_PER_SHARD)
    return relative.as_posix()
