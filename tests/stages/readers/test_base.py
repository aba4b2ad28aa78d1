"""What a reader hands on survives storage, and the dispatch finds the right reader."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np

from samkit.stages.readers.base import LabelFiles, SourceFiles, SourceGrid, read_image, read_label
from samkit.stages.readers.nifti import grid_of_affine, read_nifti_image


def source(path: Path, reader: str, label: LabelFiles | None = None, modality: str | None = None) -> SourceFiles:
    return SourceFiles(
        id="a", subject="a", image=(path,), label=label, reader=reader, modality=modality, identity="0", shown=path.name
    )


def test_a_grid_survives_json_to_the_last_bit(tmp_path: Path):
    affine = nib.affines.from_matvec(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0] * 0.7, [1 / 3, 2, 3])
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), affine), tmp_path / "a.nii.gz")
    grid = read_nifti_image(tmp_path / "a.nii.gz").grid
    assert SourceGrid.from_json(json.loads(json.dumps(grid.to_json()))) == grid


def test_a_grid_without_geometry_survives_json():
    grid = grid_of_affine((2, 3, 4), None)
    assert SourceGrid.from_json(json.loads(json.dumps(grid.to_json()))) == grid


def test_a_grid_holds_no_free_text_of_the_header(tmp_path: Path):
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4))
    image.header["descrip"], image.header["db_name"] = b"Jane Doe 1961", b"Doe"
    nib.save(image, tmp_path / "a.nii")
    assert "Doe" not in json.dumps(read_nifti_image(tmp_path / "a.nii").grid.to_json())


def test_the_reader_is_chosen_by_the_source(tmp_path: Path):
    nib.save(nib.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.ones((4, 3, 2), np.float32)
        file["label"] = np.ones((4, 3, 2), np.uint8)
    assert read_image(source(tmp_path / "a.nii.gz", "nifti")).affine is not None
    assert read_image(source(tmp_path / "a.h5", "hdf5")).affine is None
    files = LabelFiles(reader="hdf5", paths=(tmp_path / "a.h5",))
    label = read_label(source(tmp_path / "a.h5", "hdf5", label=files))
    assert label is not None
    assert label.values.shape == (2, 3, 4)


def test_the_modality_that_the_layout_knows_is_kept(tmp_path: Path):
    nib.save(nib.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    assert read_image(source(tmp_path / "a.nii.gz", "nifti", modality="CT")).modality == "CT"


def test_no_label_reads_as_none(tmp_path: Path):
    assert read_label(source(tmp_path / "a.nii.gz", "nifti")) is None
