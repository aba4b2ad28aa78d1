"""Masks that are one file a structure, or one picture a slice."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless
from synthetic.answers import to_ras
from synthetic.codecs import compress_file, cut_pixels
from synthetic.enhanced import enhanced
from synthetic.instances import AXIAL, OBLIQUE, Identity, lattice
from synthetic.phantom import SHAPE, phantom
from synthetic.series import write_series

from samkit.stages.readers.base import SourceGrid
from samkit.stages.readers.dicom import read_series
from samkit.stages.readers.dicom_series import Series, triage
from samkit.stages.readers.masks import read_mask_files, read_mask_series, read_picture_slices
from samkit.stages.readers.nifti import grid_of_affine
from samkit.store.errors import GeometryMismatch, UnreadableFile, UnusableLabel

LIVER, KIDNEY = phantom().masks["liver"], phantom().masks["kidney"]


def image(folder: Path, **options) -> tuple[Series, SourceGrid]:
    write_series(folder, name=lambda k, _: f"image_{5 - k}", **options)
    (finding,) = triage(folder).findings
    assert finding.series is not None
    return finding.series, read_series(finding.series).grid


def write_mask(
    folder: Path,
    mask: np.ndarray = LIVER,
    *,
    high: int = 255,
    change: Callable[[Dataset], None] | None = None,
    **options,
) -> tuple[Path, ...]:
    return write_series(
        folder,
        stored=(mask * high).astype(np.uint8),
        identity=Identity(series=9),
        name=lambda k, _: f"image_{5 - k}",
        change=lambda k, dataset: change(dataset) if change is not None else None,
        **options,
    ).paths


def without_place(dataset: Dataset) -> None:
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient


def read(folder: Path, *structures: tuple[str, tuple[Path, ...]], **options):
    series, grid = image(folder / "ct", **options)
    return read_mask_series(structures, series, grid, place="patient 1")


class TestMaskSeries:
    def test_masks_come_back_on_the_slices_of_the_image(self, tmp_path: Path):
        found = read(
            tmp_path, ("liver", write_mask(tmp_path / "liver")), ("kidney", write_mask(tmp_path / "kidney", KIDNEY))
        )
        np.testing.assert_array_equal(found.masks["liver"], LIVER)
        np.testing.assert_array_equal(found.masks["kidney"], KIDNEY)
        np.testing.assert_allclose(found.affine, to_ras(AXIAL))
        assert found.notes == ()

    @pytest.mark.parametrize("affine_lps", [OBLIQUE, lattice(shear_mm=(0.0, 0.8))], ids=["oblique", "tilted"])
    def test_they_do_wherever_the_image_lies(self, tmp_path: Path, affine_lps: np.ndarray):
        paths = write_mask(tmp_path / "liver", affine_lps=affine_lps)
        found = read(tmp_path, ("liver", paths[::-1]), affine_lps=affine_lps)
        np.testing.assert_array_equal(found.masks["liver"], LIVER)

    @pytest.mark.parametrize("high", [1, 255])
    def test_any_number_above_zero_is_inside_whatever_rescale_says(self, tmp_path: Path, high: int):
        paths = write_mask(tmp_path / "liver", high=high, slope=1, intercept=-1000)
        np.testing.assert_array_equal(read(tmp_path, ("liver", paths)).masks["liver"], LIVER)

    def test_slices_without_a_file_are_empty(self, tmp_path: Path):
        paths = write_mask(tmp_path / "liver")
        expected = LIVER.copy()
        expected[:, :, [0, 4]] = False
        found = read(tmp_path, ("liver", (*paths[1:4], paths[5])))
        np.testing.assert_array_equal(found.masks["liver"], expected)

    def test_an_empty_structure_is_there(self, tmp_path: Path):
        found = read(tmp_path, ("metal", write_mask(tmp_path / "metal", np.zeros(SHAPE, bool))), ("stones", ()))
        assert not found.masks["metal"].any()
        assert not found.masks["stones"].any()

    def test_compressed_masks_are_read(self, tmp_path: Path):
        paths = write_mask(tmp_path / "liver")
        for path in paths:
            compress_file(path, path, RLELossless)
        np.testing.assert_array_equal(read(tmp_path, ("liver", paths)).masks["liver"], LIVER)

    def test_masks_without_a_place_go_by_the_names_of_their_files_and_it_is_noted(self, tmp_path: Path):
        paths = write_mask(tmp_path / "liver", change=without_place)
        found = read(tmp_path, ("liver", paths))
        np.testing.assert_array_equal(found.masks["liver"], LIVER)
        assert "names" in found.notes[0]

    def test_a_mask_without_a_place_and_a_name_of_the_image_is_refused(self, tmp_path: Path):
        paths = write_mask(tmp_path / "liver", change=without_place)
        other = paths[0].rename(paths[0].with_name("image_77"))
        with pytest.raises(GeometryMismatch, match="liver/image_77 says nowhere where it lies"):
            read(tmp_path, ("liver", (other, *paths[1:])))

    def test_names_that_several_slices_have_are_no_place(self, tmp_path: Path):
        paths = write_mask(tmp_path / "liver", change=without_place)
        answer = enhanced(tmp_path / "mr", modality="CT", slope=1, name=paths[0].name)
        (finding,) = triage(answer.paths[0]).findings
        assert finding.series is not None
        grid = grid_of_affine(finding.series.shape, np.array(finding.series.affine))
        with pytest.raises(GeometryMismatch, match="6 of the image's slices"):
            read_mask_series([("liver", paths[:1])], finding.series, grid, place="patient 1")

    @pytest.mark.parametrize(
        "affine_lps",
        [
            lattice(origin_mm=(-11.0, -23.5, 41.25)),
            lattice(origin_mm=(-11.0, -23.0, 40.0)),
            lattice(origin_mm=(-11.0, -23.5, 400.0)),
            lattice((0.9, 0.9, 2.5)),
        ],
        ids=["between slices", "beside rows", "beside all", "other spacing"],
    )
    def test_a_mask_that_lies_elsewhere_is_refused(self, tmp_path: Path, affine_lps: np.ndarray):
        paths = write_mask(tmp_path / "liver", affine_lps=affine_lps)
        with pytest.raises(GeometryMismatch, match="belongs to another series"):
            read(tmp_path, ("liver", paths))

    def test_two_masks_on_one_slice_are_refused_with_their_names(self, tmp_path: Path):
        paths, more = write_mask(tmp_path / "liver"), write_mask(tmp_path / "again")
        with pytest.raises(GeometryMismatch, match="two masks of 'liver' lie on one slice: image_5 and image_5"):
            read(tmp_path, ("liver", (*paths, more[0])))

    def test_a_mask_of_another_matrix_is_refused_with_both(self, tmp_path: Path):
        paths = write_mask(tmp_path / "liver", np.zeros((30, 20, 6), bool), change=without_place)
        with pytest.raises(GeometryMismatch, match=r"shape \(20, 30\).*\(20, 24\) rows and columns"):
            read(tmp_path, ("liver", paths))

    def test_damaged_masks_are_refused(self, tmp_path: Path):
        paths = write_mask(tmp_path / "liver")
        cut_pixels(paths[1])
        with pytest.raises(UnreadableFile, match="is cut short: 240 of 480 bytes of pixels are there"):
            read(tmp_path, ("liver", paths))
        paths[1].write_bytes(b"hello")
        with pytest.raises(UnreadableFile, match=paths[1].name):
            read(tmp_path, ("liver", paths))

    def test_a_mask_that_says_it_has_thousands_of_frames_is_told_that_they_are_not_there(self, tmp_path: Path):
        paths = write_mask(tmp_path / "liver", change=lambda dataset: setattr(dataset, "NumberOfFrames", 65000))
        with pytest.raises(UnreadableFile, match="is cut short: 480 of 31200000 bytes"):
            read(tmp_path, ("liver", paths))

    def test_a_mask_of_several_frames_is_refused(self, tmp_path: Path):
        (path,) = enhanced(tmp_path / "liver").paths
        with pytest.raises(UnreadableFile, match="a mask of 6 frames"):
            read(tmp_path, ("liver", (path,)))


class TestMaskFiles:
    def write(self, path: Path, mask: np.ndarray, affine: np.ndarray | None = None) -> Path:
        values = mask.astype(np.uint8) if mask.dtype == bool else mask
        nib.save(nib.Nifti1Image(values, to_ras(AXIAL) if affine is None else affine), path)
        return path

    def test_each_file_is_a_structure(self, tmp_path: Path):
        liver = self.write(tmp_path / "liver.nii.gz", LIVER)
        itk = SimpleITK.GetImageFromArray(np.ascontiguousarray(KIDNEY.T).astype(np.uint8))
        itk.SetSpacing((0.8, 0.9, 2.5))
        itk.SetOrigin((-11.0, -23.5, 40.0))
        SimpleITK.WriteImage(itk, tmp_path / "kidney.nrrd")
        found = read_mask_files(
            [("liver", [liver]), ("kidney", [tmp_path / "kidney.nrrd"])], threshold=None, place="patient 1"
        )
        np.testing.assert_array_equal(found.masks["liver"], LIVER)
        np.testing.assert_array_equal(found.masks["kidney"], KIDNEY)

    def test_masks_on_several_lattices_are_refused_by_name(self, tmp_path: Path):
        liver = self.write(tmp_path / "liver.nii.gz", LIVER)
        for name, mask, affine in (
            ("moved", KIDNEY, to_ras(lattice(origin_mm=(0, 0, 0)))),
            ("shorter", KIDNEY[:, :, :5], None),
        ):
            other = self.write(tmp_path / f"{name}.nii.gz", mask, affine)
            with pytest.raises(GeometryMismatch, match=f"several lattices: '{name}'"):
                read_mask_files([("liver", [liver]), (name, [other])], threshold=None, place="patient 1")

    def test_many_take_little_more_memory_than_one(self, tmp_path: Path):
        """A hundred organs of a CT would not fit as bytes."""
        mask = np.zeros((128, 128, 32), bool)
        mask[40:80, 40:80, 10:20] = True
        path = self.write(tmp_path / "mask.nii.gz", mask)
        found, peak = {}, {}
        for count in (1, 12):
            tracemalloc.start()
            structures = read_mask_files([(f"organ {n}", [path]) for n in range(count)], threshold=None, place="1")
            found[count], (_, peak[count]) = structures, tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak[12] < peak[1] + mask.nbytes
        assert all(np.array_equal(one, mask) for one in found[12].masks.values())

    def test_soft_masks_need_a_threshold(self, tmp_path: Path):
        soft = self.write(tmp_path / "liver.nii.gz", LIVER * np.float32(0.7))
        with pytest.raises(UnusableLabel):
            read_mask_files([("liver", [soft])], threshold=None, place="patient 1")
        found = read_mask_files([("liver", [soft])], threshold=0.5, place="patient 1")
        np.testing.assert_array_equal(found.masks["liver"], LIVER)


class TestPictures:
    def write(self, folder: Path, mask: np.ndarray) -> list[Path]:
        folder.mkdir()
        for k in range(mask.shape[2]):
            Image.fromarray(np.ascontiguousarray(mask[:, :, k].T).astype(np.uint8) * 255).save(folder / f"{k}.png")
        return [folder / f"{k}.png" for k in range(mask.shape[2])]

    def test_pictures_lie_where_the_slices_lie(self, tmp_path: Path):
        _, grid = image(tmp_path / "ct")
        found = read_picture_slices(self.write(tmp_path / "png", LIVER), grid, threshold=None)
        np.testing.assert_array_equal(found.values > 0, LIVER)
        np.testing.assert_allclose(found.affine, to_ras(AXIAL))

    def test_another_number_of_pictures_is_refused_with_both(self, tmp_path: Path):
        _, grid = image(tmp_path / "ct")
        with pytest.raises(GeometryMismatch, match="5 pictures for 6 slices"):
            read_picture_slices(self.write(tmp_path / "png", LIVER)[:5], grid, threshold=None)

    def test_pictures_of_another_size_are_refused_with_both(self, tmp_path: Path):
        _, grid = image(tmp_path / "ct")
        with pytest.raises(GeometryMismatch, match="20 columns x 24 rows, the image's slices 24 x 20"):
            read_picture_slices(self.write(tmp_path / "png", LIVER.swapaxes(0, 1)), grid, threshold=None)


def test_a_mask_says_nothing_of_its_patient(tmp_path: Path):
    paths = write_mask(tmp_path / "liver", affine_lps=lattice(origin_mm=(0, 0, 0)))
    patient = str(pydicom.dcmread(paths[0]).PatientName)
    with pytest.raises(GeometryMismatch) as refusal:
        read(tmp_path, ("liver", paths))
    assert patient.split("^", maxsplit=1)[0] not in str(refusal.value)
