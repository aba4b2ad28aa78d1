"""DICOM-SEG: segments written by highdicom come back on the voxels of their image, or are refused with numbers."""

from __future__ import annotations

import copy
import itertools
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from samkit.stages.readers.dicom_seg import describe_seg, lies_on, read_seg
from samkit.store.errors import GeometryMismatch, InputError, UnreadableFile, UnusableLabel, UsageError

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ROTATION = euler2mat(0.3, -0.2, 0.25)
# LPS+, from (column, row, slice). 11 x 9 pixels are 99 bits a frame: most frames begin within a byte.
AXIAL = from_matvec(np.diag([0.8, 0.9, 4.0]), [-100.0, -120.0, 30.0])
OBLIQUE = from_matvec(ROTATION @ np.diag([0.8, 0.9, 4.0]), [-10.0, 20.0, 30.0])
TILTED = AXIAL @ np.array([[1, 0, 0, 0], [0, 1, 1.3, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
SHAPE = (11, 9, 5)
RANDOM = np.random.default_rng(0)
LIVER = RANDOM.random(SHAPE) < 0.3
TUMOUR = RANDOM.random(SHAPE) < 0.2  # overlaps with the liver


def source_of(affine: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> list[Dataset]:
    """Return the headers of a CT that an LPS+ affine places."""
    columns, rows, slices = shape
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    series = []
    for k in range(slices):
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, generate_uid()
        header.Modality, header.SeriesNumber, header.InstanceNumber = "CT", 1, k + 1
        header.PatientID, header.PatientName, header.AccessionNumber = "MRN-0012345", "Doe^Jane", "A-77"
        header.PatientBirthDate = header.PatientSex = header.StudyDate = header.StudyTime = header.StudyID = ""
        header.ReferringPhysicianName = "House^Gregory"
        header.ImagePositionPatient = [round(float(x), 8) for x in (affine @ [0, 0, k, 1])[:3]]
        header.ImageOrientationPatient = [
            round(float(x), 10) for x in [*(affine[:3, 0] / spacing[0]), *(affine[:3, 1] / spacing[1])]
        ]
        header.PixelSpacing, header.SliceThickness = [float(spacing[1]), float(spacing[0])], 4
        header.Rows, header.Columns = rows, columns
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
        header.PixelData = bytes(2 * rows * columns)
        for name, uid in uids.items():
            setattr(header, name, uid)
        series.append(header)
    return series


def damaged(content: bytes, seed: int) -> bytes:
    """Return a file with some bytes changed, inserted or gone, or its end missing."""
    random = np.random.default_rng(seed)
    for _ in range(random.integers(1, 8)):
        start, length = int(random.integers(len(content))), int(random.integers(1, 30))
        inserted = random.bytes(int(random.integers(length)))
        content = (
            content[: start + 1] if random.random() < 0.1 else content[:start] + inserted + content[start + length :]
        )
    return content


@pytest.fixture
def write_seg(tmp_path: Path) -> Callable[..., Path]:
    """Write a segmentation with highdicom: masks (column, row, slice), or shares for a fractional one."""

    def write(
        *masks: np.ndarray,
        affine: np.ndarray = AXIAL,
        kind: str = "BINARY",
        labels: Sequence[str] = ("liver", "tumour", "vessel"),
        change: Callable[[Dataset], None] = lambda seg: None,
        **options: object,
    ) -> Path:
        frames = np.stack([np.moveaxis(mask, (0, 1, 2), (2, 1, 0)) for mask in masks], axis=-1)
        if len(masks) == 1:
            frames = np.ascontiguousarray(frames[..., 0])
        elif kind == "LABELMAP":
            frames = (frames * np.arange(1, len(masks) + 1)).max(axis=-1)
        seg = highdicom.seg.Segmentation(
            source_of(affine, masks[0].shape),
            frames.astype(np.float64 if kind == "FRACTIONAL" else np.uint8),
            kind,
            [
                highdicom.seg.SegmentDescription(number, label, codes.SCT.Organ, codes.SCT.Liver, "MANUAL")
                for number, label in enumerate(labels[: len(masks)], start=1)
            ],
            generate_uid(),
            5,
            generate_uid(),
            1,
            "maker",
            "model",
            "1.0",
            "serial",
            **options,
        )
        path = tmp_path / "seg.dcm"
        seg.save_as(path)
        changed = pydicom.dcmread(path)
        change(changed)
        changed.save_as(path, enforce_file_format=False)
        return path

    return write


def read(path: Path, affine: np.ndarray = AXIAL, shape: tuple[int, int, int] = SHAPE, **options):
    """Read on the grid that an LPS+ affine gives."""
    return read_seg(path, shape=shape, affine=TO_RAS @ affine, place="seg.dcm", **options)


def each_frame(change: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    def every(seg: Dataset) -> None:
        for group in seg.PerFrameFunctionalGroupsSequence:
            change(group)

    return every


class TestPlace:
    @pytest.mark.parametrize("affine", [AXIAL, OBLIQUE, TILTED], ids=["axial", "oblique", "tilted"])
    def test_every_pixel_comes_back_on_its_voxel(self, write_seg, affine: np.ndarray):
        structures = read(write_seg(LIVER, affine=affine), affine)
        np.testing.assert_array_equal(structures.masks["liver"], LIVER)
        assert structures.notes == ()

    def test_segments_take_less_memory_than_the_voxels_of_their_image(self, write_seg):
        path = write_seg(LIVER, TUMOUR)
        read(path)  # imports what it needs
        tracemalloc.start()
        structures = read(path, shape=(256, 256, 100))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 256 * 256 * 100
        np.testing.assert_array_equal(structures.masks["tumour"][:11, :9, :5], TUMOUR)

    def test_the_affine_is_the_images(self, write_seg):
        np.testing.assert_array_equal(read(write_seg(LIVER)).affine, TO_RAS @ AXIAL)

    def test_an_image_with_its_slices_the_other_way_round_gets_them_so(self, write_seg):
        upside_down = AXIAL @ from_matvec(np.diag([1, 1, -1]), [0, 0, SHAPE[2] - 1])
        structures = read(write_seg(LIVER), upside_down)
        np.testing.assert_array_equal(structures.masks["liver"], LIVER[:, :, ::-1])

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
    @pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, 1)], ids=str)
    def test_permuted_and_flipped_axes_are_reordered_exactly(self, write_seg, order, signs):
        matrix = np.zeros((3, 3))
        matrix[list(order), [0, 1, 2]] = signs
        shift = [SHAPE[axis] - 1 if (matrix[axis] < 0).any() else 0 for axis in range(3)]
        expected = np.flip(np.transpose(LIVER, order), [axis for axis in range(3) if signs[axis] < 0])
        structures = read(write_seg(LIVER, affine=OBLIQUE), OBLIQUE @ from_matvec(matrix, shift), expected.shape)
        np.testing.assert_array_equal(structures.masks["liver"], expected)

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
    def test_frames_that_reach_beyond_the_image_are_cut_on_every_side(self, write_seg, order):
        turned = np.zeros((3, 3))
        turned[list(order), [0, 1, 2]] = 1
        expected = np.transpose(LIVER, order)[1:-1, 2:-1, 1:-2]
        image = AXIAL @ from_matvec(turned, np.zeros(3)) @ from_matvec(np.eye(3), [1, 2, 1])
        structures = read(write_seg(LIVER), image, expected.shape, resample=True)
        np.testing.assert_array_equal(structures.masks["liver"], expected)
        assert "outside the image, and are left out" in structures.notes[0]

    def test_the_order_of_the_frames_does_not_matter(self, write_seg):
        def shuffle(seg: Dataset) -> None:
            order = [3, 0, 4, 2, 1]
            pixels = seg.pixel_array[order]
            groups = list(seg.PerFrameFunctionalGroupsSequence)
            seg.PerFrameFunctionalGroupsSequence = [groups[index] for index in order]
            seg.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes() + b"\0"

        np.testing.assert_array_equal(read(write_seg(LIVER, change=shuffle)).masks["liver"], LIVER)

    def test_frames_that_are_left_out_are_background(self, write_seg):
        sparse = LIVER.copy()
        sparse[:, :, [0, 3]] = False
        path = write_seg(sparse)
        assert pydicom.dcmread(path).NumberOfFrames == 3
        np.testing.assert_array_equal(read(path).masks["liver"], sparse)

    def test_decimals_of_a_header_are_not_told(self, write_seg):
        assert read(write_seg(LIVER), AXIAL @ from_matvec(np.eye(3), [0.005, 0, 0])).notes == ()

    def test_up_to_a_tenth_of_a_voxel_is_taken_and_told(self, write_seg):
        structures = read(write_seg(LIVER), AXIAL @ from_matvec(np.eye(3), [0, 0, 0.05]))
        np.testing.assert_array_equal(structures.masks["liver"], LIVER)
        assert "0.050 voxel off" in structures.notes[0]

    @pytest.mark.parametrize("shift", [(0.3, 0, 0), (0, 0.3, 0), (0, 0, 0.3)], ids=str)
    def test_more_than_a_tenth_is_refused_with_the_number(self, write_seg, shift):
        with pytest.raises(GeometryMismatch, match=r"5 of 5 frames .* 0\.3 voxels off, up to 0\.1.*--resample-labels"):
            read(write_seg(LIVER), AXIAL @ from_matvec(np.eye(3), shift))

    def test_a_small_turn_is_measured_at_the_far_corner(self, write_seg):
        turned = AXIAL @ from_matvec(euler2mat(0.02), [0, 0, 0])
        with pytest.raises(GeometryMismatch, match=r"0\.2\d+ voxels off"):
            read(write_seg(LIVER), turned)

    def test_a_segmentation_of_another_series_is_refused(self, write_seg):
        with pytest.raises(GeometryMismatch, match=r"another size.*0\.8 x 0\.9 mm.*another series"):
            read(write_seg(LIVER), from_matvec(np.diag([0.5, 0.5, 1.0]), AXIAL[:3, 3]))

    def test_planes_of_another_direction_are_refused(self, write_seg):
        with pytest.raises(GeometryMismatch, match="another direction"):
            read(write_seg(LIVER), from_matvec(euler2mat(0.8, 0.4) @ np.diag([0.8, 0.9, 4.0]), AXIAL[:3, 3]))


class TestOutside:
    def test_marks_outside_the_image_are_refused_with_their_number(self, write_seg):
        outside = int(LIVER[:, :, 3:].sum())
        with pytest.raises(GeometryMismatch, match=rf"{outside} marked pixel\(s\) in 2 of 5 frames lie outside"):
            read(write_seg(LIVER), shape=(11, 9, 3))

    def test_a_matrix_that_sticks_out_is_refused_with_its_marks(self, write_seg):
        moved = AXIAL @ from_matvec(np.eye(3), [2, 0, 0])
        outside = int(LIVER[:2].sum())
        with pytest.raises(GeometryMismatch, match=rf"{outside} marked pixel\(s\)"):
            read(write_seg(LIVER), moved, (9, 9, 5))

    def test_it_may_stick_out_where_it_is_empty(self, write_seg):
        inner = LIVER.copy()
        inner[:2], inner[:, 7:] = False, False
        structures = read(write_seg(inner), AXIAL @ from_matvec(np.eye(3), [2, 0, 0]), (9, 7, 5))
        np.testing.assert_array_equal(structures.masks["liver"], inner[2:, :7])

    def test_empty_frames_may_lie_anywhere(self, write_seg):
        sparse = LIVER.copy()
        sparse[:, :, [0, 4]] = False

        def displace(seg: Dataset) -> None:
            for index in (0, 4):
                seg.PerFrameFunctionalGroupsSequence[index].PlanePositionSequence[0].ImagePositionPatient = [
                    7,
                    7,
                    index,
                ]

        path = write_seg(sparse, change=displace, omit_empty_frames=False)
        assert pydicom.dcmread(path).NumberOfFrames == 5
        np.testing.assert_array_equal(read(path).masks["liver"], sparse)


class TestMeaning:
    def test_overlapping_segments_stay_apart(self, write_seg):
        assert (LIVER & TUMOUR).any()
        structures = read(write_seg(LIVER, TUMOUR))
        np.testing.assert_array_equal(structures.masks["liver"], LIVER)
        np.testing.assert_array_equal(structures.masks["tumour"], TUMOUR)

    def test_an_empty_segment_is_there_and_empty(self, write_seg):
        masks = read(write_seg(LIVER, np.zeros(SHAPE, dtype=bool))).masks
        assert list(masks) == ["liver", "tumour"]
        assert not masks["tumour"].any()

    def test_label_maps_are_taken(self, write_seg):
        structures = read(write_seg(LIVER, TUMOUR, kind="LABELMAP"))
        np.testing.assert_array_equal(structures.masks["tumour"], TUMOUR)
        np.testing.assert_array_equal(structures.masks["liver"], LIVER & ~TUMOUR)

    def test_the_background_of_a_label_map_is_no_segment(self, write_seg):
        path = write_seg(LIVER, TUMOUR, kind="LABELMAP")
        assert [segment.SegmentNumber for segment in pydicom.dcmread(path).SegmentSequence] == [0, 1, 2]
        assert describe_seg(path).names == ("liver", "tumour")

    def test_the_background_of_a_label_map_need_not_be_zero(self, write_seg):
        path = write_seg(LIVER, TUMOUR, kind="LABELMAP", change=lambda seg: setattr(seg, "PixelPaddingValue", 2))
        structures = read(path)
        assert list(structures.masks) == ["Background", "liver"]
        np.testing.assert_array_equal(structures.masks["Background"], ~LIVER & ~TUMOUR)

    def test_values_without_a_description_are_refused(self, write_seg):
        path = write_seg(LIVER, TUMOUR, kind="LABELMAP", change=lambda seg: seg.SegmentSequence.pop())
        with pytest.raises(UnusableLabel, match=r"segment number\(s\) 2, which the header does not describe"):
            read(path)

    def test_frames_of_a_segment_without_a_description_are_refused(self, write_seg):
        with pytest.raises(UnusableLabel, match=r"segment number\(s\) 2, which"):
            read(write_seg(LIVER, TUMOUR, LIVER, change=lambda seg: seg.SegmentSequence.pop(1)))

    @pytest.mark.parametrize("meaning", ["PROBABILITY", "OCCUPANCY"])
    def test_shares_above_the_threshold_belong_to_the_segment(self, write_seg, meaning: str):
        shares = np.random.default_rng(1).random(SHAPE)
        path = write_seg(shares, kind="FRACTIONAL", fractional_type=meaning, max_fractional_value=200)
        expected = np.around(shares * 200) > 0.3 * 200
        np.testing.assert_array_equal(read(path, threshold=0.3).masks["liver"], expected)

    def test_shares_without_a_threshold_are_refused_with_the_flag(self, write_seg):
        with pytest.raises(UnusableLabel, match=r"0\.4 between 0 and 1.*--label-threshold 0\.5"):
            read(write_seg(LIVER * 0.4, kind="FRACTIONAL", max_fractional_value=10))

    def test_shares_of_only_none_and_all_need_no_threshold(self, write_seg):
        path = write_seg(LIVER, kind="FRACTIONAL", max_fractional_value=100)
        np.testing.assert_array_equal(read(path).masks["liver"], LIVER)

    @pytest.mark.parametrize("threshold", [-0.1, 0.0, 1.0, 128.0])
    def test_a_threshold_that_is_no_share_is_refused(self, write_seg, threshold: float):
        with pytest.raises(UsageError, match="--label-threshold"):
            read(write_seg(LIVER), threshold=threshold)

    def test_a_threshold_does_not_change_binary_segments(self, write_seg):
        np.testing.assert_array_equal(read(write_seg(LIVER), threshold=0.9).masks["liver"], LIVER)

    def test_several_moments_are_refused(self, write_seg):
        def same_place(seg: Dataset) -> None:
            groups = seg.PerFrameFunctionalGroupsSequence
            groups[1].PlanePositionSequence = groups[0].PlanePositionSequence

        with pytest.raises(UnusableLabel, match=r"2 frames of one segment lie in one place \(5 frames in 4 places\)"):
            read(write_seg(LIVER, change=same_place))

    def test_only_the_segments_asked_for_are_read(self, write_seg):
        structures = read(write_seg(LIVER, TUMOUR), names={"tumour"})
        assert list(structures.masks) == ["tumour"]
        np.testing.assert_array_equal(structures.masks["tumour"], TUMOUR)


class TestFiles:
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
    @pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
    def test_uncompressed_frames_are_read_in_every_encoding(self, write_seg, kind: str, syntax: str):
        path = write_seg(LIVER, kind=kind, change=lambda seg: setattr(seg.file_meta, "TransferSyntaxUID", syntax))
        np.testing.assert_array_equal(read(path).masks["liver"], LIVER)

    @pytest.mark.parametrize("extended", [False, True], ids=["basic offsets", "extended offsets"])
    @pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
    def test_compressed_frames_are_read(self, write_seg, kind: str, extended: bool):
        path = write_seg(LIVER, kind=kind, transfer_syntax_uid=JPEGLSLossless, use_extended_offset_table=extended)
        np.testing.assert_array_equal(read(path).masks["liver"], LIVER)

    @pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
    def test_jpeg_2000_is_read(self, write_seg, kind: str):
        large = RANDOM.random((35, 33, 3)) < 0.3  # highdicom writes 32 pixels or more
        path = write_seg(large, kind=kind, transfer_syntax_uid=JPEG2000Lossless)
        np.testing.assert_array_equal(read(path, shape=large.shape).masks["liver"], large)

    def test_a_compression_without_a_codec_is_told(self, write_seg):
        path = write_seg(LIVER, kind="FRACTIONAL", transfer_syntax_uid=JPEGLSLossless)
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.99"))
        with pytest.raises(UnreadableFile, match="no installed codec"):
            read(path)

    @pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
    def test_run_lengths_are_read(self, write_seg, kind: str):
        path = write_seg(
            LIVER,
            kind=kind,
            change=lambda seg: seg.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False),
        )
        np.testing.assert_array_equal(read(path).masks["liver"], LIVER)

    @pytest.mark.parametrize("group", ["PlaneOrientationSequence", "PixelMeasuresSequence"])
    def test_geometry_may_be_each_frames_own(self, write_seg, group: str):
        def move(seg: Dataset) -> None:
            shared = seg.SharedFunctionalGroupsSequence[0]
            for frame in seg.PerFrameFunctionalGroupsSequence:
                setattr(frame, group, copy.deepcopy(shared[group].value))
            delattr(shared, group)

        np.testing.assert_array_equal(read(write_seg(LIVER, change=move)).masks["liver"], LIVER)

    def test_frames_of_a_sole_segment_need_not_say_whose_they_are(self, write_seg):
        def forget(seg: Dataset) -> None:
            del seg.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence

        np.testing.assert_array_equal(read(write_seg(LIVER, change=forget)).masks["liver"], LIVER)

    def test_what_highdicom_holds_against_public_collections_is_no_obstacle(self, write_seg):
        def like_nbia(seg: Dataset) -> None:
            for segment in seg.SegmentSequence:
                del segment.SegmentAlgorithmType
                del segment.SegmentedPropertyTypeCodeSequence
            instances = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
            seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [*instances, *instances]
            for frame in seg.PerFrameFunctionalGroupsSequence:
                measures = Dataset()
                measures.SliceThickness = 4
                frame.PixelMeasuresSequence = [measures]

        path = write_seg(LIVER, change=like_nbia)
        with pytest.raises((AttributeError, KeyError)):
            highdicom.seg.segread(path)
        np.testing.assert_array_equal(read(path).masks["liver"], LIVER)
        assert len(describe_seg(path).referenced_sop_uids) == SHAPE[2]


class TestRefusals:
    def test_a_missing_file_is_told(self, tmp_path: Path):
        with pytest.raises(UnreadableFile, match="no such file"):
            describe_seg(tmp_path / "none.dcm")

    @pytest.mark.parametrize("content", [b"", b"version https://git-lfs", bytes(200), b"\0" * 128 + b"DICM"])
    def test_what_is_no_segmentation_is_told(self, tmp_path: Path, content: bytes):
        path = tmp_path / "seg.dcm"
        path.write_bytes(content)
        for attempt in (lambda: describe_seg(path), lambda: lies_on(path, SHAPE, AXIAL), lambda: read(path)):
            with pytest.raises(UnreadableFile, match=r"(not a DICOM segmentation|not readable as DICOM).*opy it again"):
                attempt()

    def test_an_image_is_no_segmentation(self, tmp_path: Path):
        source_of(AXIAL)[0].save_as(tmp_path / "ct.dcm", implicit_vr=False, little_endian=True)
        with pytest.raises(UnreadableFile, match="no segments"):
            describe_seg(tmp_path / "ct.dcm")

    @pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
    @pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
    def test_a_file_cut_short_is_told(self, write_seg, kind: str, share: float):
        path = write_seg(LIVER, kind=kind)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(UnreadableFile, match=r"seg\.dcm: .*(opy it again|export)"):
            read(path)

    def test_compressed_frames_cut_short_are_told(self, write_seg):
        path = write_seg(LIVER, kind="FRACTIONAL", transfer_syntax_uid=JPEGLSLossless)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(UnreadableFile, match="cut short"):
            read(path)

    @pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
    def test_damage_anywhere_is_read_or_refused(self, write_seg, kind: str):
        options = {} if kind == "BINARY" else {"transfer_syntax_uid": JPEGLSLossless}
        path = write_seg(LIVER, TUMOUR, kind=kind, **options)
        content = path.read_bytes()
        refused = 0
        for seed in range(60):
            path.write_bytes(damaged(content, seed))
            for attempt in (describe_seg, lambda path: lies_on(path, SHAPE, TO_RAS @ AXIAL), read):
                try:
                    attempt(path)
                except InputError:
                    refused += 1
        assert refused > 20

    def test_frames_without_a_description_are_told(self, write_seg):
        path = write_seg(LIVER, change=lambda seg: seg.PerFrameFunctionalGroupsSequence.pop())
        with pytest.raises(UnreadableFile, match="announces 5 frames and describes 4"):
            read(path)

    def test_frames_without_a_place_are_told(self, write_seg):
        path = write_seg(LIVER, change=each_frame(lambda frame: delattr(frame, "PlanePositionSequence")))
        with pytest.raises(UnreadableFile, match=r"lacks ImagePositionPatient \(5 of 5 frames\)"):
            read(path)
        assert not lies_on(path, SHAPE, TO_RAS @ AXIAL)
        assert describe_seg(path).names == ("liver",)

    def test_frames_that_do_not_say_whose_they_are_are_told(self, write_seg):
        path = write_seg(
            LIVER, TUMOUR, change=each_frame(lambda frame: delattr(frame, "SegmentIdentificationSequence"))
        )
        with pytest.raises(UnreadableFile, match=r"lacks ReferencedSegmentNumber \(10 of 10 frames\)"):
            read(path)

    @pytest.mark.parametrize("field", [("DimensionOrganizationType", "TILED_FULL"), ("TotalPixelMatrixColumns", 4000)])
    def test_a_microscopes_slide_is_told(self, write_seg, field):
        path = write_seg(LIVER, change=lambda seg: setattr(seg, *field))
        with pytest.raises(UnreadableFile, match="tiled segmentation"):
            read(path)
        assert not lies_on(path, SHAPE, TO_RAS @ AXIAL)

    @pytest.mark.parametrize("field", [("SegmentationType", "BITMAP"), ("BitsAllocated", 32)])
    def test_pixels_without_a_meaning_are_told(self, write_seg, field):
        with pytest.raises(UnreadableFile, match="nobody knows what the pixels mean"):
            read(write_seg(LIVER, change=lambda seg: setattr(seg, *field)))

    @pytest.mark.filterwarnings("ignore::UserWarning")  # of writing it
    def test_no_message_or_note_gives_the_patient_away(self, write_seg, capsys):
        def private(seg: Dataset) -> None:
            seg.SegmentSequence[0].SegmentLabel = "Jane Doe's liver " * 10  # longer than DICOM allows
            seg.StudyDate = "Jane's birthday"

        path = write_seg(LIVER, change=private)
        said = []
        for grid in (AXIAL @ from_matvec(np.eye(3), [0.4, 0, 0]), from_matvec(np.eye(3), [900, 0, 0])):
            with pytest.raises(GeometryMismatch) as refused:
                read(path, grid)
            said.append(str(refused.value))
        said += read(path, AXIAL @ from_matvec(np.eye(3), [0.05, 0, 0])).notes
        said += capsys.readouterr()
        uids = [*describe_seg(path).referenced_series_uids, *describe_seg(path).referenced_sop_uids]
        assert len(said) > 3
        assert not any(word in line for line in said for word in ("Jane", "Doe", "MRN", *uids))

    @pytest.mark.filterwarnings("ignore::UserWarning")  # of writing it
    @pytest.mark.parametrize("attempt", [describe_seg, read, lambda path: lies_on(path, SHAPE, AXIAL)])
    def test_no_warning_quotes_the_header(self, write_seg, attempt):
        def private(seg: Dataset) -> None:
            seg.FrameOfReferenceUID = seg.SOPClassUID = "Jane Doe"
            seg.SegmentSequence[0].SegmentLabel = "Jane Doe's liver " * 10

        path = write_seg(LIVER, change=private)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            attempt(path)
        assert not warned


class TestDescription:
    def test_names_are_the_labels_in_order(self, write_seg):
        assert describe_seg(write_seg(LIVER, TUMOUR)).names == ("liver", "tumour")

    def test_names_are_stripped_and_made_unique(self, write_seg):
        path = write_seg(LIVER, TUMOUR, LIVER, labels=(" nodule ", "nodule", "nodule"))
        assert describe_seg(path).names == tuple(read(path).masks) == ("nodule", "nodule 2", "nodule 3")

    def test_a_number_that_is_taken_is_not_given_again(self, write_seg):
        path = write_seg(LIVER, TUMOUR, LIVER, labels=("nodule", "nodule", "nodule 2"))
        assert describe_seg(path).names == ("nodule", "nodule 3", "nodule 2")

    def test_names_of_other_alphabets_are_read(self, write_seg):
        def rename(seg: Dataset) -> None:
            seg.SpecificCharacterSet = "ISO_IR 192"
            seg.SegmentSequence[0].SegmentLabel = "Läsion 肝"

        assert describe_seg(write_seg(LIVER, change=rename)).names == ("Läsion 肝",)

    def test_a_segment_without_a_label_is_called_by_its_number(self, write_seg):
        path = write_seg(LIVER, change=lambda seg: setattr(seg.SegmentSequence[0], "SegmentLabel", " "))
        assert describe_seg(path).names == ("segment 1",)

    @pytest.mark.parametrize("by_frame", [False, True])
    def test_the_images_are_named(self, write_seg, by_frame: bool):
        path = write_seg(LIVER)
        seg = pydicom.dcmread(path)
        instances = {
            item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        }
        series = (seg.ReferencedSeriesSequence[0].SeriesInstanceUID,)
        if by_frame:  # as older tools write it
            del seg.ReferencedSeriesSequence
            seg.save_as(path)
            series = ()
        described = describe_seg(path)
        assert set(described.referenced_sop_uids) == instances
        assert described.referenced_series_uids == series
        assert described.frame_of_reference_uid == seg.FrameOfReferenceUID

    def test_no_uid_is_shown(self, write_seg):
        assert repr(describe_seg(write_seg(LIVER))) == "Described(names=('liver',))"

    @pytest.mark.parametrize(
        ("grid", "shape", "lies"),
        [
            (AXIAL, SHAPE, True),
            (AXIAL @ from_matvec(np.diag([1, 1, -1]), [0, 0, 4]), SHAPE, True),
            (AXIAL, (11, 9, 3), True),  # three of its five slices
            (AXIAL, (11, 9, 2), False),
            (AXIAL @ from_matvec(np.eye(3), [50, 0, 0]), SHAPE, False),
            (AXIAL @ from_matvec(np.eye(3), [0, 0, 0.5]), SHAPE, False),
            (OBLIQUE, SHAPE, False),
        ],
        ids=["itself", "upside down", "most of it", "less than half", "beside", "between the slices", "another"],
    )
    def test_it_lies_on_its_own_image(self, write_seg, grid, shape, lies: bool):
        assert lies_on(write_seg(LIVER), shape, TO_RAS @ grid) is lies

    def test_describing_needs_no_pixels(self, write_seg):
        path = write_seg(LIVER, change=lambda seg: delattr(seg, "PixelData"))
        assert describe_seg(path).names == ("liver",)
        assert lies_on(path, SHAPE, TO_RAS @ AXIAL)

    def test_describing_does_not_load_highdicom(self, write_seg, monkeypatch):
        path = write_seg(LIVER)
        monkeypatch.setitem(sys.modules, "highdicom", None)
        assert describe_seg(path).names == ("liver",)


class TestResampling:
    def nearest(
        self, mask: np.ndarray, affine: np.ndarray, grid: np.ndarray, shape: tuple[int, int, int]
    ) -> np.ndarray:
        """Let SimpleITK resample a mask with nearest neighbour; both LPS+ grids are orthogonal."""

        def image_of(values: np.ndarray, place: np.ndarray) -> SimpleITK.Image:
            image = SimpleITK.GetImageFromArray(values.T.astype(np.uint8))
            spacing = np.linalg.norm(place[:3, :3], axis=0)
            image.SetSpacing(spacing.tolist())
            image.SetOrigin(place[:3, 3].tolist())
            image.SetDirection((place[:3, :3] / spacing).ravel().tolist())
            return image

        resampled = SimpleITK.Resample(
            image_of(mask, affine),
            image_of(np.zeros(shape), grid),
            SimpleITK.Transform(),
            SimpleITK.sitkNearestNeighbor,
        )
        return SimpleITK.GetArrayFromImage(resampled).T.astype(bool)

    @pytest.mark.parametrize(
        ("change", "shape"),
        [
            # Odd decimals, so that no voxel lies midway between two pixels.
            (from_matvec(np.diag([0.3713, 0.4117, 1.0]), [0.1319, 0.2141, 0]), (25, 17, 5)),
            (from_matvec(np.diag([1.0, 1.0, 0.4339]), [0, 0, 0.1013]), (11, 9, 9)),
            (from_matvec(np.diag([1.7171, 1.9311, 2.1373]), [0.1131, -0.2351, 0.2713]), (6, 5, 2)),
            (from_matvec(np.diag([0.8139, 0.7211, -0.9171]), [-2.1317, 1.2713, 3.8391]), (18, 12, 5)),
            (from_matvec(np.diag([1 / 0.8, 1 / 0.9, 1]) @ euler2mat(0.4), [2.1317, 1.2713, 0.2391]), (9, 8, 4)),
        ],
        ids=["finer pixels", "finer slices", "coarser", "shifted and flipped", "turned in the plane"],
    )
    def test_the_nearest_pixels_are_those_of_simpleitk(self, write_seg, change, shape):
        grid = OBLIQUE @ change
        structures = read(write_seg(LIVER, affine=OBLIQUE), grid, shape, resample=True)
        expected = self.nearest(LIVER, OBLIQUE, grid, shape)
        assert 0.1 < expected.mean() < 0.4
        np.testing.assert_array_equal(structures.masks["liver"], expected)
        assert "nearest pixel" in structures.notes[0]

    def test_each_segment_takes_the_nearest_of_its_own_planes(self, write_seg):
        grid, shape = AXIAL @ from_matvec(np.diag([0.3713, 0.4117, 0.4339]), [0.1319, 0.2141, 0.1013]), (25, 17, 9)
        liver = LIVER.copy()
        liver[:, :, 1::2] = False
        masks = read(write_seg(liver, TUMOUR), grid, shape, resample=True).masks
        np.testing.assert_array_equal(masks["liver"], self.nearest(liver, AXIAL, grid, shape))
        np.testing.assert_array_equal(masks["tumour"], self.nearest(TUMOUR, AXIAL, grid, shape))

    @pytest.mark.parametrize("degrees", [-11, 11])
    def test_a_slight_slant_is_measured_in_the_middle_of_a_plane(self, write_seg, degrees: float):
        # The middle of its plane is 0.35 slices off, one edge half a slice, the other next to nothing.
        turn, middle = euler2mat(0, np.deg2rad(degrees)), apply_affine(AXIAL, (np.array(SHAPE) - 1) / 2)
        grid = from_matvec(turn, middle - turn @ middle) @ AXIAL @ from_matvec(np.eye(3), [0, 0, 0.35])
        one_slice = np.ones(SHAPE, dtype=bool) & (np.arange(5) == 2)
        mask = read(write_seg(one_slice), grid, resample=True).masks["liver"]
        assert mask.any(axis=(0, 1)).tolist() == [False, False, True, False, False]

    def test_a_tilted_image_takes_the_pixels_at_the_same_place(self, write_seg):
        # Half as many slices of the same tilt, so the planes between go nowhere and the others stay as they are.
        grid = TILTED @ np.diag([1, 1, 2, 1])
        structures = read(write_seg(LIVER, affine=TILTED), grid, (11, 9, 3), resample=True)
        np.testing.assert_array_equal(structures.masks["liver"], LIVER[:, :, ::2])

    def test_what_fits_is_not_resampled(self, write_seg):
        structures = read(write_seg(LIVER), resample=True)
        np.testing.assert_array_equal(structures.masks["liver"], LIVER)
        assert structures.notes == ()

    def test_it_is_cut_to_the_image(self, write_seg):
        structures = read(write_seg(LIVER), shape=(11, 9, 3), resample=True)
        np.testing.assert_array_equal(structures.masks["liver"], LIVER[:, :, :3])
        assert "2 of 5 frames lie outside the image, and are left out" in structures.notes[0]

    def test_slices_far_from_any_plane_stay_empty(self, write_seg):
        sparse = np.ones(SHAPE, dtype=bool)
        sparse[:, :, 2] = False
        fine = AXIAL @ np.diag([1, 1, 0.25, 1])
        mask = read(write_seg(sparse), fine, (11, 9, 17), resample=True).masks["liver"]
        # Planes 0, 1, 3 and 4 lie on slices 0, 4, 12 and 16, and each stands for two slices on either side.
        assert np.flatnonzero(~mask.all(axis=(0, 1))).tolist() == [7, 8, 9]

    def test_planes_farther_apart_than_the_slices_are_told(self, write_seg):
        structures = read(write_seg(LIVER), AXIAL @ np.diag([1, 1, 0.25, 1]), (11, 9, 17))
        np.testing.assert_array_equal(structures.masks["liver"][:, :, ::4], LIVER)
        assert "planes are 4 slices apart" in structures.notes[0]
        assert "--resample-labels" in structures.notes[0]

    def test_planes_left_out_as_empty_are_no_reason_to_tell(self, write_seg):
        sparse = LIVER.copy()
        sparse[:, :, 1::2] = False
        assert read(write_seg(sparse)).notes == ()

    def test_planes_at_an_angle_are_refused(self, write_seg):
        with pytest.raises(GeometryMismatch, match="not parallel"):
            read(write_seg(LIVER), AXIAL @ from_matvec(euler2mat(0, 0.9), [0, 0, 0]), resample=True)


@pytest.mark.shared
class TestRealSegmentations:
    def grid(self) -> tuple[np.ndarray, list[pydicom.Dataset]]:
        """Return the LPS+ affine of the regular slices of the source, and their headers; a stray one lies far below."""
        headers = [
            pydicom.dcmread(get_testdata_file(f"dicomdirtests/77654033/CT2/{name}"), stop_before_pixels=True)
            for name in (17106, 17136, 17166, 17196)
        ]
        headers = sorted(headers, key=lambda header: header.ImagePositionPatient[2])[1:]
        first, last = (np.array(headers[index].ImagePositionPatient, dtype=float) for index in (0, -1))
        spacing = float(headers[0].PixelSpacing[0])
        affine = np.eye(4)
        affine[0, 0] = affine[1, 1] = spacing
        affine[:3, 2], affine[:3, 3] = (last - first) / 2, first
        return affine, headers

    @pytest.mark.parametrize(
        ("name", "threshold"),
        [("binary", None), ("binary_fractional", None), ("true_fractional", 0.5)],
    )
    def test_voxels_are_where_highdicom_has_them(self, shared_data: Path, name: str, threshold):
        path = shared_data / "highdicom" / f"seg_image_ct_{name}.dcm"
        affine, headers = self.grid()
        shape = (int(headers[0].Columns), int(headers[0].Rows), 3)
        mask = read(path, affine, shape, threshold=threshold).masks["first segment"]
        reference = highdicom.seg.segread(path)
        volume = reference.get_volume(rescale_fractional=False)
        marked = np.argwhere(volume.array[..., 0] > (0 if threshold is None else threshold * 255))
        expected = np.zeros(shape, dtype=bool)
        places = apply_affine(np.linalg.inv(affine) @ volume.affine, marked[:, :3])
        expected[tuple(np.rint(places).astype(int).T)] = True
        assert expected.any()
        np.testing.assert_array_equal(mask, expected)
        assert lies_on(path, shape, TO_RAS @ affine)
        assert describe_seg(path).referenced_series_uids == (headers[0].SeriesInstanceUID,)

    def test_real_shares_need_a_threshold(self, shared_data: Path):
        affine, _ = self.grid()
        with pytest.raises(UnusableLabel, match="--label-threshold"):
            read(shared_data / "highdicom" / "seg_image_ct_true_fractional.dcm", affine, (16, 16, 3))

    def test_marks_on_the_stray_slice_are_counted(self, shared_data: Path):
        affine, _ = self.grid()
        path = shared_data / "highdicom" / "seg_image_ct_binary_overlap.dcm"
        with pytest.raises(GeometryMismatch, match=r"2 of 8 frames (lie outside|do not lie)"):
            read(path, affine, (16, 16, 3))
        assert lies_on(path, (16, 16, 3), TO_RAS @ affine)

    def test_overlapping_segments_are_what_the_frames_hold(self, shared_data: Path):
        affine, _ = self.grid()
        path = shared_data / "highdicom" / "seg_image_ct_binary_overlap.dcm"
        masks = read(path, affine, (16, 16, 3), resample=True).masks
        frames = pydicom.dcmread(path).pixel_array.astype(bool)  # four a segment, the stray slice first
        np.testing.assert_array_equal(masks["first segment"], frames[1:4].T)
        np.testing.assert_array_equal(masks["second segment"], frames[5:8].T)
        assert (masks["first segment"] & masks["second segment"]).any()

    def test_a_single_frame_lies_on_its_slice(self, shared_data: Path):
        header = pydicom.dcmread(shared_data / "highdicom" / "ct_image.dcm")
        spacing = float(header.PixelSpacing[0])
        affine = from_matvec(np.diag([spacing, spacing, 5.0]), np.array(header.ImagePositionPatient, dtype=float))
        path = shared_data / "highdicom" / "seg_image_ct_binary_single_frame.dcm"
        mask = read(path, affine, (128, 128, 1)).masks["first segment"]
        np.testing.assert_array_equal(mask[:, :, 0], pydicom.dcmread(path).pixel_array.T.astype(bool))
