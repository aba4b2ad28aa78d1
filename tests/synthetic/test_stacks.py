"""The answers about image series are true: by SimpleITK, by highdicom, and by the headers as pydicom reads them."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_rescale

from synthetic.answers import LPS_TO_RAS, Answer, FourDAnswer
from synthetic.catalogue import CATALOGUE, seed_of
from synthetic.codecs import COMPRESSED, DAMAGED, LOSSLESS, crashing
from synthetic.enhanced import ENHANCED
from synthetic.four_d import FOUR_D
from synthetic.irregular import IRREGULAR, tilted
from synthetic.kinds import KINDS
from synthetic.phantom import SHAPE, phantom
from synthetic.series import PLAIN

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's, about headers that are wrong on purpose


def make(name: str, folder: Path) -> tuple[Answer, ...]:
    return CATALOGUE[name](folder, seed_of(name))


def headers(paths: Iterable[Path]) -> list[Dataset]:
    slices = [pydicom.dcmread(path, force=True) for path in paths]
    for one in slices:
        if "TransferSyntaxUID" not in one.file_meta:  # a file without preamble: DICOM's default
            one.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    return slices


def along_normal(slices: list[Dataset]) -> NDArray[np.float64]:
    """Where slices lie along the normal of the first one's orientation, in millimetres."""
    cosines = np.array(slices[0].ImageOrientationPatient, float)
    normal = np.cross(cosines[:3], cosines[3:])
    return np.array([np.dot(np.array(one.ImagePositionPatient, float), normal) for one in slices])


