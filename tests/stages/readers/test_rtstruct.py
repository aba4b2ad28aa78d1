"""RTSTRUCT: contours become the voxels that they enclose, or are refused with numbers."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)

from samkit.stages.readers.rtstruct import describe_rtstruct, lies_on, read_rtstruct
from samkit.store.errors import GeometryMismatch, InputError, UnreadableFile

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# LPS+, from (column, row, slice).
AXIAL = from_matvec(np.diag([0.8, 0.9, 4.0]), [-100.0, -120.0, 30.0])
OBLIQUE = from_matvec(euler2mat(0.3, -0.2, 0.25) @ np.diag([0.8, 0.9, 4.0]), [-10.0, 20.0, 30.0])
TILTED = AXIAL @ np.array([[1, 0, 0, 0], [0, 1, 1.3, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
SHAPE = (40, 36, 5)

Points = np.ndarray
"""(i, j, k) of the corners of a contour, shape (corners, 3)."""


def circle(i: float, j: float, radius: float, k: float, corners: int = 400) -> Points:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([i + radius * np.cos(angle), j + radius * np.sin(angle), np.full(corners, k)], axis=1)


def polygon(corners: Sequence[tuple[float, float]], k: float) -> Points:
    return np.array([(*corner, k) for corner in corners], dtype=float)


def square(low: float, high: float, k: float) -> Points:
    return polygon([(low, low), (high, low), (high, high), (low, high)], k)


def disc(i: float, j: float, radius: float) -> np.ndarray:
    """The pixels whose centre is nearer than a radius; none may be so near the rim that it counts as on it."""
    columns, rows = np.indices(SHAPE[:2])
    distance = np.hypot(columns - i, rows - j)
    assert np.abs(distance - radius).min() > 0.015
    return distance < radius


def block(low: int, high: int) -> np.ndarray:
    """The pixels from low to high, both included, along both axes."""
    columns, rows = np.indices(SHAPE[:2])
    return (low <= columns) & (columns <= high) & (low <= rows) & (rows <= high)


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
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a structure set: for each structure its contours as (i, j, k), or as (type, (i, j, k))."""

    def write_rtstruct(
        affine: np.ndarray = AXIAL,
        change: Callable[[Dataset], None] = lambda dataset: None,
        syntax: str = ExplicitVRLittleEndian,
        decimals: int = 6,
        **structures: Sequence[Points | tuple[str, Points]],
    ) -> Path:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = RTStructureSetStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.Modality, dataset.PatientName, dataset.PatientID = "RTSTRUCT", "Doe^Jane", "MRN-0012345"
        dataset.StructureSetLabel = "Plan of Dr House"
        frame, study, series = Dataset(), Dataset(), Dataset()
        frame.FrameOfReferenceUID, series.SeriesInstanceUID = "1.2.3.4", "1.2.3.5"
        series.ContourImageSequence = [instance("1.2.3.6")]
        study.RTReferencedSeriesSequence, frame.RTReferencedStudySequence = [series], [study]
        dataset.ReferencedFrameOfReferenceSequence = [frame]
        dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
        for number, (name, contours) in enumerate(structures.items(), start=1):
            roi, drawn = Dataset(), Dataset()
            roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, "1.2.3.4"
            drawn.ReferencedROINumber, drawn.ContourSequence = number, []
            for contour in contours:
                kind, points = contour if isinstance(contour, tuple) else ("CLOSED_PLANAR", contour)
                item = Dataset()
                item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points)
                item.ContourData = [f"{value:.{decimals}f}" for value in apply_affine(affine, points).ravel()]
                drawn.ContourSequence.append(item)
            dataset.StructureSetROISequence.append(roi)
            dataset.ROIContourSequence.append(drawn)
        change(dataset)
        path = tmp_path / "rt.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write_rtstruct


