"""NRRD and MetaImage in and out: geometry against SimpleITK and nibabel, segments of 3D Slicer, refusals."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from samkit.stages.readers.base import LabelMap, Structures
from samkit.stages.readers.geometry import spacing_mm
from samkit.stages.readers.itk import is_itk, read_itk_image, read_itk_label, write_label_nrrd
from samkit.stages.readers.nifti import grid_of_affine, read_nifti_image
from samkit.store.errors import GeometryMismatch, UnreadableFile, UnusableLabel, UnusableVoxels, UsageError

ROTATION = nib.eulerangles.euler2mat(0.2, 0.1, -0.3)
SPACING, ORIGIN = (0.8, 0.9, 5.0), (-101.3, 12.7, 1000.1)
LPS = "space: left-posterior-superior\nspace directions: (1,0,0) (0,2,0) (0,0,5)\nspace origin: (10,20,30)\n"
PER_VOXEL = LPS.replace("directions: ", "directions: none ")


def ramp(*shape: int, dtype: str = "int16") -> np.ndarray:
    """Values (i, j, k, ...) that differ everywhere."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, values: np.ndarray, *, is_vector: bool = False, compressed: bool = False) -> Path:
    """Write (i, j, k) or (i, j, k, components) with SimpleITK, oblique."""
    axes = (*range(values.ndim - 1)[::-1], values.ndim - 1) if is_vector else range(values.ndim)[::-1]
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.transpose(*axes)), isVector=is_vector)
    if image.GetDimension() == 3:
        image.SetSpacing(SPACING)
        image.SetOrigin(ORIGIN)
        image.SetDirection(ROTATION.ravel().tolist())
    SimpleITK.WriteImage(image, str(path), useCompression=compressed)
    return path


def nrrd(path: Path, values: np.ndarray, fields: str = LPS, *, texts: dict[str, object] | None = None) -> Path:
    """Write an NRRD by hand; the first axis of the values is the fastest in the file."""
    kind = {"int16": "short", "uint8": "uchar", "float32": "float", "int32": "int"}[values.dtype.name]
    header = f"NRRD0005\ntype: {kind}\ndimension: {values.ndim}\nsizes: {' '.join(map(str, values.shape))}\n{fields}"
    header += "encoding: raw\nendian: little\n"
    header += "".join(f"{key}:={text}\n" for key, text in (texts or {}).items())
    path.write_bytes(header.encode() + b"\n" + values.tobytes(order="F"))
    return path


def segments(*said: tuple[str, int | None, int | None]) -> dict[str, object]:
    """Return the texts by which 3D Slicer names (name, label value, layer)."""
    texts: dict[str, object] = {}
    for number, (name, value, layer) in enumerate(said):
        fields = {"ID": f"Segment_{number + 1}", "Name": name, "LabelValue": value, "Layer": layer}
        texts |= {f"Segment{number}_{field}": text for field, text in fields.items() if text is not None}
    return texts


