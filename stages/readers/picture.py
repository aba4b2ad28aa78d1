"""PNG, JPEG, TIFF and BMP through Pillow: pictures and their masks in, masks out as PNG.

    image   grey as stored (8 and 16 bits, 32-bit float); colour as three bytes; a palette is looked up
    label   the numbers as stored: grey values, or the indices of a palette, never its colours

Conventions: i is the column, j the row, k the page (of a TIFF with several); a picture is one slice. No geometry: the
affine is None, and a resolution in dots per inch is not believed. Rows and columns are those of the file: a tag that
tells viewers to turn the picture is not followed, as the masks of the picture are seldom drawn on the turned one, and
is mentioned instead. No text of a file leaves this module.

Modes and what Pillow does to them: https://pillow.readthedocs.io/en/stable/handbook/concepts.html#modes
"""

from __future__ import annotations

import os
import struct
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from ...store.errors import GeometryMismatch, UnreadableFile, UnusableLabel, UnusableVoxels, UsageError
from .base import LabelMap, Scan
from .labels import whole_labels
from .nifti import grid_of_affine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

__all__ = ["is_picture", "read_picture_image", "read_picture_label", "read_picture_stack", "write_label_png"]

_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})

# By content, not by ending.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")

# What Pillow raises on damaged files (SyntaxError: a broken PNG chunk; TypeError and KeyError: a TIFF without a tag).
_DAMAGE = (
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    ZeroDivisionError,
    struct.error,
)

# Of all pages together; Pillow itself refuses a page above 179 million pixels.
_LARGEST_VOXELS = 2**31

_ORIENTATION_TAG, _PHOTOMETRIC_TAG, _DESCRIPTION_TAG, _SAMPLE_FORMAT_TAG = 274, 262, 270, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2

# What Pillow did to the rows and columns of a TIFF, undone: (rows, columns, ...) as shown to as stored.
# Orientations: TIFF 6.0, section 8; EXIF 2.3, tag 0x0112.
_AS_STORED: dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.swapaxes(0, 1),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: shown[::-1, ::-1].swapaxes(0, 1),
    8: lambda shown: np.rot90(shown, -1),
}

# JPEG works on blocks of so many rows and columns: a border in one of them does not reach the next.
_JPEG_BLOCK = 8


def is_picture(path: Path) -> bool:
    """Tell by its ending whether a file is a picture."""
    return path.suffix.lower() in _ENDINGS


def read_picture_image(path: Path) -> Scan:
    """Read a picture, or the pages of a TIFF as a stack of slices.

    Returns
    -------
    Scan
        ``values`` (column, row, page), uint8, uint16, int16 or float32, or (column, row, page, 3) uint8 for colour;
        ``affine`` None.

    Raises
    ------
    UnreadableFile
        Missing, truncated, or not PNG, JPEG, TIFF or BMP.
    UnusableVoxels
        CMYK, LAB or another kind of colour; transparency that is not the same everywhere; pages of different size or
        kind, or that are channels; more pixels than a picture has.
    """
    picture = _read(path, _image_values)
    values = _narrowed(_stacked(picture.pages))
    i, j, k = values.shape[:3]
    return Scan(
        values=values,
        affine=None,
        modality=None,
        grid=grid_of_affine((i, j, k), None),
        inverted=picture.inverted,
        notes=picture.notes,
    )