def by_simpleitk(files: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values (column, row, slice) and the RAS+ affine of files in their order."""
    image = SimpleITK.ReadImage(files if len(files) > 1 else files[0])
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0).astype(float), LPS_TO_RAS @ affine


# SimpleITK reads no Modality LUT Sequence; it turns MONOCHROME1 round; its series finder wants a preamble.
UNLIKE_SIMPLEITK = {"modality table", "monochrome1"}


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in UNLIKE_SIMPLEITK])
def test_simpleitk_orders_and_reads_a_plain_series_to_the_same_values_and_places(tmp_path: Path, name: str):
    (answer,) = make(name, tmp_path)
    found = list(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))) or [
        str(path) for path in answer.paths
    ]
    values, affine = by_simpleitk(found)
    np.testing.assert_allclose(values, answer.values, rtol=1e-12)
    np.testing.assert_allclose(affine, answer.affine, atol=1e-3 if name == "noisy headers" else 1e-9)


@pytest.mark.parametrize("name", PLAIN)
def test_pydicom_reads_a_plain_series_to_the_same_values(tmp_path: Path, name: str):
    (answer,) = make(name, tmp_path)
    slices = headers(answer.paths)
    values = [apply_modality_lut(one.pixel_array, one).T for one in slices]
    np.testing.assert_allclose(np.stack(values, axis=-1), answer.values, rtol=1e-12)
    assert (np.diff(along_normal(slices)) > 0).all()
    assert answer.inverted == (slices[0].PhotometricInterpretation == "MONOCHROME1")


def test_padding_is_told_in_the_units_of_the_values(tmp_path: Path):
    (single,) = make("padding value", tmp_path / "a")
    (ranged,) = make("padding range", tmp_path / "b")
    assert single.padding == (-2024, -2024)
    assert ranged.padding == (-2024, -2023)
    for answer, columns in ((single, 4), (ranged, 6)):
        low, high = answer.padding
        assert ((low <= answer.values) & (answer.values <= high)).sum() == columns * 3 * SHAPE[2]


@pytest.mark.parametrize("name", ["ct", "names without extension", "enhanced mr", "ct rle", "ct jpeg lossless"])
def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, name: str):
    first, second = (make(name, tmp_path / folder)[0].paths for folder in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_catalogue_loses_no_maker_to_a_name_used_twice():
    assert len(CATALOGUE) == sum(map(len, (PLAIN, IRREGULAR, KINDS, FOUR_D, ENHANCED, COMPRESSED, DAMAGED)))


def test_no_two_cases_share_a_series_or_a_patient(tmp_path: Path):
    names = [*PLAIN, *IRREGULAR]
    owners: dict[str, set[str]] = defaultdict(set)
    for number, name in enumerate(names):
        for answer in make(name, tmp_path / str(number)):
            owners[answer.series_uid].add(name)
            owners[answer.patient_id].add(name)
    assert all(len(cases) == 1 for cases in owners.values())


def test_a_phantom_has_organs_and_no_symmetry():
    body = phantom()
    assert all(mask.any() for mask in body.masks.values())
    assert sum(mask.astype(int) for mask in body.masks.values()).max() == 1
    for axis in range(3):
        assert (np.flip(body.hounsfield, axis) != body.hounsfield).mean() > 0.5


class TestIrregular:
    @pytest.mark.parametrize(("shear_mm", "angles"), [((0, 4), (0, 0, 0)), ((2.5, -3), (10, 5, -20))])
    def test_a_tilt_is_the_distance_of_the_last_slice_from_the_normal(self, tmp_path: Path, shear_mm, angles):
        (answer,) = tilted(tmp_path, shear_mm=shear_mm, angles_degrees=angles)
        slices = headers(answer.paths)
        way = np.subtract(slices[-1].ImagePositionPatient, slices[0].ImagePositionPatient).astype(float)
        off = np.sqrt(way @ way - (along_normal(slices)[-1] - along_normal(slices)[0]) ** 2)
        assert answer.facts["shear_mm"] == pytest.approx(off, abs=1e-6)
        assert answer.facts["shear_mm"] == pytest.approx(np.hypot(*shear_mm))
        last = answer.affine @ [0, 0, SHAPE[2] - 1, 1]
        np.testing.assert_allclose(last[:3], LPS_TO_RAS[:3, :3] @ slices[-1].ImagePositionPatient, atol=1e-9)

    @pytest.mark.parametrize("name", ["one slice missing", "two gaps"])
    def test_a_gap_lies_after_the_file_that_it_is_said_to_follow(self, tmp_path: Path, name: str):
        (answer,) = make(name, tmp_path)
        steps = np.diff(along_normal(headers(answer.paths)))
        gaps = [(answer.paths[n], step) for n, step in enumerate(steps) if step > 2.6]
        assert [path for path, _ in answer.facts["gaps"]] == [path for path, _ in gaps]
        assert answer.facts["gap_mm"] == pytest.approx(max(step for _, step in gaps))
        assert answer.facts["missing"] == round(sum(step / 2.5 - 1 for _, step in gaps))

    def test_uneven_spacing_and_shear_are_as_large_as_said(self, tmp_path: Path):
        (spacing,), (shear,) = make("uneven spacing", tmp_path / "a"), make("uneven shear", tmp_path / "b")
        np.testing.assert_allclose(np.diff(along_normal(headers(spacing.paths))), spacing.facts["steps_mm"])
        slices = headers(shear.paths)
        np.testing.assert_allclose(np.diff(along_normal(slices)), 2.5)
        rows = np.array([one.ImagePositionPatient[1] for one in slices], float)
        assert rows.max() - rows.min() == pytest.approx(shear.facts["off_mm"])
        assert rows.argmax() == shear.paths.index(shear.facts["after"]) + 1

    def test_duplicates_share_a_position_and_nothing_else(self, tmp_path: Path):
        (answer,) = make("duplicate positions", tmp_path)
        for pair in answer.facts["doubled"]:
            first, second = headers(pair)
            assert first.ImagePositionPatient == second.ImagePositionPatient
            assert first.SOPInstanceUID != second.SOPInstanceUID
            assert (first.pixel_array != second.pixel_array).any()

    def test_copies_are_the_same_instance(self, tmp_path: Path):
        (answer,) = make("copies", tmp_path)
        held = {one.SOPInstanceUID for one in headers(answer.paths)}
        assert {one.SOPInstanceUID for one in headers(answer.facts["copies"])} < held

    @pytest.mark.parametrize(
        "name", [name for name in IRREGULAR if name.startswith(("mixed", "stray", "localizer", "scout"))]
    )
    def test_grids_in_one_series_are_regular_each(self, tmp_path: Path, name: str):
        answers = make(name, tmp_path)
        assert len({answer.series_uid for answer in answers}) == 1
        assert len(answers) > 1
        kinds = set()
        for answer in answers:
            slices = headers(answer.paths)
            assert {one.SeriesInstanceUID for one in slices} == {answer.series_uid}
            np.testing.assert_allclose(np.stack([one.pixel_array.T for one in slices], -1), answer.values)
            for k, one in enumerate(slices):
                place = LPS_TO_RAS @ answer.affine @ [0, 0, k, 1]
                np.testing.assert_allclose(place[:3], np.array(one.ImagePositionPatient, float), atol=1e-9)
            kinds.add((slices[0].Rows, str(slices[0].ImageOrientationPatient), str(slices[0].PixelSpacing)))
        assert len(kinds) == len(answers)


class TestKinds:
    @pytest.mark.parametrize("name", ["rgb by pixel", "rgb by plane", "ybr"])
    def test_colour_is_what_pydicom_shows(self, tmp_path: Path, name: str):
        (answer,) = make(name, tmp_path)
        values = np.stack([one.pixel_array.transpose(1, 0, 2) for one in headers(answer.paths)], axis=2)
        np.testing.assert_allclose(values.astype(float), answer.values, atol=2 if name == "ybr" else 0)

    def test_a_palette_gives_its_colours(self, tmp_path: Path):
        (answer,) = make("palette", tmp_path)
        first = headers(answer.paths)[0]
        shown = pydicom.pixels.apply_color_lut(first.pixel_array, first).transpose(1, 0, 2)
        np.testing.assert_array_equal(shown, answer.values[:, :, 0])

    @pytest.mark.parametrize("name", ["radiograph", "ultrasound loop", "ultrasound picture"])
    def test_pictures_hold_their_frames_and_no_position(self, tmp_path: Path, name: str):
        (answer,) = make(name, tmp_path)
        (only,) = headers(answer.paths)
        frames = only.pixel_array.reshape(-1, only.Rows, only.Columns)
        np.testing.assert_array_equal(frames.transpose(2, 1, 0), answer.values)
        assert "ImagePositionPatient" not in only


def seconds_of_day(time: str) -> float:
    return int(time[:2]) * 3600 + int(time[2:4]) * 60 + float(time[4:])


# How to tell volumes apart, from the headers alone.
TELLING = {
    "echoes": lambda one: float(one.EchoTime),
    "b-values": lambda one: one.DiffusionBValue,
    "b-values by Siemens": lambda one: float(one[0x0019, 0x100C].value),
    "b-values by GE": lambda one: float(one[0x0043, 0x1039].value[0]),
    "b-values by GE with offset": lambda one: float(one[0x0043, 0x1039].value[0]) % 1_000_000_000,
    "temporal positions": lambda one: one.TemporalPositionIdentifier - 1,
    "acquisitions": lambda one: one.AcquisitionNumber - 1,
    "heart phases": lambda one: one.TriggerTime / 37.5,
    "acquisition times": lambda one: (float(one.AcquisitionTime) - 101110.5) / 3,
    "times by slice over midnight": lambda one: round((seconds_of_day(one.AcquisitionTime) - 86395) % 86400 / 0.7) // 6,
    "heart phases from their own beats": lambda one: round(
        (one.TriggerTime - 1.7 * float(one.ImagePositionPatient[2])) / 37.5
    ),
    "magnitude and phase": lambda one: "MP".index(one.ImageType[2]),
    "numbered only": lambda one: (one.InstanceNumber - 1) // SHAPE[2],
    "b-values with directions": lambda one: (one.InstanceNumber - 1) // SHAPE[2],
}


@pytest.mark.parametrize("name", FOUR_D)
def test_the_volumes_of_a_4d_series_are_told_apart_as_said(tmp_path: Path, name: str):
    (answer,) = make(name, tmp_path)
    assert isinstance(answer, FourDAnswer)
    of: dict[float, list[Dataset]] = defaultdict(list)
    for one in headers(answer.paths):
        of[float(TELLING[name](one))].append(one)
    if name != "b-values with directions":
        assert sorted(of) == sorted(answer.choices)
    for key, volume in zip(sorted(of), answer.volumes, strict=True):
        ordered = sorted(of[key], key=lambda one: one.ImagePositionPatient[2])
        np.testing.assert_array_equal(np.stack([one.pixel_array.T for one in ordered], axis=-1), volume)


def by_functional_groups(file: Dataset) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Frames (column, row) after rescale, and their positions, in the order of the file."""
    shared = file.SharedFunctionalGroupsSequence[0]
    frames, places = [], []
    for pixels, group in zip(file.pixel_array, file.PerFrameFunctionalGroupsSequence, strict=True):
        rescale = group.get("PixelValueTransformationSequence") or shared.get("PixelValueTransformationSequence")
        frames.append((apply_rescale(pixels, rescale[0]) if rescale else pixels).T.astype(float))
        places.append(np.array(group.PlanePositionSequence[0].ImagePositionPatient, float))
    return frames, places


class TestEnhanced:
    @pytest.mark.parametrize("name", [name for name in ENHANCED if name != "frame missing"])
    def test_every_frame_lies_where_the_affine_puts_it(self, tmp_path: Path, name: str):
        (answer,) = make(name, tmp_path)
        seen: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
        for file in headers(answer.paths):
            for frame, place in zip(*by_functional_groups(file), strict=True):
                index = np.linalg.inv(LPS_TO_RAS @ answer.affine) @ [*place, 1]
                np.testing.assert_allclose(index, [0, 0, round(index[2]), 1], atol=1e-8)
                seen[round(index[2])].append(frame)
        volumes = answer.volumes if isinstance(answer, FourDAnswer) else (answer.values,)
        for n, volume in enumerate(volumes):
            np.testing.assert_allclose(np.stack([seen[k][n] for k in range(SHAPE[2])], axis=-1), volume, rtol=1e-12)

    @pytest.mark.parametrize("name", ["enhanced mr", "enhanced ct", "groups in every frame", "rescale by frame"])
    def test_highdicom_reads_the_same_volume(self, tmp_path: Path, name: str):
        (answer,) = make(name, tmp_path)
        volume = hd.imread(answer.paths[0]).get_volume()
        affine = (LPS_TO_RAS @ volume.affine)[:, [2, 1, 0, 3]]
        values = np.asarray(volume.array).transpose(2, 1, 0)
        back = np.linalg.inv(answer.affine) @ affine  # highdicom runs against the normal
        k = np.rint(back[2, 2] * np.arange(SHAPE[2]) + back[2, 3]).astype(int)
        np.testing.assert_allclose(values, answer.values[:, :, k], rtol=1e-6)

    def test_stored_frames_are_shuffled(self, tmp_path: Path):
        (answer,) = make("shuffled frames", tmp_path)
        _, places = by_functional_groups(headers(answer.paths)[0])
        assert list(np.argsort(np.argsort([place[2] for place in places]))) == list(answer.facts["order"])


class TestCodecs:
    @pytest.mark.parametrize("name", [name for name in COMPRESSED if not name.startswith("enhanced")])
    def test_simpleitk_decodes_the_same_values(self, tmp_path: Path, name: str):
        (answer,) = make(name, tmp_path)
        values, affine = by_simpleitk([str(path) for path in answer.paths])
        np.testing.assert_allclose(values, answer.values, atol=answer.facts.get("within", 1e-9))
        np.testing.assert_allclose(affine, answer.affine, atol=1e-9)

    @pytest.mark.parametrize("name", LOSSLESS)
    def test_a_compressed_multi_frame_file_keeps_its_frames(self, tmp_path: Path, name: str):
        (answer,) = make(f"enhanced {name}", tmp_path)
        (file,) = headers(answer.paths)
        frames, _ = by_functional_groups(file)
        assert file.file_meta.TransferSyntaxUID == LOSSLESS[name]
        np.testing.assert_allclose(np.stack(frames, -1), answer.values[:, :, list(answer.facts["order"])])

    @pytest.mark.parametrize("name", DAMAGED)
    def test_exactly_the_damaged_file_does_not_decode(self, tmp_path: Path, name: str):
        (answer,) = make(name, tmp_path)
        for path in answer.paths:
            if path == answer.facts["file"]:
                with pytest.raises((AttributeError, EOFError, NotImplementedError, RuntimeError, ValueError)):
                    _ = headers([path])[0].pixel_array
            else:
                assert headers([path])[0].pixel_array.shape == SHAPE[1::-1]

    def test_the_crashing_file_ends_the_process_that_decodes_it(self, tmp_path: Path):
        (answer,) = crashing(tmp_path)
        code = "import pydicom, sys; pydicom.pixels.pixel_array(sys.argv[1], decoding_plugin='gdcm')"
        finished = subprocess.run([sys.executable, "-c", code, str(answer.facts["file"])], check=False)
        assert finished.returncode != 0
