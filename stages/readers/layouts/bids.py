"""BIDS (Gorgolewski et al. 2016, bids-specification): ``sub-*`` folders, labels beside images or under ``derivatives``.

A label belongs to the image whose stem and an underscore it starts with, the longest where several do. Else, as the
specification names derivatives (``sub-01_desc-lesion_mask``), to the one of its subject's images whose entities do not
contradict its own; of several, to the one on whose grid it lies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..naming import stem
from .base import LayoutOptions, Pairing, Refusal, Tree, counted_files, note_of_stems
from .endings import SEGMENTATION, LabelOption, one_label_each
from .files import candidate_of, files_of, label_of, same_grid

__all__ = ["bids"]

# What a defaced image's mask is called in raw data: where a face was, which nobody means by a label.
_DEFACING = "defacemask"
# Entities that tell an image of a subject from its others, and are in the name of a derivative of it; those that say
# what was made of it (desc, label, res) are not here. One in another space lies on another grid.
_OF_AN_IMAGE = frozenset(
    ["sub", "ses", "task", "acq", "ce", "trc", "rec", "dir", "run", "mod", "echo", "flip", "inv", "mt", "part", "space"]
)
_MODALITY_OF_FOLDER = {"ct": "CT", "anat": "MR", "dwi": "MR", "func": "MR", "fmap": "MR", "perf": "MR", "pet": "PT"}


def bids(tree: Tree, options: LayoutOptions) -> Pairing | None:
    """``sub-*`` folders with NIfTI files."""
    root = tree.root
    subjects = _files_of_subjects(tree)
    if not subjects:
        return None
    files = [path for name in sorted(subjects) for path in subjects[name]]
    defacing = [path for path in files if _suffix(path) == _DEFACING]
    others = [path for path in files if _suffix(path) != _DEFACING]
    beside = [path for path in others if SEGMENTATION.search(_suffix(path))]
    images = [path for path in others if not SEGMENTATION.search(_suffix(path))]
    by_stem = {stem(path): path for path in images}
    of_subject: dict[str, list[Path]] = defaultdict(list)
    for path in images:
        of_subject[path.relative_to(root).parts[0]].append(path)
    labels: dict[Path, list[LabelOption]] = defaultdict(list)
    refused: list[Refusal] = []
    for path in [*beside, *files_of(tree.under(root / "derivatives"), "nifti")]:
        name = stem(path)
        owner = _longest_start(name, by_stem)
        is_label = SEGMENTATION.search(_suffix(path)) is not None  # other derivatives are maps and warps
        suffix = "" if owner is None else name[len(stem(owner)) + 1 :]
        if owner is None and is_label:
            fitting = _of_same_entities(path, of_subject[name.partition("_")[0]])
            owner = fitting[0] if len(fitting) == 1 else None
            suffix = "_".join(part for part in name.split("_") if part.partition("-")[0] not in _OF_AN_IMAGE)
        if owner is not None:
            option = LabelOption(label=label_of(path, options), path=path, stem=name, suffix=suffix)
            labels[owner].append(option)
        elif is_label:
            reason = (
                "a label without an image: no image's name is the start of its name, and of the images of its subject "
                "not one alone has its entities (ses, run, acq, ...) and its grid"
            )
            refused.append(tree.refusal(path, reason, label=label_of(path, options)))
    chosen = one_label_each(tree, labels, options)
    candidates = []
    for path in images:
        option_of = chosen.by_image.get(path)
        candidate = candidate_of(
            tree,
            path,
            options,
            label=option_of.label if option_of else None,
            label_shown=tree.shown(option_of.path) if option_of else "",
            modality=_modality(path),
            patient=path.relative_to(root).parts[0],
        )
        ambiguous = chosen.ambiguous.get(path)
        candidates.append(candidate if ambiguous is None else candidate.refused(ambiguous, has_several_labels=True))
    told = (f"{counted_files(len(defacing))} of defacing left aside (_{_DEFACING})",) if defacing else ()
    return Pairing(
        layout="BIDS",
        candidates=candidates,
        refused=refused,
        label_suffix=chosen.suffix,
        notes=(*note_of_stems(options), *told),
    )


def _files_of_subjects(tree: Tree) -> dict[str, list[Path]]:
    """Return the NIfTI files below each ``sub-*`` folder of the root, in order."""
    found: dict[str, list[Path]] = defaultdict(list)
    for folder, files in tree.folders.items():
        parts = folder.relative_to(tree.root).parts if folder.is_relative_to(tree.root) else ()
        if parts and parts[0].startswith("sub-"):
            found[parts[0]] += files_of(files, "nifti")
    return {name: sorted(files, key=lambda path: path.parts) for name, files in found.items() if files}


def _of_same_entities(label: Path, images: Sequence[Path]) -> list[Path]:
    """Return the images whose entities are those of a label that is named after none; of several, those on its grid."""
    own = _entities(label)
    fitting = [
        image
        for image in images
        if own.get("ses") == (there := _entities(image)).get("ses")
        and all(there.get(name) == own[name] for name in own.keys() & _OF_AN_IMAGE)
    ]
    return fitting if len(fitting) < 2 else [image for image in fitting if same_grid(image, label)]


def _entities(path: Path) -> dict[str, str]:
    """Return the entities of a name.

    >>> _entities(Path("sub-01_ses-2_desc-lesion_mask.nii.gz"))
    {'sub': '01', 'ses': '2', 'desc': 'lesion'}
    """
    pairs = (part.partition("-") for part in stem(path).split("_"))
    return {name: value for name, dash, value in pairs if dash}


def _suffix(path: Path) -> str:
    """Return what BIDS calls the suffix of a name: ``T1w`` of ``sub-01_T1w.nii.gz``."""
    return stem(path).rpartition("_")[2]


def _longest_start(name: str, by_stem: dict[str, Path]) -> Path | None:
    """Return the image whose stem and an underscore a name starts with."""
    for end in range(len(name) - 1, 0, -1):
        if name[end] == "_" and name[:end] in by_stem:
            return by_stem[name[:end]]
    return None


def _modality(path: Path) -> str | None:
    suffix = stem(path).rpartition("_")[2].lower()
    return _MODALITY_OF_FOLDER.get(suffix) or _MODALITY_OF_FOLDER.get(path.parent.name.lower())