def read_picture_label(path: Path, *, binary: bool = False, threshold: float | None = None) -> LabelMap:
    """Read a mask, or the pages of a TIFF as a stack of masks.

    Parameters
    ----------
    path
        PNG, TIFF or BMP; JPEG only where its values can be told (0 and 255, give or take what compression does).
    binary
        Whether it is one structure: whatever is not 0 (not black, where there are colours) becomes 1. Say so for all
        masks of a dataset or for none: a mask that holds just 0 and 255 may lie beside others with more values, and is
        therefore not taken for one structure by itself.
    threshold
        For soft labels (float, 0 to 1), see `whole_labels`; of a JPEG, the share of full brightness from where on a
        pixel is 255.

    Returns
    -------
    LabelMap
        ``values`` (column, row, page): 1-bit masks as 0 and 1, grey ones as stored (255 stays 255), those with a
        palette as its indices.

    Raises
    ------
    UnreadableFile
        Missing, truncated, or not PNG, JPEG, TIFF or BMP.
    UnusableLabel
        Colours (and not `binary`), transparency, values spoilt by JPEG, or not whole.
    UnusableVoxels
        As for `read_picture_image`.
    """
    picture = _read(path, _binary_values if binary else _label_values)
    pages, notes = picture.pages, picture.notes
    if picture.is_lossy:
        pages, found = _restored(path, pages, binary=binary, threshold=threshold)
        notes += found
    elif binary:
        pages = [(page != 0).astype(np.uint8) for page in pages]
    return LabelMap(
        values=whole_labels(_stacked(pages), place=str(path), threshold=threshold), affine=None, notes=notes
    )


def read_picture_stack(paths: Sequence[Path], *, binary: bool = False, threshold: float | None = None) -> LabelMap:
    """Read masks that are one picture a slice.

    Parameters
    ----------
    paths
        In the order of the slices.
    binary, threshold
        As for `read_picture_label`.

    Returns
    -------
    LabelMap
        ``values`` (column, row, slice).

    Raises
    ------
    GeometryMismatch
        Pictures of different size.
    UnreadableFile, UnusableLabel, UnusableVoxels
        As for `read_picture_label`; a picture of several pages.
    UsageError
        No pictures.
    """
    if not paths:
        message = "a stack of masks needs at least one picture."
        raise UsageError(message)
    slices: list[npt.NDArray[np.unsignedinteger[Any]]] = []
    notes: dict[str, None] = {}
    for path in paths:
        label = read_picture_label(path, binary=binary, threshold=threshold)
        if label.values.shape[2] > 1:
            message = (
                f"{path}: {label.values.shape[2]} pages where one slice is expected; save each in a file of its own."
            )
            raise UnusableLabel(message)
        slices.append(label.values[:, :, 0])
        if slices[-1].shape != slices[0].shape:
            (columns, rows), (first_columns, first_rows) = slices[-1].shape, slices[0].shape
            message = (
                f"{path}: {columns} columns x {rows} rows, but {paths[0].name} has {first_columns} x {first_rows}; the "
                f"slices of one volume have one size. Do they belong to two volumes, or was one of them cropped?"
            )
            raise GeometryMismatch(message)
        notes.update(dict.fromkeys(label.notes))
    values = np.empty((*slices[0].shape, len(slices)), np.result_type(*{one.dtype for one in slices}), order="F")
    for k, one in enumerate(slices):
        values[:, :, k] = one
    return LabelMap(values=values, affine=None, notes=tuple(notes))


