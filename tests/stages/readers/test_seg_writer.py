"""Masks as DICOM-SEG: read back by highdicom and pydicom, frame by frame, from every kind of series that is taken."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from synthetic.answers import LPS_TO_RAS
from synthetic.catalogue import seed_of
from synthetic.codecs import COMPRESSED
from synthetic.enhanced import ENHANCED, enhanced_4d
from synthetic.four_d import FOUR_D, time_points
from synthetic.irregular import IRREGULAR, tilted
from synthetic.kinds import KINDS
from synthetic.private import plant
from synthetic.series import PLAIN, write_series

from samkit.stages.readers.dicom_seg import describe_seg, read_seg
from samkit.stages.readers.dicom_series import Series, VolumeChoice, triage
from samkit.stages.readers.seg_writer import Algorithm, seg_obstacle, write_label_seg
from samkit.store.errors import GeometryMismatch, InputError, UnreadableFile, UnusableLabel

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's, about headers that are wrong on purpose

NAMES = {1: "liver", 3: "left kidney"}
MADE_BY = Algorithm(version="1.2.3", parameters={"run": "linear-1-0-abc", "head": "linear"})


def series_of(folder: Path, **choice: int) -> Series:
    """Return the first series in a folder that is taken."""
    return next(one.series for one in triage(folder, VolumeChoice(**choice)).findings if one.series is not None)


def mask_for(series: Series, seed: int = 0) -> NDArray[np.uint8]:
    """Draw a mask (column, row, slice) of two classes that no flip or turn leaves as it is, with empty slices."""
    random = np.random.default_rng(seed)
    mask = random.choice(np.array([0, 0, 0, 1, 3], np.uint8), size=series.shape)
    if series.shape[2] > 3:
        mask[:, :, [0, -2]] = 0
    mask[0, 0, -1], mask[-1, 0, -1] = 1, 3
    return mask


def write(folder: Path, series: Series, mask: NDArray[np.uint8]) -> Dataset:
    path = folder / "mask.seg.dcm"
    write_label_seg(path, mask, series, NAMES, algorithm=MADE_BY)
    return hd.seg.segread(path)


def read_back(seg: Dataset, series: Series) -> NDArray[np.uint8]:
    """Return the label map (column, row, slice) as highdicom finds it by the references to the source's frames."""
    how = {"combine_segments": True, "assert_missing_frames_are_empty": True, "ignore_spatial_locations": True}
    planes = []
    for frame in series.frames:
        if pydicom.dcmread(frame.path, stop_before_pixels=True, force=True).get("NumberOfFrames", 1) > 1:
            planes.append(seg.get_pixels_by_source_frame(frame.sop_uid, [frame.index + 1], **how)[0])
        else:
            planes.append(seg.get_pixels_by_source_instance([frame.sop_uid], **how)[0])
    numbers = np.stack(planes).transpose(2, 1, 0)
    return np.array([0, *NAMES], np.uint8)[numbers]


@pytest.fixture
def series(tmp_path: Path) -> Series:
    write_series(tmp_path / "series", seed=4)
    return series_of(tmp_path / "series")


# -- every voxel where it was ----------------------------------------------------------------------

FAMILIES = {
    "plain": PLAIN,
    "irregular": IRREGULAR,
    "kinds": KINDS,
    "4-D": FOUR_D,
    "enhanced": ENHANCED,
    "compressed": COMPRESSED,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_comes_back_as_it_was_from_any_series_that_can_be_referred_to(tmp_path, family):
    written = 0
    for name, maker in FAMILIES[family].items():
        maker(tmp_path / name, seed_of(name))
        for one in (finding.series for finding in triage(tmp_path / name, VolumeChoice(time_index=0)).findings):
            if one is None or seg_obstacle(one) is not None:
                continue
            mask = mask_for(one, seed=written)
            assert np.array_equal(read_back(write(tmp_path, one, mask), one), mask), name
            written += 1
    assert written


def test_positions_are_those_of_the_slices_of_a_tilted_gantry(tmp_path):
    (answer,) = tilted(tmp_path / "series", shear_mm=(3.0, 9.0), angles_degrees=(10, 0, 5))
    series = series_of(tmp_path / "series")
    mask = np.ones(series.shape, np.uint8)
    seg = write(tmp_path, series, mask)
    expected = [(LPS_TO_RAS @ answer.affine @ [0, 0, k, 1])[:3] for k in range(series.shape[2])]
    found = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in seg.PerFrameFunctionalGroupsSequence]
    assert np.allclose(sorted(map(tuple, found)), sorted(map(tuple, expected)), atol=1e-6)