class TestReadingAnImage:
    @pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
    def test_values_keep_their_order_and_type(self, tmp_path: Path, ending: str):
        scan = read_itk_image(save(tmp_path / f"a{ending}", ramp(4, 3, 2)))
        assert scan.values.dtype == np.int16
        np.testing.assert_array_equal(scan.values, ramp(4, 3, 2))

    @pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
    def test_every_voxel_lies_where_simpleitk_puts_it(self, tmp_path: Path, ending: str):
        path = save(tmp_path / f"a{ending}", ramp(4, 3, 2))
        scan, image = read_itk_image(path), SimpleITK.ReadImage(str(path))
        for index in np.ndindex(4, 3, 2):
            lps = np.array(image.TransformIndexToPhysicalPoint(index))
            np.testing.assert_allclose(scan.affine @ [*index, 1], [*(lps * [-1, -1, 1]), 1], atol=1e-9)

    @pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
    def test_compressed_files_are_read(self, tmp_path: Path, ending: str):
        values = np.random.default_rng(0).integers(0, 9, (64, 64, 32)).astype(np.int16)
        values[:32] = 0  # a long run of one value, beyond what one block of the stream holds
        path = save(tmp_path / f"a{ending}", values, compressed=True)
        np.testing.assert_array_equal(read_itk_image(path).values, values)

    @pytest.mark.parametrize("ending", [".nrrd", ".mha"])
    def test_the_same_scan_as_nifti_lies_on_the_same_grid_in_nibabel(self, tmp_path: Path, ending: str):
        path = save(tmp_path / f"a{ending}", ramp(4, 3, 2))
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(tmp_path / "twin.nii.gz"))
        twin, scan = nib.load(tmp_path / "twin.nii.gz"), read_itk_image(path)
        np.testing.assert_allclose(scan.affine, twin.affine, atol=1e-4)
        np.testing.assert_array_equal(scan.values, np.asarray(twin.dataobj))

    @pytest.mark.parametrize(
        ("space", "ras_of_first_voxel"),
        [
            ("left-posterior-superior", (-10, -20, 30)),
            ("right-anterior-superior", (10, 20, 30)),
            ("RAS", (10, 20, 30)),
            ("left-anterior-superior", (-10, 20, 30)),
        ],
    )
    def test_the_space_that_an_nrrd_names_is_honoured(self, tmp_path: Path, space: str, ras_of_first_voxel):
        path = nrrd(tmp_path / "a.nrrd", ramp(4, 3, 2), LPS.replace("left-posterior-superior", space))
        scan = read_itk_image(path)
        np.testing.assert_allclose(scan.affine[:3, 3], ras_of_first_voxel)
        assert spacing_mm(scan.affine) == (1, 2, 5)
        assert scan.notes == ()

    @pytest.mark.parametrize(("stored", "kept"), [("uint8", "uint8"), ("int8", "int8"), ("uint16", "uint16")])
    def test_small_integers_stay_integers(self, tmp_path: Path, stored: str, kept: str):
        assert read_itk_image(save(tmp_path / "a.mha", ramp(4, 3, 2, dtype=stored))).values.dtype == kept

    @pytest.mark.parametrize("stored", ["int32", "uint32", "int64", "float32", "float64"])
    def test_everything_else_becomes_float32(self, tmp_path: Path, stored: str):
        scan = read_itk_image(save(tmp_path / "a.nrrd", ramp(4, 3, 2, dtype=stored)))
        assert scan.values.dtype == np.float32
        np.testing.assert_array_equal(scan.values, ramp(4, 3, 2))

    def test_three_bytes_a_voxel_are_colour(self, tmp_path: Path):
        values = ramp(4, 3, 2, 3, dtype="uint8")
        for ending in (".nrrd", ".mha"):
            scan = read_itk_image(save(tmp_path / f"a{ending}", values, is_vector=True))
            np.testing.assert_array_equal(scan.values, values)
            assert scan.grid.shape == (4, 3, 2)

    def test_three_bytes_a_voxel_that_are_called_a_list_are_volumes(self, tmp_path: Path):
        fields = PER_VOXEL + "kinds: list domain domain domain\n"
        path = nrrd(tmp_path / "a.nrrd", ramp(3, 4, 3, 2, dtype="uint8"), fields)
        with pytest.raises(UnusableVoxels, match=r"3 volumes.*--time-index N"):
            read_itk_image(path)

    @pytest.mark.parametrize("ending", [".nrrd", ".mha"])
    def test_a_volume_of_a_fourth_axis_is_chosen(self, tmp_path: Path, ending: str):
        values = ramp(4, 3, 2, 5)
        path = save(tmp_path / f"a{ending}", values)
        np.testing.assert_array_equal(read_itk_image(path, volume_index=3).values, values[..., 3])

    @pytest.mark.parametrize("kind", ["list", "vector"])
    def test_a_volume_of_several_numbers_a_voxel_is_chosen(self, tmp_path: Path, kind: str):
        values = ramp(5, 4, 3, 2)
        path = nrrd(tmp_path / "a.nrrd", values, PER_VOXEL + f"kinds: {kind} domain domain domain\n")
        scan = read_itk_image(path, volume_index=4)
        np.testing.assert_array_equal(scan.values, values[4])
        np.testing.assert_allclose(scan.affine, nib.affines.from_matvec(np.diag([-1, -2, 5]), [-10, -20, 30]))

    def test_three_numbers_a_voxel_that_are_no_bytes_are_volumes(self, tmp_path: Path):
        values = ramp(4, 3, 2, 3)
        scan = read_itk_image(save(tmp_path / "a.mha", values, is_vector=True), volume_index=1)
        np.testing.assert_array_equal(scan.values, values[..., 1])

    def test_a_fourth_axis_of_one_does_not_count_for_colour_either(self, tmp_path: Path):
        values = ramp(4, 3, 2, 3, dtype="uint8")
        colour = SimpleITK.ReadImage(str(save(tmp_path / "a.mha", values, is_vector=True)))
        SimpleITK.WriteImage(SimpleITK.JoinSeries([colour]), str(tmp_path / "b.mha"))
        np.testing.assert_array_equal(read_itk_image(tmp_path / "b.mha").values, values)

    def test_a_fourth_axis_of_one_does_not_count(self, tmp_path: Path):
        scan = read_itk_image(save(tmp_path / "a.nrrd", ramp(4, 3, 2, 1)))
        np.testing.assert_array_equal(scan.values, ramp(4, 3, 2))

    def test_a_2d_image_is_one_slice_with_its_spacing(self, tmp_path: Path):
        image = SimpleITK.GetImageFromArray(ramp(4, 3).T)
        image.SetSpacing((0.5, 0.25))
        SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
        scan = read_itk_image(tmp_path / "a.mha")
        np.testing.assert_array_equal(scan.values[:, :, 0], ramp(4, 3))
        assert spacing_mm(scan.affine) == (0.5, 0.25, 1)
        assert "2-D" in scan.notes[0]

    def test_a_sheared_grid_keeps_its_shear(self, tmp_path: Path):
        path = nrrd(tmp_path / "a.nrrd", ramp(4, 3, 2), LPS.replace("(0,0,5)", "(0,1,5)"))
        np.testing.assert_allclose(read_itk_image(path).affine[:3, 2], [0, -1, 5], atol=1e-12)

    def test_the_modality_is_the_layouts(self, tmp_path: Path):
        assert read_itk_image(save(tmp_path / "a.mha", ramp(4, 3, 2)), modality="MR").modality == "MR"

    def test_no_text_of_the_header_comes_along(self, tmp_path: Path):
        path = nrrd(tmp_path / "a.nrrd", ramp(4, 3, 2), LPS + "content: Doe Jane\n", texts={"PatientName": "Doe Jane"})
        scan = read_itk_image(path)
        assert "Doe" not in f"{scan.notes} {scan.grid} {scan.modality}"

    def test_the_users_setting_for_warnings_comes_back(self, tmp_path: Path):
        before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(True)
        try:
            read_itk_image(save(tmp_path / "a.mha", ramp(4, 3, 2)))
            assert SimpleITK.ProcessObject.GetGlobalWarningDisplay()
        finally:
            SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)

    def test_nothing_is_said_on_stderr(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        read_itk_image(nrrd(tmp_path / "a.nrrd", ramp(4, 3, 2), "spacings: 1 2 5\n"))
        read_itk_image(save(tmp_path / "a.mha", ramp(4, 3, 2)))
        assert capfd.readouterr().err == ""


class TestAHeaderThatSaysLittle:
    def test_without_spacing_and_orientation_the_geometry_is_unknown(self, tmp_path: Path):
        scan = read_itk_image(nrrd(tmp_path / "a.nrrd", ramp(4, 3, 2), ""))
        assert scan.affine is None
        assert scan.grid.affine is None
        assert "millimetres are unknown" in scan.notes[0]

    def test_of_a_metaimage_too(self, tmp_path: Path):
        header = "NDims = 3\nDimSize = 4 3 2\nElementType = MET_SHORT\nElementDataFile = a.raw\n"
        (tmp_path / "a.mhd").write_text(header)
        (tmp_path / "a.raw").write_bytes(ramp(4, 3, 2).tobytes(order="F"))
        assert read_itk_image(tmp_path / "a.mhd").affine is None

    def test_what_the_user_wrote_into_it_is_no_geometry(self, tmp_path: Path):
        path = nrrd(tmp_path / "a.nrrd", ramp(4, 3, 2), "", texts={"spacings": "see: above", "space directions": "?"})
        assert read_itk_image(path).affine is None

    def test_a_spacing_without_a_space_is_taken_as_itk_takes_it_and_said(self, tmp_path: Path):
        scan = read_itk_image(nrrd(tmp_path / "a.nrrd", ramp(4, 3, 2), "spacings: 1 2 5\n"))
        np.testing.assert_array_equal(scan.affine, np.diag([-1.0, -2.0, 5.0, 1.0]))
        assert "does not name a patient space" in scan.notes[0]

    def test_a_scale_of_values_that_itk_ignores_is_said(self, tmp_path: Path):
        header = "NDims = 3\nDimSize = 4 3 2\nElementSpacing = 1 1 1\nElementToIntensityFunctionSlope = 2\n"
        (tmp_path / "a.mhd").write_text(header + "ElementType = MET_SHORT\nElementDataFile = a.raw\n")
        (tmp_path / "a.raw").write_bytes(ramp(4, 3, 2).tobytes(order="F"))
        assert "not applied" in read_itk_image(tmp_path / "a.mhd").notes[0]


class TestRefusingAnImage:
    def test_4d_is_refused_with_the_count_and_the_flag(self, tmp_path: Path):
        with pytest.raises(UnusableVoxels, match=r"5 volumes.*fourth axis.*--time-index N, N from 0 to 4"):
            read_itk_image(save(tmp_path / "a.nrrd", ramp(4, 3, 2, 5)))

    @pytest.mark.parametrize("index", [-1, 5])
    def test_a_volume_that_is_not_there_is_refused(self, tmp_path: Path, index: int):
        with pytest.raises(UnusableVoxels, match=rf"--time-index {index} is not there.*5 volumes, 0 to 4"):
            read_itk_image(save(tmp_path / "a.nrrd", ramp(4, 3, 2, 5)), volume_index=index)

    def test_a_second_volume_of_a_3d_image_is_refused(self, tmp_path: Path):
        with pytest.raises(UnusableVoxels, match="one volume, 0"):
            read_itk_image(save(tmp_path / "a.nrrd", ramp(4, 3, 2)), volume_index=1)

    def test_five_axes_are_refused(self, tmp_path: Path):
        path = nrrd(tmp_path / "a.nrrd", ramp(2, 2, 2, 2, 2), "spacings: 1 1 1 1 1\n")
        with pytest.raises((UnusableVoxels, UnreadableFile), match=r"a\.nrrd"):
            read_itk_image(path)

    def test_complex_is_refused(self, tmp_path: Path):
        image = SimpleITK.Cast(
            SimpleITK.GetImageFromArray(np.zeros((2, 3, 4), np.complex64)), SimpleITK.sitkComplexFloat32
        )
        SimpleITK.WriteImage(image, str(tmp_path / "a.nrrd"))
        with pytest.raises((UnusableVoxels, UnreadableFile), match=r"a\.nrrd.*(complex|numbers)"):
            read_itk_image(tmp_path / "a.nrrd")

    @pytest.mark.parametrize("ending", [".nrrd", ".mha"])
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
    def test_a_truncated_file_is_named_and_to_be_copied_again(self, tmp_path, ending, compressed, share):
        values = np.random.default_rng(0).integers(0, 1000, (32, 32, 16)).astype(np.int16)
        path = save(tmp_path / f"scan{ending}", values, compressed=compressed)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UnreadableFile, match=rf"scan{ending}.*truncated.*copy it again"):
            read_itk_image(path)

    def test_a_damaged_zlib_stream_is_refused(self, tmp_path: Path):
        # ITK 5.4 never comes back from it, so a test that hangs is a test that fails.
        path = save(tmp_path / "scan.mha", ramp(64, 64, 8), compressed=True)
        damaged = bytearray(path.read_bytes())
        damaged[-3000:-2900] = bytes(100)
        path.write_bytes(damaged)
        with pytest.raises(UnreadableFile, match="damaged"):
            read_itk_image(path)

    def test_a_header_that_claims_many_axes_is_refused(self, tmp_path: Path):
        # ITK 5.4 writes past its arrays and takes the process with it.
        path = save(tmp_path / "scan.mha", ramp(4, 3, 2))
        path.write_bytes(path.read_bytes().replace(b"NDims = 3", b"NDims = 93"))
        with pytest.raises(UnreadableFile, match="damaged"):
            read_itk_image(path)

    @pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
    def test_bytes_of_another_kind_are_refused(self, tmp_path: Path, ending: str):
        (tmp_path / f"a{ending}").write_bytes(gzip.compress(b"<html>404 not found</html>" * 99))
        with pytest.raises(UnreadableFile, match=r"damaged, not (NRRD|MetaImage)"):
            read_itk_image(tmp_path / f"a{ending}")

    def test_a_missing_file_is_refused(self, tmp_path: Path):
        with pytest.raises(UnreadableFile, match="no such file"):
            read_itk_image(tmp_path / "a.nrrd")

    @pytest.mark.parametrize(("ending", "voxels"), [(".mhd", "a.raw"), (".nhdr", "a.raw.gz")])
    def test_a_header_whose_voxels_are_gone_says_so(self, tmp_path: Path, ending: str, voxels: str):
        path = save(tmp_path / f"a{ending}", ramp(4, 3, 2), compressed=ending == ".nhdr")
        (tmp_path / voxels).unlink()
        with pytest.raises(UnreadableFile, match="voxels lie in another file"):
            read_itk_image(path)

    @pytest.mark.parametrize("third", ["(0,2,0)", "(0,0,0)"])
    def test_a_flat_geometry_is_refused(self, tmp_path: Path, third: str):
        path = nrrd(tmp_path / "a.nrrd", ramp(4, 3, 2), LPS.replace("(0,0,5)", third))
        with pytest.raises(UnreadableFile, match="cannot be inverted"):
            read_itk_image(path)

    def test_a_file_of_another_ending_is_refused(self, tmp_path: Path):
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(UnreadableFile, match="not the name of"):
            read_itk_image(tmp_path / "a.png")