def write_label_png(path: Path, values_ijk: npt.NDArray[Any]) -> None:
    """Write the mask of a picture as a grey PNG, whole or not at all.

    Parameters
    ----------
    path
        Ends in ``.png``; replaced if it exists. The folder must exist.
    values_ijk
        Integers of shape (column, row) or (column, row, 1), from 0 to 65535: 8 bits where they hold them, else 16.

    Raises
    ------
    GeometryMismatch
        More than one slice.
    UnusableLabel
        Not of an integer type, or values that 16 bits do not hold.
    UsageError
        The name is not that of a PNG file.
    """
    if path.suffix != ".png":
        message = f"{path}: this mask is written as PNG. Give it a name that ends in .png."
        raise UsageError(message)
    if values_ijk.ndim not in {2, 3} or values_ijk.shape[2:] not in {(), (1,)}:
        message = (
            f"{path}: a mask of shape {values_ijk.shape} is no single picture. Write volumes as NIfTI or NRRD, or one "
            f"PNG a slice."
        )
        raise GeometryMismatch(message)
    if values_ijk.dtype.kind not in "ui":
        message = (
            f"{path}: a mask holds integers, not {values_ijk.dtype}. Take the argmax, or threshold, before writing."
        )
        raise UnusableLabel(message)
    lowest, highest = (int(values_ijk.min()), int(values_ijk.max())) if values_ijk.size else (0, 0)
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        message = f"{path}: label values from {lowest} to {highest}; a grey PNG holds 0 to 65535. Write it as NIfTI."
        raise UnusableLabel(message)
    rows = np.ascontiguousarray(values_ijk.reshape(values_ijk.shape[:2]).T)
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with part.open("wb") as file:
            Image.fromarray(rows.astype(np.uint8 if highest < 256 else np.uint16)).save(file, format="PNG")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Picture:
    pages: list[npt.NDArray[Any]]
    """(rows, columns) or (rows, columns, 3), all of one shape and type."""
    is_lossy: bool
    inverted: bool
    """Whether high values are meant to be dark, and Pillow has not turned them round."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Page:
    """One page as Pillow gives it, and what it no longer tells afterwards."""

    path: Path
    image: Image.Image
    raw_mode: str
    """How the pixels lie in the file: ``L;4`` are four bits, stretched to eight."""
    is_signed: bool
    """Whether a TIFF says that its integers have a sign."""

    @property
    def turned_round(self) -> bool:
        """Whether white is stored as 0, which Pillow has turned round (of 8 bits and fewer)."""
        return "I" in self.raw_mode.partition(";")[2]

    @property
    def bands(self) -> npt.NDArray[Any]:
        """(rows, columns) or (rows, columns, bands), in the machine's byte order."""
        values = np.asarray(self.image)
        if self.is_signed and values.dtype == np.uint8:
            values = values.view(np.int8)  # Pillow knows no signed bytes,
        if self.raw_mode == "I;32N":
            values = values.view(np.uint32)  # and no unsigned 32 bits
        return values.astype(values.dtype.newbyteorder("="), copy=False)


