"""Segmentations, contours, folders, archives and planted strings are what their answers say."""

from __future__ import annotations

import gzip
import itertools
import zipfile
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.errors import InvalidDicomError
from pydicom.fileset import FileSet

from synthetic.answers import LPS_TO_RAS, Answer
from synthetic.archives import bomb, cut_zip, encrypted_flag, escaping, linking, nested_bomb, zip_folder
from synthetic.catalogue import CATALOGUE
from synthetic.folders import blank_uids, hospital, on_disc
from synthetic.instances import OBLIQUE
from synthetic.irregular import tilted
from synthetic.label_objects import Contour, disc, rectangle, write_rtstruct, write_seg
from synthetic.phantom import phantom
from synthetic.private import DAY, UID_ROOT, plant_file, plant_nifti, plant_series
from synthetic.series import stored_ct, write_series

pytestmark = pytest.mark.filterwarnings("ignore")

ODD = (23, 19, 6)  # frames whose bits end inside of a byte


@pytest.fixture
def series(tmp_path: Path) -> Answer:
    return write_series(tmp_path / "ct", stored=stored_ct(ODD), affine_lps=OBLIQUE, slope=1, intercept=0)


class TestSegmentations:
    @pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
    @pytest.mark.parametrize("kind", ["binary", "fractional", "labelmap"])
    def test_highdicom_reads_the_masks(self, tmp_path: Path, series: Answer, kind: str, order: str):
        organs = phantom(ODD).masks
        masks = {"liver": organs["liver"] * (0.37 if kind == "fractional" else 1), "kidney": organs["kidney"]}
        answer = write_seg(tmp_path / "seg.dcm", series, masks, kind=kind, order=order)
        for number, mask in enumerate(answer.masks.values(), start=1):
            volume = hd.seg.segread(answer.path).get_volume(segment_numbers=[number])
            affine = (LPS_TO_RAS @ volume.affine)[:, [2, 1, 0, 3]]
            values = np.asarray(volume.array)[..., 0].transpose(2, 1, 0)
            back = np.linalg.inv(answer.affine) @ affine
            k = np.rint(back[2, 2] * np.arange(values.shape[2]) + back[2, 3]).astype(int)
            np.testing.assert_allclose(values, mask[:, :, k], atol=1e-6)
            assert mask.sum() == pytest.approx(mask[:, :, k].sum())
            assert mask.any()

    def test_the_order_of_the_frames_is_the_one_asked_for(self, tmp_path: Path, series: Answer):
        liver = {"liver": phantom(ODD).masks["liver"]}
        steps = {}
        for order in ("ascending", "descending", "shuffled"):
            path = write_seg(tmp_path / f"{order}.dcm", series, liver, order=order).path
            groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
            heights = [group.PlanePositionSequence[0].ImagePositionPatient[2] for group in groups]
            steps[order] = set(np.sign(np.diff(heights)))
        assert {len(signs) for signs in steps.values()} == {1, 2}
        assert steps["ascending"] != steps["descending"]
        assert len(steps["shuffled"]) == 2

    def test_overlap_is_noticed(self, tmp_path: Path, series: Answer):
        liver = phantom(ODD).masks["liver"]
        assert write_seg(
            tmp_path / "a.dcm", series, {"liver": liver, "half": liver & (np.arange(19) > 8)[:, None]}
        ).overlap
        assert not write_seg(tmp_path / "b.dcm", series, {"liver": liver, "rest": ~liver}).overlap

    def test_empty_frames_are_kept_or_left_out(self, tmp_path: Path, series: Answer):
        tumour = {"tumour": phantom(ODD).masks["tumour_1"]}
        counts = [
            pydicom.dcmread(write_seg(tmp_path / f"{keep}.dcm", series, tumour, keep_empty=keep).path).NumberOfFrames
            for keep in (False, True)
        ]
        assert counts == [phantom(ODD).masks["tumour_1"].any(axis=(0, 1)).sum(), 6]

    def test_another_lattice_is_written_as_it_is(self, tmp_path: Path, series: Answer):
        flipped = series.affine @ np.array([[-1, 0, 0, 22], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1.0]])
        mask = phantom(ODD).masks["kidney"]
        answer = write_seg(
            tmp_path / "seg.dcm", series, {"kidney": mask[::-1, :, ::-1]}, affine=flipped, keep_empty=True
        )
        volume = hd.seg.segread(answer.path).get_volume(segment_numbers=[1])
        affine = (LPS_TO_RAS @ volume.affine)[:, [2, 1, 0, 3]]
        index = np.argwhere(np.asarray(volume.array)[..., 0].transpose(2, 1, 0))
        there = np.rint(np.linalg.inv(series.affine) @ affine @ np.c_[index, np.ones(len(index))].T).astype(int)[:3]
        assert sorted(map(tuple, there.T)) == sorted(map(tuple, np.argwhere(mask)))

    def test_a_tilted_series_can_have_one(self, tmp_path: Path):
        (ct,) = tilted(tmp_path / "ct")
        answer = write_seg(tmp_path / "seg.dcm", ct, {"liver": phantom().masks["liver"]}, keep_empty=True)
        groups = pydicom.dcmread(answer.path).PerFrameFunctionalGroupsSequence
        places = {tuple(group.PlanePositionSequence[0].ImagePositionPatient) for group in groups}
        assert places == {tuple(pydicom.dcmread(path).ImagePositionPatient) for path in ct.paths}


