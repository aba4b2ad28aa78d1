"""Pictures and their masks: values against Pillow and hand-made files, what is refused, and masks written back."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from samkit.stages.readers.picture import (
    is_picture,
    read_picture_image,
    read_picture_label,
    read_picture_stack,
    write_label_png,
)
from samkit.store.errors import (
    GeometryMismatch,
    SamkitError,
    UnreadableFile,
    UnusableLabel,
    UnusableVoxels,
    UsageError,
)

ORIENTATION = 274


def ramp(*shape: int, dtype: str = "uint8") -> np.ndarray:
    """Values (columns, rows, ...) that differ everywhere."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, values: np.ndarray, *, mode: str | None = None, **options: object) -> Path:
    """Write (columns, rows) or (columns, rows, bands) with Pillow."""
    picture = Image.fromarray(np.ascontiguousarray(values.swapaxes(0, 1)))
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def png(path: Path, values: np.ndarray, *, bits: int, colour: int = 0) -> Path:
    """Write a PNG by hand: values (columns, rows, ...) below 2**bits; colour types as in its specification."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    columns, rows = values.shape[:2]
    lines = []
    for row in values.swapaxes(0, 1).reshape(rows, -1):
        if bits < 8:
            flat = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :].ravel()
            lines.append(np.packbits(flat).tobytes())
        else:
            lines.append(row.astype(f">u{bits // 8}").tobytes())
    palette = chunk(b"PLTE", bytes(range(48, 48 + 3 * 2**bits))) if colour == 3 else b""
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, bits, colour, 0, 0, 0))
        + palette
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
        + chunk(b"IEND", b"")
    )
    return path


def as_white_is_zero(path: Path) -> Path:
    """Change what a TIFF says of its grey values, and leave these as they are."""
    said, says = (struct.pack("<HHIHH", 262, 3, 1, photometric, 0) for photometric in (1, 0))
    assert path.read_bytes().count(said) == 1
    path.write_bytes(path.read_bytes().replace(said, says))
    return path


def disc(size: int = 96, radius: int = 30) -> np.ndarray:
    """A mask (columns, rows) of 0 and 1."""
    i, j = np.ogrid[:size, :size]
    return ((i - size / 2) ** 2 + (j - size / 2) ** 2 < radius**2).astype(np.uint8)


class TestReadingAnImage:
    @pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
    def test_grey_is_column_row_and_one_slice(self, tmp_path: Path, ending: str):
        scan = read_picture_image(save(tmp_path / f"a{ending}", ramp(7, 5)))
        assert (scan.values.dtype, scan.values.shape) == (np.uint8, (7, 5, 1))
        np.testing.assert_array_equal(scan.values[:, :, 0], ramp(7, 5))
        assert (scan.affine, scan.grid.shape, scan.modality, scan.inverted) == (None, (7, 5, 1), None, False)

    @pytest.mark.parametrize("ending", [".png", ".tif"])
    def test_16_bits_are_kept(self, tmp_path: Path, ending: str):
        values = ramp(7, 5, dtype="uint16") * 1800
        scan = read_picture_image(save(tmp_path / f"a{ending}", values))
        assert scan.values.dtype == np.uint16
        np.testing.assert_array_equal(scan.values[:, :, 0], values)

    def test_simpleitk_reads_the_same_16_bits(self, tmp_path: Path):
        path = save(tmp_path / "a.png", ramp(7, 5, dtype="uint16") * 1800)
        reference = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
        np.testing.assert_array_equal(read_picture_image(path).values[:, :, 0].T, reference)

    def test_floats_of_a_tiff_are_kept(self, tmp_path: Path):
        values = ramp(7, 5, dtype="float32") - 3.5
        scan = read_picture_image(save(tmp_path / "a.tif", values))
        assert scan.values.dtype == np.float32
        np.testing.assert_array_equal(scan.values[:, :, 0], values)

    @pytest.mark.parametrize(("lowest", "kind"), [(0, "uint16"), (-5, "int16"), (70_000, "float32")])
    def test_32_bits_become_what_holds_them(self, tmp_path: Path, lowest: int, kind: str):
        values = ramp(7, 5, dtype="int32") + lowest
        scan = read_picture_image(save(tmp_path / "a.tif", values))
        assert scan.values.dtype == kind
        np.testing.assert_array_equal(scan.values[:, :, 0], values)

    @pytest.mark.parametrize("kind", ["int8", "int16", "uint32"])
    def test_other_integers_of_a_tiff_are_what_simpleitk_reads(self, tmp_path: Path, kind: str):
        values = (ramp(7, 5, dtype="int64") + (2**31 if kind == "uint32" else -9)).astype(kind)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T)), str(tmp_path / "a.tif"))
        scan = read_picture_image(tmp_path / "a.tif")
        np.testing.assert_array_equal(scan.values[:, :, 0], values.astype(scan.values.dtype))
        assert (scan.values.min() < 0) == (kind != "uint32")

    @pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
    def test_colour_is_three_bytes(self, tmp_path: Path, ending: str):
        scan = read_picture_image(save(tmp_path / f"a{ending}", ramp(7, 5, 3)))
        assert scan.values.shape == (7, 5, 1, 3)
        np.testing.assert_array_equal(scan.values[:, :, 0], ramp(7, 5, 3))

    def test_jpeg_is_what_pillow_decodes(self, tmp_path: Path):
        path = save(tmp_path / "a.jpg", ramp(16, 16, 3))
        reference = np.asarray(Image.open(path)).swapaxes(0, 1)
        np.testing.assert_array_equal(read_picture_image(path).values[:, :, 0], reference)

    def test_a_palette_is_looked_up(self, tmp_path: Path):
        scan = read_picture_image(png(tmp_path / "a.png", ramp(3, 2) % 4, bits=2, colour=3))
        assert scan.values[:, :, 0].tolist() == (48 + 3 * (ramp(3, 2, 1) % 4) + [0, 1, 2]).tolist()
        assert "palette" in scan.notes[0]

    def test_a_palette_of_greys_is_grey(self, tmp_path: Path):
        picture = Image.fromarray(ramp(5, 7))
        picture.putpalette([level for grey in range(256) for level in [255 - grey] * 3])
        picture.save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_picture_image(tmp_path / "a.png").values[:, :, 0].T, 255 - ramp(5, 7))

    def test_one_bit_is_black_and_white(self, tmp_path: Path):
        scan = read_picture_image(png(tmp_path / "a.png", ramp(7, 5) % 2, bits=1))
        np.testing.assert_array_equal(scan.values[:, :, 0], 255 * (ramp(7, 5) % 2))

    @pytest.mark.parametrize("mode", ["LA", "RGBA"])
    def test_a_constant_transparency_is_left_out_and_said(self, tmp_path: Path, mode: str):
        bands = {"LA": 1, "RGBA": 3}[mode]
        values = ramp(7, 5, bands).reshape(7, 5, bands)
        opaque = np.dstack([values, np.full((7, 5, 1), 255, np.uint8)])
        scan = read_picture_image(save(tmp_path / "a.png", opaque))
        np.testing.assert_array_equal(scan.values.reshape(7, 5, bands), values)
        assert "transparency" in scan.notes[0]

    def test_16_bit_colour_is_read_as_8_and_said(self, tmp_path: Path):
        values = ramp(7, 5, 3, dtype="uint16") * 600
        scan = read_picture_image(png(tmp_path / "a.png", values, bits=16, colour=2))
        np.testing.assert_array_equal(scan.values[:, :, 0], values >> 8)
        assert "16 bits a channel are read as 8" in scan.notes[0]

    def test_pages_of_a_tiff_are_slices(self, tmp_path: Path):
        pages = [Image.fromarray(np.ascontiguousarray(ramp(7, 5, 4)[:, :, k].T)) for k in range(4)]
        pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
        np.testing.assert_array_equal(read_picture_image(tmp_path / "a.tif").values, ramp(7, 5, 4))

    def test_pages_of_colour_are_slices_of_colour(self, tmp_path: Path):
        values = ramp(7, 5, 2, 3)
        pages = [Image.fromarray(np.ascontiguousarray(values[:, :, k].swapaxes(0, 1))) for k in range(2)]
        pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
        np.testing.assert_array_equal(read_picture_image(tmp_path / "a.tif").values, values)

    def test_the_content_counts_and_not_the_ending(self, tmp_path: Path):
        save(tmp_path / "a.tif", ramp(7, 5)).rename(tmp_path / "a.png")
        np.testing.assert_array_equal(read_picture_image(tmp_path / "a.png").values[:, :, 0], ramp(7, 5))

    def test_white_stored_as_0_in_8_bits_is_turned_round_and_said(self, tmp_path: Path):
        scan = read_picture_image(as_white_is_zero(save(tmp_path / "a.tif", ramp(7, 5))))
        np.testing.assert_array_equal(scan.values[:, :, 0], 255 - ramp(7, 5))
        assert not scan.inverted
        assert "white as 0" in scan.notes[0]

    def test_white_stored_as_0_in_16_bits_is_marked(self, tmp_path: Path):
        values = ramp(7, 5, dtype="uint16") + 300
        scan = read_picture_image(as_white_is_zero(save(tmp_path / "a.tif", values)))
        np.testing.assert_array_equal(scan.values[:, :, 0], values)
        assert scan.inverted

    def test_no_text_of_the_file_comes_along(self, tmp_path: Path):
        scan = read_picture_image(save(tmp_path / "a.tif", ramp(7, 5), description="Doe Jane", artist="Doe Jane"))
        assert "Doe" not in f"{scan.notes} {scan.grid}"


class TestOrientationTags:
    @pytest.mark.parametrize("orientation", range(2, 9))
    def test_a_tiff_is_read_as_stored_and_the_tag_is_said(self, tmp_path: Path, orientation: int):
        scan = read_picture_image(save(tmp_path / "a.tif", ramp(7, 5), tiffinfo={ORIENTATION: orientation}))
        np.testing.assert_array_equal(scan.values[:, :, 0], ramp(7, 5))
        assert f"orientation tag ({orientation}) is not followed" in scan.notes[0]

    @pytest.mark.parametrize("ending", [".jpg", ".png"])
    def test_a_photograph_is_read_as_stored_and_the_tag_is_said(self, tmp_path: Path, ending: str):
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        path = save(tmp_path / f"a{ending}", ramp(16, 8), exif=exif)
        scan = read_picture_image(path)
        assert scan.values.shape == (16, 8, 1)
        assert "orientation tag (6)" in scan.notes[0]

    def test_an_upright_picture_has_nothing_to_say(self, tmp_path: Path):
        assert read_picture_image(save(tmp_path / "a.tif", ramp(7, 5), tiffinfo={ORIENTATION: 1})).notes == ()


class TestRefusingAnImage:
    @pytest.mark.parametrize("mode", ["CMYK", "LAB"])
    def test_other_kinds_of_colour_are_refused(self, tmp_path: Path, mode: str):
        Image.new(mode, (7, 5)).save(tmp_path / "a.tif")
        with pytest.raises(UnusableVoxels, match=rf"{mode}.*convert\('RGB'\)"):
            read_picture_image(tmp_path / "a.tif")

    def test_a_transparency_that_changes_is_refused(self, tmp_path: Path):
        with pytest.raises(UnusableVoxels, match=r"3 to 139.*without transparency"):
            read_picture_image(save(tmp_path / "a.png", ramp(7, 5, 4)))

    def test_16_bit_grey_with_transparency_is_refused(self, tmp_path: Path):
        path = png(tmp_path / "a.png", np.full((7, 5, 2), 65535), bits=16, colour=4)
        with pytest.raises(UnusableVoxels, match="cuts to 8 bits"):
            read_picture_image(path)

    def test_pages_of_different_size_are_refused(self, tmp_path: Path):
        Image.new("L", (8, 8)).save(tmp_path / "a.tif", save_all=True, append_images=[Image.new("L", (4, 4))])
        with pytest.raises(UnusableVoxels, match=r"page 2 is 4 x 4 .*page 1 8 x 8 .*pyramid"):
            read_picture_image(tmp_path / "a.tif")

    def test_pages_of_different_kind_are_refused(self, tmp_path: Path):
        Image.new("L", (8, 8)).save(tmp_path / "a.tif", save_all=True, append_images=[Image.new("RGB", (8, 8))])
        with pytest.raises(UnusableVoxels, match=r"page 2 is 8 x 8 pixels of colour, page 1 .*uint8"):
            read_picture_image(tmp_path / "a.tif")

    def test_pages_that_are_channels_are_refused(self, tmp_path: Path):
        said = "ImageJ=1.53t\nimages=4\nchannels=2\nslices=2\n"
        pages = [Image.new("L", (8, 8))] * 4
        pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], description=said)
        with pytest.raises(UnusableVoxels, match="ImageJ stack of 2 channels"):
            read_picture_image(tmp_path / "a.tif")

    def test_a_file_that_claims_more_pixels_than_a_picture_has_is_refused(self, tmp_path: Path):
        path = png(tmp_path / "a.png", ramp(7, 5), bits=8)
        head = bytearray(path.read_bytes())
        head[16:24] = struct.pack(">II", 100_000, 100_000)
        head[29:33] = struct.pack(">I", zlib.crc32(bytes(head[12:29])))
        path.write_bytes(head)
        with pytest.raises(UnusableVoxels, match="more than 178,956,970 pixels"):
            read_picture_image(path)

    def test_more_pages_than_a_volume_has_are_refused(self, tmp_path: Path, monkeypatch):
        pages = [Image.new("L", (8, 8))] * 3
        pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
        monkeypatch.setattr("samkit.stages.readers.picture._LARGEST_VOXELS", 191)
        with pytest.raises(UnusableVoxels, match="3 pages of 8 x 8 pixels"):
            read_picture_image(tmp_path / "a.tif")

    @pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".bmp"])
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
    def test_a_truncated_file_is_named_and_to_be_copied_again(self, tmp_path: Path, ending: str, share: float):
        values = np.random.default_rng(0).integers(0, 255, (64, 48)).astype(np.uint8)
        path = save(tmp_path / f"scan{ending}", values)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UnreadableFile, match=rf"scan{ending}.*truncated.*copy it again"):
            read_picture_image(path)

    def test_a_picture_of_another_format_is_refused(self, tmp_path: Path):
        Image.new("L", (8, 8)).save(tmp_path / "a.gif")
        with pytest.raises(UnreadableFile, match="not a PNG, JPEG, TIFF or BMP"):
            read_picture_image(tmp_path / "a.gif")

    def test_a_missing_file_is_refused(self, tmp_path: Path):
        with pytest.raises(UnreadableFile, match="no such file"):
            read_picture_image(tmp_path / "a.png")

    @given(
        kind=st.sampled_from(["PNG", "TIFF", "BMP", "JPEG"]),
        changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4),
        kept=st.floats(0.05, 1),
    )
    @settings(max_examples=150, deadline=None)
    def test_damage_never_ends_in_another_error_than_ours(self, tmp_path_factory, kind, changes, kept):
        written = io.BytesIO()
        Image.fromarray(ramp(12, 16)).save(written, kind)
        damaged = bytearray(written.getvalue())
        for place, byte in changes:
            damaged[place % len(damaged)] = byte
        path = tmp_path_factory.mktemp("damaged") / "a.png"
        path.write_bytes(damaged[: max(1, int(len(damaged) * kept))])
        for read in (read_picture_image, read_picture_label):
            try:
                read(path)
            except SamkitError as error:
                assert "a.png" in str(error)


def test_files_are_told_by_their_endings():
    names = ("a.png", "a.JPG", "a.jpeg", "a.tif", "a.tiff", "a.bmp", "a.gif", "a.svg", "a.nii")
    assert [name for name in names if is_picture(Path(name))] == list(names[:6])


class TestLabels:
    @pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
    def test_grey_values_are_the_numbers(self, tmp_path: Path, ending: str):
        label = read_picture_label(save(tmp_path / f"a{ending}", ramp(7, 5)))
        np.testing.assert_array_equal(label.values[:, :, 0], ramp(7, 5))
        assert (label.affine, label.names, label.notes) == (None, {}, ())

    def test_16_bits_are_kept(self, tmp_path: Path):
        values = ramp(7, 5, dtype="uint16") * 1800
        np.testing.assert_array_equal(read_picture_label(save(tmp_path / "a.png", values)).values[:, :, 0], values)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
    def test_the_number_of_bits_does_not_change_a_number(self, tmp_path: Path, bits: int):
        values = ramp(7, 5, dtype="uint16") % min(2**bits, 35)
        np.testing.assert_array_equal(
            read_picture_label(png(tmp_path / "a.png", values, bits=bits)).values[:, :, 0], values
        )

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_of_a_palette_the_indices_are_the_numbers(self, tmp_path: Path, bits: int):
        values = ramp(7, 5) % min(2**bits, 35)
        path = png(tmp_path / "a.png", values, bits=bits, colour=3) if bits < 8 else tmp_path / "a.png"
        if bits == 8:
            picture = Image.fromarray(np.ascontiguousarray(values.T))
            picture.putpalette([0, 0, 0, 200, 30, 30, *range(256)])
            picture.save(path)
        label = read_picture_label(path)
        np.testing.assert_array_equal(label.values[:, :, 0], values)
        assert "palette indices are the labels" in label.notes[0]

    def test_a_palette_whose_background_is_not_black_is_said(self, tmp_path: Path):
        label = read_picture_label(png(tmp_path / "a.png", ramp(3, 2) % 4, bits=2, colour=3))
        assert "not black" in label.notes[0]

    def test_0_and_255_stay_what_they_are(self, tmp_path: Path):
        # Beside it may lie a mask of {0, 63, 126, 189, 252}: what one file holds does not decide what a value means.
        label = read_picture_label(save(tmp_path / "a.png", disc() * 255))
        assert np.unique(label.values).tolist() == [0, 255]

    def test_equal_colours_are_grey(self, tmp_path: Path):
        label = read_picture_label(save(tmp_path / "a.png", np.dstack([ramp(7, 5)] * 3)))
        np.testing.assert_array_equal(label.values[:, :, 0], ramp(7, 5))

    def test_different_colours_are_refused_with_what_to_do(self, tmp_path: Path):
        with pytest.raises(UnusableLabel, match=r"a mask of 35 colours.*one grey value a class"):
            read_picture_label(save(tmp_path / "a.png", ramp(7, 5, 3)))

    def test_16_bit_colour_is_refused_as_its_numbers_would_be_cut(self, tmp_path: Path):
        path = png(tmp_path / "a.png", np.dstack([ramp(7, 5, dtype="uint16")] * 3), bits=16, colour=2)
        with pytest.raises(UnusableLabel, match="16-bit colour"):
            read_picture_label(path)

    def test_an_opaque_mask_is_taken(self, tmp_path: Path):
        opaque = np.dstack([ramp(7, 5)] * 3 + [np.full((7, 5), 255, np.uint8)])
        np.testing.assert_array_equal(read_picture_label(save(tmp_path / "a.png", opaque)).values[:, :, 0], ramp(7, 5))

    def test_a_mask_drawn_in_the_transparency_is_refused(self, tmp_path: Path):
        drawn = np.dstack([np.zeros((96, 96, 3), np.uint8), disc() * 255])
        with pytest.raises(UnusableVoxels, match="transparency differs"):
            read_picture_label(save(tmp_path / "a.png", drawn))

    @pytest.mark.parametrize("mode", ["1", "L"])
    def test_white_stored_as_0_says_how_to_show_it_and_not_what_it_means(self, tmp_path: Path, mode: str):
        # As ImageJ saves a mask: 255 is the structure, drawn black on white.
        path = as_white_is_zero(save(tmp_path / "a.tif", disc() * 255, mode=mode))
        label = read_picture_label(path)
        np.testing.assert_array_equal(label.values[:, :, 0], disc() * (1 if mode == "1" else 255))
        assert "taken as stored" in label.notes[0]

    def test_soft_labels_need_a_threshold(self, tmp_path: Path):
        path = save(tmp_path / "a.tif", np.array([[0, 0.25], [0.75, 1]], np.float32))
        with pytest.raises(UnusableLabel, match=r"0\.25, 0\.75"):
            read_picture_label(path)
        assert read_picture_label(path, threshold=0.5).values[:, :, 0].tolist() == [[0, 0], [1, 1]]

    def test_pages_are_slices(self, tmp_path: Path):
        pages = [Image.fromarray(np.ascontiguousarray(ramp(7, 5, 4)[:, :, k].T)) for k in range(4)]
        pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
        np.testing.assert_array_equal(read_picture_label(tmp_path / "a.tif").values, ramp(7, 5, 4))

    @pytest.mark.parametrize("orientation", [3, 6])
    def test_the_mask_of_a_turned_picture_still_lies_on_it(self, tmp_path: Path, orientation: int):
        tag = {ORIENTATION: orientation}
        image = read_picture_image(save(tmp_path / "a.tif", ramp(7, 5), tiffinfo=tag))
        label = read_picture_label(save(tmp_path / "b.png", ramp(7, 5)))
        np.testing.assert_array_equal(image.values, label.values)


class TestOneStructure:
    @pytest.mark.parametrize("value", [1, 63, 255])
    def test_whatever_is_not_0_is_1(self, tmp_path: Path, value: int):
        label = read_picture_label(save(tmp_path / "a.png", disc() * np.uint8(value)), binary=True)
        np.testing.assert_array_equal(label.values[:, :, 0], disc())

    def test_colours_are_taken_where_they_are_not_black(self, tmp_path: Path):
        red = np.dstack([disc() * 200, disc() * 0, disc() * 0])
        np.testing.assert_array_equal(
            read_picture_label(save(tmp_path / "a.png", red), binary=True).values[:, :, 0], disc()
        )

    def test_a_palette_counts_by_its_colours_and_not_by_its_indices(self, tmp_path: Path):
        picture = Image.fromarray(1 - disc().T)
        picture.putpalette([255, 255, 255, 0, 0, 0])
        picture.save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_picture_label(tmp_path / "a.png", binary=True).values[:, :, 0], disc())

    def test_16_bits_count_whole(self, tmp_path: Path):
        label = read_picture_label(save(tmp_path / "a.png", disc().astype(np.uint16) * 256), binary=True)
        np.testing.assert_array_equal(label.values[:, :, 0], disc())


class TestMasksAsJpeg:
    @pytest.mark.parametrize("quality", [50, 75, 95])
    def test_a_mask_of_0_and_255_is_restored_and_said(self, tmp_path: Path, quality: int):
        path = save(tmp_path / "a.jpg", disc() * 255, quality=quality)
        assert len(np.unique(np.asarray(Image.open(path)))) > 2
        label = read_picture_label(path)
        assert np.unique(label.values).tolist() == [0, 255]
        assert np.count_nonzero((label.values[:, :, 0] > 0) != disc()) <= 10
        assert "JPEG" in label.notes[0]

    def test_by_content_whatever_the_ending(self, tmp_path: Path):
        save(tmp_path / "a.jpg", disc() * 255).rename(tmp_path / "a.png")
        assert np.unique(read_picture_label(tmp_path / "a.png").values).tolist() == [0, 255]

    def test_inside_a_tiff_too(self, tmp_path: Path):
        path = save(tmp_path / "a.tif", disc() * 255, compression="jpeg")
        assert np.unique(read_picture_label(path).values).tolist() == [0, 255]

    def test_an_empty_mask_is_taken(self, tmp_path: Path):
        assert not read_picture_label(save(tmp_path / "a.jpg", disc() * 0)).values.any()

    @pytest.mark.parametrize("values", [(0, 1, 2), (0, 63, 126), (0, 189, 255), (0, 240, 255), (0, 15, 255)])
    def test_other_values_are_refused_with_a_way_out(self, tmp_path: Path, values: tuple[int, ...]):
        classes = np.array(values, np.uint8)[disc(96, 40).astype(int) + disc(96, 20)]
        with pytest.raises(UnusableLabel, match=r"JPEG.*neither 0 nor 255.*--label-threshold 0\.5"):
            read_picture_label(save(tmp_path / "a.jpg", classes))

    def test_a_threshold_takes_what_is_brighter(self, tmp_path: Path):
        path = save(tmp_path / "a.jpg", disc(96, 40) * 63 + disc(96, 20) * 126)
        half = read_picture_label(path, threshold=0.5).values[:, :, 0]
        assert np.unique(half).tolist() == [0, 255]
        assert np.count_nonzero((half > 0) != disc(96, 20)) <= 20

    def test_a_lower_threshold_takes_more(self, tmp_path: Path):
        path = save(tmp_path / "a.jpg", disc(96, 40) * 63 + disc(96, 20) * 126)
        fifth = read_picture_label(path, threshold=0.125).values[:, :, 0]
        assert np.count_nonzero((fifth > 0) != disc(96, 40)) <= 60

    def test_one_structure_is_what_is_brighter_than_half(self, tmp_path: Path):
        path = save(tmp_path / "a.jpg", disc() * 255, quality=50)
        wrong = np.asarray(Image.open(path)).T > 0
        label = read_picture_label(path, binary=True).values[:, :, 0]
        assert label.max() == 1
        assert np.count_nonzero(label != disc()) <= 10 < np.count_nonzero(wrong != disc())


class TestAStackOfMasks:
    def test_each_picture_is_a_slice_in_the_order_given(self, tmp_path: Path):
        values = ramp(7, 5, 4)
        paths = [save(tmp_path / f"{9 - k}.png", values[:, :, k]) for k in range(4)]
        np.testing.assert_array_equal(read_picture_stack(paths).values, values)

    def test_the_largest_type_is_taken(self, tmp_path: Path):
        paths = [save(tmp_path / "a.png", ramp(7, 5)), save(tmp_path / "b.png", ramp(7, 5, dtype="uint16") + 300)]
        stack = read_picture_stack(paths)
        assert stack.values.dtype == np.uint16
        np.testing.assert_array_equal(stack.values[:, :, 0], ramp(7, 5))

    def test_one_structure_is_one_in_all_slices(self, tmp_path: Path):
        paths = [save(tmp_path / "a.png", disc() * 255), save(tmp_path / "b.png", disc())]
        np.testing.assert_array_equal(read_picture_stack(paths, binary=True).values, np.dstack([disc()] * 2))

    def test_a_note_is_made_once(self, tmp_path: Path):
        paths = [save(tmp_path / f"{k}.jpg", disc() * 255) for k in range(3)]
        assert len(read_picture_stack(paths).notes) == 1

    def test_another_size_is_refused_with_both(self, tmp_path: Path):
        paths = [save(tmp_path / "a.png", ramp(7, 5)), save(tmp_path / "b.png", ramp(5, 7))]
        with pytest.raises(GeometryMismatch, match=r"b\.png: 5 columns x 7 rows, but a\.png has 7 x 5"):
            read_picture_stack(paths)

    def test_pages_within_a_slice_are_refused(self, tmp_path: Path):
        Image.new("L", (8, 8)).save(tmp_path / "a.tif", save_all=True, append_images=[Image.new("L", (8, 8))])
        with pytest.raises(UnusableLabel, match="2 pages where one slice is expected"):
            read_picture_stack([tmp_path / "a.tif"])

    def test_no_pictures_are_refused(self):
        with pytest.raises(UsageError, match="at least one"):
            read_picture_stack([])


class TestWritingAMask:
    @pytest.mark.parametrize(("dtype", "highest", "bits"), [("uint8", 255, 8), ("int64", 3, 8), ("uint16", 256, 16)])
    def test_values_come_back_in_as_few_bits_as_hold_them(self, tmp_path: Path, dtype, highest, bits):
        values = np.zeros((7, 5, 1), dtype)
        values[3, 2] = highest
        write_label_png(tmp_path / "m.png", values)
        np.testing.assert_array_equal(read_picture_label(tmp_path / "m.png").values, values)
        assert (tmp_path / "m.png").read_bytes()[24] == bits  # of the IHDR chunk

    def test_it_lies_on_its_picture(self, tmp_path: Path):
        scan = read_picture_image(save(tmp_path / "a.png", ramp(7, 5)))
        write_label_png(tmp_path / "m.png", scan.values)
        assert Image.open(tmp_path / "m.png").size == Image.open(tmp_path / "a.png").size
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / "m.png")), np.asarray(Image.open(tmp_path / "a.png"))
        )

    def test_a_failed_write_leaves_the_old_file_and_no_other(self, tmp_path: Path, monkeypatch):
        write_label_png(tmp_path / "m.png", ramp(7, 5))
        before = (tmp_path / "m.png").read_bytes()

        def stop(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr("os.fsync", stop)
        with pytest.raises(OSError, match="disk full"):
            write_label_png(tmp_path / "m.png", ramp(7, 5) * 0)
        assert [path.name for path in tmp_path.iterdir()] == ["m.png"]
        assert (tmp_path / "m.png").read_bytes() == before

    def test_a_volume_is_refused(self, tmp_path: Path):
        with pytest.raises(GeometryMismatch, match=r"\(7, 5, 2\) is no single picture"):
            write_label_png(tmp_path / "m.png", np.zeros((7, 5, 2), np.uint8))

    @pytest.mark.parametrize("value", [-1, 65536])
    def test_values_that_do_not_fit_are_refused(self, tmp_path: Path, value: int):
        with pytest.raises(UnusableLabel, match="0 to 65535"):
            write_label_png(tmp_path / "m.png", np.full((2, 2, 1), value))

    def test_probabilities_are_no_mask(self, tmp_path: Path):
        with pytest.raises(UnusableLabel, match="float32"):
            write_label_png(tmp_path / "m.png", np.zeros((7, 5, 1), np.float32))

    def test_another_ending_is_refused(self, tmp_path: Path):
        with pytest.raises(UsageError, match=r"\.png"):
            write_label_png(tmp_path / "m.jpg", np.zeros((7, 5, 1), np.uint8))