def _read(path: Path, convert: Callable[[_Page], tuple[npt.NDArray[Any], tuple[str, ...]]]) -> _Picture:
    """Read all pages, each converted, turned back to how it is stored, and of one shape."""
    pages: list[npt.NDArray[Any]] = []
    notes: dict[str, None] = {}
    inverted: set[bool] = set()
    with _opened(path) as image:
        tags: Mapping[int, object] = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        count = image.n_frames if isinstance(image, TiffImagePlugin.TiffImageFile) else 1
        if getattr(image, "n_frames", 1) > count:
            notes["the file holds further pictures, which are left out"] = None
        _check_pages(path, image.size, count, tags.get(_DESCRIPTION_TAG))
        is_lossy = image.format in {"JPEG", "MPO"}
        for index in range(count):
            image.seek(index)
            is_lossy |= image.info.get("compression") in {"jpeg", "tiff_jpeg"}
            is_signed = tags.get(_SAMPLE_FORMAT_TAG) == (_SIGNED,)
            page = _Page(path=path, image=image, raw_mode=_raw_mode(image), is_signed=is_signed)
            white_is_zero = tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO
            orientation = _orientation(image)  # after the raw mode: of a PNG this loads the pixels
            image.load()
            values, found = convert(page)
            notes.update(dict.fromkeys(found))
            if orientation in _AS_STORED:
                notes[f"its orientation tag ({orientation}) is not followed: rows and columns are as stored"] = None
                values = _AS_STORED[orientation](values) if tags else values
            inverted.add(white_is_zero and not page.turned_round)
            pages.append(values)
            if (values.shape, values.dtype) != (pages[0].shape, pages[0].dtype):
                message = (
                    f"{path}: page {index + 1} is {_described(values)}, page 1 {_described(pages[0])}; the pages of a "
                    f"stack are of one size and kind. Is it a pyramid or an album? Save the page you want as a file."
                )
                raise UnusableVoxels(message)
    if len(inverted) > 1:
        message = f"{path}: bright is high on some pages and low on others. Save them all as one kind."
        raise UnusableVoxels(message)
    return _Picture(pages=pages, is_lossy=is_lossy, inverted=inverted == {True}, notes=tuple(notes))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open for reading; whatever Pillow finds wrong, also later in the block, is one kind of error."""
    if not path.exists():
        message = f"{path}: there is no such file. Is it a link to something that was never downloaded?"
        raise UnreadableFile(message)
    try:
        with warnings.catch_warnings():
            # Pillow's warnings are about large pages (refused here only where Pillow refuses) and damaged EXIF.
            warnings.simplefilter("ignore")
            # Not by name: then Pillow maps an uncompressed TIFF into memory, with rows and columns exchanged where its
            # orientation tag exchanges them (seen in Pillow 13.0).
            with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
                yield image
    except Image.DecompressionBombError as error:
        message = (
            f"{path}: the picture says that it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels in "
            f"{path.stat().st_size} bytes; that much is not read at once. Cut it into tiles first."
        )
        raise UnusableVoxels(message) from error
    except _DAMAGE as error:
        message = (
            f"{path}: the file is truncated, damaged or not a PNG, JPEG, TIFF or BMP that Pillow reads "
            f"({path.stat().st_size} bytes). A download or copy that stopped early is the usual cause: copy it again, "
            f"and compare sizes. If other programs open it, save it as PNG with one of them."
        )
        raise UnreadableFile(message) from error


def _check_pages(path: Path, size: tuple[int, int], count: int, description: object) -> None:
    columns, rows = size
    if columns * rows * count > _LARGEST_VOXELS:
        message = (
            f"{path}: {count} pages of {columns} x {rows} pixels, more than {_LARGEST_VOXELS:,} together. "
            f"Save it as several files."
        )
        raise UnusableVoxels(message)
    channels = _imagej_channels(description) if count > 1 else 1
    if channels > 1:
        message = (
            f"{path}: an ImageJ stack of {channels} channels, whose pages are not slices alone. Split it first "
            f"(in ImageJ: Image > Color > Split Channels)."
        )
        raise UnusableVoxels(message)


def _imagej_channels(description: object) -> int:
    """Return how many channels the pages of an ImageJ stack run through; 1 for any other file."""
    lines = description.split("\n") if isinstance(description, str) and description.startswith("ImageJ=") else []
    said = [line.partition("=")[2].strip() for line in lines if line.startswith("channels=")]
    return int(said[0]) if said and said[0].isdecimal() else 1


def _raw_mode(image: Image.Image) -> str:
    """Return how the pixels lie in the file; to be asked before they are loaded."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    arguments = tiles[0].args if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _orientation(image: Image.Image) -> int:
    """Return the EXIF or TIFF orientation, 1 where there is none; to be asked before Pillow follows it."""
    said = image.getexif().get(_ORIENTATION_TAG, 1)
    return said if isinstance(said, int) else 1


def _described(values: npt.NDArray[Any]) -> str:
    kind = "colour" if values.ndim == 3 else str(values.dtype)
    return f"{values.shape[1]} x {values.shape[0]} pixels of {kind}"


# -- pages to values -------------------------------------------------------------------------------


