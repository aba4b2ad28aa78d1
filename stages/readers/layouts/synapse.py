"""Synapse multi-organ CT (BTCV, Landman et al. 2015): the original NIfTI pairs, and what TransUNet hands out of it.

    RawData/Training/img/img0001.nii.gz, label/label0001.nii.gz          Synapse, syn3193805
    imagesTr/img0001.nii.gz, labelsTr/label0001.nii.gz                   the same, as MONAI and others lay it out
    averaged-training-images/DET0000101_avg.nii.gz,
    averaged-training-labels/DET0000101_avg_seg.nii.gz                   other scans of it, with numbers of their own
    test_vol_h5/case0001.npy.h5                                          TransUNet: see `h5`

The 18/12 split is TransUNet's, by case number. Papers report eight of the thirteen organs, in its order.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from ..dataset_json import DatasetJson
from ..labels import LabelChoice, LabelClass
from ..naming import stem
from .base import LayoutOptions, Pairing, Refusal, Tree
from .files import candidate_of, files_of, label_of
from .stems import described

__all__ = ["ORGANS", "SPLIT", "is_test_case", "synapse"]

ORGANS = {
    0: "background",
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior vena cava",
    10: "portal and splenic veins",
    11: "pancreas",
    12: "right adrenal gland",
    13: "left adrenal gland",
}
"""The challenge's own values."""

_EIGHT = ("spleen", "right kidney", "left kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")
SPLIT = "synapse-18-12"
_TEST_CASES = frozenset({1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38})

_IMAGE = re.compile(r"img(?P<case>\d{4})")
_LABEL = re.compile(r"label(?P<case>\d{4})")
_AVERAGED_IMAGE = re.compile(r"(?P<case>DET\d{7}_avg)")
_AVERAGED_LABEL = re.compile(r"(?P<case>DET\d{7}_avg)_seg")


def is_test_case(number: int) -> bool:
    """Tell whether TransUNet tests on a case."""
    return number in _TEST_CASES


def synapse(tree: Tree, options: LayoutOptions) -> Pairing | None:
    """``imgNNNN`` and ``labelNNNN`` in folders beside each other, or ``DETNNNNNNN_avg`` and ``..._avg_seg``."""
    scans = files_of(tree.files, "nifti")
    images = {path: case for path in scans if (case := _case(path, _IMAGE, _AVERAGED_IMAGE)) is not None}
    labels = {path: case for path in scans if (case := _case(path, _LABEL, _AVERAGED_LABEL)) is not None}
    if not images or not (labels or all(path.parent.name == "img" for path in images)):
        return None
    label_of_image: dict[Path, Path] = {}
    refused: list[Refusal] = []
    for path, case in labels.items():
        owner = _owner(path, case, images)
        if owner is None or owner in label_of_image:
            reason = (
                "a label without an image of its number in the folder beside"
                if owner is None
                else f"{tree.shown(label_of_image[owner])} is a label of the same image; keep one of them"
            )
            refused.append(tree.refusal(path, reason, label=label_of(path, options)))
        else:
            label_of_image[owner] = path
    candidates = []
    for path, case in images.items():
        label = label_of_image.get(path)
        candidates.append(
            candidate_of(
                tree,
                path,
                options,
                label=None if label is None else label_of(label, options),
                label_shown="" if label is None else tree.shown(label),
                modality="CT",
                test_of=SPLIT if case.isdecimal() and is_test_case(int(case)) else None,
            )
        )
    names, choice, notes = _labels(_description(tree, next(iter(images)).parent.parent))
    part = {*images, *labels}
    return Pairing(
        layout="Synapse multi-organ (BTCV)",
        candidates=candidates,
        refused=refused,
        label_names=names,
        labels=choice,
        notes=notes,
        leftover=tuple(path for path in tree.files if path not in part),
    )


def _case(path: PurePath, *patterns: re.Pattern[str]) -> str | None:
    return next((found["case"] for pattern in patterns if (found := pattern.fullmatch(stem(path)))), None)


def _owner(label: Path, case: str, images: dict[Path, str]) -> Path | None:
    """Return the image of a label's number whose folder lies nearest: beside it, as ``img`` beside ``label``."""
    alike = [path for path, number in images.items() if number == case]
    beside = [path for path in alike if label.parent in (path.parent, path.parent.parent / label.parent.name)]
    return beside[0] if len(beside) == 1 else None


def _description(tree: Tree, folder: Path) -> DatasetJson | None:
    """Return the description beside the folder of images, where that lies in the tree."""
    return described(tree.at(folder)) if folder.is_relative_to(tree.root) else None


def _labels(description: DatasetJson | None) -> tuple[dict[int, str], LabelChoice, tuple[str, ...]]:
    if description is not None and any(description.label_names):
        return description.label_names, LabelChoice.of_names(description.label_names), ()
    choice = LabelChoice(
        classes=tuple(LabelClass(value=value, name=name, takes=(name,)) for value, name in enumerate(_EIGHT, start=1))
    )
    left_out = [name for value, name in ORGANS.items() if value and name not in _EIGHT]
    note = (
        f"Synapse: label values are taken as the challenge numbers them (1 spleen ... 13 left adrenal gland); of these "
        f"the eight organs that TransUNet reports, in its order: {', '.join(_EIGHT)}. Left out: {', '.join(left_out)}; "
        f"--labels takes others, e.g. --labels liver=liver,esophagus=esophagus"
    )
    return dict(ORGANS), choice, (note,)
