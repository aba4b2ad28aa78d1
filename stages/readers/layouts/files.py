"""Single files of the formats that are not DICOM: which kind, how large, how many volumes, and one as a candidate."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import h5py
import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from PIL import Image

from ....store.errors import UnreadableFile
from ..base import LabelFiles
from ..itk import is_itk, open_header
from ..naming import frame_stripped, stem
from ..nifti import affine_mm
from ..picture import is_picture
from .base import Candidate, LayoutOptions, Tree, identity_text

__all__ = [
    "FileKind",
    "Measured",
    "candidate_of",
    "case_and_channel",
    "chosen_volume",
    "files_of",
    "header_reads",
    "kind_of",
    "label_of",
    "measured",
    "patient_of",
    "same_grid",
]

FileKind = Literal["nifti", "hdf5", "itk", "picture"]
"""As `ReaderName`."""

# What the libraries raise for damaged files. The reader says what is wrong; here it only means "size unknown".
_DAMAGE = (
    EOFError,
    HeaderDataError,
    Image.DecompressionBombError,
    ImageFileError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    UnreadableFile,
    ValueError,
    struct.error,
    zlib.error,
)

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_SEGMENT_NAME = re.compile(r"Segment(\d+)_Name")
_COLOURS = 3
_SAME_MM = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a file's header says; all empty where it cannot be read."""

    shape: tuple[int, ...] = ()
    """(i, j, k) and what follows, without trailing ones after the third."""
    volumes: int = 1
    """How many there are to choose from."""
    segments: tuple[str, ...] = ()
    """The names of its segments, of a ``.seg.nrrd``."""

    @property
    def size(self) -> str:
        """``512 x 512 x 120``, or nothing."""
        return " x ".join(map(str, self.shape))


def kind_of(path: Path) -> FileKind | None:
    """Tell the format of a file by its ending; None for DICOM, and for what samkit does not read."""
    lower = path.name.lower()
    if lower.endswith((".nii", ".nii.gz")):
        return "nifti"
    if lower.endswith((".h5", ".hdf5")):
        return "hdf5"
    if is_itk(path):
        return "itk"
    return "picture" if is_picture(path) else None


def files_of(paths: Iterable[Path], *kinds: FileKind) -> list[Path]:
    """Return the files of these formats, in the order given."""
    return [path for path in paths if kind_of(path) in kinds]


def case_and_channel(name: str) -> tuple[str, int] | None:
    """Split a stem that may end in nnU-Net's channel; None where it does not end in four digits.

    Examples
    --------
    >>> case_and_channel("prostate_03_0001"), case_and_channel("prostate_03")
    (('prostate_03', 1), None)
    """
    found = _CHANNEL.fullmatch(name)
    return (found["case"], int(found["channel"])) if found else None


def measured(path: Path) -> Measured:
    """Read what the header of a file says about its size; no voxel is read."""
    try:
        kind = kind_of(path)
        if kind == "nifti":
            return _of_axes(tuple(int(size) for size in nib.load(path).shape))  # type: ignore[attr-defined]
        if kind == "itk":
            return _measured_itk(path)
        if kind == "hdf5":
            return _measured_hdf5(path)
        return _measured_picture(path)
    except _DAMAGE:
        return Measured()


def header_reads(path: Path) -> bool:
    """Tell whether the header of a file says a size."""
    return bool(measured(path).shape)


def same_grid(one: Path, other: Path) -> bool:
    """Tell from their headers whether two NIfTI files lie on one grid, voxel by voxel."""
    try:
        first: Any = nib.load(one)
        second: Any = nib.load(other)
        # A header without units, as nibabel writes them, means those of the other one.
        one_mm = affine_mm(first, units=int(second.header["xyzt_units"]))
        other_mm = affine_mm(second, units=int(first.header["xyzt_units"]))
        return bool(first.shape[:3] == second.shape[:3] and np.allclose(one_mm, other_mm, atol=_SAME_MM))
    except _DAMAGE:
        return False


def _of_axes(shape: tuple[int, ...]) -> Measured:
    significant = list(shape)
    while len(significant) > 3 and significant[-1] == 1:
        significant.pop()
    return Measured(shape=tuple(significant), volumes=significant[3] if len(significant) == 4 else 1)


def _measured_itk(path: Path) -> Measured:
    import SimpleITK

    reader = open_header(path)
    names = {
        int(found[1]): reader.GetMetaData(key).strip()
        for key in reader.GetMetaDataKeys()
        if (found := _SEGMENT_NAME.fullmatch(key))
    }
    segments = tuple(dict.fromkeys(names[number] for number in sorted(names)))
    size, components = tuple(reader.GetSize()), reader.GetNumberOfComponents()
    colour = (
        components == _COLOURS
        and reader.GetPixelID() == SimpleITK.sitkVectorUInt8
        and not ("NRRD_kinds[pixel]" in reader.GetMetaDataKeys() and reader.GetMetaData("NRRD_kinds[pixel]") == "list")
    )
    axes = _of_axes(size if components == 1 or colour else (*(*size, 1)[:3], components))
    return Measured(shape=axes.shape, volumes=axes.volumes, segments=segments)


def _measured_hdf5(path: Path) -> Measured:
    with h5py.File(path, "r") as file:
        image = file.get("image", file.get("label"))
        if not isinstance(image, h5py.Dataset):
            return Measured()  # its reader says what is missing
        return Measured(shape=tuple(int(size) for size in reversed(image.shape)))