class TestContours:
    def test_a_rectangle_is_filled_by_the_voxels_it_names_and_a_hole_is_cut_out(self, tmp_path: Path, series: Answer):
        outlines = [rectangle(1, (3, 8), (4, 7)), rectangle(1, (5, 6), (5, 6))]
        answer = write_rtstruct(tmp_path / "rt.dcm", series, {"box": outlines, "none": []})
        expected = np.zeros(ODD, bool)
        expected[3:9, 4:8, 1] = True
        expected[5:7, 5:7, 1] = False
        np.testing.assert_array_equal(answer.masks["box"], expected)
        assert not answer.masks["none"].any()
        voxel_mm2 = 0.7 * 1.1
        np.testing.assert_allclose(answer.areas_mm2["box"], [24 * voxel_mm2, 4 * voxel_mm2])

    def test_the_points_of_a_contour_lie_in_the_plane_of_its_slice(self, tmp_path: Path, series: Answer):
        path = write_rtstruct(tmp_path / "rt.dcm", series, {"disc": [disc(3, (11, 9), 5)]}).path
        contour = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence[0]
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        indices = np.linalg.inv(LPS_TO_RAS @ series.affine) @ np.c_[points, np.ones(len(points))].T
        np.testing.assert_allclose(indices[2], 3, atol=1e-6)
        np.testing.assert_allclose(np.hypot(indices[0] - 11, indices[1] - 9), 5, atol=1e-6)
        cited = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        assert cited == pydicom.dcmread(series.paths[3]).SOPInstanceUID

    def test_a_disc_covers_about_its_area(self, tmp_path: Path, series: Answer):
        answer = write_rtstruct(tmp_path / "rt.dcm", series, {"disc": [disc(3, (11, 9), 6)]})
        assert answer.masks["disc"].sum() * 0.7 * 1.1 == pytest.approx(answer.areas_mm2["disc"][0], rel=0.05)

    def test_references_can_be_wrong_or_absent_and_contours_open_or_lifted(self, tmp_path: Path, series: Answer):
        line = Contour(2, np.array([[3.0, 3.0], [9.0, 9.0]]), kind="OPEN_PLANAR")
        for references in ("wrong", "absent"):
            path = tmp_path / f"{references}.dcm"
            answer = write_rtstruct(path, series, {"line": [line]}, references=references, tilt_mm=2.0)
            said = pydicom.dcmread(path)
            uids = {str(element.value) for element in said.iterall() if element.VR == "UI"}
            assert series.series_uid not in uids
            assert not answer.masks["line"].any()
            assert said.ROIContourSequence[0].ContourSequence[0].ContourGeometricType == "OPEN_PLANAR"


