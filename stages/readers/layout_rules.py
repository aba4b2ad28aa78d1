"""How each dataset layout pairs images with labels: one function a layout, from a folder to a `Pairing`.

A rule returns None where it does not recognise the folder. Rules look at names, at ``dataset.json``, at h5 keys and at
DICOM headers, and read no voxel. They give nobody an id: `layouts` does that for all of them alike.
Hidden files, among them macOS's ``._x``, are never seen.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ...store.errors import InputError, UnreadableFile, UsageError
from .base import ReaderName
from .dataset_json import DatasetJson, read_dataset_json
from .dicom import Series, find_series
from .hdf5 import has_label
from .naming import frame_stripped, stem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["RULES", "Candidate", "LayoutOptions", "Pairing", "Rule", "is_hdf5", "is_nifti", "single_file"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutOptions:
    """What the user may choose about a folder."""

    id_key: bytes = field(repr=False)
    """The secret under which ids and identities are hashed."""
    ids: Literal["auto", "stem", "hash"] = "auto"
    """auto: stems in named research layouts, hashes elsewhere."""
    subject_regex: str | None = None
    """Searched in the stem; its first group, or else the whole match, is the subject."""
    channel: int | None = None
    """Which of ``_0000``, ``_0001``, ... to take."""
    label_suffix: str | None = None
    """Which label to take where an image has several: what follows the image's stem, as ``seg-manual``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One image with its label, not named yet."""

    image: tuple[Path, ...]
    label: Path | None
    reader: ReaderName
    stem: str
    """The id, where stems are ids; what ``--subject`` is searched in."""
    stem_is_id: bool
    """Whether the layout is one whose stems are safe to keep."""
    patient: str | None
    """The subject where stems are ids; None where only a hash may be kept."""
    patient_secret: str
    """What the subject is a hash of elsewhere; empty: the volume is a subject of its own."""
    series_uid: str | None = field(default=None, repr=False)
    """Names the source of a DICOM series; None: its path does."""
    modality: str | None = None
    shown: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """What a rule found."""

    layout: str
    candidates: list[Candidate]
    refused: list[tuple[str, str]] = field(default_factory=list)
    """(path as shown, reason)."""
    label_names: dict[int, str] | None = None
    label_suffix: str | None = None
    """The one ending that all labels found share, where labels go by ending."""


Rule: TypeAlias = "Callable[[Path, LayoutOptions], Pairing | None]"


def training_folders(root: Path, options: LayoutOptions) -> Pairing | None:
    """``imagesTr``, ``labelsTr`` and ``imagesTs``: Medical Segmentation Decathlon, and nnU-Net's raw datasets."""
    if not (root / "imagesTr").is_dir():
        return None
    described = _described(root)
    training, test = _nifti_in(root / "imagesTr"), _nifti_in(root / "imagesTs")
    labels = [*_nifti_in(root / "labelsTr"), *_nifti_in(root / "labelsTs")]
    nnunet = described.dialect == "nnunet" if described else _channelled([*training, *test], labels)
    if nnunet and described and described.file_ending not in {".nii", ".nii.gz"}:
        message = (
            f"{root}: dataset.json says the files end in {described.file_ending}; images in NIfTI (.nii, .nii.gz) are "
            f"taken. Convert images and labels, and set its file_ending to .nii.gz."
        )
        raise InputError(message)
    layout = "nnU-Net raw" if nnunet else "medical segmentation decathlon"
    return _paired_by_stem(
        root,
        images=[*training, *test],
        labels=labels,
        options=options,
        layout=layout,
        described=described,
        channelled=nnunet,
    )


def images_and_labels(root: Path, options: LayoutOptions) -> Pairing | None:
    """``images`` and ``labels``, paired by stem, with or without ``_0000`` after the image's."""
    if not (root / "images").is_dir():
        return None
    images, labels = _nifti_in(root / "images"), _nifti_in(root / "labels")
    if not images and not labels:
        return None
    return _paired_by_stem(
        root,
        images=images,
        labels=labels,
        options=options,
        layout="images and labels",
        described=_described(root),
        channelled=_channelled(images, labels),
    )