def test_files_are_told_by_their_endings():
    taken = [
        name for name in ("a.nrrd", "a.NRRD", "a.seg.nrrd", "a.mha", "a.mhd", "a.raw", "a.nii") if is_itk(Path(name))
    ]
    assert taken == ["a.nrrd", "a.NRRD", "a.seg.nrrd", "a.mha", "a.mhd"]


class TestLabels:
    def test_a_label_map_lies_on_its_image(self, tmp_path: Path):
        image = read_itk_image(save(tmp_path / "a.mha", ramp(4, 3, 2)))
        label = read_itk_label(save(tmp_path / "b.nrrd", ramp(4, 3, 2, dtype="uint8")))
        assert isinstance(label, LabelMap)
        np.testing.assert_array_equal(label.values, ramp(4, 3, 2))
        np.testing.assert_allclose(label.affine, image.affine, atol=1e-9)
        assert label.names == {}

    def test_values_a_hair_from_whole_are_rounded(self, tmp_path: Path):
        almost = np.array([0, 1.00007, 1.9996, 6.9999], np.float32).reshape(4, 1, 1)
        label = read_itk_label(save(tmp_path / "a.mha", almost))
        assert (label.values.ravel().tolist(), label.values.dtype) == ([0, 1, 2, 7], np.uint8)

    def test_soft_labels_need_a_threshold(self, tmp_path: Path):
        soft = np.array([0, 0.25, 0.75, 1], np.float32).reshape(4, 1, 1)
        path = save(tmp_path / "a.nrrd", soft)
        with pytest.raises(UnusableLabel, match=r"0\.25, 0\.75"):
            read_itk_label(path)
        assert read_itk_label(path, threshold=0.5).values.ravel().tolist() == [0, 0, 1, 1]

    def test_negative_values_are_refused(self, tmp_path: Path):
        with pytest.raises(UnusableLabel, match="negative"):
            read_itk_label(save(tmp_path / "a.nrrd", ramp(4, 3, 2) - 1))

    def test_a_map_of_a_fourth_axis_is_chosen(self, tmp_path: Path):
        values = ramp(4, 3, 2, 3)
        path = save(tmp_path / "a.nrrd", values)
        np.testing.assert_array_equal(read_itk_label(path, volume_index=2).values, values[..., 2])
        with pytest.raises(UnusableVoxels, match="3 volumes"):
            read_itk_label(path)

    def test_a_coloured_label_is_refused(self, tmp_path: Path):
        with pytest.raises(UnusableVoxels, match="several numbers a voxel"):
            read_itk_label(save(tmp_path / "a.mha", ramp(4, 3, 2, 3, dtype="uint8"), is_vector=True))