def _image_values(page: _Page) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Return grey (rows, columns) or colour (rows, columns, 3), and notes."""
    image, mode = page.image, page.image.mode
    turned = ("stored with white as 0, and turned round: bright is high",) if page.turned_round else ()
    if mode == "1":
        return page.bands.astype(np.uint8) * np.uint8(255), turned
    if mode in {"P", "PA"}:
        colours = np.asarray(image.convert("RGB"))
        # A palette of greys is a grey picture. Of the whole palette: pages and files of one kind are to stay alike.
        is_grey = _palette_is_grey(image)
        return (colours[:, :, 0], ()) if is_grey else (colours, ("its palette was looked up: colour",))
    if mode in {"LA", "La", "RGBA", "RGBa"}:
        return _without_alpha(page)
    if mode in {"RGB", "RGBX"}:
        reduced = ("its 16 bits a channel are read as 8",) if "16" in page.raw_mode else ()
        return page.bands[:, :, :3], reduced
    if mode in {"L", "I", "F"} or mode.startswith("I;16"):
        return page.bands, turned
    raise UnusableVoxels(_strange(page.path, mode))


def _label_values(page: _Page) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Return the label values (rows, columns) as the file has them, and notes."""
    mode, values = page.image.mode, page.bands
    # Masks of ImageJ are often stored with white as 0, and then say how to show them, not what they mean: undo it.
    as_stored = ("stored with white as 0: the numbers are taken as stored, 0 is background",)
    if mode == "1":
        values = values.astype(np.uint8)
        return (1 - values, as_stored) if page.turned_round else (values, ())
    if mode == "P":
        return values, _palette_notes(page.image)
    if mode == "L":
        # Two and four bits were stretched to eight: 1 of 0..3 became 85.
        stretch = {"L;2": 85, "L;4": 17}.get(page.raw_mode[:3], 1)
        values = 255 - values if page.turned_round else values
        return values // np.uint8(stretch) if stretch > 1 else values, as_stored if page.turned_round else ()
    if mode in {"LA", "La", "RGBA", "RGBa", "RGB", "RGBX"}:
        if "16" in page.raw_mode:
            message = (
                f"{page.path}: a mask of 16-bit colour, or of 16-bit grey with transparency, which Pillow cuts to 8 "
                f"bits. Save it as plain grey (a single channel)."
            )
            raise UnusableLabel(message)
        colours, notes = _without_alpha(page) if mode not in {"RGB", "RGBX"} else (values[:, :, :3], ())
        return _grey_of_equal_colours(page.path, colours), notes
    if mode in {"I", "F"} or mode.startswith("I;16"):
        return values, ()
    raise UnusableVoxels(_strange(page.path, mode))


def _binary_values(page: _Page) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Return (rows, columns), 0 where the picture is black, and notes: colours tell a structure, not its number."""
    if page.image.mode == "P":
        # By colour: in a palette of black and white, index 0 may well be the white.
        return np.asarray(page.image.convert("RGB")).max(axis=2), ()
    if page.image.mode in {"RGB", "RGBX"}:
        return page.bands[:, :, :3].max(axis=2), ()
    if page.image.mode in {"LA", "La", "RGBA", "RGBa"}:
        values, notes = _without_alpha(page)
        return (values.max(axis=2) if values.ndim == 3 else values), notes
    return _label_values(page)


def _without_alpha(page: _Page) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Leave a constant transparency out; what lies under another one is anybody's guess."""
    if page.raw_mode.startswith("LA;16"):
        message = (
            f"{page.path}: 16-bit grey with transparency, which Pillow cuts to 8 bits. Save it without transparency."
        )
        raise UnusableVoxels(message)
    bands = page.bands
    alpha = bands[:, :, -1]
    if alpha.min() != alpha.max():
        message = (
            f"{page.path}: its transparency differs from pixel to pixel ({alpha.min()} to {alpha.max()}), so what the "
            f"picture shows depends on what lies behind it. Save it without transparency (an alpha channel)."
        )
        raise UnusableVoxels(message)
    values = bands[:, :, 0] if bands.shape[2] == 2 else bands[:, :, :3]
    return values, ("its transparency is the same everywhere and was left out",)