def bids(root: Path, options: LayoutOptions) -> Pairing | None:
    """``sub-*`` folders, labels under ``derivatives``: BIDS (Gorgolewski et al. 2016, bids-specification).

    A label belongs to the image whose stem and an underscore it starts with, the longest where several do.
    """
    subjects = sorted(folder for folder in root.glob("sub-*") if folder.is_dir())
    images = [path for folder in subjects for path in _walk(folder) if is_nifti(path)]
    if not images:
        return None
    by_stem = {stem(path): path for path in images}
    labels: dict[Path, dict[str, Path]] = {}
    refused: list[tuple[str, str]] = []
    for path in _walk(root / "derivatives"):
        if not is_nifti(path):
            continue
        name = stem(path)
        owners = [image for image in by_stem if name.startswith(f"{image}_")]
        if owners:
            owner = max(owners, key=len)
            labels.setdefault(by_stem[owner], {})[name[len(owner) + 1 :]] = path
        elif _SEGMENTATION.search(name.rpartition("_")[2]):  # other derivatives (maps, warps) are nobody's label
            refused.append((_shown(path, root), "a label without an image: no image's name is the start of its name"))
    chosen, ambiguous, suffix = _one_label_each(root, labels, options)
    candidates = [
        _candidate(
            root,
            path,
            label=chosen.get(path),
            modality=_bids_modality(path),
            patient=path.relative_to(root).parts[0],
        )
        for path in images
        if path not in ambiguous
    ]
    refused += [(_shown(path, root), reason) for path, reason in ambiguous.items()]
    return Pairing(layout="BIDS", candidates=candidates, refused=refused, label_suffix=suffix)


def loose_files(root: Path, options: LayoutOptions) -> Pairing | None:
    """h5 volumes, DICOM series and NIfTI files in no particular order, in subfolders too."""
    parts = [part for part in (_hdf5_volumes(root), _dicom_series(root), _nifti_files(root, options)) if part]
    if not parts:
        return None
    return Pairing(
        layout=" and ".join(part.layout for part in parts),
        candidates=[candidate for part in parts for candidate in part.candidates],
        refused=[row for part in parts for row in part.refused],
        label_suffix=next((part.label_suffix for part in parts if part.label_suffix), None),
    )


RULES: tuple[Rule, ...] = (
    training_folders,
    images_and_labels,
    bids,
    loose_files,
)
"""In the order in which they are asked: the most particular first."""


def single_file(path: Path) -> Pairing | None:
    """One NIfTI or h5 file, or one DICOM slice."""
    if is_hdf5(path):
        label = path if _holds_label(path) else None
        candidate = _candidate(path.parent, path, label=label, reader="hdf5", stem_is_id=False)
        return Pairing(layout="single file", candidates=[candidate])
    if is_nifti(path):
        return Pairing(layout="single file", candidates=[_candidate(path.parent, path, stem_is_id=False)])
    return _dicom_series(path)