class TestSegmentationsOf3DSlicer:
    def test_one_layer_is_a_map_with_names(self, tmp_path: Path):
        texts = segments(("liver", 1, 0), ("tumour, left", 4, 0))
        path = nrrd(tmp_path / "a.seg.nrrd", ramp(4, 3, 2, dtype="uint8") % 5, texts=texts)
        label = read_itk_label(path)
        assert isinstance(label, LabelMap)
        assert label.names == {1: "liver", 4: "tumour, left"}
        np.testing.assert_array_equal(label.values, ramp(4, 3, 2) % 5)

    def layered(self, path: Path, **texts: object) -> tuple[Path, np.ndarray]:
        layers = np.zeros((2, 4, 3, 2), np.uint8)
        layers[0, :2], layers[0, 2:, 2], layers[1, 1:3] = 1, 2, 1
        said = segments(("liver", 1, 0), ("spleen", 2, 0), ("tumour", 1, 1)) | texts
        return nrrd(path, layers, PER_VOXEL + "kinds: list domain domain domain\n", texts=said), layers

    def test_several_layers_are_structures_that_may_overlap(self, tmp_path: Path):
        path, layers = self.layered(tmp_path / "a.seg.nrrd")
        label = read_itk_label(path)
        assert isinstance(label, Structures)
        assert list(label.masks) == ["liver", "spleen", "tumour"]
        np.testing.assert_array_equal(label.masks["liver"], layers[0] == 1)
        np.testing.assert_array_equal(label.masks["spleen"], layers[0] == 2)
        np.testing.assert_array_equal(label.masks["tumour"], layers[1] == 1)
        assert (label.masks["liver"] & label.masks["tumour"]).any()
        np.testing.assert_allclose(label.affine[:3, 3], [-10, -20, 30])

    def test_one_layer_may_be_chosen(self, tmp_path: Path):
        path, layers = self.layered(tmp_path / "a.seg.nrrd")
        label = read_itk_label(path, volume_index=1)
        np.testing.assert_array_equal(label.values, layers[1])
        assert label.names == {1: "tumour"}

    def test_before_slicer_4_11_every_segment_was_a_layer(self, tmp_path: Path):
        layers = np.zeros((2, 4, 3, 2), np.uint8)
        layers[0, :2], layers[1, 1:3] = 1, 1
        texts = segments(("liver", None, None), ("tumour", None, None))
        label = read_itk_label(
            nrrd(tmp_path / "a.seg.nrrd", layers, PER_VOXEL + "kinds: list domain domain domain\n", texts=texts)
        )
        np.testing.assert_array_equal(label.masks["liver"], layers[0] == 1)
        np.testing.assert_array_equal(label.masks["tumour"], layers[1] == 1)

    def test_segments_mean_background_beyond_their_extent(self, tmp_path: Path):
        (layered, _), texts = self.layered(tmp_path / "a.seg.nrrd"), segments(("liver", 1, 0))
        flat = nrrd(tmp_path / "b.seg.nrrd", ramp(4, 3, 2, dtype="uint8") % 2, texts=texts)
        assert read_itk_label(layered).may_be_cut_out
        assert read_itk_label(flat).may_be_cut_out

    def test_so_does_whoever_states_the_extent(self, tmp_path: Path):
        texts = {"Segmentation_ReferenceImageExtentOffset": "1 2 3"}
        assert read_itk_label(nrrd(tmp_path / "a.nrrd", ramp(4, 3, 2, dtype="uint8"), texts=texts)).may_be_cut_out

    def test_a_label_map_of_no_segments_does_not(self, tmp_path: Path):
        assert not read_itk_label(nrrd(tmp_path / "a.nrrd", ramp(4, 3, 2, dtype="uint8"))).may_be_cut_out

    def test_segments_of_one_name_are_joined_and_said(self, tmp_path: Path):
        path, layers = self.layered(tmp_path / "a.seg.nrrd", Segment2_Name="liver")
        label = read_itk_label(path)
        np.testing.assert_array_equal(label.masks["liver"], layers.max(axis=0, where=layers == 1, initial=0) == 1)
        assert "joined" in label.notes[0]

    def test_voxels_of_no_segment_are_counted(self, tmp_path: Path):
        path, layers = self.layered(tmp_path / "a.seg.nrrd", Segment1_LabelValue=9)
        label = read_itk_label(path)
        assert label.notes[0].startswith(f"{np.count_nonzero(layers[0] == 2)} labelled voxels belong to no segment")

    @pytest.mark.parametrize(
        ("field", "says"), [("Segment1_LabelValue", "no whole number"), ("Segment1_Layer", "no whole number")]
    )
    def test_a_number_that_is_none_is_refused(self, tmp_path: Path, field: str, says: str):
        path, _ = self.layered(tmp_path / "a.seg.nrrd", **{field: "two"})
        with pytest.raises(UnreadableFile, match=says):
            read_itk_label(path)

    def test_a_layer_that_is_not_there_is_refused(self, tmp_path: Path):
        path, _ = self.layered(tmp_path / "a.seg.nrrd", Segment1_Layer=7)
        with pytest.raises(UnreadableFile, match="1 of 3 segments into layers that the file does not have"):
            read_itk_label(path)


