"""The trees of 3D-IRCADb, CHAOS, ACDC and Synapse hold the volumes and masks that their answers say."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import apply_rescale

from synthetic.challenges import SYNAPSE_NAMES, write_acdc, write_chaos, write_synapse
from synthetic.ircadb import PATIENTS, SHAPE, IrcadbPatient, write_ircadb


@pytest.fixture(scope="module")
def ircadb(tmp_path_factory: pytest.TempPathFactory) -> dict[int, IrcadbPatient]:
    return {one.number: one for one in write_ircadb(tmp_path_factory.mktemp("ircadb"))}


def opened(patient: IrcadbPatient, part: str) -> dict[str, pydicom.Dataset]:
    """All files of a part of a patient by their path below the innermost folder of that name."""
    archive = patient.folder / f"{part}.zip"
    if archive.exists():
        with zipfile.ZipFile(archive) as held:
            files = {name: held.read(name) for name in held.namelist()}
    else:
        root = patient.folder
        files = {
            path.relative_to(root).as_posix(): path.read_bytes() for path in (root / part).rglob("*") if path.is_file()
        }
    return {name.rpartition(f"{part}/")[2]: pydicom.dcmread(io.BytesIO(data)) for name, data in files.items()}


class TestIrcadb:
    @pytest.mark.parametrize("number", [one.number for one in PATIENTS])
    def test_the_ct_in_the_order_of_the_answer_holds_its_values(self, ircadb, number: int):
        patient = ircadb[number]
        files = opened(patient, "PATIENT_DICOM")
        ordered = [files[path.name] for path in patient.ct.paths]
        assert np.all(np.diff([one.ImagePositionPatient[2] for one in ordered]) > 0)
        values = np.stack([apply_rescale(one.pixel_array, one).T for one in ordered], axis=-1)
        np.testing.assert_array_equal(values, patient.ct.values)
        assert patient.ct.values.min() < -900

    @pytest.mark.parametrize("number", [one.number for one in PATIENTS])
    def test_masks_bear_the_names_of_the_slices_and_hold_0_and_255(self, ircadb, number: int):
        patient = ircadb[number]
        files = opened(patient, "MASKS_DICOM")
        for name, mask in patient.masks.items():
            planes = [files[f"{name}/{path.name}"].pixel_array.T for path in patient.ct.paths]
            assert set(np.unique(planes)) == {0, 255}
            np.testing.assert_array_equal(np.stack(planes, axis=-1) > 0, mask)
        assert len(files) == len(patient.masks) * SHAPE[2]

    def test_every_trap_of_the_layout_is_there(self, ircadb):
        assert {number for number, one in ircadb.items() if one.liver_tumour.any()} == {1, 17, 19}
        assert {"leftsurretumor", "livercyst"} < set(ircadb[5].masks)
        assert "tumor" in ircadb[7].masks
        assert (ircadb[1].folder / "PATIENT_DICOM.zip").is_file()
        assert (ircadb[5].folder / "PATIENT_DICOM" / "image_0").is_file()
        assert (ircadb[19].folder / "PATIENT_DICOM" / "PATIENT_DICOM" / "image_0").is_file()
        names = [path.name for path in ircadb[1].ct.paths]
        assert sorted(names) != names
        with zipfile.ZipFile(ircadb[1].folder / "PATIENT_DICOM.zip") as archive:
            assert archive.namelist() != sorted(archive.namelist())
        (mask, *_) = opened(ircadb[11], "MASKS_DICOM").values()
        assert "ImagePositionPatient" not in mask
        assert mask.RescaleIntercept == -1000
        assert "RescaleSlope" not in next(iter(opened(ircadb[1], "PATIENT_DICOM").values()))
        uids = {one.SeriesInstanceUID for one in opened(ircadb[5], "MASKS_DICOM").values()}
        assert uids == {ircadb[5].ct.series_uid}

    def test_the_whole_set_may_be_one_zip_of_zips(self, tmp_path: Path):
        write_ircadb(tmp_path, patients=PATIENTS[:1], outer_zip=True)
        assert [path.name for path in tmp_path.iterdir()] == ["3Dircadb1.zip"]
        with zipfile.ZipFile(tmp_path / "3Dircadb1.zip") as archive:
            assert "3Dircadb1/3Dircadb1.1/PATIENT_DICOM.zip" in archive.namelist()


def test_the_masks_of_chaos_are_beside_their_slices(tmp_path: Path):
    cases = write_chaos(tmp_path)
    assert {case.id for case in cases} >= {"CT/1", "MR/1/T1DUAL/InPhase", "MR/1/T1DUAL/OutPhase", "MR/3/T2SPIR"}
    for case in cases:
        slices = [pydicom.dcmread(path) for path in case.image]
        assert np.all(np.diff([one.ImagePositionPatient[2] for one in slices]) > 0)
        np.testing.assert_array_equal(
            np.stack([apply_rescale(one.pixel_array, one).T for one in slices], -1), case.values
        )
        masks = np.stack([np.asarray(Image.open(path)).T for path in case.label], axis=-1)
        np.testing.assert_array_equal(masks, case.labels)
        assert set(np.unique(masks)) == {0, 255} if case.id.startswith("CT") else {0, 63, 126, 189, 252}
        if case.phase != "OutPhase" and case.id.startswith("MR"):
            assert [path.stem for path in case.label] == [path.stem for path in case.image]
        if case.id.startswith("CT"):  # the n-th ground truth belongs to the n-th DICOM name
            assert [sorted(case.image).index(path) for path in case.image] == [
                sorted(case.label).index(path) for path in case.label
            ]


def test_the_frames_of_acdc_are_those_of_info_cfg(tmp_path: Path):
    for case in write_acdc(tmp_path):
        facts = dict(line.split(": ") for line in (case.image[0].parent / "Info.cfg").read_text().splitlines())
        assert case.id == f"{case.subject}_frame{int(facts[case.phase]):02d}"
        cine = nib.load(case.image[0].parent / f"{case.subject}_4d.nii.gz").get_fdata()
        np.testing.assert_array_equal(cine[..., int(facts[case.phase]) - 1], case.values)
        np.testing.assert_array_equal(nib.load(case.image[0]).get_fdata(), case.values)
        np.testing.assert_array_equal(nib.load(case.label[0]).get_fdata(), case.labels)
        assert set(np.unique(case.labels)) == {0, 1, 2, 3}


def test_the_labels_of_synapse_lie_on_their_images(tmp_path: Path):
    for case in write_synapse(tmp_path):
        image = nib.load(case.image[0])
        np.testing.assert_array_equal(image.get_fdata(), case.values)
        np.testing.assert_allclose(image.affine, case.affine)
        if not case.label:
            continue
        label = nib.load(case.label[0])
        flipped = nib.aff2axcodes(label.affine) != nib.aff2axcodes(image.affine)
        assert flipped == (case.id == "0001")
        values = label.get_fdata()
        np.testing.assert_array_equal(values[:, ::-1] if flipped else values, case.labels)
        corner = label.affine @ [0, image.shape[1] - 1 if flipped else 0, 0, 1]
        np.testing.assert_allclose(corner, image.affine @ [0, 0, 0, 1], atol=1e-4)
        assert set(np.unique(case.labels)) == {0, *SYNAPSE_NAMES}
