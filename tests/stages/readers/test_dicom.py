"""DICOM series as volumes: order, place, values, and what is refused when the pixels are read."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK
from nibabel.affines import apply_affine
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from synthetic.answers import LPS_TO_RAS, Answer, FourDAnswer, to_ras
from synthetic.catalogue import CATALOGUE, seed_of
from synthetic.codecs import LOSSLESS, compress_file, corrupt_stream, crashing
from synthetic.enhanced import SHUFFLED, enhanced
from synthetic.folders import hospital
from synthetic.instances import OBLIQUE, lattice
from synthetic.private import plant_file
from synthetic.series import stored_ct, stored_mr, write_series

from samkit.stages.readers.base import Scan
from samkit.stages.readers.dicom import decoded_planes, read_series
from samkit.stages.readers.dicom_series import Finding, Series, VolumeChoice, triage
from samkit.stages.readers.geometry import choose_orientation
from samkit.stages.readers.nifti import read_nifti_image
from samkit.store.errors import SamkitError, UnreadableFile


def taken(folder: Path, **choice) -> Series:
    (finding,) = triage(folder, VolumeChoice(**choice)).findings
    assert finding.series is not None, finding.reason
    return finding.series


def read(folder: Path, **choice) -> Scan:
    return read_series(taken(folder, **choice))


# --- the answers of tests/synthetic ---

SAYS = {
    "4-D": "4-D: ",
    "colour": "PALETTE COLOR",
    "damaged": "cut short|cannot be decoded|has no pixels|no installed codec",
    "duplicate positions": "duplicate positions",
    "localizer": "localizer",
    "mosaic": "mosaic",
    "no geometry": "lacks ImagePositionPatient|not two unit vectors",
    "secondary capture": "secondary capture",
    "slices missing": r"slice\(s\) are probably missing",
    "too few slices": "too few slices|only 1 of them lies in this one",
    "uneven shear": "not on one line",
    "uneven spacing": "not evenly spaced.*The distances vary",
}
"""What is said of a refused series, by the reason of its answer."""
NOTED = {"tilt": "tilted gantry", "colour": "colour: kept as three channels"}


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_case_ends_as_its_answer_says(tmp_path: Path, name: str):
    answers = CATALOGUE[name](tmp_path, seed_of(name))
    for answer in answers:
        finding = max(triage(tmp_path).findings, key=lambda one: len(set(one.paths) & set(answer.paths)))
        if answer.fate == "taken":
            require_taken(answer, finding)
        else:
            require_refused(answer, said_of(finding, tmp_path))
        if isinstance(answer, FourDAnswer) and answer.fate == "refused":
            require_each_volume(answer, tmp_path)
    count = sum(finding.series is not None for finding in triage(tmp_path).findings)
    assert count == sum(answer.fate == "taken" or is_found_while_reading(answer, tmp_path) for answer in answers)


def is_found_while_reading(answer: Answer, folder: Path) -> bool:
    return answer.reason == "damaged" and triage(folder).findings[0].series is not None


def said_of(finding: Finding, folder: Path) -> str:
    """What a user is told of a series that is not taken, when the folder is looked at or when the pixels are read."""
    if finding.series is None:
        return " / ".join([finding.reason or "", *(files.reason for files in triage(folder).refused)])
    with pytest.raises(UnreadableFile) as refusal:
        read_series(finding.series)
    return str(refusal.value)


def require_taken(answer: Answer, finding: Finding) -> None:
    series = finding.series
    assert series is not None, finding.reason
    scan = read_series(series)
    require_values(scan, answer)
    if answer.affine is None:
        assert scan.affine is None
    else:
        np.testing.assert_allclose(scan.affine, answer.affine, atol=1e-9)
    assert (scan.modality, scan.padding, scan.inverted) == (answer.modality, answer.padding, answer.inverted)
    assert (series.patient_id, series.series_uid) == (answer.patient_id, answer.series_uid)
    assert series.study_uid in (answer.study_uid, "")
    assert series.frame_of_reference_uid in (answer.frame_of_reference_uid, "")
    assert series.number == answer.series_number
    if len(answer.paths) == len(series.frames):
        assert series.paths == answer.paths
    assert NOTED.get(answer.reason, "") in " ".join(scan.notes)
    if answer.reason == "tilt":
        assert f"{answer.facts['tilt_degrees']:.3g} degrees" in scan.notes[0]
        assert f"{answer.facts['shear_mm']:.4g} mm beside" in scan.notes[0]


def require_values(scan: Scan, answer: Answer) -> None:
    assert answer.values is not None
    if scan.values.dtype.kind == "f":
        np.testing.assert_allclose(scan.values, answer.values, rtol=1e-6, atol=1e-4)
    else:
        within = answer.facts.get("within", 2 if scan.values.ndim == 4 else 0)  # YBR is rounded on its way to RGB
        assert scan.values.shape == answer.values.shape
        assert np.abs(scan.values - answer.values).max() <= within


def require_refused(answer: Answer, said: str) -> None:
    assert re.search(SAYS[answer.reason], said), said
    if "gap_mm" in answer.facts:
        assert f"follows at {answer.facts['gap_mm']:g} mm" in said
        assert f"{answer.facts['missing']} slice(s)" in said
    if answer.reason == "slices missing" and "after" in answer.facts:
        assert f"after {answer.facts['after'].name}" in said
    if answer.reason == "damaged" and len(answer.paths) > 1 and "its header ends" not in said:
        assert answer.facts["file"].name in said


def require_each_volume(answer: FourDAnswer, folder: Path) -> None:
    for number, (choice, volume) in enumerate(zip(answer.choices, answer.volumes, strict=True)):
        same = [n for n, other in enumerate(answer.choices) if other == choice]
        if answer.key == "echo":
            scan = read(folder, echo=number + 1)
        elif answer.key == "time":
            scan = read(folder, time_index=number)
        else:
            scan = read(folder, b_value=choice, time_index=same.index(number) if len(same) > 1 else None)
        np.testing.assert_array_equal(scan.values, volume)
        np.testing.assert_allclose(scan.affine, answer.affine, atol=1e-9)


def test_every_series_of_a_hospitals_folder_is_read(tmp_path: Path):
    for answer in hospital(tmp_path).taken:
        require_taken(answer, next(one for one in triage(tmp_path).findings if set(one.paths) == set(answer.paths)))


# --- values ---


def require_refused_undecoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a series whose stream is refused before a codec sees it."""
    series = taken(folder)
    decode = "pydicom.pixels.decoders.base.DecodeRunner.decode"
    monkeypatch.setattr(decode, lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(UnreadableFile, match="cannot be decoded"):
        read_series(series)


class TestValues:
    def test_a_ct_of_sixteen_bits_stays_in_sixteen_bits(self, tmp_path: Path):
        """By BitsStored alone, 16 bits and an intercept of -1024 would need more."""
        write_series(tmp_path, stored=stored_ct() + np.int16(1024), slope=1, intercept=-1024)
        scan = read(tmp_path)
        assert scan.values.dtype == np.int16
        np.testing.assert_array_equal(scan.values, stored_ct())

    @pytest.mark.parametrize("k", [0, 5])
    def test_values_beyond_sixteen_bits_are_kept_wherever_they_come(self, tmp_path: Path, k: int):
        stored = stored_mr()
        stored[3, 4, k] = 65535
        write_series(tmp_path, stored=stored, slope=1, intercept=[-1024, 0, 0, 0, 0, 7])
        scan = read(tmp_path)
        assert scan.values.dtype == np.float32
        np.testing.assert_array_equal(scan.values, stored + np.array([-1024.0, 0, 0, 0, 0, 7]))

    @pytest.mark.parametrize(
        ("stored", "options", "kind"),
        [
            (np.uint8([0, 255]), {}, "uint8"),
            (np.uint8([0, 255]), {"intercept": -1}, "int16"),
            (np.uint16([0, 65535]), {}, "uint16"),
            (np.int16([-32768, 32767]), {}, "int16"),
            (np.int16([-32768, 32767]), {"intercept": 1}, "float32"),
            (np.uint16([0, 40000]), {"intercept": 1.5}, "float32"),
            (np.int32([-70000, 70000]), {}, "float32"),
            (np.uint32([0, 70000]), {}, "float32"),
        ],
    )
    def test_the_smallest_type_that_holds_all_is_chosen(
        self, tmp_path: Path, stored: np.ndarray, options: dict, kind: str
    ):
        stored = np.resize(stored, (4, 3, 3))
        write_series(tmp_path, stored=stored, slope=1, **{"intercept": 0, **options})
        scan = read(tmp_path)
        assert scan.values.dtype == kind
        np.testing.assert_array_equal(scan.values, stored.astype(np.float64) + options.get("intercept", 0))

    def test_values_below_sixteen_bits_are_kept_too(self, tmp_path: Path):
        stored = stored_ct()
        stored[3, 4, 2] = -32000
        write_series(tmp_path, stored=stored, slope=1, intercept=-1024)
        scan = read(tmp_path)
        assert scan.values.dtype == np.float32
        np.testing.assert_array_equal(scan.values, stored - np.float64(1024))

    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
    @pytest.mark.parametrize("signed", [False, True])
    def test_bits_above_the_stored_ones_mean_nothing(self, tmp_path: Path, syntax: str, signed: bool):
        """Old scanners keep overlays there."""
        stored = stored_ct() if signed else stored_mr()

        def overlay(k: int, dataset: Dataset) -> None:
            words = np.frombuffer(dataset.PixelData, "<u2").copy()
            words[::3] |= 0xA000
            dataset.PixelData = words.tobytes()

        write_series(tmp_path, stored=stored, bits_stored=13, change=overlay, syntax=syntax)
        np.testing.assert_array_equal(read(tmp_path).values, stored)

    def test_slices_of_unlike_bits_are_put_together(self, tmp_path: Path):
        """Bits above the stored ones are an overlay in the first half, and values in the second."""

        def change(k: int, dataset: Dataset) -> None:
            if k < 3:
                words = np.frombuffer(dataset.PixelData, "<u2") | 0xA000
                dataset.PixelData, dataset.BitsStored, dataset.HighBit = words.tobytes(), 13, 12

        stored = stored_mr()
        stored[:, :, 3:] += 40000
        write_series(tmp_path, stored=stored, change=change, modality="MR")
        np.testing.assert_array_equal(read(tmp_path).values, stored)

    def test_slices_of_unlike_storage_are_put_together(self, tmp_path: Path):
        """A series half signed and half unsigned, as some exports are."""
        first = write_series(tmp_path, stored=stored_mr()[:, :, :3], name=lambda k, _: f"a{k}")
        behind = lattice(origin_mm=(-11.0, -23.5, 47.5))
        write_series(
            tmp_path,
            stored=stored_ct()[:, :, 3:],
            modality="MR",
            affine_lps=behind,
            name=lambda k, _: f"b{k}",
            part=lambda k: f"b{k}",
            Modality="CT",
        )
        expected = np.concatenate([stored_mr()[:, :, :3].astype(int), stored_ct()[:, :, 3:]], axis=2)
        np.testing.assert_array_equal(read(tmp_path).values, expected)
        assert len(first.paths) == 3

    @pytest.mark.parametrize(
        ("first", "rest", "kind"),
        [(np.uint8, np.uint16, "uint16"), (np.uint16, np.int16, "int16"), (np.uint8, np.int16, "int16")],
    )
    def test_the_type_is_chosen_by_all_slices_and_not_by_the_first(
        self, tmp_path: Path, first: type, rest: type, kind: str
    ):
        values = np.arange(24 * 20 * 6).reshape(24, 20, 6) % 200
        for number, (part, slices) in enumerate([(first, slice(0, 1)), (rest, slice(1, 6))]):
            stored = values[:, :, slices].astype(part) + part(300 * number)
            behind = lattice(origin_mm=(-11.0, -23.5, 40.0 + 2.5 * number))
            write_series(
                tmp_path,
                stored=stored,
                affine_lps=behind,
                modality="MR",
                name=lambda k, _, number=number: f"{number}{k}",
                part=lambda k, number=number: f"{number}{k}",
            )
        scan = read(tmp_path)
        assert scan.values.dtype == kind
        np.testing.assert_array_equal(scan.values, values + 300 * (np.arange(6) > 0))

    def test_padding_of_the_first_slice_alone_is_not_that_of_all(self, tmp_path: Path):
        def pad(k: int, dataset: Dataset) -> None:
            if k in (0, 5):  # whichever comes first
                dataset.add_new("PixelPaddingValue", "SS", -2000)

        write_series(tmp_path, change=pad)
        scan = read(tmp_path)
        assert scan.padding is None
        assert "padded voxels count as measured" in " ".join(scan.notes)

    def test_floating_point_pixels_are_read(self, tmp_path: Path):
        values = np.random.default_rng(0).normal(size=(24, 20, 6)).astype(np.float32)

        def change(k: int, dataset: Dataset) -> None:
            del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
            dataset.BitsAllocated = 32
            dataset.FloatPixelData = np.ascontiguousarray(values[:, :, k].T).tobytes()

        write_series(tmp_path, change=change, modality="MR")
        np.testing.assert_array_equal(read(tmp_path).values, values)

    def test_a_lookup_table_in_some_slices_is_applied_there(self, tmp_path: Path):
        def change(k: int, dataset: Dataset) -> None:
            if k == 2:
                table = Dataset()
                table.add_new("LUTDescriptor", "US", [2048, 0, 16])
                table.add_new("LUTData", "OW", (np.arange(2048) * 2 + 5).astype("<u2").tobytes())
                table.ModalityLUTType = "US"
                dataset.ModalityLUTSequence = pydicom.Sequence([table])
            else:
                dataset.RescaleSlope, dataset.RescaleIntercept = 3, 1

        stored = np.minimum(stored_mr(), 2047)
        write_series(tmp_path, stored=stored, change=change, modality="MR")
        expected = stored * 3.0 + 1
        expected[:, :, 2] = stored[:, :, 2] * 2.0 + 5
        np.testing.assert_array_equal(read(tmp_path).values, expected)

    @pytest.mark.parametrize(("slope", "intercept"), [(1, -24), (2, 0), (1.35, -7.5), (0.1, 0.7)])
    def test_padding_is_found_again_among_the_rescaled_values(self, tmp_path: Path, slope: float, intercept: float):
        stored = stored_ct()
        stored[:4, :3] = -2000
        write_series(tmp_path, stored=stored, slope=slope, intercept=intercept, PixelPaddingValue=-2000)
        scan = read(tmp_path)
        assert scan.padding is not None
        low, high = scan.padding
        assert np.float64(low) in scan.values.astype(np.float64)
        np.testing.assert_array_equal((scan.values >= low) & (scan.values <= high), stored == -2000)

    @pytest.mark.parametrize(
        "syntax",
        [
            ExplicitVRLittleEndian,
            ImplicitVRLittleEndian,
            ExplicitVRBigEndian,
            DeflatedExplicitVRLittleEndian,
            RLELossless,
        ],
    )
    @pytest.mark.parametrize("value", [63536, -32768])
    def test_padding_that_has_no_room_in_the_stored_bits_is_no_tissue(self, tmp_path: Path, syntax: str, value: int):
        """Without their upper bits, these words would be 1072 and -1024 HU."""
        stored = np.minimum(stored_mr(), 4095) if value > 0 else np.clip(stored_ct(), -2048, 2047)
        padded = np.zeros(stored.shape, bool)
        padded[:4, :3] = True
        write_padded(tmp_path, stored, padded, value, syntax=syntax)
        scan = read(tmp_path)
        assert scan.padding == (value - 1024, value - 1024)
        np.testing.assert_array_equal(scan.values == value - 1024, padded)
        np.testing.assert_array_equal(scan.values[~padded], stored[~padded].astype(int) - 1024)

    def test_padding_of_which_nobody_is_told_has_no_bits_above_the_stored_ones(self, tmp_path: Path):
        stored, padded = np.full((24, 20, 6), 100, np.uint16), np.zeros((24, 20, 6), bool)
        padded[0] = True
        write_padded(tmp_path, stored, padded, 63536, intercept=[0, 0, 0, 0, 0, 1])
        scan = read(tmp_path)
        assert scan.padding is None
        assert scan.values.max() == 63536 % 4096 + 1

    def test_what_lies_above_padding_that_has_room_means_nothing(self, tmp_path: Path):
        def overlay(k: int, dataset: Dataset) -> None:
            dataset.add_new("PixelPaddingValue", "SS", -2000)
            words = np.frombuffer(dataset.PixelData, "<u2") ^ 0xA000
            dataset.PixelData = words.tobytes()

        stored = np.clip(stored_ct(), -2048, 2047)
        stored[0] = -2000
        write_series(tmp_path, stored=stored, bits_stored=12, slope=1, intercept=0, change=overlay)
        scan = read(tmp_path)
        assert scan.padding == (-2000, -2000)
        np.testing.assert_array_equal(scan.values, stored)

    @pytest.mark.parametrize("name", ["PlanarConfiguration", "PhotometricInterpretation", "SamplesPerPixel"])
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
    def test_what_careless_writers_leave_out_is_put_in(self, tmp_path: Path, name: str, syntax: str):
        colour = name == "PlanarConfiguration"
        answers = CATALOGUE["rgb by pixel" if colour else "mr"](tmp_path, 0)
        for path in answers[0].paths:
            compress_file(path, path, syntax) if syntax == RLELossless else None
            dataset = pydicom.dcmread(path)
            delattr(dataset, name)
            dataset.save_as(path)
        np.testing.assert_array_equal(read(tmp_path).values, answers[0].values)

    def test_a_slope_beyond_all_numbers_is_no_crash(self, tmp_path: Path):
        write_series(tmp_path, slope=1e300, intercept=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not np.isfinite(read(tmp_path).values).all()


def write_padded(
    folder: Path,
    stored: np.ndarray,
    padded: np.ndarray,
    value: int,
    *,
    syntax: str = ExplicitVRLittleEndian,
    intercept: float | list[float] = -1024,
) -> None:
    """Write a series of 12 bits, with words of 16 bits where it is padded."""

    def pad(k: int, dataset: Dataset) -> None:
        words = np.frombuffer(dataset.PixelData, "<u2").copy()
        words[padded[:, :, k].T.ravel()] = value % (1 << 16)
        dataset.PixelData = words.tobytes()
        dataset.add_new("PixelPaddingValue", "US" if value > 0 else "SS", value)

    options = {} if syntax == RLELossless else {"syntax": syntax}
    answer = write_series(folder, stored=stored, bits_stored=12, slope=1, intercept=intercept, change=pad, **options)
    if syntax == RLELossless:
        for path in answer.paths:
            compress_file(path, path, syntax)


# --- files ---


class TestFiles:
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, *LOSSLESS.values()])
    def test_shuffled_frames_of_one_file_come_in_order(self, tmp_path: Path, syntax: str):
        answer = enhanced(tmp_path / "plain", order=SHUFFLED, slope=1.35)
        compress_file(answer.paths[0], tmp_path / "it" / "x", syntax) if syntax != ExplicitVRLittleEndian else None
        scan = read(tmp_path / ("plain" if syntax == ExplicitVRLittleEndian else "it"))
        np.testing.assert_allclose(scan.values, answer.values, rtol=1e-6)

    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
    def test_two_files_that_share_a_stack_slice_by_slice_are_put_together(self, tmp_path: Path, syntax: str):
        stored = stored_mr()
        for first in (0, 1):
            answer = enhanced(
                tmp_path, stored=stored[:, :, first::2], along=range(first, 6, 2), name=f"{first}.dcm", part=first
            )
            if syntax == RLELossless:
                compress_file(answer.paths[0], answer.paths[0], syntax)
        np.testing.assert_array_equal(read(tmp_path).values, stored)

    @pytest.mark.parametrize("table", ["none", "basic", "extended"])
    @pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
    def test_compressed_frames_are_found_with_any_table_of_them(self, tmp_path: Path, syntax: str, table: str):
        answer, path = write_frames(tmp_path, syntax, table)
        for index, plane in zip((1, 4, 5), decoded_planes(path, (1, 4, 5)), strict=True):
            np.testing.assert_array_equal(plane.T, answer.values[:, :, index])

    @pytest.mark.parametrize("table", ["none", "basic"])
    def test_frames_are_not_looked_for_from_the_beginning_of_the_file_each(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
    ):
        """Then the time would grow with the square of their number."""
        answer, path = write_frames(tmp_path, RLELossless, table)
        sizes = []
        original = pydicom.encaps.get_frame

        def get_frame(buffer: bytes, *args, **options) -> bytes:
            sizes.append(len(buffer))
            return original(buffer, *args, **options)

        monkeypatch.setattr("pydicom.pixels.decoders.base.get_frame", get_frame)
        assert len(list(decoded_planes(path, range(6)))) == answer.values.shape[2]
        assert max(sizes, default=0) < 0.4 * path.stat().st_size

    def test_a_file_of_fewer_frames_than_it_says_is_told(self, tmp_path: Path):
        _, path = write_frames(tmp_path, RLELossless, "none")
        dataset = pydicom.dcmread(path)
        frames = list(generate_frames(dataset.PixelData, number_of_frames=6))
        dataset.PixelData = encapsulate(frames[:5], has_bot=False)
        dataset.save_as(path)
        with pytest.raises(UnreadableFile, match="cannot be decoded"):
            list(decoded_planes(path, range(6)))

    def test_simpleitk_puts_the_voxels_in_the_same_place(self, tmp_path: Path):
        write_series(tmp_path, affine_lps=OBLIQUE)
        reference = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
        scan = read(tmp_path)
        for index in [(0, 0, 0), (23, 19, 5), (2, 3, 1)]:
            lps = reference.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose(apply_affine(LPS_TO_RAS @ scan.affine, index), lps, atol=1e-4)
            assert scan.values[index] == reference[index]

    @pytest.mark.parametrize("plane", [None, "coronal", "sagittal"])
    def test_one_scan_as_dicom_and_nifti_gives_one_display(self, tmp_path: Path, plane: str | None):
        write_series(tmp_path / "series", affine_lps=OBLIQUE)
        dicom = read(tmp_path / "series")
        displays = [choose_orientation(dicom.affine, dicom.grid.shape, plane).apply(dicom.values)]
        image = nib.Nifti1Image(stored_ct(), to_ras(OBLIQUE))
        for codes in ("RAS", "LPS", "LAS", "PIR"):
            change = nib.orientations.ornt_transform(
                nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
            )
            nib.save(image.as_reoriented(change), tmp_path / f"{codes}.nii.gz")
            scan = read_nifti_image(tmp_path / f"{codes}.nii.gz")
            displays.append(choose_orientation(scan.affine, scan.grid.shape, plane).apply(scan.values))
        for display in displays[1:]:
            np.testing.assert_array_equal(display, displays[0])

    @pytest.mark.parametrize(
        ("fields", "between"),
        [
            ({"SpacingBetweenSlices": -2.5, "SliceThickness": 3}, 2.5),
            ({"SliceThickness": 3}, 3),
            ({"SliceThickness": None}, 1),
        ],
    )
    def test_a_single_slice_is_as_thick_as_it_says(self, tmp_path: Path, fields: dict, between: float):
        write_series(tmp_path, stored=stored_ct()[:, :, :1], **fields)
        scan = read(tmp_path)
        assert np.linalg.norm(scan.affine[:3, 2]) == pytest.approx(between)
        assert bool(scan.notes) is (between == 1)

    def test_a_volume_is_read_in_little_more_memory_than_it_takes(self, tmp_path: Path):
        stored = np.random.default_rng(0).integers(-1000, 1000, (256, 256, 40)).astype(np.int16)
        write_series(tmp_path, stored=stored, slope=1, intercept=-24)
        series = taken(tmp_path)
        tracemalloc.start()
        scan = read_series(series)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert scan.values.nbytes == stored.nbytes
        assert peak < 1.3 * stored.nbytes

    def test_so_is_one_that_needs_floating_point(self, tmp_path: Path):
        stored = np.random.default_rng(0).integers(-1000, 1000, (256, 256, 40)).astype(np.int16)
        write_series(tmp_path, stored=stored, slope=1.35, intercept=-24)
        series = taken(tmp_path)
        tracemalloc.start()
        read_series(series)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 3 * stored.nbytes