def _measured_picture(path: Path) -> Measured:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a large picture: its reader says so
        with Image.open(path) as image:
            pages = getattr(image, "n_frames", 1) if path.suffix.lower() in {".tif", ".tiff"} else 1
            return Measured(shape=(*image.size, pages) if pages > 1 else image.size)


def chosen_volume(
    volumes: int, options: LayoutOptions, *, channelled: bool = False, names: Mapping[int, str] | None = None
) -> tuple[int | None, str | None]:
    """Choose one volume of a file.

    Parameters
    ----------
    volumes
        How many it holds.
    channelled
        Whether ``--channel`` chooses among files (``_0000``, ``_0001``) and therefore not within one.
    names
        What the dataset calls its channels.

    Returns
    -------
    int or None
        Which one; None where there is only one, or where it is refused.
    str or None
        The reason for refusing it.
    """
    if volumes == 1:
        return None, None
    by_channel = _option_within(options, channelled=channelled) == "channel"
    wanted = options.channel if by_channel else options.volume.time_index
    called = {
        number: name for number, name in (names or {}).items() if number < volumes and volumes == len(names or {})
    }
    listed = ", ".join(f"{number} ({name})" for number, name in called.items())
    if wanted is None:
        choice = f"--channel {listed}" if listed else f"--time-index 0 to {volumes - 1}"
        more = "" if channelled or listed else f" (--channel 0 to {volumes - 1}, where they are channels of one image)"
        return None, f"4-D: {volumes} volumes in one file. Choose one: {choice}{more}"
    if not 0 <= wanted < volumes:
        option = "--channel" if by_channel else "--time-index"
        return None, f"{option} {wanted}: there are {volumes} volumes in the file, {listed or f'0 to {volumes - 1}'}"
    return wanted, None


def _option_within(options: LayoutOptions, *, channelled: bool) -> Literal["channel", "time_index"]:
    """Return which option chooses within a file."""
    return "channel" if options.channel is not None and not channelled else "time_index"


def candidate_of(
    tree: Tree,
    path: Path,
    options: LayoutOptions,
    *,
    label: LabelFiles | None = None,
    label_shown: str = "",
    modality: str | None = None,
    stem_is_id: bool = True,
    stem_of_case: str | None = None,
    patient: str | None = None,
    patient_secret: str | None = None,
    channelled: bool = False,
    channel_names: Mapping[int, str] | None = None,
    chosen: tuple[tuple[str, int | float], ...] = (),
    size: Measured | None = None,
    notes: tuple[str, ...] = (),
    test_of: str | None = None,
) -> Candidate:
    """Return a file as a candidate, refused where it holds several volumes and none was chosen.

    Parameters
    ----------
    stem_of_case
        The stem without what is no part of the case, such as a channel.
    patient
        By default the stem, ACDC's ``_frameNN`` left out.
    patient_secret
        By default `patient`. Where it is empty and the file holds several volumes, the file: it is one subject,
        whichever of them is taken.
    chosen
        Which options chose the file among others of its case; the one that chooses within it is added.
    size
        Where the header was read already.
    """
    kind = kind_of(path)
    if kind is None:
        message = f"{path}: no file of a format that is known by its ending"
        raise ValueError(message)
    header = size or measured(path)
    index, reason = chosen_volume(header.volumes, options, channelled=channelled, names=channel_names)
    name = stem_of_case or stem(path)
    named_patient = patient or frame_stripped(name)
    told = () if index is None else (f"4-D: volume {index} of {header.volumes} taken",)
    secret = named_patient if patient_secret is None else patient_secret
    if not secret and index is not None:
        secret = identity_text(path, options)
    if index is not None:
        chosen = (*chosen, (_option_within(options, channelled=channelled), index))
    found = Candidate(
        image=(path,),
        label=label,
        reader=kind,
        stem=name,
        stem_is_id=stem_is_id,
        patient=named_patient,
        patient_secret=secret,
        volume_index=index,
        chosen=chosen,
        modality=modality,
        shown=tree.shown(path),
        size=header.size,
        label_shown=label_shown,
        notes=(*told, *notes),
        test_of=test_of,
    )
    return found if reason is None else found.refused(reason)


def patient_of(path: Path, options: LayoutOptions, case: str | None = None) -> str:
    """Return what the subject of a file is a hash of, whose name may be anything; empty: the file itself.

    Frames of a patient, and channels of a case, lie in one folder; any other file is a patient of its own.

    Parameters
    ----------
    case
        The stem without what is no part of the case, such as a channel.
    """
    patient = frame_stripped(case or stem(path))
    if patient == stem(path):
        return ""
    if options.logical is None:
        return str(path.parent.resolve() / patient)
    return str(PurePath(identity_text(path, options)).parent / patient)


def label_of(path: Path, options: LayoutOptions, *, channelled: bool = False) -> LabelFiles:
    """Return a file as a label; of one with several volumes the chosen one, or None for its reader to complain of."""
    kind = kind_of(path)
    if kind is None:
        message = f"{path}: no file of a format that is known by its ending"
        raise ValueError(message)
    chosen = options.volume.time_index is not None or (options.channel is not None and not channelled)
    if kind != "itk" and not (kind == "nifti" and chosen):
        return LabelFiles(reader=kind, paths=(path,))
    header = measured(path)
    index = None if header.segments else chosen_volume(header.volumes, options, channelled=channelled)[0]
    return LabelFiles(reader=kind, paths=(path,), names=header.segments, volume_index=index)