class TestFolders:
    def test_a_hospital_holds_what_it_says(self, tmp_path: Path):
        answer = hospital(tmp_path)
        found: dict[str, int] = {}
        for path in tmp_path.rglob("*"):
            if not path.is_file() or path in answer.junk:
                continue
            uid = pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID
            found[uid] = found.get(uid, 0) + 1
        expected: dict[str, int] = {}
        for one in answer.series:
            expected[one.series_uid] = expected.get(one.series_uid, 0) + len(one.paths)
        assert {uid: found[uid] for uid in expected} == expected
        assert sum(found.values()) - sum(expected.values()) == sum(map(len, answer.objects.values()))
        assert {"taken", "refused"} == {one.fate for one in answer.series}
        assert len({one.study_uid for one in answer.series if one.patient_id == answer.series[0].patient_id}) > 1

    def test_no_object_has_pixels_of_a_patient_and_each_has_its_modality(self, tmp_path: Path):
        for modality, paths in hospital(tmp_path).objects.items():
            assert {pydicom.dcmread(path).Modality for path in paths} == {modality}

    def test_junk_is_no_dicom(self, tmp_path: Path):
        for path in hospital(tmp_path).junk:
            try:
                held = pydicom.dcmread(path)
            except (InvalidDicomError, EOFError, ValueError, NotImplementedError, KeyError):
                continue
            assert "SOPClassUID" not in held

    def test_a_disc_is_read_by_its_dicomdir(self, tmp_path: Path):
        answer = on_disc(tmp_path / "disc")
        disc_files = {Path(instance.path) for instance in FileSet(answer.objects["DICOMDIR"][0])}
        assert disc_files == {path for one in answer.series for path in one.paths}
        for one in answer.series:
            heights = [pydicom.dcmread(path).ImagePositionPatient[2] for path in one.paths]
            assert heights == sorted(heights)

    @pytest.mark.parametrize("folders", [True, False])
    def test_blank_uids_are_blank_and_the_numbers_remain(self, tmp_path: Path, folders: bool):
        answer = blank_uids(tmp_path, folders=folders)
        held = [[pydicom.dcmread(path) for path in one.paths] for one in answer.series]
        assert not any(one.SeriesInstanceUID or one.SOPInstanceUID or one.PatientID for one in itertools.chain(*held))
        assert [{int(one.SeriesNumber) for one in slices} for slices in held] == [{3}, {4}]
        assert len({path.parent for one in answer.series for path in one.paths}) == 1 + folders


class TestArchives:
    def test_a_zip_holds_the_folder_under_its_name(self, tmp_path: Path, series: Answer):
        target = zip_folder(tmp_path / "ct", tmp_path / "ct.zip")
        with zipfile.ZipFile(target) as archive:
            assert sorted(archive.namelist()) == sorted(f"ct/{path.name}" for path in series.paths)

    def test_hostile_zips_are_hostile(self, tmp_path: Path):
        assert any(name.startswith("..") for name in escaping(tmp_path / "escaping.zip"))
        with zipfile.ZipFile(linking(tmp_path / "linking.zip")) as archive:
            assert archive.infolist()[0].external_attr >> 28 == 0o12
        large = bomb(tmp_path / "bomb.zip", mebibytes=8)
        with zipfile.ZipFile(large) as archive:
            assert sum(member.file_size for member in archive.infolist()) > 500 * large.stat().st_size
        with zipfile.ZipFile(nested_bomb(tmp_path / "nested.zip")) as archive:
            assert archive.namelist() == ["11.zip"]

    def test_broken_zips_are_broken(self, tmp_path: Path, series: Answer):
        locked, cut = (zip_folder(tmp_path / "ct", tmp_path / f"{name}.zip") for name in ("locked", "cut"))
        encrypted_flag(locked)
        with zipfile.ZipFile(locked) as archive, pytest.raises(RuntimeError, match="encrypted"):
            archive.read(archive.namelist()[0])
        cut_zip(cut)
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(cut)


