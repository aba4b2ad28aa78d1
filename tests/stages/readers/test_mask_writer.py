"""Masks in every format lie where their source does, for whoever reads them; on a sheared grid none claims to."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its own documentation calls it so)
from PIL import Image
from synthetic.irregular import tilted

from samkit.stages.readers.base import SourceGrid
from samkit.stages.readers.dicom_series import triage
from samkit.stages.readers.itk import read_itk_image
from samkit.stages.readers.mask_writer import MASK_FORMATS, MaskFormat, mask_file, read_mask, write_mask
from samkit.stages.readers.nifti import grid_of_affine, read_nifti_image
from samkit.stages.readers.picture import read_picture_image
from samkit.stages.readers.seg_writer import Algorithm
from samkit.store.errors import InputError

SHAPE = (7, 5, 6)
STRAIGHT = np.array([[-1.5, 0, 0, 20], [0, -1.4, 0, 30], [0, 0, 3, -7], [0, 0, 0, 1]])
TILTED = np.array([[-1.5, 0, 0, 20], [0, -1.4, 0.8, 30], [0, 0, 3, -7], [0, 0, 0, 1]])


@pytest.fixture
def mask() -> np.ndarray:
    random = np.random.default_rng(3)
    return random.integers(0, 4, SHAPE).astype(np.uint8)


def write(folder: Path, mask_format: MaskFormat, mask: np.ndarray, grid: SourceGrid) -> Path:
    target = mask_file(folder, "case", mask_format, grid)
    write_mask(target, mask, grid, series=None, label_names={1: "a"}, algorithm=Algorithm(version="1"))
    assert sorted(folder.iterdir()) == sorted(target.files)
    return target.path


def nifti(path: Path, affine: np.ndarray, *, code: int) -> Path:
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), None)
    image.header.set_sform(affine, code=code)
    nib.save(image, path)
    return path


# -- straight grids --------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_format", ["nifti", "nrrd"])
def test_a_mask_opens_in_simpleitk_with_the_geometry_and_voxels_of_its_source(tmp_path, mask, mask_format):
    path = write(tmp_path, mask_format, mask, grid_of_affine(SHAPE, STRAIGHT))
    read = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(read).T, mask)
    for index in [(0, 0, 0), (6, 0, 0), (0, 4, 0), (0, 0, 5)]:
        left, back, top = read.TransformIndexToPhysicalPoint(index)
        assert (-left, -back, top) == pytest.approx(tuple((STRAIGHT @ [*index, 1])[:3]), abs=1e-5)


def test_a_mask_of_an_nrrd_source_has_the_grid_of_the_source(tmp_path, mask):
    source = sitk.GetImageFromArray(np.zeros(SHAPE[::-1], np.int16))
    source.SetSpacing((0.8, 0.9, 2.5))
    source.SetOrigin((-3.0, 4.5, 12.25))
    source.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    sitk.WriteImage(source, str(tmp_path / "source.nrrd"))
    (tmp_path / "masks").mkdir()
    path = write(tmp_path / "masks", "nrrd", mask, read_itk_image(tmp_path / "source.nrrd").grid)
    read = sitk.ReadImage(str(path))
    assert read.GetSize() == source.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(read, name)() == pytest.approx(getattr(source, name)(), abs=1e-9), name


def test_a_mask_of_a_picture_has_its_rows_and_columns(tmp_path, mask):
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(tmp_path / "photo.png")
    (tmp_path / "masks").mkdir()
    path = write(tmp_path / "masks", "png", mask[:, :, :1], read_picture_image(tmp_path / "photo.png").grid)
    assert np.array_equal(np.asarray(Image.open(path)), mask[:, :, 0].T)


@pytest.mark.parametrize("mask_format", [one for one in MASK_FORMATS if one != "dicom-seg"])
def test_what_is_written_is_read_back(tmp_path, mask, mask_format):
    plane = mask[:, :, :1]
    path = write(tmp_path, mask_format, plane, SourceGrid(shape=(7, 5, 1), stored_shape=(7, 5, 1), affine=None))
    assert np.array_equal(read_mask(path), plane)


@pytest.mark.parametrize("name", ["torn.nii.gz", "torn.nrrd", "torn.png", "torn.seg.dcm", "gone.nii.gz"])
def test_what_is_no_mask_reads_as_nothing(tmp_path, name):
    if not name.startswith("gone"):
        (tmp_path / name).write_bytes(b"mine")
    assert read_mask(tmp_path / name) is None


def test_a_dicom_seg_of_something_else_than_dicom_is_refused(tmp_path, mask):
    with pytest.raises(InputError, match="--format nifti"):
        write(tmp_path, "dicom-seg", mask, grid_of_affine(SHAPE, STRAIGHT))


# -- sheared grids ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("mask_format", "ending"), [("nifti", "nii.gz"), ("nrrd", "nrrd")])
def test_a_mask_of_a_tilted_series_is_in_index_space_and_says_so(tmp_path, mask_format, ending):
    tilted(tmp_path / "series", shear_mm=(0.0, 20.0))
    series = triage(tmp_path / "series").findings[0].series
    assert series is not None
    (tmp_path / "masks").mkdir()
    grid = grid_of_affine(series.shape, np.array(series.affine))
    values = np.random.default_rng(0).integers(0, 3, series.shape).astype(np.uint8)
    path = write(tmp_path / "masks", mask_format, values, grid)
    assert path.name == f"case.index-space.{ending}"
    read = sitk.ReadImage(str(path))  # without an exception
    assert np.array_equal(sitk.GetArrayFromImage(read).T, values)
    assert read.GetSpacing() == pytest.approx((0.8, 0.9, np.hypot(2.5, 20 / (series.shape[2] - 1))), abs=1e-4)
    assert read.GetOrigin() == (0, 0, 0)


@pytest.mark.parametrize("mask_format", ["nifti", "nrrd"])
def test_the_true_affine_lies_beside_a_mask_in_index_space(tmp_path, mask, mask_format):
    write(tmp_path, mask_format, mask, grid_of_affine(SHAPE, TILTED))
    told = json.loads((tmp_path / "case.index-space.affine.json").read_text())
    assert np.array_equal(told["affine_ras_mm"], TILTED)
    assert told["shape_ijk"] == list(SHAPE)
    assert "index" in told["what"]


def test_both_formats_tell_the_affine_in_one_way(tmp_path, mask):
    told = []
    for mask_format in ("nifti", "nrrd"):
        (tmp_path / mask_format).mkdir()
        write(tmp_path / mask_format, mask_format, mask, grid_of_affine(SHAPE, TILTED))
        told.append((tmp_path / mask_format / "case.index-space.affine.json").read_bytes())
    assert told[0] == told[1]


def test_a_name_that_says_index_space_already_keeps_its_affine_apart(tmp_path):
    grid = grid_of_affine(SHAPE, TILTED)
    names = [mask_file(tmp_path, name, "nifti", grid).files[1].name for name in ("a", "a.index-space")]
    assert names == ["a.index-space.affine.json", "a.index-space.index-space.affine.json"]


def test_a_mask_of_a_sheared_nifti_has_the_header_of_its_source(tmp_path, mask):
    source = nifti(tmp_path / "source.nii.gz", TILTED, code=2)
    (tmp_path / "masks").mkdir()
    path = write(tmp_path / "masks", "nifti", mask, read_nifti_image(source).grid)
    assert path.name == "case.nii.gz"
    mine, theirs = nib.load(path).header, nib.load(source).header
    for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units"):
        assert np.array_equal(mine[field], theirs[field]), field
    for one in (path, source):
        with pytest.raises(RuntimeError, match="orthonormal"):
            sitk.ReadImage(str(one))


def test_a_mask_of_a_sheared_nifti_as_nrrd_is_in_index_space(tmp_path, mask):
    source = nifti(tmp_path / "source.nii.gz", TILTED, code=2)
    assert mask_file(tmp_path, "case", "nrrd", read_nifti_image(source).grid).in_index_space


def test_a_stored_grid_of_a_tilted_series_is_told_from_that_of_a_nifti(tmp_path):
    stored = SourceGrid.from_json(json.loads(json.dumps(grid_of_affine(SHAPE, TILTED).to_json())))
    own = read_nifti_image(nifti(tmp_path / "source.nii.gz", TILTED, code=2)).grid
    assert mask_file(tmp_path, "case", "nifti", stored).in_index_space
    assert not mask_file(tmp_path, "case", "nifti", own).in_index_space


@pytest.mark.parametrize("mask_format", ["dicom-seg", "png"])
def test_other_formats_never_are_in_index_space(tmp_path, mask_format):
    assert not mask_file(tmp_path, "case", mask_format, grid_of_affine(SHAPE, TILTED)).in_index_space


def test_a_grid_that_is_not_known_yet_is_taken_to_be_straight(tmp_path):
    assert mask_file(tmp_path, "case", "nifti", None).path == tmp_path / "case.nii.gz"


@pytest.mark.parametrize("skew", [2e-4, 2e-3, 8e-3])
def test_a_grid_that_counts_as_straight_can_be_written_as_nrrd(tmp_path, mask, skew):
    affine = STRAIGHT.copy()
    affine[1, 2] = 3 * skew
    grid = grid_of_affine(SHAPE, affine)
    assert not mask_file(tmp_path, "case", "nrrd", grid).in_index_space
    sitk.ReadImage(str(write(tmp_path, "nrrd", mask, grid)))
