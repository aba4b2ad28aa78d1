"""Small folders of scans for the tests of the layouts, and what was found in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import SimpleITK
from PIL import Image

from samkit.stages.readers.layouts import Found, LayoutOptions, find_sources

__all__ = ["KEY", "find", "h5", "label_paths", "nifti", "nrrd", "pairs", "picture", "row", "segmentation"]

KEY = b"0123456789abcdef0123456789abcdef"


def find(place: Path, **options: Any) -> Found:
    return find_sources(place, LayoutOptions(id_key=KEY, **options))


def pairs(found: Found) -> dict[str, str | None]:
    """The name of the label's file by id; None where there is no label."""
    return {source.id: None if source.label is None else source.label.paths[0].name for source in found.sources}


def label_paths(found: Found) -> dict[str, tuple[Path, ...]]:
    return {source.id: () if source.label is None else source.label.paths for source in found.sources}


def row(found: Found, shown: str) -> Any:
    """The row of the table for a path."""
    (one,) = [row for row in found.table if row.shown == shown]
    return one


def nifti(*paths: Path, shape: tuple[int, ...] = (2, 2, 2)) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), path)


def nrrd(*paths: Path, shape: tuple[int, ...] = (2, 2, 2)) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros(shape[::-1], np.uint8), isVector=False), str(path))


def segmentation(path: Path, *names: str, shape: tuple[int, ...] = (2, 2, 2)) -> None:
    """A ``.seg.nrrd`` as 3D Slicer writes it: the names of the segments are in its header."""
    image = SimpleITK.GetImageFromArray(np.zeros(shape[::-1], np.uint8), isVector=False)
    for number, name in enumerate(names):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(number + 1))
        image.SetMetaData(f"Segment{number}_Layer", "0")
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def picture(*paths: Path, size: tuple[int, int] = (4, 3)) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(path)


def h5(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name in names:
            file[name] = np.zeros((2, 3, 4), np.uint8)
