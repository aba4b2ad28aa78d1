"""TotalSegmentator (Wasserthal et al. 2023), and what its tool writes: an image, and a mask a structure in a folder.

s0011/ct.nii.gz (or mri.nii.gz)
      segmentations/aorta.nii.gz ...
meta.csv                               which case is train, val or test; nothing else of it is read
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from ..base import LabelFiles
from ..naming import natural_key, stem
from .base import LABEL, Candidate, LayoutOptions, Pairing, Refusal, Tree, name_of
from .files import candidate_of, files_of

__all__ = ["totalsegmentator"]

_MODALITIES = {"ct": "CT", "mri": "MR", "mr": "MR", "pet": "PT"}
_CASE = re.compile(r"s\d{4}")
_SPLIT = "totalsegmentator"


def totalsegmentator(tree: Tree, options: LayoutOptions) -> Pairing | None:
    """``ct.nii.gz`` beside a folder ``segmentations``."""
    masks = {
        folder.parent: sorted(found, key=lambda path: natural_key(path.name))
        for folder, files in tree.folders.items()
        if folder.name == "segmentations" and folder != tree.root and (found := files_of(files, "nifti"))
    }
    cases = {folder: images for folder in masks if (images := _images(tree.within(folder), only=True))}
    if not cases:
        return None
    places = {folder.parent for folder in cases}
    test_cases = _test_cases(tree, places)
    # Cases without masks are cases too, where others beside them have some.
    for folder, files in tree.folders.items():
        if folder not in cases and folder.parent in places and (images := _images(files, only=False)):
            cases[folder] = images
    candidates: list[Candidate] = []
    refused: list[Refusal] = []
    for folder, images in sorted(cases.items()):
        name = name_of(folder, options)
        known = _CASE.fullmatch(name) is not None
        structures = tuple((stem(path), (path,)) for path in masks.get(folder, ()))
        label = None
        if structures and len(images) == 1:
            label = LabelFiles(
                reader="mask-files",
                paths=tuple(masks[folder]),
                structures=structures,
                names=tuple(structure for structure, _ in structures),
            )
        elif structures:
            place = masks[folder][0].parent
            reason = f"{len(images)} images beside it: nobody knows which one these masks were drawn on"
            refused.append(tree.refusal(place, reason, modality=LABEL))
        candidates += [
            candidate_of(
                tree,
                path,
                options,
                label=label,
                label_shown=f"{tree.shown(folder / 'segmentations')} ({len(structures)} structures)" if label else "",
                modality=_MODALITIES.get(stem(path).lower()),
                stem_is_id=known,
                stem_of_case=name if len(images) == 1 else f"{name}_{stem(path)}",
                patient=name,
                patient_secret=name if known else "",
                test_of=_SPLIT if name in test_cases else None,
            )
            for path in images
        ]
    part = {path for images in cases.values() for path in images} | {
        path for folder in cases for path in masks.get(folder, ())
    }
    return Pairing(
        layout="TotalSegmentator",
        candidates=candidates,
        refused=refused,
        leftover=tuple(path for path in tree.files if path not in part),
    )


def _images(files: Iterable[Path], *, only: bool) -> list[Path]:
    """Return the images of a case: called after their modality or, where asked for, the only NIfTI file there is."""
    there = files_of(files, "nifti")
    return [path for path in there if stem(path).lower() in _MODALITIES] or (there if only and len(there) == 1 else [])


def _test_cases(tree: Tree, places: set[Path]) -> frozenset[str]:
    """Return the cases that ``meta.csv`` puts on the test side; of its other columns none is looked at."""
    found: set[str] = set()
    for place in sorted(places):
        table = next((path for path in tree.within(place) if path.name == "meta.csv"), None)
        if table is None:
            continue
        with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            header = file.readline()
            separator = ";" if ";" in header else ","
            columns = [name.strip().strip('"') for name in header.split(separator)]
            rows = csv.DictReader(file, fieldnames=columns, delimiter=separator)
            found |= {row["image_id"] for row in rows if row.get("split") == "test" and row.get("image_id")}
    return frozenset(found)
