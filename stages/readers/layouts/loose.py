"""Scans in no particular order, in subfolders too: h5 volumes, DICOM, NIfTI, NRRD and MetaImage, pictures, mixed.

Labels are told by their ending (``scan_seg.nii.gz`` beside ``scan.nii.gz``), whatever the two formats, or are DICOM-SEG
and RTSTRUCT. A NIfTI file that sounds like a label and names no image belongs to the only one on its grid whose name
begins as its own. A map beside a DICOM series, or in a folder above it, belongs to it where it is the only one there.
Pictures beside or above other scans are taken for previews and left out. Of channels in a file each (``_0000``) the one
that was asked for is taken: see `channels`.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..dicom_series import triage
from ..labels import LabelChoice
from ..naming import stem
from .base import Candidate, LayoutOptions, Pairing, Tree
from .channels import channels_of
from .dicom import label_options, other_refusals, scans, with_label
from .endings import LabelOption, image_and_suffix, is_called_label, one_label_each, text_before_label_word
from .files import candidate_of, files_of, kind_of, label_of, patient_of, same_grid
from .h5 import h5_volumes, label_inside

__all__ = ["LOOSE_LAYOUTS", "loose_files", "merged", "of_structures", "single_file"]

_H5, _DICOM = "h5 volumes", "DICOM series"
_FILE_LAYOUTS = {
    "NIfTI files": (".nii", ".nii.gz"),
    "NRRD files": (".nrrd", ".nhdr"),
    "MetaImage files": (".mha", ".mhd"),
    "pictures": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
}
_SINGLE = "single file"
_BY_GRID = "its label does not name it: it is the only one here on its grid"
_LISTED = 12

LOOSE_LAYOUTS = frozenset({_H5, _DICOM, _SINGLE, *_FILE_LAYOUTS})
"""What a layout is called that is no named one, each of several joined by "and"."""


def loose_files(tree: Tree, options: LayoutOptions) -> Pairing | None:
    """Whatever a folder holds that samkit reads."""
    every = tree.files
    h5 = h5_volumes(tree, files_of(every, "hdf5"), options)
    rest = _others(tree, every, options)
    parts = [part for part in (h5, rest) if part is not None]
    return merged(parts) if parts else None


def merged(parts: Sequence[Pairing]) -> Pairing:
    """Join what several rules found in one folder; what labels mean is kept only where one part alone has labels."""
    if len(parts) == 1:
        return parts[0]
    with_labels = [part for part in parts if any(candidate.label is not None for candidate in part.candidates)]
    meanings = [(part.label_names, part.labels, part.overlap) for part in with_labels]
    only = with_labels[0] if with_labels and all(one == meanings[0] for one in meanings) else None
    notes = [note for part in parts for note in part.notes]
    if only is None and any(part.labels is not None or part.label_names is not None for part in with_labels):
        notes.append("labels of several kinds in one folder: --labels says which are taken, and what they are called")
    return Pairing(
        layout=" and ".join(dict.fromkeys(part.layout for part in parts)),
        candidates=[candidate for part in parts for candidate in part.candidates],
        refused=[row for part in parts for row in part.refused],
        label_names=only.label_names if only else None,
        labels=only.labels if only else None,
        overlap=only.overlap if only else None,
        label_suffix=next((part.label_suffix for part in parts if part.label_suffix), None),
        notes=tuple(dict.fromkeys(notes)),
        leftover=tuple(path for part in parts for path in part.leftover),
    )


def of_structures(candidates: Sequence[Candidate]) -> tuple[LabelChoice | None, tuple[str, ...]]:
    """Return one class a structure, where labels hold named structures, and what to tell of it."""
    labels = [candidate.label for candidate in candidates if candidate.label is not None]
    named = [label for label in labels if label.names]
    if not named:
        return None, ()
    numbers = [label for label in labels if not label.holds_structures and not label.names]
    if numbers:
        note = (
            f"{len(named)} of {len(labels)} labels hold named structures, and {len(numbers)} numbers: --labels says "
            f"which are taken, and what they are called"
        )
        return None, (note,)
    names = {name for label in named for name in label.names}
    choice = LabelChoice.of_structures(names)
    ordered = list(choice.names.values())
    more = f", ... ({len(ordered)} in all)" if len(ordered) > _LISTED else ""
    return choice, (f"one class a structure, in the order of their names: {', '.join(ordered[:_LISTED])}{more}",)


def single_file(path: Path, options: LayoutOptions) -> Pairing | None:
    """One file, of any format."""
    tree = Tree.of_file(path)
    kind = kind_of(path)
    if kind is None:
        return _others(tree, [path], options)
    label = label_inside(path) if kind == "hdf5" else None
    candidate = candidate_of(tree, path, options, label=label, stem_is_id=False, patient_secret="")
    other_channel = channels_of([path], options).refused.get(path)
    return Pairing(
        layout=_SINGLE, candidates=[candidate if other_channel is None else candidate.refused(other_channel)]
    )


def _others(tree: Tree, every: Sequence[Path], options: LayoutOptions) -> Pairing | None:
    """Everything but h5."""
    wanted = options.label_suffix.lstrip("_") if options.label_suffix is not None else None
    dicom = triage([path for path in every if kind_of(path) is None], options.volume, read=options.read_headers)
    series = scans(tree, dicom, options)
    objects = label_options(tree, dicom, series)
    refused = [*other_refusals(tree, dicom), *objects.refused]
    files, previews = _without_previews(files_of(every, "nifti", "itk", "picture"), [one.image for one in series])
    splits = {path: image_and_suffix(path, wanted) for path in files}
    owners = _Owners(series)
    splits |= _called_labels([path for path in files if splits[path] is None], owners, wanted)
    unlabelled = [path for path in files if splits[path] is None and text_before_label_word(path) is None]
    channels = channels_of(unlabelled, options)
    by_grid = _paired_by_grid([path for path in files if path not in channels.left_out], splits)
    image_of: dict[tuple[Path, str], Path] = {}
    for path in files:
        if splits[path] is None and path not in by_grid:
            first = image_of.setdefault((path.parent, stem(path)), path)
            if first != path:
                refused.append(tree.same_name(path, first))
    labels: dict[Path | int, list[LabelOption]] = defaultdict(list)
    for place, there in objects.options.items():
        labels[place] += there
    for path, image in by_grid.items():
        option = LabelOption(label=label_of(path, options), path=path, stem=stem(path), suffix="", note=_BY_GRID)
        labels[image].append(option)
    for path, split in splits.items():
        if split is None or path in by_grid:
            continue
        called = image_of.get((path.parent, split[0])) or channels.of_case(path.parent, split[0])
        owner: Path | int | None = None if called is None else channels.left_out.get(called, called)
        note, suffix = "", split[1]
        if owner is None and kind_of(path) != "picture" and (owner := owners.of(path)) is not None:
            note, suffix = "its label lies beside it and does not name it", ""
        label = label_of(path, options)
        if owner is None:
            reason = (
                f"a label (by its ending _{split[1]}) without an image {split[0]} beside it"
                if split[0]
                else "a label by its name, and none or several of the images beside it could be its own"
            )
            refused.append(tree.refusal(path, reason, label=label))
        else:
            labels[owner].append(LabelOption(label=label, path=path, stem=stem(path), suffix=suffix, note=note))
    chosen = one_label_each(tree, labels, options)
    candidates: list[Candidate] = []
    for place, candidate in enumerate(series):
        ambiguous = chosen.ambiguous.get(place)
        labelled = with_label(tree, candidate, chosen.by_image.get(place))
        candidates.append(labelled if ambiguous is None else candidate.refused(ambiguous, has_several_labels=True))
    for path in image_of.values():
        if path in channels.left_out:
            continue
        candidate = candidate_of(
            tree,
            path,
            options,
            stem_is_id=False,
            stem_of_case=channels.cases.get(path),
            patient_secret=patient_of(path, options, channels.cases.get(path)),
            channelled=path in channels.cases,
            chosen=(("channel", options.channel),) if path in channels.several and options.channel is not None else (),
        )
        if path in channels.refused:
            candidate = candidate.refused(channels.refused[path])
        ambiguous = chosen.ambiguous.get(path)
        labelled = with_label(tree, candidate, chosen.by_image.get(path) if candidate.reason is None else None)
        candidates.append(labelled if ambiguous is None else candidate.refused(ambiguous, has_several_labels=True))
    if not candidates and not refused:
        return None
    choice, told = of_structures(candidates)
    if previews:
        told = (*told, f"{len(previews)} picture(s) beside scans left out as previews; give their folder to take them")
    return Pairing(
        layout=" and ".join(_layouts(dicom_is_there=not dicom.empty, files=files)),
        candidates=candidates,
        refused=refused,
        labels=choice,
        label_suffix=chosen.suffix,
        notes=(*told, *channels.notes(options)),
    )


def _called_labels(files: Sequence[Path], owners: _Owners, wanted: str | None) -> dict[Path, tuple[str, str] | None]:
    """Return of files that are called ``mask``, ``segmentation-7`` or the like the stem of their image, and their own.

    It is the only image in their folder, or the only one there with their number (``volume-7``); empty where a series
    lies there, or none alone can be meant. Where nothing lies there that is called otherwise, they are files like any
    other.
    """
    called = {path for path in files if is_called_label(path, wanted)}
    images: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        if path not in called:
            images[path.parent].append(path)
    found: dict[Path, tuple[str, str] | None] = {}
    for path in called:
        near = images[path.parent]
        if owners.of(path) is not None:
            found[path] = "", stem(path)
        elif near:
            numbered = [image for image in near if _number_at_end(image) == _number_at_end(path)]
            meant = near if len(near) == 1 else numbered
            found[path] = (stem(meant[0]) if len(meant) == 1 else ""), stem(path)
    return found


def _number_at_end(path: Path) -> int | None:
    found = re.search(r"[0-9]+$", stem(path))
    return int(found[0]) if found else None


def _paired_by_grid(files: Sequence[Path], splits: Mapping[Path, tuple[str, str] | None]) -> dict[Path, Path]:
    """Pair NIfTI files that sound like labels, and whose names lead to no image, with the image of their grid.

    Returns
    -------
    dict
        Label to image: the only one in its folder that lies on its grid and begins with the same words
        (``case1_seg_mr`` and ``case1_mr_small``), and whose own name leads to no other label.
    """
    images = [path for path in files if kind_of(path) == "nifti" and splits[path] is None]
    named = {(path.parent, stem(path)) for path in images}
    spoken_for = {(path.parent, split[0]) for path, split in splits.items() if split is not None}
    labels = {
        path: begins
        for path in files
        if kind_of(path) == "nifti"
        and (begins := text_before_label_word(path)) is not None
        and ((split := splits[path]) is None or (path.parent, split[0]) not in named)
    }
    scans = [path for path in images if path not in labels and (path.parent, stem(path)) not in spoken_for]
    pairs = {}
    for label, begins in labels.items():
        near = [scan for scan in scans if scan.parent == label.parent and stem(scan).startswith(begins)]
        fitting = [scan for scan in near if same_grid(scan, label)]
        if len(fitting) == 1:
            pairs[label] = fitting[0]
    return pairs


class _Owners:
    """The DICOM series to which a map in their folder, or in one above, belongs."""

    def __init__(self, series: Sequence[Candidate]) -> None:
        self._directly: dict[Path, list[int]] = defaultdict(list)
        self._below: dict[Path, list[int]] = defaultdict(list)
        for place, candidate in enumerate(series):
            if candidate.reason is not None:
                continue
            home = Path(os.path.commonpath({path.parent for path in candidate.image}))
            self._directly[home].append(place)
            for above in home.parents:
                self._below[above].append(place)

    def of(self, path: Path) -> int | None:
        """Return the only series in the folder of a map, else the only one below it."""
        there = self._directly.get(path.parent) or self._below.get(path.parent, [])
        return there[0] if len(there) == 1 else None


def _without_previews(files: Sequence[Path], series: Sequence[Sequence[Path]]) -> tuple[list[Path], list[Path]]:
    """Part pictures that lie beside or above other scans from all other files."""
    homes = {path.parent for path in files if kind_of(path) != "picture"}
    homes |= {path.parent for paths in series for path in paths}
    above = homes | {parent for home in homes for parent in home.parents}
    previews = [path for path in files if kind_of(path) == "picture" and path.parent in above]
    left_out = set(previews)
    return [path for path in files if path not in left_out], previews


def _layouts(*, dicom_is_there: bool, files: Sequence[Path]) -> list[str]:
    endings = {path.name.lower() for path in files}
    found = [name for name, known in _FILE_LAYOUTS.items() if any(ending.endswith(known) for ending in endings)]
    return [*([_DICOM] if dicom_is_there else []), *found]