def write_frames(folder: Path, syntax: str, table: str) -> tuple[Answer, Path]:
    """Write a compressed file of six frames, with or without a table of where they lie."""
    answer = enhanced(folder, slope=1)
    (path,) = answer.paths
    dataset = pydicom.dcmread(path)
    dataset.compress(syntax, generate_instance_uid=False, encapsulate_ext=table == "extended")
    if table == "none":
        frames = list(generate_frames(dataset.PixelData, number_of_frames=6))
        dataset.PixelData = encapsulate(frames, has_bot=False)
    dataset.save_as(path)
    assert ("ExtendedOffsetTable" in dataset) is (table == "extended")
    return answer, path


# --- damage ---


class TestDamage:
    def test_a_file_that_went_away_is_told(self, tmp_path: Path):
        write_series(tmp_path)
        series = taken(tmp_path)
        series.frames[3].path.unlink()
        with pytest.raises(UnreadableFile, match="no such file"):
            read_series(series)

    @pytest.mark.parametrize("syntax", [None, *LOSSLESS.values(), DeflatedExplicitVRLittleEndian])
    def test_a_file_cut_short_since_it_was_listed_is_told(self, tmp_path: Path, syntax: str | None):
        options = {"syntax": syntax} if syntax == DeflatedExplicitVRLittleEndian else {}
        answer = write_series(tmp_path, **options)
        if syntax in LOSSLESS.values():
            for path in answer.paths:
                compress_file(path, path, syntax)
        series = taken(tmp_path)
        path = series.frames[3].path
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(UnreadableFile, match=f"{path.name}: the pixels cannot be decoded"):
            read_series(series)

    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    def test_a_file_written_anew_since_it_was_listed_is_told(self, tmp_path: Path, syntax: str):
        write_series(tmp_path, syntax=syntax)
        series = taken(tmp_path)
        path = series.frames[3].path
        dataset = pydicom.dcmread(path)
        dataset.ImageComments = "longer"
        dataset.save_as(path)
        with pytest.raises(UnreadableFile, match=f"{path.name}: the pixels cannot be decoded"):
            read_series(series)

    def test_a_file_of_another_size_is_told(self, tmp_path: Path):
        answer = write_series(tmp_path)
        compress_file(answer.paths[0], answer.paths[0], RLELossless)
        series = taken(tmp_path)
        write_series(tmp_path / "other", stored=stored_ct((32, 26, 6)))
        (tmp_path / "other" / "0006.dcm").replace(answer.paths[0])
        with pytest.raises(UnreadableFile, match="its pixels are 26 x 32, its header says 20 x 24"):
            read_series(series)

    @pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
    @pytest.mark.parametrize("name", LOSSLESS)
    def test_a_stream_cut_short_is_an_error_and_neither_zeros_nor_a_hang(self, tmp_path: Path, name: str, keep: float):
        (path,) = write_series(tmp_path, stored=stored_ct()[:, :, :1]).paths
        compress_file(path, path, LOSSLESS[name])
        dataset = pydicom.dcmread(path)
        stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
        dataset.PixelData = encapsulate([stream[: int(len(stream) * keep) // 2 * 2]])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        with pytest.raises(UnreadableFile, match="cannot be decoded"):
            read(tmp_path)

    @pytest.mark.parametrize("name", ["jpeg-ls", "jpeg lossless"])
    def test_a_stream_without_an_end_is_not_given_to_a_decoder(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ):
        """It may wait for it for ever, or make one up."""
        (path,) = write_series(tmp_path, stored=stored_ct()[:, :, :1]).paths
        compress_file(path, path, LOSSLESS[name])
        dataset = pydicom.dcmread(path)
        stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
        end = stream.rindex(b"\xff\xd9")
        dataset.PixelData = encapsulate([stream[:end] + bytes(len(stream) - end)])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        require_refused_undecoded(tmp_path, monkeypatch)

    @pytest.mark.parametrize("name", ["jpeg-ls", "jpeg 2000", "jpeg lossless"])
    def test_a_stream_of_another_size_is_not_believed(self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
        """Decoders would ask for as much memory as it wants, and GDCM may end the process."""
        (path,) = write_series(tmp_path, stored=stored_ct()[:, :, :1]).paths
        compress_file(path, path, LOSSLESS[name])
        dataset = pydicom.dcmread(path)
        stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
        small, large = (
            struct.pack(">II" if name == "jpeg 2000" else ">HH", *size) for size in ((24, 20), (65535, 65535))
        )
        if name != "jpeg 2000":
            small = small[2:] + small[:2]  # rows come first
        assert stream.count(small) >= 1
        dataset.PixelData = encapsulate([stream.replace(small, large, 1)])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        require_refused_undecoded(tmp_path, monkeypatch)

    def test_jpeg_2000_packets_that_decode_to_nothing_are_not_zeros(self, tmp_path: Path):
        values = np.random.default_rng(0).integers(0, 4000, (64, 64, 1)).astype(np.uint16)
        (path,) = write_series(tmp_path, stored=values).paths
        compress_file(path, path, JPEG2000Lossless)
        dataset = pydicom.dcmread(path)
        stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
        first, last = stream.index(b"\xff\x93") + 2, stream.rindex(b"\xff\xd9")
        dataset.PixelData = encapsulate([stream[:first] + bytes(last - first) + stream[last:]])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        assert len(np.unique(dataset.pixel_array)) == 1  # what pydicom makes of it, without a word
        with pytest.raises(UnreadableFile, match="cannot be decoded"):
            read(tmp_path)

    @pytest.mark.parametrize("syntax", LOSSLESS.values())
    @pytest.mark.parametrize("value", [0, 1000])
    def test_planes_that_are_constant_in_truth_are_taken(self, tmp_path: Path, syntax: str, value: int):
        answer = write_series(tmp_path, stored=np.full((200, 190, 3), value, np.int16))
        for path in answer.paths:
            compress_file(path, path, syntax)
        assert set(np.unique(read(tmp_path).values)) == {value}

    def test_a_stream_that_ends_gdcm_is_refused_by_another_codec(self, tmp_path: Path):
        """In a process of its own: had it crashed, so would the tests."""
        (answer,) = crashing(tmp_path)
        code = (
            "import sys, pathlib\n"
            "from samkit.stages.readers.dicom_series import triage\n"
            "from samkit.stages.readers.dicom import read_series\n"
            "from samkit.store.errors import UnreadableFile\n"
            "try: read_series(triage(pathlib.Path(sys.argv[1])).findings[0].series)\n"
            "except UnreadableFile as error: print(error)\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=120, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert answer.facts["file"].name in ended.stdout

    def test_a_header_that_asks_for_more_than_the_memory_is_told(self, tmp_path: Path):
        answer = write_series(tmp_path, slope=1.35, intercept=0)
        for path in answer.paths:
            compress_file(path, path, JPEGLSLossless)
            dataset = pydicom.dcmread(path)
            dataset.Rows = dataset.Columns = 65535
            dataset.save_as(path)
        with pytest.raises(UnreadableFile):
            read(tmp_path)

    def test_no_planted_string_is_in_what_is_said_of_damage(self, tmp_path: Path):
        answer = write_series(tmp_path)
        planted: set[str] = set()
        for path in answer.paths:
            compress_file(path, path, JPEGLSLossless)
            planted |= set(plant_file(path))
        corrupt_stream(answer.paths[1])
        with pytest.raises(UnreadableFile) as refusal:
            read(tmp_path)
        assert not [word for word in planted if word in str(refusal.value)]

    def test_decoding_one_file_alone_is_guarded_too(self, tmp_path: Path):
        (tmp_path / "x.dcm").write_bytes(b"hello")
        with pytest.raises(UnreadableFile, match="cannot be decoded"):
            next(decoded_planes(tmp_path / "x.dcm"))


# --- others' files ---


def test_of_pydicoms_own_files_all_that_is_taken_is_read_or_refused():
    root = Path(pydicom.data.__file__).parent
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = triage(root)
        assert len(found.findings) > 40
        read_or_refused = 0
        for finding in found.findings:
            if finding.series is not None:
                try:
                    scan = read_series(finding.series)
                except SamkitError:
                    continue
                read_or_refused += 1
                assert scan.values.shape[:3] == finding.series.shape
    assert read_or_refused > 12


FIRST_SLICES = {
    "693_J2KI.dcm": "CT 14 bits, J2K",
    "CT_small.dcm": "CT",
    "MR_small_bigendian.dcm": "big endian",
    "MR_small_jp2klossless.dcm": "J2K",
    "MR_small_jpeg_ls_lossless.dcm": "JPEG-LS",
    "MR_small_RLE.dcm": "RLE",
    "J2K_pixelrep_mismatch.dcm": "a stream of another sign",
    "examples_overlay.dcm": "an overlay",
    "examples_rgb_color.dcm": "RGB",
    "examples_jpeg2k.dcm": "YBR_RCT",
    "ExplVR_BigEnd.dcm": "RGB, big endian",
}


@pytest.mark.parametrize("name", FIRST_SLICES)
def test_simpleitk_reads_the_same_values(tmp_path: Path, name: str):
    path = Path(pydicom.data.__file__).parent / "test_files" / name
    (finding,) = triage(path).findings
    assert finding.series is not None
    scan = read_series(finding.series)
    reference = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
    expected = reference[0].swapaxes(0, 1) if reference.ndim in (3, 4) else reference.swapaxes(0, 1)
    np.testing.assert_array_equal(scan.values[:, :, 0], expected)


# --- real series ---

TRUTHS = (
    "ge/anatomical/001",
    "ge/anatomical/001_implicit",
    "ge/anatomical/001_single_slice",
    "ge/dti/001",
    "ge/dti/001_implicit",
    "ge/dti/002",
    "ge/fmri/001",
    "ge/fmri/001_implicit",
    "generic/anatomical/001",
    "generic/anatomical/001_implicit",
    "generic/anatomical/002_non_isotropic",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
    "generic/rgb/001",
    "hitachi/anatomical/001",
    "hitachi/anatomical/001_implicit",
    "hyperfine/anatomical/001",
)


def require_ground_truth(scan: Scan, truth: np.ndarray, affine: np.ndarray) -> None:
    """Voxels equal, affine within 1e-4 mm, after undoing the orientation."""
    change = nib.orientations.ornt_transform(nib.io_orientation(scan.affine), nib.io_orientation(affine))
    values = nib.orientations.apply_orientation(scan.values, change)
    np.testing.assert_allclose(values, truth, rtol=1e-6 if scan.values.dtype.kind == "f" else 0)
    placed = scan.affine @ nib.orientations.inv_ornt_aff(change, scan.values.shape[:3])
    np.testing.assert_allclose(placed, affine, atol=1e-4)


def truth_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(folder.with_name(f"{folder.name}_ground_truth.nii.gz"))
    values = np.asarray(image.dataobj)
    if values.dtype.names:
        values = np.stack([values[name] for name in "RGB"], axis=-1)
    return values, image.affine


@pytest.mark.shared
class TestRealSeries:
    @pytest.mark.parametrize("name", TRUTHS)
    def test_a_series_ends_as_its_ground_truth_says(self, shared_data: Path, name: str):
        folder = shared_data / "dicom2nifti" / name
        values, affine = truth_of(folder)
        if values.ndim == 3 or values.shape[-1] == 3:
            require_ground_truth(read(folder), values, affine)
            return
        for index in range(values.shape[3]):
            require_ground_truth(read(folder, time_index=index), values[..., index], affine)
        (finding,) = triage(folder).findings
        assert finding.reason is not None
        assert f"4-D: {values.shape[3]} volumes of {values.shape[2]} slices" in finding.reason

    def test_all_ground_truths_are_looked_at(self, shared_data: Path):
        root = shared_data / "dicom2nifti"
        there = {
            path.relative_to(root).as_posix().removesuffix("_ground_truth.nii.gz")
            for path in root.rglob("*_ground_truth.nii.gz")
        }
        assert {name for name in there if not name.startswith("failing")} == set(TRUTHS)

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("notavolume/001", "duplicate positions, not a volume: all 4 slices lie at one position"),
            ("sliceincrement/001", r"\(instance 9\) the next one follows at 10 mm.*1 slice\(s\)"),
            ("sliceincrement/002", r"\(instance 3\) the next one follows at 1\.499 mm, where the median .* 0\.7497 mm"),
            ("sliceorientation/001", "mixed orientations: one series holds 4 slices in 2 orientations"),
        ],
    )
    def test_what_is_no_volume_is_refused_with_its_numbers(self, shared_data: Path, name: str, says: str):
        found = triage(shared_data / "dicom2nifti" / "failing" / name)
        assert all(re.search(says, finding.reason or "") for finding in found.findings)

    def test_a_tilted_series_is_taken_with_its_shear(self, shared_data: Path):
        folder = shared_data / "dicom2nifti" / "failing" / "gantrytilting" / "001"
        scan = read(folder)
        assert "14 degrees" in scan.notes[0]
        slices = [pydicom.dcmread(path) for path in folder.iterdir()]
        slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
        for k, one in enumerate(slices):  # every slice lies where its header says, and none is resampled
            lps = apply_affine(LPS_TO_RAS @ scan.affine, (0, 0, k))
            np.testing.assert_allclose(lps, one.ImagePositionPatient, atol=0.01)
            expected = one.pixel_array.T.astype(int) * int(one.RescaleSlope) + int(one.RescaleIntercept)
            np.testing.assert_array_equal(scan.values[:, :, k], expected)

    def test_two_slices_alone_are_taken(self, shared_data: Path):
        folder = shared_data / "dicom2nifti" / "failing" / "slicecount" / "001"
        require_ground_truth(read(folder), *truth_of(folder))

    def test_the_series_under_contours_and_segments_are_taken(self, shared_data: Path):
        contours, segments = triage(shared_data / "rtstruct"), triage(shared_data / "highdicom")
        assert [one.reader for one in contours.label_objects] == ["rtstruct"] * 3
        assert [one.reader for one in segments.label_objects] == ["dicom-seg"] * 5
        assert all(one.series is not None for one in (*contours.findings, *segments.findings))
        for finding in (*contours.findings, *segments.findings):
            assert read_series(finding.series).values.shape == finding.series.shape

    def test_the_padding_of_a_real_ct_is_a_fifth_of_its_voxels(self, shared_data: Path):
        (finding,) = triage(shared_data / "rtstruct").findings
        assert finding.series is not None
        scan = read_series(finding.series)
        assert scan.padding == (-3024, -3024)
        assert np.mean(scan.values == -3024) == pytest.approx(0.2, abs=0.03)
