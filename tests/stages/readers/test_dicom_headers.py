"""Headers of DICOM files: what is read of them, frame by frame, and what is not."""

from __future__ import annotations

import logging
import os
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    JPEGLSLossless,
    NuclearMedicineImageStorage,
    RLELossless,
)
from synthetic.codecs import compress_file
from synthetic.enhanced import SHUFFLED, enhanced, enhanced_4d
from synthetic.instances import Identity, new_instance, put_pixels, save
from synthetic.private import CLOCK, DAY, plant_file
from synthetic.series import stored_mr, write_series

from samkit.stages.readers.dicom_headers import (
    DecompressionBombError,
    FrameHeader,
    begins_as_dicom,
    files_under,
    frames_of,
    is_dicom,
    quietly,
    read_header,
)
from samkit.stages.readers.dicom_series import triage


def frames(path: Path) -> list[FrameHeader]:
    return frames_of(path, read_header(path))


def one(folder: Path, change: Callable[[Dataset], None] = lambda dataset: None, **options) -> Path:
    """Write one slice of a series."""
    return write_series(folder, change=lambda k, dataset: change(dataset), **options).paths[0]


def overwrite(path: Path, before: bytes, after: bytes) -> None:
    data = path.read_bytes()
    assert data.count(before) == 1
    path.write_bytes(data.replace(before, after))


class TestWhatIsDicom:
    def test_a_file_is_known_by_its_preamble_whatever_its_name(self, tmp_path: Path):
        assert is_dicom(one(tmp_path).rename(tmp_path / "0001"))

    @pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
    def test_without_preamble_and_extension_it_is_known_by_its_first_element(self, tmp_path: Path, syntax: str):
        path = one(tmp_path, syntax=syntax)
        meta = pydicom.filereader.read_file_meta_info(path)
        # The preamble, "DICM", the group's own length (12 bytes), the group.
        (tmp_path / "bare").write_bytes(path.read_bytes()[128 + 4 + 12 + meta.FileMetaInformationGroupLength :])
        assert is_dicom(tmp_path / "bare")
        assert frames(tmp_path / "bare")[0].rows == 20

    def test_meta_information_without_preamble_is_enough(self, tmp_path: Path):
        path = one(tmp_path)
        (tmp_path / "bare").write_bytes(path.read_bytes()[132:])
        assert is_dicom(tmp_path / "bare")
        assert frames(tmp_path / "bare")[0].modality == "CT"

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x08\x00",
            b"Patient kommt wieder. " * 20,
            b"\0" * 400,
            b"\x89PNG\r\n\x1a\n" + b"\0" * 400,
            b"\x08\x00\x05\x00\xff\xff\xff\x7f" + b"\0" * 400,
            b"\x02\x00\x00\x00ul\x04\x00" + b"\0" * 400,
        ],
    )
    def test_other_files_are_not(self, tmp_path: Path, content: bytes):
        (tmp_path / "x").write_bytes(content)
        assert not is_dicom(tmp_path / "x")

    def test_what_is_called_so_is_looked_into(self, tmp_path: Path):
        (tmp_path / "x.IMA").write_bytes(b"hello")
        assert is_dicom(tmp_path / "x.IMA")

    def test_a_pipe_is_none_and_nobody_waits_for_it(self, tmp_path: Path):
        os.mkfifo(tmp_path / "pipe.dcm")
        assert not is_dicom(tmp_path / "pipe.dcm")

    def test_what_cannot_be_opened_is_none_or_an_error_for_who_asks(self, tmp_path: Path):
        (tmp_path / "loop.dcm").symlink_to(tmp_path / "loop.dcm")
        assert not is_dicom(tmp_path / "loop.dcm")
        with pytest.raises(OSError, match="loop"):
            begins_as_dicom(tmp_path / "loop.dcm")