def _grey_of_equal_colours(path: Path, colours: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if colours.ndim == 2:
        return colours
    if (colours == colours[:, :, :1]).all():
        return colours[:, :, 0]
    found = len(np.unique(colours.reshape(-1, 3), axis=0))
    message = (
        f"{path}: a mask of {found} colours, and no rule says which number each of them is. Save it with one grey "
        f"value a class, or with a palette (its indices are taken), e.g. with Pillow: "
        f"Image.fromarray(numbers.astype('uint8')).save('mask.png')."
    )
    raise UnusableLabel(message)


def _narrowed(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return 32-bit integers as 16-bit ones where these hold them, else as float32; others as they are."""
    if values.dtype.kind not in "ui" or values.dtype.itemsize < 4:
        return values
    for kind in (np.uint16, np.int16):
        if np.iinfo(kind).min <= values.min() and values.max() <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(np.float32)


def _palette(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the colours (n, 3)."""
    return np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)


def _palette_is_grey(image: Image.Image) -> bool:
    colours = _palette(image)
    return bool((colours == colours[:, :1]).all())


def _palette_notes(image: Image.Image) -> tuple[str, ...]:
    colours = _palette(image)
    if len(colours) and colours[0].any():
        return ("its palette indices are the labels; index 0, the background, is not black",)
    return ("its palette indices are the labels",)


def _restored(
    path: Path, pages: list[npt.NDArray[Any]], *, binary: bool, threshold: float | None
) -> tuple[list[npt.NDArray[Any]], tuple[str, ...]]:
    """Bring a mask that went through JPEG back to 0 and 255 (1 where `binary`), where that is what it was."""
    limit = 127.5 if threshold is None else threshold * 255
    if not binary and threshold is None:
        odd = sum(map(_third_values, pages))
        bright = sum(int(np.count_nonzero(page > limit)) for page in pages)
        if odd > max(2 * _JPEG_BLOCK, bright // 10):
            message = (
                f"{path}: a mask that was compressed as JPEG, which changes values, and {odd} pixels were neither 0 "
                f"nor 255. Take the mask as PNG from where it was drawn; if it is one structure, --label-threshold 0.5 "
                f"takes what is brighter than half."
            )
            raise UnusableLabel(message)
    high = np.uint8(1 if binary else 255)
    restored = [np.where(page > limit, high, np.uint8(0)) for page in pages]
    return restored, (f"JPEG changes the values of a mask: those above {limit:g} count as {high}, others as 0",)


def _third_values(page: npt.NDArray[Any]) -> int:
    """Count the pixels of a JPEG mask that cannot come from 0 and 255 alone.

    Where a border runs through a block, compression leaves any value; a block of one value keeps it nearly exactly.
    """
    rows, columns = (-(-size // _JPEG_BLOCK) for size in page.shape)
    missing = [(0, blocks * _JPEG_BLOCK - size) for blocks, size in zip((rows, columns), page.shape, strict=True)]
    blocks = np.pad(page, missing, mode="edge").reshape(rows, _JPEG_BLOCK, columns, _JPEG_BLOCK)
    darkest, brightest = (extreme(axis=(1, 3), keepdims=True) for extreme in (blocks.min, blocks.max))
    return int(np.count_nonzero((brightest < 128) & (blocks > 1)) + np.count_nonzero((darkest >= 128) & (blocks < 254)))


def _stacked(pages: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return (columns, rows, pages) or (columns, rows, pages, bands), columns fastest in memory."""
    rows, columns, *bands = pages[0].shape
    # Column fastest, then row, then page; the bands of a pixel stay together.
    values = np.empty((len(pages), rows, columns, *bands), pages[0].dtype)
    for index, page in enumerate(pages):
        values[index] = page
    return values.transpose(2, 1, 0, *range(3, values.ndim))


def _strange(path: Path, mode: str) -> str:
    return (
        f"{path}: the pixels are of the kind {mode!r}; grey, RGB and palette pictures are taken. Convert it first, "
        f"e.g. with Pillow: Image.open(old).convert('RGB').save('new.png')."
    )