def test_spacing_between_tilted_slices_is_measured_along_their_normal(tmp_path):
    tilted(tmp_path / "series", shear_mm=(0.0, 20.0))
    seg = write(tmp_path, series := series_of(tmp_path / "series"), mask_for(series))
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(2.5)
    assert [float(value) for value in measures.PixelSpacing] == [0.9, 0.8]


def test_a_straight_mask_makes_the_volume_of_its_source(tmp_path, series):
    seg = write(tmp_path, series, np.full(series.shape, 3, np.uint8))
    volume = seg.get_volume(combine_segments=True)
    # highdicom's volumes are (slice, row, column) in LPS+; where its slices begin is its own choice.
    corner = volume.affine @ [0, 0, 0, 1]
    ends = [LPS_TO_RAS @ np.array(series.affine) @ [0, 0, k, 1] for k in (0, series.shape[2] - 1)]
    assert any(np.allclose(corner, end, atol=1e-6) for end in ends)


def test_one_volume_of_a_4d_series_refers_to_its_own_instances(tmp_path):
    (answer,) = time_points(tmp_path / "series", tag="TriggerTime", count=3, interleaved=True)
    first, second = (series_of(tmp_path / "series", time_index=index) for index in (0, 1))
    seg = write(tmp_path, second, mask_for(second))
    referred = {str(item.ReferencedSOPInstanceUID) for item in seg.SourceImageSequence}
    assert referred == {frame.sop_uid for frame in second.frames}
    assert not referred & {frame.sop_uid for frame in first.frames}
    assert len(referred) == len(answer.paths) / 3


def test_one_volume_of_a_4d_multi_frame_file_refers_to_its_own_frames(tmp_path):
    enhanced_4d(tmp_path / "series")
    series = series_of(tmp_path / "series", time_index=1)
    seg = write(tmp_path, series, mask := mask_for(series))
    assert np.array_equal(read_back(seg, series), mask)
    (referred,) = seg.SourceImageSequence
    assert list(referred.ReferencedFrameNumber) == [frame.index + 1 for frame in series.frames]