class TestFilesUnder:
    def test_they_come_sorted_and_hidden_ones_are_left_out(self, tmp_path: Path):
        for name in ("b/2", "b/10", "a", ".hidden", "._a", ".git/x", "c/.DS_Store"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        assert [path.relative_to(tmp_path).as_posix() for path in files_under(tmp_path)] == ["a", "b/10", "b/2"]

    def test_a_file_is_itself(self, tmp_path: Path):
        (tmp_path / "x").touch()
        assert list(files_under(tmp_path / "x")) == [tmp_path / "x"]

    def test_links_in_a_circle_end(self, tmp_path: Path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "up").symlink_to(tmp_path)
        (tmp_path / "a" / "x").touch()
        assert tmp_path / "a" / "x" in list(files_under(tmp_path))

    @pytest.mark.usefixtures("no_listing_of_closed")
    def test_a_folder_that_may_not_be_listed_is_told(self, tmp_path: Path):
        (tmp_path / "closed").mkdir()
        (tmp_path / "x").touch()
        assert list(files_under(tmp_path)) == [tmp_path / "x", tmp_path / "closed"]


class TestNothingPrivate:
    def test_no_planted_string_is_printed_with_a_header(self, tmp_path: Path):
        path = one(tmp_path)
        planted = plant_file(path, "ZQX")
        assert len(planted) > 100
        printed = repr(frames(path)) + frames(path)[0].told
        assert not [word for word in (*planted, DAY, CLOCK) if word in printed]

    @pytest.mark.parametrize("junk", ["DOE^JANE", "Doe", ["CT", "DOE"]])
    def test_coded_strings_are_kept_only_if_dicom_defines_them(self, tmp_path: Path, junk: str | list[str]):
        def spoil(dataset: Dataset) -> None:
            dataset.Modality = dataset.PhotometricInterpretation = dataset.RescaleType = junk

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (header,) = frames(one(tmp_path, spoil))
        assert (header.modality, header.photometric, header.rescale_type) == ("", "?", "")

    def test_warnings_that_quote_the_header_are_kept_back(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = one(tmp_path, SeriesInstanceUID="not.a.uid.Doe", EchoTime="1.5")
        overwrite(path, b"DS\x04\x001.5 ", b"DS\x04\x00Doe ")
        caplog.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert frames(path)[0].times.echo_ms is None
        assert caplog.records == []

    def test_pydicom_speaks_again_afterwards(self):
        logger, settings = logging.getLogger("pydicom"), pydicom.config.settings
        before = logger.level, settings.reading_validation_mode, list(warnings.filters)
        with quietly(), quietly():
            assert logger.level == logging.CRITICAL
        assert (logger.level, settings.reading_validation_mode, list(warnings.filters)) == before


class TestValues:
    def test_a_value_that_is_no_number_counts_as_absent(self, tmp_path: Path):
        path = one(tmp_path, SliceThickness="3")
        overwrite(path, b"DS\x02\x003 ", b"DS\x02\x00x ")
        (header,) = frames(path)
        assert header.between_slices_mm is None
        assert header.rows == 20

    @pytest.mark.parametrize(
        ("name", "value", "attribute"),
        [
            ("ImagePositionPatient", [1, 2], "position_mm"),
            ("ImagePositionPatient", [1, 2, 1e30], "position_mm"),
            ("ImageOrientationPatient", [1, 0, 0, 0, 1e9, 0], "orientation"),
            ("PixelSpacing", [0, 1], "spacing_mm"),
            ("PixelSpacing", [-1, 1], "spacing_mm"),
            ("InstanceNumber", 10**30, "number"),
            ("SliceThickness", 0, "between_slices_mm"),
        ],
    )
    def test_geometry_that_cannot_be_is_absent(self, tmp_path: Path, name: str, value: object, attribute: str):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (header,) = frames(one(tmp_path, lambda dataset: setattr(dataset, name, value)))
        assert getattr(header, attribute) is None

    def test_a_slope_of_zero_means_none(self, tmp_path: Path):
        assert frames(one(tmp_path, RescaleSlope=0))[0].slope == 1.0

    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
    @pytest.mark.parametrize("stored", [63536, -2000])
    def test_padding_has_the_sign_of_the_pixels_however_it_is_written(self, tmp_path: Path, syntax: str, stored: int):
        def pad(dataset: Dataset) -> None:
            dataset.add_new("PixelPaddingValue", "US" if stored > 0 else "SS", stored)

        (header,) = frames(one(tmp_path, pad, syntax=syntax))
        assert header.signed
        assert header.padding == (-2000, -2000)

    def test_padding_of_unsigned_pixels_is_not_negative(self, tmp_path: Path):
        def pad(dataset: Dataset) -> None:
            dataset.add_new("PixelPaddingValue", "SS", -1)

        assert frames(one(tmp_path, pad, stored=stored_mr()))[0].padding == (65535, 65535)

    @pytest.mark.parametrize("text", ["BRAIN", "Head", "HEAD/NECK", "CT HEAD W/O"])
    def test_heads_are_known(self, tmp_path: Path, text: str):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert frames(one(tmp_path, BodyPartExamined=text))[0].head

    @pytest.mark.parametrize("text", ["", "LIVER", "FOREARM", "FOREHEADX"])
    def test_and_what_is_none(self, tmp_path: Path, text: str):
        assert not frames(one(tmp_path, BodyPartExamined=text))[0].head

    @pytest.mark.parametrize(
        ("tag", "creator", "value", "found"),
        [
            (0x0019100C, "SIEMENS MR HEADER", 800, 800),
            (0x0019100C, None, 800, 800),
            (0x0019100C, "GEMS_ACQU_01", 800, None),
            (0x00431039, "GEMS_PARM_01", 1_000_000_050, 50),
            (0x20011003, "Philips Imaging DD 001", 1000.0, 1000),
        ],
    )
    def test_b_values_of_vendors_are_read_from_their_own_blocks(
        self, tmp_path: Path, tag: int, creator: str | None, value: float, found: float | None
    ):
        def mark(dataset: Dataset) -> None:
            if creator is not None:
                dataset.add_new((tag >> 16, 0x0010), "LO", creator)
            dataset.add_new(tag, "FL" if isinstance(value, float) else "IS", value)

        assert frames(one(tmp_path, mark))[0].times.b_value == found

    def test_a_patient_has_one_id_in_any_character_set(self, tmp_path: Path):
        def of(charset: str) -> str:
            path = one(tmp_path / charset, SpecificCharacterSet=charset, PatientID="Müller-1")
            return frames(path)[0].patient_id

        assert of("ISO_IR 100") == of("ISO_IR 192") == "Müller-1"

    def test_a_file_name_that_is_no_utf8_can_be_printed(self, tmp_path: Path):
        path = one(tmp_path).rename(os.fsdecode(os.fsencode(tmp_path) + b"/Sch\xe4del"))
        assert frames(path)[0].told.encode("utf-8")


class TestFaults:
    def test_missing_bytes_are_counted_without_reading_them(self, tmp_path: Path):
        path = one(tmp_path)
        path.write_bytes(path.read_bytes()[:-100])
        assert "860 of 960 bytes" in (frames(path)[0].fault or "")

    def test_no_pixels_are_told(self, tmp_path: Path):
        assert "no pixels" in (frames(one(tmp_path, lambda dataset: dataset.__delattr__("PixelData")))[0].fault or "")

    def test_compressed_pixels_under_an_uncompressed_syntax_are_told(self, tmp_path: Path):
        dataset = pydicom.dcmread(one(tmp_path))
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(tmp_path / "x.dcm")
        overwrite(tmp_path / "x.dcm", RLELossless.encode(), ExplicitVRLittleEndian.encode())
        assert "does not say so" in (frames(tmp_path / "x.dcm")[0].fault or "")

    @pytest.mark.parametrize("element", [b"\x00\x01", b"\x03\x01"], ids=["BitsAllocated", "PixelRepresentation"])
    def test_a_header_that_does_not_say_how_pixels_are_stored_is_told(self, tmp_path: Path, element: bytes):
        path = one(tmp_path)
        overwrite(path, b"\x28\x00" + element + b"US", b"\x28\x00\xfe\x0fUS")
        assert "does not say how" in (frames(path)[0].fault or "")

    @pytest.mark.parametrize(
        ("syntax", "says"),
        [("1.2.840.10008.1.2.4.102", "MPEG-4"), ("1.3.46.670589.33.1.4.1", "unknown"), (JPEGExtended12Bit, "12 bits")],
    )
    def test_syntaxes_that_no_codec_reads_are_told_from_the_header(self, tmp_path: Path, syntax: str, says: str):
        dataset = pydicom.dcmread(one(tmp_path))
        dataset.PixelData = encapsulate([b"\0\0\1\xb0" * 16])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        dataset.save_as(tmp_path / "x.dcm", implicit_vr=False, little_endian=True)
        assert says in (frames(tmp_path / "x.dcm")[0].fault or "")

    def test_a_billion_frames_are_not_believed(self, tmp_path: Path):
        (found,) = frames(one(tmp_path, NumberOfFrames=10**9))
        assert "1000000000 frames" in (found.fault or "")

    def test_frames_that_are_not_there_are_not_made(self, tmp_path: Path):
        (found,) = frames(one(tmp_path, NumberOfFrames=65000))
        assert "960 of 62400000 bytes" in (found.fault or "")

    @pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
    def test_compressed_ones_that_are_not_there_are_not_made_either(self, tmp_path: Path, syntax: str):
        path = one(tmp_path)
        compress_file(path, path, syntax)
        dataset = pydicom.dcmread(path)
        dataset.NumberOfFrames = 65000
        dataset.save_as(path)
        (found,) = frames(path)
        assert "cut short" in (found.fault or "")
        assert "65000 frames" in (found.fault or "")

    def test_nor_are_frames_without_pixels(self, tmp_path: Path):
        assert len(frames(one(tmp_path, NumberOfFrames=65000, change=lambda ds: setattr(ds, "Rows", 0)))) == 1

    def test_the_one_frame_of_a_file_with_a_fault_lies_where_it_says(self, tmp_path: Path):
        path = enhanced(tmp_path, home="frame").paths[0]
        whole = frames(path)
        path.write_bytes(path.read_bytes()[:-100])
        (found,) = frames(path)
        assert found.fault is not None
        assert (found.position_mm, found.frames) == (whole[0].position_mm, 6)

    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
    @pytest.mark.parametrize(("high", "told"), [(15, True), (12, True), (11, False), (None, False)])
    def test_values_that_end_at_another_bit_are_told(
        self, tmp_path: Path, syntax: str, high: int | None, *, told: bool
    ):
        def change(dataset: Dataset) -> None:
            dataset.HighBit = high

        path = one(tmp_path, change, bits_stored=12, **({} if syntax == RLELossless else {"syntax": syntax}))
        if syntax == RLELossless:
            compress_file(path, path, syntax)
        assert ("(HighBit)" in (frames(path)[0].fault or "")) is told

    def test_a_codec_knows_itself_where_values_end(self, tmp_path: Path):
        path = one(tmp_path)
        compress_file(path, path, JPEGLSLossless)
        dataset = pydicom.dcmread(path)
        dataset.HighBit = 11
        dataset.save_as(path)
        assert frames(path)[0].fault is None

    def test_colour_of_which_every_other_column_shares_a_pixel_takes_two_thirds(self, tmp_path: Path):
        def change(dataset: Dataset) -> None:
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "YBR_FULL_422"
            dataset.PlanarConfiguration, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 0, 8, 8, 7
            dataset.PixelRepresentation = 0
            dataset.PixelData = bytes(20 * 24 * 2)

        path = one(tmp_path, change)
        assert frames(path)[0].fault is None
        path.write_bytes(path.read_bytes()[:-2])
        assert "958 of 960 bytes" in (frames(path)[0].fault or "")


class TestDeflated:
    @pytest.fixture
    def bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A slice of 20 x 24 pixels, and 64 MB of zeros behind it, where an eighth is too much."""
        monkeypatch.setattr("samkit.stages.readers.dicom_headers._INFLATED_BYTES", 8 << 20)
        monkeypatch.setattr("samkit.stages.readers.dicom_headers._INFLATED_HEADER_BYTES", 1 << 20)
        path = one(tmp_path, syntax=DeflatedExplicitVRLittleEndian)
        meta = pydicom.filereader.read_file_meta_info(path)
        data = path.read_bytes()
        start = 128 + 4 + 12 + meta.FileMetaInformationGroupLength
        packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
        packed = [packer.compress(zlib.decompress(data[start:], wbits=-zlib.MAX_WBITS))]
        packed += [packer.compress(bytes(1 << 20)) for _ in range(64)]
        path.write_bytes(data[:start] + b"".join(packed) + packer.flush())
        return path

    def test_a_bomb_is_refused_and_what_to_do_is_told(self, bomb: Path):
        with pytest.raises(DecompressionBombError, match=r"more than 8 MB and 100 times its size.*dcmconv \+te"):
            read_header(bomb)

    def test_it_takes_no_memory(self, bomb: Path):
        tracemalloc.start()
        with pytest.raises(DecompressionBombError):
            read_header(bomb)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 << 20

    def test_a_folder_of_it_has_a_row_that_says_so(self, bomb: Path):
        (refused,) = triage(bomb.parent).refused[:1]
        assert "decompression bomb" in refused.reason

    def test_one_that_is_large_in_the_file_too_is_none(self, bomb: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("samkit.stages.readers.dicom_headers._INFLATED_RATIO", 2000)
        assert frames(bomb)[0].fault is None

    def test_only_the_beginning_is_kept_of_it(self, bomb: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("samkit.stages.readers.dicom_headers._INFLATED_RATIO", 2000)
        tracemalloc.start()
        read_header(bomb)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 << 20

    def test_its_header_is_that_of_the_file_before_it_was_deflated(self, tmp_path: Path):
        plain, deflated = (
            frames(one(tmp_path / name, syntax=syntax))[0]
            for name, syntax in (("plain", ExplicitVRLittleEndian), ("deflated", DeflatedExplicitVRLittleEndian))
        )
        assert replace(deflated, path=plain.path, offset=plain.offset) == plain

    @pytest.mark.parametrize("keep", [0.5, 0.99])
    def test_one_without_an_end_is_damage(self, tmp_path: Path, keep: float):
        path = one(tmp_path, syntax=DeflatedExplicitVRLittleEndian)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
        with pytest.raises(EOFError, match="without an end"):
            read_header(path)

    def test_one_of_too_few_pixels_is_told(self, tmp_path: Path):
        path = one(tmp_path, lambda dataset: setattr(dataset, "Rows", 21), syntax=DeflatedExplicitVRLittleEndian)
        assert "960 of 1008 bytes" in (frames(path)[0].fault or "")


class TestFrames:
    def test_what_a_frame_says_wins_over_what_all_share_and_that_over_the_top_level(self, tmp_path: Path):
        path = enhanced(tmp_path, home="frame", slope=2, root_geometry=True).paths[0]
        dataset = pydicom.dcmread(path)
        shared, own = dataset.SharedFunctionalGroupsSequence[0], dataset.PerFrameFunctionalGroupsSequence
        measures = Dataset()
        measures.PixelSpacing = [7, 7]
        shared.PixelMeasuresSequence = DicomSequence([measures])
        dataset.PixelSpacing = [9, 9]
        del own[1].PixelMeasuresSequence
        dataset.save_as(path)
        assert [frame.spacing_mm for frame in frames(path)[:3]] == [(0.9, 0.8), (7.0, 7.0), (0.9, 0.8)]
        del shared.PixelMeasuresSequence
        dataset.save_as(path)
        assert frames(path)[1].spacing_mm == (9.0, 9.0)

    def test_groups_that_are_not_one_a_frame_are_nobodys(self, tmp_path: Path):
        path = enhanced(tmp_path).paths[0]
        dataset = pydicom.dcmread(path)
        del dataset.PerFrameFunctionalGroupsSequence[2]
        dataset.save_as(path)
        assert [frame.position_mm for frame in frames(path)] == [None] * 6

    def test_each_frame_begins_in_the_file_where_its_offset_says(self, tmp_path: Path):
        answer = enhanced(tmp_path, order=SHUFFLED)
        (path,) = answer.paths
        for frame in frames(path):
            stored = np.fromfile(path, "<u2", count=480, offset=frame.offset).reshape(20, 24)
            np.testing.assert_array_equal(stored.T, answer.values[:, :, SHUFFLED[frame.index]])

    @pytest.mark.parametrize(
        "options",
        [
            {"syntax": ExplicitVRBigEndian},
            {"syntax": DeflatedExplicitVRLittleEndian},
            {"stored": np.zeros((9, 8, 1), "i4")},
        ],
        ids=["big endian", "deflated", "32 bits"],
    )
    def test_what_cannot_be_read_as_it_lies_has_no_offset(self, tmp_path: Path, options: dict):
        (header,) = frames(one(tmp_path, **options))
        assert (header.offset, header.fault) == (None, None)

    def test_a_frame_without_diffusion_has_a_b_value_of_zero(self, tmp_path: Path):
        (answer,) = enhanced_4d(tmp_path, key="b-value", choices=(0, 800))
        (path,) = answer.paths
        dataset = pydicom.dcmread(path)
        for group in dataset.PerFrameFunctionalGroupsSequence:
            if group.MRDiffusionSequence[0].DiffusionDirectionality == "NONE":
                del group.MRDiffusionSequence[0].DiffusionBValue
        dataset.save_as(path)
        assert {frame.times.b_value for frame in frames(path)} == {0.0, 800.0}

    def test_the_part_of_a_complex_image_is_part_of_its_type(self, tmp_path: Path):
        (path,) = enhanced(tmp_path).paths
        dataset = pydicom.dcmread(path)
        item = Dataset()
        item.FrameType, item.ComplexImageComponent = ["ORIGINAL", "PRIMARY", "T1", "NONE"], "PHASE"
        dataset.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence = DicomSequence([item])
        dataset.save_as(path)
        assert "PHASE" in frames(path)[0].image_type

    @pytest.mark.parametrize("between_mm", [2.5, -2.5])
    def test_slices_of_nuclear_medicine_follow_the_first_one_in_the_direction_of_the_sign(
        self, tmp_path: Path, between_mm: float
    ):
        path = nuclear(tmp_path / "nm.dcm", between_mm=between_mm)
        placed = [frame.position_mm for frame in frames(path)]
        np.testing.assert_allclose(placed, [(-11, -23.5, 40 + between_mm * k) for k in range(6)])

    def test_simpleitk_places_nuclear_medicine_alike(self, tmp_path: Path):
        path = nuclear(tmp_path / "nm.dcm", between_mm=2.5)
        reference = SimpleITK.ReadImage(path)
        for k, frame in enumerate(frames(path)):
            np.testing.assert_allclose(frame.position_mm, reference.TransformIndexToPhysicalPoint((0, 0, k)))


def nuclear(path: Path, *, between_mm: float) -> Path:
    """A reconstructed tomogram of six slices: only the first one's position is told."""
    dataset = new_instance(
        Identity(seed=5),
        sop_class=NuclearMedicineImageStorage,
        modality="NM",
        ImageType=["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"],
    )
    put_pixels(dataset, stored_mr())
    detector = Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = [-11, -23.5, 40], [1, 0, 0, 0, 1, 0]
    dataset.DetectorInformationSequence = DicomSequence([detector])
    dataset.PixelSpacing, dataset.SliceThickness, dataset.SpacingBetweenSlices = [0.9, 0.8], 2.5, between_mm
    dataset.FrameIncrementPointer, dataset.SliceVector, dataset.NumberOfSlices = 0x00540080, [1, 2, 3, 4, 5, 6], 6
    return save(dataset, path)