def instance(uid: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = uid
    return reference


def read(path: Path, affine: np.ndarray = AXIAL, shape: tuple[int, int, int] = SHAPE, **options):
    """Read on the grid that an LPS+ affine gives."""
    return read_rtstruct(path, shape=shape, affine=TO_RAS @ affine, place="rt.dcm", **options)


def first_contour(change: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    return lambda dataset: change(dataset.ROIContourSequence[0].ContourSequence[0])


class TestShapes:
    @pytest.mark.parametrize("affine", [AXIAL, OBLIQUE, TILTED], ids=["axial", "oblique", "tilted"])
    def test_a_disc_is_the_voxels_within_its_radius(self, write, affine: np.ndarray):
        structures = read(write(affine, organ=[circle(20.3, 15.1, 10.21, 1), circle(12.2, 20.4, 5.13, 3)]), affine)
        expected = np.zeros(SHAPE, dtype=bool)
        expected[:, :, 1], expected[:, :, 3] = disc(20.3, 15.1, 10.21), disc(12.2, 20.4, 5.13)
        np.testing.assert_array_equal(structures.masks["organ"], expected)
        np.testing.assert_array_equal(structures.affine, TO_RAS @ affine)

    def test_a_contour_within_another_is_a_hole(self, write):
        path = write(organ=[circle(20.3, 15.1, 10.21, 2), circle(21.2, 14.4, 4.17, 2)])
        expected = disc(20.3, 15.1, 10.21) & ~disc(21.2, 14.4, 4.17)
        np.testing.assert_array_equal(read(path).masks["organ"][:, :, 2], expected)

    def test_the_order_of_the_contours_does_not_matter(self, write):
        contours = [circle(20.3, 15.1, 10.21, 2), circle(21.2, 14.4, 6.13, 2), circle(20.2, 14.1, 2.17, 2)]
        one, other = (read(write(organ=order)).masks["organ"] for order in (contours, contours[::-1]))
        np.testing.assert_array_equal(one, other)

    def test_a_contour_within_a_hole_is_an_island(self, write):
        path = write(organ=[circle(20.3, 15.1, 10.21, 2), circle(21.2, 14.4, 6.13, 2), circle(20.2, 14.1, 2.17, 2)])
        expected = disc(20.3, 15.1, 10.21) ^ disc(21.2, 14.4, 6.13) ^ disc(20.2, 14.1, 2.17)
        np.testing.assert_array_equal(read(path).masks["organ"][:, :, 2], expected)

    def test_xor_contours_are_holes_too(self, write):
        contours = [("CLOSEDPLANAR_XOR", circle(20.3, 15.1, 10.21, 2)), ("CLOSEDPLANAR_XOR", circle(21, 14.4, 4.17, 2))]
        expected = disc(20.3, 15.1, 10.21) & ~disc(21, 14.4, 4.17)
        np.testing.assert_array_equal(read(write(organ=contours)).masks["organ"][:, :, 2], expected)

    def test_a_keyhole_is_a_hole(self, write):
        outer, inner = circle(20.3, 15.1, 10.21, 2), circle(20.3, 15.1, 4.21, 2)[::-1]
        channel = np.concatenate([outer, outer[:1], inner[-1:], inner, outer[:1]])
        expected = disc(20.3, 15.1, 10.21) & ~disc(20.3, 15.1, 4.21)
        np.testing.assert_array_equal(read(write(organ=[channel])).masks["organ"][:, :, 2], expected)

    def test_parts_of_a_slice_are_joined(self, write):
        path = write(organ=[circle(10.3, 15.1, 5.21, 2), circle(30.2, 14.4, 4.17, 2)])
        expected = disc(10.3, 15.1, 5.21) | disc(30.2, 14.4, 4.17)
        np.testing.assert_array_equal(read(path).masks["organ"][:, :, 2], expected)

    def test_structures_may_overlap(self, write):
        masks = read(write(organ=[circle(20, 15, 10.17, 2)], tumour=[circle(21, 15, 3.13, 2)])).masks
        assert (masks["tumour"] & masks["organ"]).sum() == disc(21, 15, 3.13).sum()

    def test_a_concave_contour_is_not_filled_up(self, write):
        back = [(5.5, 25.5), (5.5, 5.5), (20.5, 5.5)]
        hollow = [(20.5, 10.5), (10.5, 10.5), (10.5, 20.5), (20.5, 20.5), (20.5, 25.5)]
        horseshoe = polygon(back + hollow, 0)
        mask = read(write(organ=[horseshoe])).masks["organ"][:, :, 0]
        assert mask.sum() == 15 * 20 - 10 * 10
        assert not mask[15, 15]

    def test_the_area_of_a_contour_is_that_of_its_voxels(self, write):
        random = np.random.default_rng(3)
        radius = 8 + 5 * random.random(50)
        star = circle(20, 18, 1, 1, corners=50)
        star[:, :2] = (star[:, :2] - [20, 18]) * radius[:, None] + [20, 18]
        i, j = star[:, 0], star[:, 1]
        area = 0.5 * abs(np.sum(i * np.roll(j, -1) - j * np.roll(i, -1)))
        perimeter = np.hypot(*(np.roll(star, -1, axis=0) - star)[:, :2].T).sum()
        assert abs(read(write(organ=[star])).masks["organ"].sum() - area) < 0.1 * perimeter


def test_structures_take_less_memory_than_the_voxels_of_their_image(write):
    path = write(one=[circle(10, 8, 5.3, 2)], other=[circle(12, 9, 4.3, 2)])
    expected = read(path).masks
    tracemalloc.start()
    masks = read(path, shape=(256, 256, 100)).masks
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 256 * 256 * 100
    for name in ("one", "other"):
        assert masks[name].sum() == expected[name].sum() > 0


class TestContoursAlongCentres:
    """What tools trace along the centres of a mask's border pixels gives back the mask."""

    def test_a_centre_on_a_contour_belongs_to_it(self, write):
        np.testing.assert_array_equal(read(write(organ=[square(5, 12, 1)])).masks["organ"][:, :, 1], block(5, 12))

    @pytest.mark.parametrize("decimals", [2, 3, 10])
    def test_rounded_decimals_do_not_change_it(self, write, decimals: int):
        mask = read(write(OBLIQUE, decimals=decimals, organ=[square(5, 12, 1)]), OBLIQUE).masks["organ"]
        np.testing.assert_array_equal(mask[:, :, 1], block(5, 12))

    def test_slanted_edges_belong_to_it_where_they_meet_centres(self, write):
        diamond = polygon([(20, 10), (25, 15), (20, 20), (15, 15)], 2)
        columns, rows = np.indices(SHAPE[:2])
        expected = np.abs(columns - 20) + np.abs(rows - 15) <= 5
        np.testing.assert_array_equal(read(write(organ=[diamond])).masks["organ"][:, :, 2], expected)

    def test_the_rim_of_a_hole_belongs_to_the_structure(self, write):
        mask = read(write(organ=[square(5, 20, 1), square(8, 16, 1)])).masks["organ"][:, :, 1]
        np.testing.assert_array_equal(mask, block(5, 20) & ~block(9, 15))

    def test_a_single_pixel_is_a_contour_of_one_point(self, write):
        mask = read(write(organ=[polygon([(7, 9)], 1)])).masks["organ"]
        assert np.argwhere(mask).tolist() == [[7, 9, 1]]

    def test_a_line_of_pixels_is_a_contour_of_two_points(self, write):
        mask = read(write(organ=[polygon([(7, 9), (7, 12)], 1)])).masks["organ"]
        assert np.argwhere(mask).tolist() == [[7, 9, 1], [7, 10, 1], [7, 11, 1], [7, 12, 1]]

    def test_a_contour_a_tenth_of_a_voxel_off_does_not_touch(self, write):
        mask = read(write(organ=[square(4.9, 12.1, 1)])).masks["organ"][:, :, 1]
        np.testing.assert_array_equal(mask, block(5, 12))
        mask = read(write(organ=[square(5.1, 11.9, 1)])).masks["organ"][:, :, 1]
        np.testing.assert_array_equal(mask, block(6, 11))


class TestSlices:
    @pytest.mark.parametrize("grid", [AXIAL, OBLIQUE, TILTED], ids=["axial", "oblique", "tilted"])
    def test_an_image_with_its_axes_the_other_way_round_gets_them_so(self, write, grid: np.ndarray):
        path = write(grid, organ=[circle(20.3, 15.1, 10.21, 1)])
        turned = grid @ from_matvec(np.diag([-1, 1, -1]), [SHAPE[0] - 1, 0, SHAPE[2] - 1])
        np.testing.assert_array_equal(read(path, turned).masks["organ"], read(path, grid).masks["organ"][::-1, :, ::-1])

    def test_decimals_of_a_position_are_not_told(self, write):
        structures = read(write(organ=[circle(20, 15, 10.17, 1.005)]))
        assert structures.masks["organ"][:, :, 1].any()
        assert structures.notes == ()

    def test_up_to_a_tenth_of_a_slice_is_taken_and_told(self, write):
        structures = read(write(organ=[circle(20.3, 15.1, 10.21, 1), circle(20.3, 15.1, 10.21, 2.08)]))
        np.testing.assert_array_equal(structures.masks["organ"][:, :, 2], disc(20.3, 15.1, 10.21))
        assert "0.080 slices off" in structures.notes[0]

    def test_contours_between_slices_are_refused_with_the_distance(self, write):
        path = write(organ=[circle(20, 15, 10.17, 1), circle(20, 15, 10.17, 2.25)])
        with pytest.raises(
            GeometryMismatch, match=r"1 of 2 contours lie between.*0\.25 slices \(1 mm\).*--resample-labels"
        ):
            read(path)

    @pytest.mark.parametrize("resample", [False, True])
    def test_contours_across_the_slices_are_refused(self, write, resample: bool):
        sagittal = np.array([[20, 5, 0], [20, 25, 0], [20, 25, 4], [20, 5, 4.0]])
        with pytest.raises(GeometryMismatch, match=r"1 of 1 contours run across.*2 slices \(8 mm\)"):
            read(write(organ=[sagittal]), resample=resample)

    def test_contours_of_another_image_are_refused(self, write):
        path = write(organ=[circle(20, 15, 10.17, k) for k in (0, 1, 2)])
        with pytest.raises(GeometryMismatch, match=r"none of the 3 contours.*slices 100 to 102.*0 to 4.*another"):
            read(path, AXIAL @ from_matvec(np.eye(3), [0, 0, -100]))

    def test_contours_beside_the_image_are_refused(self, write):
        with pytest.raises(GeometryMismatch, match="none of the 1 contours"):
            read(write(organ=[circle(80, 15, 10.21, 1)]))

    def test_contours_beyond_the_last_slice_are_counted(self, write):
        structures = read(write(organ=[circle(20.3, 15.1, 10.21, k) for k in (3, 4, 5)]))
        assert structures.masks["organ"].any(axis=(0, 1)).tolist() == [False, False, False, True, True]
        assert structures.notes == (
            "contours: 1 of 3 contours lie beyond the outer slices or beside the image, and are left out",
        )

    def test_contours_are_cut_at_the_edge_of_the_image(self, write):
        structures = read(write(organ=[circle(38.3, 2.1, 10.21, 1)]))
        np.testing.assert_array_equal(structures.masks["organ"][:, :, 1], disc(38.3, 2.1, 10.21))
        assert "1 of 1 contours reach beyond the image's edge" in structures.notes[0]

    def test_contours_along_the_outermost_centres_are_whole(self, write):
        frame = polygon([(-0.5, -0.5), (39.5, -0.5), (39.5, 35.5), (-0.5, 35.5)], 1)
        structures = read(write(body=[frame], decimals=9))
        assert structures.masks["body"][:, :, 1].all()

    def test_contours_on_every_other_slice_are_told(self, write):
        structures = read(write(organ=[circle(20, 15, 10.17, k) for k in (0, 2, 4)]))
        assert structures.masks["organ"].any(axis=(0, 1)).tolist() == [True, False, True, False, True]
        assert "planes are 2 slices apart" in structures.notes[0]
        assert "--resample-labels" in structures.notes[0]

    def test_a_structure_with_gaps_beside_a_whole_one_is_not_told(self, write):
        whole = [circle(20, 15, 10.17, k) for k in range(5)]
        assert read(write(organ=whole, nodes=whole[::2])).notes == ()


class TestResampling:
    def test_each_slice_takes_the_nearest_plane(self, write):
        # Planes 0.75 slices apart: of slices 0 to 4 the nearest are planes 0, 1, 3, 4 and none.
        radii = [3.13, 4.17, 5.21, 6.29, 7.31]
        path = write(organ=[circle(20, 15, radius, 0.1 + 0.75 * n) for n, radius in enumerate(radii)])
        structures = read(path, resample=True)
        for k, radius in enumerate([3.13, 4.17, 6.29, 7.31]):
            np.testing.assert_array_equal(structures.masks["organ"][:, :, k], disc(20, 15, radius), str(k))
        assert not structures.masks["organ"][:, :, 4].any()
        assert "nearest plane" in structures.notes[0]

    def test_thick_slices_fill_the_thin_ones_between(self, write):
        path = write(organ=[circle(20, 15, radius, k) for radius, k in ((3.13, 0), (4.17, 2), (5.21, 4))])
        masks = read(path, resample=True).masks["organ"]
        assert [int(masks[:, :, k].sum()) for k in (0, 2, 4)] == [
            int(disc(20, 15, r).sum()) for r in (3.13, 4.17, 5.21)
        ]
        assert masks.any(axis=(0, 1)).all()

    def test_contours_of_one_plane_stay_together(self, write):
        path = write(organ=[circle(20, 15, 10.17, 1.4), circle(20, 15, 4.17, 1.4), circle(20, 15, 8.17, 2.4)])
        mask = read(path, resample=True).masks["organ"]
        np.testing.assert_array_equal(mask[:, :, 1], disc(20, 15, 10.17) & ~disc(20, 15, 4.17))
        np.testing.assert_array_equal(mask[:, :, 2], disc(20, 15, 8.17))

    def test_in_a_tilted_stack_contours_move_along_the_normal(self, write):
        # The patient's axes do not tilt: a contour 0.4 slices up is straight above the slice, at the same x and y.
        path = write(TILTED, organ=[circle(20.3, 15.1, 6.21, k + 0.4) for k in (1, 2)])
        mask = read(path, TILTED, resample=True).masks["organ"]
        np.testing.assert_array_equal(mask[:, :, 1], disc(20.3, 15.1 + 0.4 * 1.3, 6.21))

    def test_what_lies_on_the_slices_is_not_resampled(self, write):
        path = write(organ=[circle(20, 15, 10.17, k) for k in (1, 2)])
        structures = read(path, resample=True)
        assert structures.masks["organ"].any(axis=(0, 1)).tolist() == [False, True, True, False, False]
        assert structures.notes == ()


class TestContents:
    @pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"])
    def test_what_encloses_nothing_is_left_out_and_counted(self, write, kind: str):
        path = write(organ=[circle(20, 15, 10.17, 1), (kind, circle(10, 10, 5, 2)), (kind, circle(9, 9, 5, 2))])
        structures = read(path)
        assert structures.masks["organ"].any(axis=(0, 1)).tolist() == [False, True, False, False, False]
        assert structures.notes == ("contours: 2 point(s) and open line(s) enclose nothing, and are left out",)

    def test_structures_of_points_alone_are_none(self, write):
        path = write(isocentre=[("POINT", polygon([(1, 1)], 1))], organ=[circle(20, 15, 10.17, 1)])
        structures = read(path)
        assert describe_rtstruct(path).names == tuple(structures.masks) == ("organ",)
        assert structures.notes == ("contours: 1 structure(s) hold only points or open lines, and are left out",)

    def test_structures_without_contours_are_there_and_empty(self, write):
        path = write(organ=[circle(20, 15, 10.17, 1)], tumour=[])
        masks = read(path).masks
        assert describe_rtstruct(path).names == tuple(masks) == ("organ", "tumour")
        assert not masks["tumour"].any()

    def test_copies_of_a_contour_count_once(self, write):
        structures = read(write(organ=[circle(20, 15, 10.17, 1)] * 2))
        np.testing.assert_array_equal(structures.masks["organ"][:, :, 1], disc(20, 15, 10.17))
        assert structures.notes == ("contours: 1 contour(s) are exact copies of another one, and count once",)

    def test_copies_of_an_xor_contour_take_it_away(self, write):
        mask = read(write(organ=[("CLOSEDPLANAR_XOR", circle(20.3, 15.1, 10.21, 1))] * 2)).masks["organ"]
        assert not mask.any()

    def test_only_the_structures_asked_for_are_read(self, write):
        path = write(organ=[circle(20, 15, 10.17, 1)], far=[circle(20, 15, 10.17, 50)])
        structures = read(path, names=("organ",))
        assert list(structures.masks) == ["organ"]
        assert structures.notes == ()

    def test_an_offset_moves_a_contour(self, write):
        shift = AXIAL[:3, :3] @ [3, -2, 1]
        path = write(
            organ=[circle(20.3, 15.1, 6.21, 1)],
            change=first_contour(lambda contour: setattr(contour, "ContourOffsetVector", shift.tolist())),
        )
        np.testing.assert_array_equal(read(path).masks["organ"][:, :, 2], disc(23.3, 13.1, 6.21))

    @pytest.mark.filterwarnings("ignore:The value for the data element")  # of writing it
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
    def test_contours_longer_than_a_short_value_are_read(self, write, syntax: str):
        path = write(organ=[circle(20.3, 15.1, 10.21, 1, corners=4000)], syntax=syntax)  # more than 65 534 bytes
        np.testing.assert_array_equal(read(path).masks["organ"][:, :, 1], disc(20.3, 15.1, 10.21))


class TestDescription:
    def test_names_are_stripped_and_made_unique(self, write):
        def speak_utf_8(dataset: Dataset) -> None:
            dataset.SpecificCharacterSet = "ISO_IR 192"

        path = write(change=speak_utf_8, **{" GTV": [], "GTV ": [], "Läsion": []})
        assert describe_rtstruct(path).names == tuple(read(path).masks) == ("GTV", "GTV 2", "Läsion")

    def test_a_structure_without_a_name_is_called_by_its_number(self, write):
        path = write(
            organ=[circle(20, 15, 10.17, 1)], change=lambda dataset: setattr(dataset, "StructureSetROISequence", [])
        )
        assert describe_rtstruct(path).names == tuple(read(path).masks) == ("ROI 1",)

    def test_the_images_are_named(self, write):
        def by_contour(contour: Dataset) -> None:
            contour.ContourImageSequence = [instance("1.2.3.7")]

        described = describe_rtstruct(write(organ=[circle(20, 15, 10.17, 1)], change=first_contour(by_contour)))
        assert described.referenced_series_uids == ("1.2.3.5",)
        assert described.referenced_sop_uids == ("1.2.3.6", "1.2.3.7")
        assert described.frame_of_reference_uid == "1.2.3.4"

    def test_absent_references_are_no_error(self, write):
        def forget(dataset: Dataset) -> None:
            del dataset.ReferencedFrameOfReferenceSequence
            del dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID

        described = describe_rtstruct(write(organ=[circle(20, 15, 10.17, 1)], change=forget))
        assert described.names == ("organ",)
        assert (described.referenced_series_uids, described.referenced_sop_uids) == ((), ())
        assert described.frame_of_reference_uid == ""

    def test_no_uid_is_shown(self, write):
        assert repr(describe_rtstruct(write(organ=[]))) == "Described(names=('organ',))"

    @pytest.mark.parametrize(
        ("change", "lies"),
        [
            (np.eye(4), True),
            (from_matvec(np.diag([1, 1, -1]), [0, 0, 4]), True),
            (from_matvec(np.eye(3), [0, 0, 2]), True),  # two of its three contours
            (from_matvec(np.eye(3), [0, 0, 3]), False),
            (from_matvec(np.eye(3), [0, 0, 0.5]), False),
            (from_matvec(np.eye(3), [80, 0, 0]), False),
            (from_matvec(euler2mat(0, 1.2), [0, 0, 0]), False),
        ],
        ids=["itself", "upside down", "most of it", "less than half", "between", "beside", "across"],
    )
    def test_it_lies_on_its_own_image(self, write, change: np.ndarray, lies: bool):
        path = write(OBLIQUE, organ=[circle(20, 15, 10.17, k) for k in (1, 2, 3)])
        assert lies_on(path, SHAPE, TO_RAS @ OBLIQUE @ change) is lies

    def test_without_contours_it_lies_on_nothing(self, write):
        assert not lies_on(write(organ=[]), SHAPE, TO_RAS @ AXIAL)


class TestRefusals:
    def test_a_missing_file_is_told(self, tmp_path: Path):
        with pytest.raises(UnreadableFile, match="no such file"):
            describe_rtstruct(tmp_path / "none.dcm")

    @pytest.mark.parametrize("content", [b"", b"version https://git-lfs", bytes(200), b"\0" * 128 + b"DICM"])
    def test_what_is_no_structure_set_is_told(self, tmp_path: Path, content: bytes):
        path = tmp_path / "rt.dcm"
        path.write_bytes(content)
        for attempt in (lambda: describe_rtstruct(path), lambda: lies_on(path, SHAPE, AXIAL), lambda: read(path)):
            with pytest.raises(UnreadableFile, match="copy it again"):
                attempt()

    def test_an_image_is_no_structure_set(self):
        with pytest.raises(UnreadableFile, match="not a structure set"):
            describe_rtstruct(Path(get_testdata_file("CT_small.dcm")))

    @pytest.mark.parametrize(
        "values",
        [rb"11111\22222", rb"11111\22222\three", rb"11111\22222\nan", rb"11111\22222\1e400"],
        ids=["a number short", "a word", "no number", "beyond numbers"],
    )
    def test_broken_points_are_told(self, write, values: bytes):
        path = write(
            organ=[circle(20, 15, 10.17, 1)],
            change=first_contour(lambda contour: setattr(contour, "ContourData", ["11111", "22222", "33333"])),
        )
        sound = rb"11111\22222\33333"
        path.write_bytes(path.read_bytes().replace(sound, values.ljust(len(sound))))
        with pytest.raises(UnreadableFile, match="contour 1 of structure number 1 is no list of points"):
            read(path)

    def test_damage_anywhere_is_read_or_refused(self, write):
        path = write(organ=[circle(20, 15, 10.17, k, corners=12) for k in (0, 1, 2)], tumour=[circle(20, 15, 4.17, 1)])
        content = path.read_bytes()
        refused = 0
        for seed in range(60):
            path.write_bytes(damaged(content, seed))
            for attempt in (describe_rtstruct, lambda path: lies_on(path, SHAPE, TO_RAS @ AXIAL), read):
                try:
                    attempt(path)
                except InputError:
                    refused += 1
        assert refused > 20

    def test_a_contour_without_points_is_nothing(self, write):
        path = write(
            organ=[circle(20, 15, 10.17, 1), circle(20, 15, 10.17, 2)],
            change=first_contour(lambda contour: delattr(contour, "ContourData")),
        )
        assert read(path).masks["organ"].any(axis=(0, 1)).tolist() == [False, False, True, False, False]

    def test_points_far_away_take_neither_time_nor_memory(self, write):
        far = polygon([(-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9)], 1)
        assert read(write(body=[far], decimals=1)).masks["body"][:, :, 1].all()

    @pytest.mark.filterwarnings("ignore::UserWarning")  # of writing it
    def test_no_message_or_note_gives_the_patient_away(self, write, capsys):
        private = "Jane Doe's liver, drawn by Dr House " * 3  # longer than DICOM allows
        path = write(**{private: [circle(20, 15, 10.17, 1), ("POINT", polygon([(1, 1)], 1))]})
        said = []
        for shift in ([0, 0, 0.4], [0, 0, 30]):
            with pytest.raises(GeometryMismatch) as refused:
                read(path, AXIAL @ from_matvec(np.eye(3), shift))
            said.append(str(refused.value))
        said += read(path, AXIAL @ from_matvec(np.eye(3), [0, 0, 0.05])).notes
        said += capsys.readouterr()
        assert len(said) > 4
        assert not any(word in line for line in said for word in ("Jane", "Doe", "MRN", "House", "1.2.3"))

    @pytest.mark.filterwarnings("ignore::UserWarning")  # of writing it
    @pytest.mark.parametrize("attempt", [describe_rtstruct, read, lambda path: lies_on(path, SHAPE, AXIAL)])
    def test_no_warning_quotes_the_header(self, write, attempt):
        def private(dataset: Dataset) -> None:
            dataset.FrameOfReferenceUID = "Jane Doe"
            dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "Jane Doe"
            dataset.StructureSetROISequence[0].ROIName = "Jane Doe's liver " * 10

        path = write(organ=[circle(20, 15, 10.17, 1)], change=private)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            attempt(path)
        assert not warned


@pytest.mark.shared
class TestRealStructureSets:
    def grid(self, folder: Path) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Return the LPS+ affine of the two slices of the phantom, and its shape."""
        first, last = (pydicom.dcmread(folder / f"ct_{n}.dcm", stop_before_pixels=True) for n in (1, 2))
        affine = np.eye(4)
        affine[0, 0], affine[1, 1] = float(first.PixelSpacing[1]), float(first.PixelSpacing[0])
        affine[:3, 3] = np.array(first.ImagePositionPatient, dtype=float)
        affine[:3, 2] = np.array(last.ImagePositionPatient, dtype=float) - affine[:3, 3]
        return affine, (int(first.Columns), int(first.Rows), 2)

    @pytest.mark.parametrize("name", ["rt", "invalid_reference_rt", "non_existent_reference_rt"])
    def test_the_area_of_the_contours_is_that_of_the_voxels(self, shared_data: Path, name: str):
        path = shared_data / "rtstruct" / f"{name}.dcm"
        affine, shape = self.grid(shared_data / "rtstruct")
        masks = read(path, affine, shape).masks
        pixel_mm2 = affine[0, 0] * affine[1, 1]
        compared = 0
        dataset = pydicom.dcmread(path)
        for structure, drawn in zip(masks.values(), dataset.ROIContourSequence, strict=True):
            for k in range(shape[2]):
                corners = [
                    np.array(contour.ContourData, dtype=float).reshape(-1, 3) for contour in drawn.ContourSequence
                ]
                here = [points[:, :2] for points in corners if abs(points[0, 2] - (60 + 5 * k)) < 1e-6]
                x, y = ([points[:, axis] for points in here] for axis in (0, 1))
                areas = [abs(np.sum(a * np.roll(b, -1) - b * np.roll(a, -1))) / 2 for a, b in zip(x, y, strict=True)]
                edges = sum(np.hypot(*(np.roll(points, -1, axis=0) - points).T).sum() for points in here)
                inside = 2 * max(areas, default=0) - sum(areas)  # each structure has one outline, the others are holes
                assert abs(structure[:, :, k].sum() * pixel_mm2 - inside) <= 0.5 * edges * affine[0, 0]
                compared += len(areas)
        assert compared == (2 if name == "rt" else 8)

    def test_contours_without_a_slice_are_counted(self, shared_data: Path):
        affine, shape = self.grid(shared_data / "rtstruct")
        notes = read(shared_data / "rtstruct" / "invalid_reference_rt.dcm", affine, shape).notes
        assert notes == (
            "contours: 4 of 12 contours lie beyond the outer slices or beside the image, and are left out",
        )

    @pytest.mark.parametrize("name", ["rt", "invalid_reference_rt", "non_existent_reference_rt"])
    def test_absent_and_wrong_references_do_not_hide_where_it_lies(self, shared_data: Path, name: str):
        path = shared_data / "rtstruct" / f"{name}.dcm"
        affine, shape = self.grid(shared_data / "rtstruct")
        assert lies_on(path, shape, TO_RAS @ affine)
        assert not lies_on(path, shape, TO_RAS @ from_matvec(np.eye(3), [0, 0, 1e4]) @ affine)
        series = pydicom.dcmread(path.with_name("ct_1.dcm"), stop_before_pixels=True).SeriesInstanceUID
        assert (series in describe_rtstruct(path).referenced_series_uids) is (name != "non_existent_reference_rt")
