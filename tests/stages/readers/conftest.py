"""Real DICOM files for the tests of the readers: written with pydicom, read back by samkit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

WriteSeries = Callable[..., list[Path]]


def _write_series(
    folder: Path,
    values: np.ndarray,
    *,
    affine: np.ndarray,
    modality: str = "CT",
    series_uid: str | None = None,
    change: Callable[[int, Dataset], None] = lambda k, slice_: None,
    **fields: Any,
) -> list[Path]:
    """Write int16 values (column, row, slice) that an LPS+ affine places, one file a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = series_uid or generate_uid()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    paths = []
    for k in range(values.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = Dataset()
        slice_.file_meta = meta
        slice_.SOPClassUID = CTImageStorage
        slice_.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        slice_.SeriesInstanceUID = uid
        slice_.SeriesNumber = 3
        slice_.PatientID = "MRN-0012345"
        slice_.PatientName = "Doe^Jane"
        slice_.Modality = modality
        slice_.InstanceNumber = k + 1
        slice_.ImagePositionPatient = [round(float(x), 6) for x in (affine @ [0, 0, k, 1])[:3]]
        slice_.ImageOrientationPatient = [
            round(float(x), 9) for x in [*(affine[:3, 0] / spacing[0]), *(affine[:3, 1] / spacing[1])]
        ]
        slice_.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        slice_.Columns, slice_.Rows = values.shape[:2]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, 0
        slice_.PixelData = np.ascontiguousarray(values[:, :, k].T).astype("<i2").tobytes()
        for name, value in fields.items():
            setattr(slice_, name, value)
        change(k, slice_)
        # Names that sort against the slices' order, so that an order by name fails.
        path = folder / f"{values.shape[2] - k:04d}.dcm"
        slice_.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


@pytest.fixture
def write_series() -> WriteSeries:
    return _write_series


@pytest.fixture
def no_listing_of_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deny the listing of folders called "closed", as permissions do to anybody but root."""
    original = os.scandir

    def scandir(path: str | os.PathLike[str]) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