def is_nifti(path: Path) -> bool:
    """Tell a NIfTI file by its ending."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def is_hdf5(path: Path) -> bool:
    """Tell an HDF5 file by its ending."""
    return path.name.lower().endswith((".h5", ".hdf5"))


# --- pairs by stem: imagesTr/labelsTr, images/labels ---

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def _channelled(images: Iterable[Path], labels: Iterable[Path]) -> bool:
    """Tell whether a trailing ``_0000`` is a channel and not part of a name like ``liver_0001``.

    It is one where labels go without it; where there are no labels, if every image ends in ``_0000``.
    """
    label_stems = {stem(path) for path in labels}
    image_stems = [stem(path) for path in images]
    if not label_stems:
        return bool(image_stems) and all(name.endswith("_0000") for name in image_stems)
    without = (found["case"] for name in image_stems if name not in label_stems and (found := _CHANNEL.match(name)))
    return any(case in label_stems for case in without)


def _paired_by_stem(
    root: Path,
    *,
    images: Sequence[Path],
    labels: Sequence[Path],
    options: LayoutOptions,
    layout: str,
    described: DatasetJson | None,
    channelled: bool,
) -> Pairing:
    refused: list[tuple[str, str]] = []
    cases: dict[str, dict[int, Path]] = {}
    for path in images:
        found = _CHANNEL.match(stem(path)) if channelled else None
        case, number = (found["case"], int(found["channel"])) if found else (stem(path), 0)
        taken = cases.setdefault(case, {})
        if number in taken:
            refused.append((_shown(path, root), f"{_shown(taken[number], root)} has the same name; rename one of them"))
        else:
            taken[number] = path
    channel = _chosen_channel(root, cases, options, described, channelled=channelled)
    label_of: dict[str, Path] = {}
    for path in labels:
        if stem(path) not in cases:
            refused.append((_shown(path, root), "a label without an image: no image has its name"))
        elif stem(path) in label_of:
            reason = f"{_shown(label_of[stem(path)], root)} has the same name; rename one of them"
            refused.append((_shown(path, root), reason))
        else:
            label_of[stem(path)] = path
    candidates = []
    for case, channels in cases.items():
        if channel not in channels:
            there = ", ".join(str(number) for number in sorted(channels))
            shown = _shown(next(iter(channels.values())), root)
            refused.append((shown, f"there is no channel {channel} of this case (_{channel:04d}); it has {there}"))
            continue
        modality = described.modality(channel) if described else None
        candidates.append(
            _candidate(root, channels[channel], label=label_of.get(case), modality=modality, stem_of_case=case)
        )
    return Pairing(
        layout=layout,
        candidates=candidates,
        refused=refused,
        label_names=described.label_names if described else None,
    )


def _chosen_channel(
    root: Path,
    cases: dict[str, dict[int, Path]],
    options: LayoutOptions,
    described: DatasetJson | None,
    *,
    channelled: bool,
) -> int:
    names = described.channel_names if described else {}
    present = sorted({number for channels in cases.values() for number in channels})
    listed = ", ".join(f"{number} ({names[number]})" if number in names else str(number) for number in present)
    if options.channel is None:
        if len(present) > 1:
            message = f"{root}: the images have several channels: {listed}. Choose one: --channel {present[0]}."
            raise UsageError(message)
        return present[0] if present else 0
    if not channelled:
        message = (
            f"{root}: --channel {options.channel}, but the images have no channels (no _0000, _0001 in their names)."
        )
        raise UsageError(message)
    if options.channel not in present:
        message = f"{root}: there is no channel {options.channel}; there are: {listed}."
        raise UsageError(message)
    return options.channel


def _described(root: Path) -> DatasetJson | None:
    path = root / "dataset.json"
    return read_dataset_json(path) if path.exists() else None


# --- labels by what follows the image's stem: BIDS, loose NIfTI files ---

_SEGMENTATION = re.compile(r"seg|label|mask|lesion|(^|[^a-z])gt", re.IGNORECASE)
_LABEL_ENDING = re.compile(r"^(?P<image>.+)_(?P<suffix>(?:gt|seg|labels?|mask)(?:-[A-Za-z0-9]+)?)$", re.IGNORECASE)


def _one_label_each(
    root: Path, labels: dict[Path, dict[str, Path]], options: LayoutOptions
) -> tuple[dict[Path, Path], dict[Path, str], str | None]:
    """Choose a label for each image, from its labels by suffix.

    Returns
    -------
    chosen
        By image; images whose labels have all other suffixes than the one asked for are absent.
    ambiguous
        By image, the reason for which it is refused.
    suffix
        The one suffix of all that were chosen, or None.
    """
    wanted = options.label_suffix.lstrip("_") if options.label_suffix is not None else None
    present = sorted({suffix for by_suffix in labels.values() for suffix in by_suffix})
    if wanted is not None and present and wanted not in present:
        message = (
            f"{root}: no label ends in _{wanted}; there are: {', '.join(present)}. Choose one with --label-suffix."
        )
        raise UsageError(message)
    chosen: dict[Path, Path] = {}
    ambiguous: dict[Path, str] = {}
    used: set[str] = set()
    for image, by_suffix in labels.items():
        fitting = [suffix for suffix in sorted(by_suffix) if wanted in {None, suffix}]
        if len(fitting) == 1:
            chosen[image] = by_suffix[fitting[0]]
            used.add(fitting[0])
        elif fitting:
            listed = ", ".join(_shown(by_suffix[suffix], root) for suffix in fitting)
            ambiguous[image] = (
                f"it has several labels: {listed}. Choose one for all images, e.g. --label-suffix {fitting[0]}"
            )
    return chosen, ambiguous, next(iter(used)) if len(used) == 1 else None


def _nifti_files(root: Path, options: LayoutOptions) -> Pairing | None:
    files = [path for path in _walk(root) if is_nifti(path)]
    if not files:
        return None
    wanted = options.label_suffix.lstrip("_") if options.label_suffix is not None else None
    parts = {path: _image_and_suffix(stem(path), wanted) for path in files}
    image_of = {(path.parent, stem(path)): path for path in files if parts[path] is None}
    labels: dict[Path, dict[str, Path]] = {}
    refused: list[tuple[str, str]] = []
    for path, split in parts.items():
        if split is None:
            continue
        owner = image_of.get((path.parent, split[0]))
        if owner is None:
            refused.append(
                (_shown(path, root), f"a label (by its ending _{split[1]}) without an image {split[0]} beside it")
            )
        else:
            labels.setdefault(owner, {})[split[1]] = path
    chosen, ambiguous, suffix = _one_label_each(root, labels, options)
    candidates = []
    for path in image_of.values():
        if path in ambiguous:
            continue
        patient = frame_stripped(stem(path))
        # Two frames of one patient lie in one folder; any other file here is taken for a patient of its own.
        secret = "" if patient == stem(path) else str(path.parent.resolve() / patient)
        candidates.append(_candidate(root, path, label=chosen.get(path), stem_is_id=False, patient_secret=secret))
    refused += [(_shown(path, root), reason) for path, reason in ambiguous.items()]
    return Pairing(layout="NIfTI files", candidates=candidates, refused=refused, label_suffix=suffix)


def _image_and_suffix(name: str, wanted: str | None) -> tuple[str, str] | None:
    """Split a label's stem into its image's and the suffix; None for what is an image."""
    if wanted and name.endswith(f"_{wanted}") and len(name) > len(wanted) + 1:
        return name[: -len(wanted) - 1], wanted
    found = _LABEL_ENDING.match(name)
    return (found["image"], found["suffix"]) if found else None


_MODALITY_OF_FOLDER = {"ct": "CT", "anat": "MR", "dwi": "MR", "func": "MR", "fmap": "MR", "perf": "MR", "pet": "PT"}


def _bids_modality(path: Path) -> str | None:
    suffix = stem(path).rpartition("_")[2].lower()
    return _MODALITY_OF_FOLDER.get(suffix) or _MODALITY_OF_FOLDER.get(path.parent.name.lower())


# --- one format each ---


def _hdf5_volumes(root: Path) -> Pairing | None:
    files = [path for path in _walk(root) if is_hdf5(path)]
    if not files:
        return None
    candidates = [_candidate(root, path, label=path if _holds_label(path) else None, reader="hdf5") for path in files]
    return Pairing(layout="h5 volumes", candidates=candidates)


def _holds_label(path: Path) -> bool:
    try:
        return has_label(path)
    except UnreadableFile:
        return False  # reading the image says what is wrong with the file


def _dicom_series(root: Path) -> Pairing | None:
    series, refused_files = find_series(root)
    if not series and not refused_files:
        return None
    homes = [Path(os.path.commonpath([path.parent for path in one.paths])) for one in series]
    candidates = []
    for one, home in zip(series, homes, strict=True):
        alone = homes.count(home) == 1
        tag = f"series {one.number}" if one.number is not None else "series without a number"
        shown = _shown(home, root if root.is_dir() else root.parent)
        candidates.append(
            Candidate(
                image=one.paths,
                label=None,
                reader="dicom",
                stem=home.resolve().name if alone else f"{home.resolve().name}_{_series_name(one)}",
                stem_is_id=False,
                patient=None,
                patient_secret=one.patient_id,
                series_uid=one.uid,
                modality=one.modality,
                shown=shown if alone else f"{shown} ({tag}, {len(one.paths)} files)",
            )
        )
    refused = []
    for files in refused_files:
        more = f" (and {len(files.paths) - 1} more like it)" if len(files.paths) > 1 else ""
        refused.append((_shown(files.paths[0], root if root.is_dir() else root.parent), files.reason + more))
    return Pairing(layout="DICOM series", candidates=candidates, refused=refused)


def _series_name(series: Series) -> str:
    return "series" if series.number is None else f"{series.number}"


# --- small helpers ---


def _candidate(
    root: Path,
    path: Path,
    *,
    label: Path | None = None,
    reader: ReaderName = "nifti",
    modality: str | None = None,
    stem_is_id: bool = True,
    stem_of_case: str | None = None,
    patient: str | None = None,
    patient_secret: str | None = None,
) -> Candidate:
    name = stem_of_case or stem(path)
    named_patient = patient or frame_stripped(name)
    return Candidate(
        image=(path,),
        label=label,
        reader=reader,
        stem=name,
        stem_is_id=stem_is_id,
        patient=named_patient,
        patient_secret=named_patient if patient_secret is None else patient_secret,
        modality=modality,
        shown=_shown(path, root),
    )


def _nifti_in(folder: Path) -> list[Path]:
    """Return the NIfTI files directly in a folder, sorted; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_nifti(path) and not path.name.startswith("."))


def _walk(folder: Path) -> list[Path]:
    """Return the files under a folder, sorted by path, hidden ones left out."""
    found: list[Path] = []
    for directory, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(directory, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _shown(path: Path, root: Path) -> str:
    relative = path.relative_to(root).as_posix()
    return root.resolve().name if relative == "." else relative