def test_noise_in_the_orientations_does_not_matter(tmp_path):
    def tremble(k: int, dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = [1, 0, 1e-6 * (k % 2), 0, 1, 0]

    write_series(tmp_path / "series", change=tremble)
    series = series_of(tmp_path / "series")
    assert np.array_equal(read_back(write(tmp_path, series, mask := mask_for(series)), series), mask)


@pytest.mark.parametrize("shear", [0.0, 20.0])
@pytest.mark.parametrize("empty", [False, True])
def test_samkit_reads_it_back_as_a_label_of_its_source(tmp_path, shear, empty):
    tilted(tmp_path / "series", shear_mm=(0.0, shear))
    series = series_of(tmp_path / "series")
    mask = np.zeros(series.shape, np.uint8) if empty else mask_for(series)
    write(tmp_path, series, mask)
    affine = np.array(series.affine)
    read = read_seg(tmp_path / "mask.seg.dcm", shape=series.shape, affine=affine, place="mask")
    assert list(read.masks) == list(NAMES.values())
    for value, name in NAMES.items():
        assert np.array_equal(read.masks[name], mask == value)
    assert describe_seg(tmp_path / "mask.seg.dcm").referenced_series_uids == (series.series_uid,)


# -- what it says ----------------------------------------------------------------------------------


def test_it_is_a_binary_segmentation_that_pydicom_reads(tmp_path, series):
    write(tmp_path, series, mask_for(series))
    seg = pydicom.dcmread(tmp_path / "mask.seg.dcm")
    assert seg.SOPClassUID.name == "Segmentation Storage"
    assert seg.SegmentationType == "BINARY"
    assert seg.pixel_array.shape[1:] == (series.shape[1], series.shape[0])


def test_empty_frames_are_left_out(tmp_path, series):
    mask = np.zeros(series.shape, np.uint8)
    mask[2, 3, 1] = 1
    mask[4, 3, 4] = 3
    seg = write(tmp_path, series, mask)
    assert seg.NumberOfFrames == 2


def test_a_class_is_a_segment_of_its_name_whether_it_occurs_or_not(tmp_path, series):
    mask = np.zeros(series.shape, np.uint8)
    mask[2, 3, 1] = 3
    seg = write(tmp_path, series, mask)
    assert [(item.SegmentNumber, item.SegmentLabel) for item in seg.SegmentSequence] == [
        (1, "liver"),
        (2, "left kidney"),
    ]


def test_a_mask_without_a_voxel_is_a_segmentation_of_every_class_in_one_empty_plane(tmp_path, series):
    seg = write(tmp_path, series, np.zeros(series.shape, np.uint8))
    assert len(seg.SegmentSequence) == 2
    assert seg.NumberOfFrames == 2
    assert not seg.pixel_array.any()
    assert not read_back(seg, series).any()


def test_segments_say_what_made_them(tmp_path, series):
    seg = write(tmp_path, series, mask_for(series))
    for segment in seg.SegmentSequence:
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentAlgorithmName == "samkit"
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmVersion == "1.2.3"
        assert algorithm.AlgorithmParameters == "run=linear-1-0-abc,head=linear"


def test_segments_have_colours_of_their_own(tmp_path, series):
    seg = write(tmp_path, series, mask_for(series))
    colours = {tuple(segment.RecommendedDisplayCIELabValue) for segment in seg.SegmentSequence}
    assert len(colours) == 2


def test_it_belongs_to_the_patient_the_study_and_the_frame_of_reference_of_its_source(tmp_path, series):
    seg = write(tmp_path, series, mask_for(series))
    source = pydicom.dcmread(series.frames[0].path)
    for name in (
        *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
        *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
        *("FrameOfReferenceUID", "SpecificCharacterSet"),
    ):
        assert seg[name].value == source[name].value, name
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    (referred,) = seg.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID
    assert {item.ReferencedSOPClassUID for item in referred.ReferencedInstanceSequence} == {source.SOPClassUID}


def test_a_name_keeps_its_letters_in_the_characters_of_its_source(tmp_path):
    write_series(tmp_path / "series", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    seg = write(tmp_path, series := series_of(tmp_path / "series"), mask_for(series))
    assert seg.SpecificCharacterSet == "ISO_IR 100"
    assert str(seg.PatientName) == "Müller^Jürgen"


def test_class_names_of_any_script_do_not_cost_the_patients_name(tmp_path):
    write_series(tmp_path / "series", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    series = series_of(tmp_path / "series")
    write_label_seg(tmp_path / "m.dcm", mask_for(series), series, {1: "печень", 3: "膵臓"}, algorithm=MADE_BY)
    seg = pydicom.dcmread(tmp_path / "m.dcm")
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["печень", "膵臓"]
    assert str(seg.PatientName) == "Müller^Jürgen"


def test_names_that_dicom_cannot_hold_are_shortened(tmp_path, series):
    long = "a\\b" + 100 * "c"
    write_label_seg(tmp_path / "m.dcm", mask_for(series), series, {1: long, 3: "x"}, algorithm=MADE_BY)
    assert pydicom.dcmread(tmp_path / "m.dcm").SegmentSequence[0].SegmentLabel == ("a/b" + 100 * "c")[:64]


@pytest.mark.parametrize(
    "fields",
    [
        {"PatientBirthDate": "1950"},
        {"PatientSex": "female"},
        {"StudyDate": "yesterday"},
        {"PatientName": "Bono"},
        {"StudyTime": "25:61"},
    ],
)
def test_what_the_standard_forbids_of_a_patient_is_taken_over_as_it_stands(tmp_path, fields):
    write_series(tmp_path / "series", change=lambda k, dataset: force(dataset, fields))
    seg = write(tmp_path, series := series_of(tmp_path / "series"), mask_for(series))
    for name, value in fields.items():
        assert str(seg.get(name)) == value


def force(dataset: Dataset, fields: dict[str, str]) -> None:
    """Set attributes to values that pydicom would refuse."""
    mode = pydicom.config.settings.reading_validation_mode
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    for name, value in fields.items():
        setattr(dataset, name, value)
    pydicom.config.settings.reading_validation_mode = mode


@pytest.mark.parametrize(
    "name",
    [
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
        *("AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "SliceThickness", "Manufacturer"),
    ],
)
def test_what_is_missing_of_a_header_is_empty_in_the_segmentation(tmp_path, name):
    def drop(_: int, dataset: Dataset) -> None:
        if name in dataset:
            del dataset[name]

    write_series(tmp_path / "series", change=drop)
    series = series_of(tmp_path / "series")
    assert np.array_equal(read_back(write(tmp_path, series, mask := mask_for(series)), series), mask)


def test_a_header_full_of_strings_makes_a_segmentation_and_no_noise(tmp_path, capfd, caplog, recwarn):
    strings: set[str] = set()

    def fill(_: int, dataset: Dataset) -> None:
        strings.update(plant(dataset))
        dataset.PatientName = "ZQXNAMELESS"  # one component: highdicom warns of it, and quotes it

    write_series(tmp_path / "series", change=fill)
    series = series_of(tmp_path / "series")
    recwarn.clear()
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    write_label_seg(tmp_path / "m.dcm", mask_for(series), series, NAMES, algorithm=MADE_BY)
    assert len(strings) > 100
    assert not [record for record in caplog.records if record.name.startswith(("highdicom", "pydicom"))]
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")
    assert str(pydicom.dcmread(tmp_path / "m.dcm").PatientName) == "ZQXNAMELESS"


# -- the same again --------------------------------------------------------------------------------


def uids(seg: Dataset) -> tuple[str, str]:
    return seg.SOPInstanceUID, seg.SeriesInstanceUID


def test_an_equal_mask_is_the_same_instance(tmp_path, series):
    mask = mask_for(series)
    assert uids(write(tmp_path, series, mask)) == uids(write(tmp_path, series, mask.astype(np.uint16)))


@pytest.mark.parametrize("what", ["mask", "run", "names", "source"])
def test_another_mask_run_or_source_is_another_instance(tmp_path, series, what):
    mask = mask_for(series)
    first = uids(write(tmp_path, series, mask))
    names, made_by = dict(NAMES), MADE_BY
    if what == "mask":
        mask[3, 3, 3] ^= 1
    elif what == "run":
        made_by = replace(MADE_BY, parameters={"run": "another"})
    elif what == "names":
        names[1] = "spleen"
    else:
        write_series(tmp_path / "other", seed=5)
        series = series_of(tmp_path / "other")
    write_label_seg(tmp_path / "again.dcm", mask, series, names, algorithm=made_by)
    second = uids(pydicom.dcmread(tmp_path / "again.dcm"))
    assert not set(first) & set(second)


def test_its_series_number_is_not_one_of_the_scanner(tmp_path, series):
    assert write(tmp_path, series, mask_for(series)).SeriesNumber == 1003


# -- what cannot be referred to --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FrameOfReferenceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("how", ["absent", "blank"])
def test_a_series_without_what_a_reference_needs_is_refused(tmp_path, name, how):
    def spoil(_: int, dataset: Dataset) -> None:
        if how == "absent" and name != "SOPClassUID":  # without it the file could not be written
            del dataset[name]
        else:
            setattr(dataset, name, "")

    write_series(tmp_path / "series", change=spoil)
    series = series_of(tmp_path / "series")
    assert seg_obstacle(series) == f"have no {name}"
    with pytest.raises(InputError, match=f"have no {name}.*--format nifti"):
        write_label_seg(tmp_path / "m.dcm", mask_for(series), series, NAMES, algorithm=MADE_BY)
    assert not (tmp_path / "m.dcm").exists()


def test_instances_without_a_uid_are_refused(series):
    nameless = replace(series, frames=tuple(replace(frame, sop_uid="") for frame in series.frames))
    assert seg_obstacle(nameless) == "have no SOPInstanceUID"


def test_a_stack_without_geometry_is_refused(series):
    assert "where their frames lie" in str(seg_obstacle(replace(series, affine=None)))


def test_a_radiograph_needs_no_frame_of_reference(tmp_path):
    KINDS["radiograph"](tmp_path / "series", 1)
    series = series_of(tmp_path / "series")
    assert series.affine is None
    seg = write(tmp_path, series, mask := mask_for(series))
    assert np.array_equal(read_back(seg, series), mask)


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.fixture
def fails(tmp_path: Path, series: Series) -> Callable[..., None]:
    """Write a mask, expect an error, and find no file."""

    def call(error: type[Exception], match: str, mask: NDArray[np.generic], names: dict[int, str] = NAMES) -> None:
        with pytest.raises(error, match=match):
            write_label_seg(tmp_path / "m.dcm", mask, series, names, algorithm=MADE_BY)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["series"]

    return call


def test_a_mask_of_another_shape_is_refused(series, fails):
    fails(GeometryMismatch, "orientation undone", mask_for(series).transpose(2, 1, 0))


def test_a_mask_of_floats_is_refused(series, fails):
    fails(UnusableLabel, "integers, not float32", mask_for(series).astype(np.float32))


def test_a_value_without_a_name_is_refused(series, fails):
    fails(UnusableLabel, r"value\(s\) 3 have none", mask_for(series), {1: "liver"})


def test_a_file_that_is_gone_is_named(series, fails):
    series.frames[2].path.unlink()
    fails(UnreadableFile, f"{series.frames[2].path.name}: gone", mask_for(series))


def test_a_file_that_was_exchanged_is_named(tmp_path, series, fails):
    other = write_series(tmp_path / "series", seed=9, name=lambda k, slices: f"other{k}").paths[0]
    other.replace(series.frames[2].path)
    for path in (tmp_path / "series").glob("other*"):
        path.unlink()
    fails(UnreadableFile, f"{series.frames[2].path.name}: not the file that it was", mask_for(series))


def test_what_was_there_stays_when_writing_fails(tmp_path, series, monkeypatch):
    (tmp_path / "mask.seg.dcm").write_bytes(b"before")

    def full(_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        message = "No space left on device"
        raise OSError(message)

    monkeypatch.setattr(hd.seg.Segmentation, "save_as", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, series, mask_for(series))
    assert (tmp_path / "mask.seg.dcm").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.seg.dcm", "series"]


# -- real files ------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("folder", ["rtstruct", "highdicom"])
def test_masks_of_real_series_come_back(shared_data, tmp_path, folder):
    found = [one.series for one in triage(shared_data / folder).findings if one.series is not None]
    assert found
    for number, one in enumerate(found):
        (tmp_path / str(number)).mkdir()
        mask = mask_for(one)
        assert np.array_equal(read_back(write(tmp_path / str(number), one, mask), one), mask)


@pytest.mark.shared
def test_a_real_series_that_lost_its_frame_of_reference_is_refused(shared_data):
    (tilt,) = [one.series for one in triage(shared_data / "dicom2nifti/failing/gantrytilting").findings]
    assert tilt is not None
    assert seg_obstacle(tilt) == "have no FrameOfReferenceUID"