class TestWritingAMask:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
    def test_values_and_grid_come_back(self, tmp_path: Path, dtype: str):
        source = read_itk_image(save(tmp_path / "a.mha", ramp(4, 3, 2)))
        write_label_nrrd(tmp_path / "mask.nrrd", ramp(4, 3, 2, dtype=dtype), source.grid)
        label = read_itk_label(tmp_path / "mask.nrrd")
        np.testing.assert_array_equal(label.values, ramp(4, 3, 2))
        np.testing.assert_allclose(label.affine, source.affine, rtol=1e-12, atol=1e-12)

    def test_simpleitk_sees_the_grid_of_the_source(self, tmp_path: Path):
        path = save(tmp_path / "a.mha", ramp(4, 3, 2))
        write_label_nrrd(tmp_path / "mask.nrrd", ramp(4, 3, 2, dtype="uint8"), read_itk_image(path).grid)
        source, mask = SimpleITK.ReadImage(str(path)), SimpleITK.ReadImage(str(tmp_path / "mask.nrrd"))
        assert mask.GetSize() == source.GetSize()
        assert mask.GetMetaData("NRRD_space") == "left-posterior-superior"
        for field in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_allclose(getattr(mask, field)(), getattr(source, field)(), rtol=1e-12, atol=1e-12)

    def test_a_mask_of_a_nifti_scan_lies_on_it(self, tmp_path: Path):
        affine = nib.affines.from_matvec(ROTATION @ np.diag([-0.8, 0.9, 5.0]), ORIGIN)
        nib.save(nib.Nifti1Image(ramp(4, 3, 2), affine), tmp_path / "a.nii.gz")
        scan = read_nifti_image(tmp_path / "a.nii.gz")
        write_label_nrrd(tmp_path / "mask.nrrd", ramp(4, 3, 2, dtype="uint8"), scan.grid)
        np.testing.assert_allclose(read_itk_label(tmp_path / "mask.nrrd").affine, scan.affine, atol=1e-6)

    def test_it_is_compressed(self, tmp_path: Path):
        write_label_nrrd(
            tmp_path / "mask.nrrd", np.zeros((64, 64, 64), np.uint8), grid_of_affine((64, 64, 64), np.eye(4))
        )
        assert (tmp_path / "mask.nrrd").stat().st_size < 64**3 / 50

    def test_a_2d_source_gets_a_2d_mask(self, tmp_path: Path):
        image = SimpleITK.GetImageFromArray(ramp(4, 3).T)
        image.SetSpacing((0.5, 0.25))
        SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
        write_label_nrrd(tmp_path / "mask.nrrd", ramp(4, 3, 1, dtype="uint8"), read_itk_image(tmp_path / "a.mha").grid)
        mask = SimpleITK.ReadImage(str(tmp_path / "mask.nrrd"))
        assert (mask.GetDimension(), mask.GetSize(), mask.GetSpacing()) == (2, (4, 3), (0.5, 0.25))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask).T, ramp(4, 3))

    def test_a_source_without_geometry_gets_voxels_of_a_millimetre(self, tmp_path: Path):
        write_label_nrrd(tmp_path / "m.nrrd", np.zeros((4, 3, 2), np.uint8), grid_of_affine((4, 3, 2), None))
        mask = SimpleITK.ReadImage(str(tmp_path / "m.nrrd"))
        assert (mask.GetSpacing(), mask.GetDirection()) == ((1, 1, 1), (1, 0, 0, 0, 1, 0, 0, 0, 1))

    def test_a_sheared_grid_is_refused_with_a_way_out(self, tmp_path: Path):
        tilted = np.diag([-0.8, -0.8, 5.0, 1.0])
        tilted[1, 2] = 5 * np.tan(np.radians(10))
        with pytest.raises(GeometryMismatch, match=r"off by 10\.00 degrees.*DICOM-SEG"):
            write_label_nrrd(tmp_path / "m.nrrd", np.zeros((4, 3, 2), np.uint8), grid_of_affine((4, 3, 2), tilted))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("skew", [2e-4, 2e-3, 8e-3])
    def test_a_grid_that_is_nearly_straight_is_straightened_for_itk(self, tmp_path: Path, skew: float):
        affine = np.diag([-0.8, -0.9, 5.0, 1.0])
        affine[1, 2] = 5 * skew
        write_label_nrrd(tmp_path / "m.nrrd", np.zeros((4, 3, 2), np.uint8), grid_of_affine((4, 3, 2), affine))
        direction = np.array(SimpleITK.ReadImage(str(tmp_path / "m.nrrd")).GetDirection()).reshape(3, 3)
        np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-9)
        written = read_itk_image(tmp_path / "m.nrrd").affine
        corner = np.array([3, 2, 1, 1])
        assert np.abs((written - affine) @ corner).max() < 0.1 * 0.8

    def test_a_failed_write_leaves_the_old_file_and_no_other(self, tmp_path: Path, monkeypatch):
        grid = grid_of_affine((4, 3, 2), None)
        write_label_nrrd(tmp_path / "m.nrrd", np.ones((4, 3, 2), np.uint8), grid)
        before = (tmp_path / "m.nrrd").read_bytes()

        def stop(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr("os.fsync", stop)
        with pytest.raises(OSError, match="disk full"):
            write_label_nrrd(tmp_path / "m.nrrd", np.zeros((4, 3, 2), np.uint8), grid)
        assert [path.name for path in tmp_path.iterdir()] == ["m.nrrd"]
        assert (tmp_path / "m.nrrd").read_bytes() == before

    def test_a_folder_that_is_not_there_is_said(self, tmp_path: Path):
        with pytest.raises(OSError, match="could not be written"):
            write_label_nrrd(tmp_path / "no" / "m.nrrd", np.zeros((4, 3, 2), np.uint8), grid_of_affine((4, 3, 2), None))

    def test_another_shape_is_refused(self, tmp_path: Path):
        with pytest.raises(GeometryMismatch, match=r"\(3, 4, 2\).*\(4, 3, 2\)"):
            write_label_nrrd(tmp_path / "m.nrrd", np.zeros((3, 4, 2), np.uint8), grid_of_affine((4, 3, 2), None))

    def test_probabilities_are_no_mask(self, tmp_path: Path):
        with pytest.raises(UnusableLabel, match="float32"):
            write_label_nrrd(tmp_path / "m.nrrd", np.zeros((4, 3, 2), np.float32), grid_of_affine((4, 3, 2), None))

    def test_another_ending_is_refused(self, tmp_path: Path):
        with pytest.raises(UsageError, match=r"\.nrrd"):
            write_label_nrrd(tmp_path / "m.nii", np.zeros((4, 3, 2), np.uint8), grid_of_affine((4, 3, 2), None))


@pytest.mark.shared
def test_a_real_scan_written_by_simpleitk_as_nrrd_is_the_scan(shared_data: Path, tmp_path: Path):
    source = shared_data / "spleen/sub-spleen2/ct/sub-spleen2_ct.nii.gz"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(source)), str(tmp_path / "a.nrrd"), useCompression=True)
    scan, twin = read_itk_image(tmp_path / "a.nrrd"), read_nifti_image(source)
    np.testing.assert_array_equal(scan.values, twin.values)
    np.testing.assert_allclose(scan.affine, twin.affine, atol=1e-4)
