"""h5 volumes: an ``image`` dataset ``[Z, H, W]`` and, where there is one, a ``label`` of the same shape.

This is the form in which ACDC and Synapse are passed around (HiLab-git/WSL4MIS, Beckschen/TransUNet). It keeps no
spacing and no orientation, so the affine is None and millimetres stay unknown. Index order out: (W, H, Z).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ...store.errors import UnreadableFile, UnusableVoxels
from .base import LabelMap, Scan
from .labels import whole_labels
from .nifti import grid_of_affine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

__all__ = ["has_label", "read_hdf5_image", "read_hdf5_label"]

IMAGE, LABEL = "image", "label"


def read_hdf5_image(path: Path, *, modality: str | None = None) -> Scan:
    """Read the ``image`` dataset.

    Returns
    -------
    Scan
        ``values`` (W, H, Z) float32, as stored, not rescaled; ``affine`` None. A 2-D ``[H, W]`` is one slice.

    Raises
    ------
    UnreadableFile
        Missing, truncated, not HDF5, or without ``image``.
    UnusableVoxels
        Not two- or three-dimensional, or not real numbers.
    """
    values = _read(path, IMAGE).astype(np.float32, copy=False)
    i, j, k = values.shape
    return Scan(values=values, affine=None, modality=modality, grid=grid_of_affine((i, j, k), None))


def read_hdf5_label(path: Path, *, threshold: float | None = None) -> LabelMap:
    """Read the ``label`` dataset, as (W, H, Z); see `labels.whole_labels` for which values are taken.

    Raises
    ------
    UnreadableFile
        Missing, truncated, not HDF5, or without ``label``.
    UnusableLabel
        Values that are not whole numbers from 0 on.
    UnusableVoxels
        Not two- or three-dimensional, or not real numbers.
    """
    return LabelMap(values=whole_labels(_read(path, LABEL), place=f"{path}:{LABEL}", threshold=threshold), affine=None)


def has_label(path: Path) -> bool:
    """Tell whether the file has a ``label`` dataset.

    Raises
    ------
    UnreadableFile
        Missing, truncated or not HDF5.
    """
    with _opened(path) as file:
        return isinstance(file.get(LABEL), h5py.Dataset)


def _read(path: Path, name: str) -> npt.NDArray[Any]:
    """Return a dataset turned from [Z, H, W] into (W, H, Z)."""
    with _opened(path) as file:
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise UnreadableFile(_missing(path, name, file))
        shape, dtype = dataset.shape, dataset.dtype
        if dtype.kind not in "uifb" or shape is None or len(shape) not in {2, 3} or 0 in shape:
            message = (
                f"{path}: the dataset `{name}` has shape {shape} and type {dtype}; real numbers of shape [Z, H, W] "
                f"(or [H, W], one slice) are taken. Write each 3-D volume to a file of its own."
            )
            raise UnusableVoxels(message)
        values: npt.NDArray[Any] = dataset[()]
    return np.atleast_3d(values.T) if values.ndim == 2 else values.transpose(2, 1, 0)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open for reading; whatever h5py finds wrong, also later in the block, is one kind of error."""
    if not path.exists():
        message = f"{path}: there is no such file. Is it a link to something that was never downloaded?"
        raise UnreadableFile(message)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        message = (
            f"{path}: the file is truncated, damaged or not HDF5 ({path.stat().st_size} bytes). A download or copy "
            f"that stopped early is the usual cause: copy it again, and compare sizes."
        )
        raise UnreadableFile(message) from error


def _missing(path: Path, name: str, file: Any) -> str:  # noqa: ANN401 (an h5py.File)
    present: list[str] = []
    file.visititems(lambda key, item: present.append(key) if isinstance(item, h5py.Dataset) else None)
    listed = ", ".join(f"`{key}`" for key in sorted(present)[:12]) or "none"
    return (
        f"{path}: there is no dataset `{name}`; the datasets there are: {listed}. The volume must be called `{IMAGE}` "
        f"and its label map `{LABEL}`: rename it, e.g. with h5py, file.move(old, {name!r})."
    )