class TestPlanted:
    @pytest.mark.parametrize(
        "name", ["oblique", "slopes of a Philips mr", "implicit", "echoes", "enhanced mr", "ct rle"]
    )
    def test_planting_leaves_pixels_and_geometry(self, tmp_path: Path, name: str):
        kept = (
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "RescaleSlope",
            "Modality",
            "EchoTime",
        )
        for answer in CATALOGUE[name](tmp_path, 3):
            for path in answer.paths:
                before = pydicom.dcmread(path)
                pixels = before.pixel_array
                plant_file(path)
                after = pydicom.dcmread(path)
                np.testing.assert_array_equal(after.pixel_array, pixels)
                assert [after.get(keyword) for keyword in kept] == [before.get(keyword) for keyword in kept]

    def test_every_string_that_is_told_is_there_and_none_that_was_is_left(self, tmp_path: Path, series: Answer):
        before = [pydicom.dcmread(path) for path in series.paths]
        known = {str(element.value) for element in before[0].iterall() if element.VR in {"PN", "DA", "TM", "UI", "LO"}}
        known = {value for value in known if len(value) > 5 and not value.startswith("1.2.840.10008.")}
        known -= {before[0].get("SOPClassUID")}
        assert len(known) > 8
        for path in series.paths:
            planted = plant_file(path)
            data = path.read_bytes()
            assert [word for word in planted if word.encode() not in data] == ["1769-08-15"]  # how it may be rewritten
            assert [value for value in known if value.encode() in data] == []
            assert len(planted) > 1000
            assert min(map(len, planted)) >= 8

    def test_what_belonged_together_still_does(self, tmp_path: Path, series: Answer):
        segmentation = write_seg(tmp_path / "seg.dcm", series, {"liver": phantom(ODD).masks["liver"]})
        for path in (*series.paths, segmentation.path):
            plant_file(path)
        slices = [pydicom.dcmread(path) for path in series.paths]
        label = pydicom.dcmread(segmentation.path)
        assert len({one.SeriesInstanceUID for one in slices}) == 1
        assert len({one.SOPInstanceUID for one in slices}) == 6
        assert all(one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID for one in slices)
        assert label.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
        cited = {one.ReferencedSOPInstanceUID for one in label.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
        assert cited <= {one.SOPInstanceUID for one in slices}
        assert all(uid.startswith(UID_ROOT) for uid in cited)

    def test_the_answer_knows_the_planted_ids(self, series: Answer):
        answer, planted = plant_series(series)
        held = pydicom.dcmread(answer.paths[2])
        assert (held.SeriesInstanceUID, held.PatientID) == (answer.series_uid, answer.patient_id)
        assert answer.series_uid != series.series_uid
        assert any(word in answer.patient_id for word in planted)

    def test_dates_are_one_odd_day(self, series: Answer):
        plant_file(series.paths[0])
        held = pydicom.dcmread(series.paths[0])
        assert {element.value for element in held.iterall() if element.VR == "DA"} == {DAY}

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    def test_a_nifti_file_is_planted_and_reads_as_before(self, tmp_path: Path, ending: str):
        path, values = tmp_path / f"a{ending}", np.arange(24, dtype=np.int16).reshape(2, 3, 4)
        nib.save(nib.Nifti1Image(values, np.diag([1, 2, 3, 1])), path)
        planted = plant_nifti(path)
        data = path.read_bytes()
        if ending == ".nii.gz":
            data += gzip.decompress(data)
        assert [word for word in planted if word.encode() not in data] == []
        np.testing.assert_array_equal(nib.load(path).get_fdata(), values)
        np.testing.assert_array_equal(nib.load(path).affine, np.diag([1, 2, 3, 1]))
