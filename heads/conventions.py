"""How papers count: their rules for Dice and HD95, accidents included, for tables that are compared with theirs.

samkit's own rules are in `heads.metrics`. These differ where it flatters: an organ that was missed has a distance of 0,
an alarm without an organ a Dice of 1. Distances are in voxels, whatever the spacing.

autosam    a case is a subject, the slices of all its volumes behind one another, brought to 224 x 224; both empty is a
           Dice of 1; a distance is 0 where either is empty. Source: AutoSAM, evaluate.py:16-28 and 179-190,
           scripts/main_autosam_seg.py:376-407, dataset/utils.py:26.
transunet  a case is a volume at its own size; where the reference is empty and the prediction is not, Dice is 1 and
           the distance 0; where the prediction is empty both are 0. Source: TransUNet, utils.py:52-62, which SAM-LST
           uses.

Both take the 95th percentile over the distances of both directions together, as MedPy does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import ndimage

from .metrics import Labels, Mask, surface_distances

__all__ = ["Convention", "ConventionMean", "LabelledCase", "mean_by"]

_AUTOSAM_PX = 224
_PERCENT = 95.0


class Convention(StrEnum):
    """Whose rules."""

    AUTOSAM = "autosam"
    TRANSUNET = "transunet"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledCase:
    """One volume as it was predicted and as it is."""

    subject: str
    prediction: Labels
    """(slices, rows, columns)"""
    reference: Labels


@dataclass(frozen=True, kw_only=True, slots=True)
class ConventionMean:
    """A class, or the mean of all, over cases."""

    class_name: str
    dice: float
    hd95_voxels: float
    cases: int


def mean_by(
    convention: Convention, volumes: Iterable[LabelledCase], class_names: Mapping[int, str], *, name: str = "mean"
) -> list[ConventionMean]:
    """Return the mean of each class over cases, and last, by ``name``, the mean of the classes.

    Volumes are taken one by one; none is kept at its own size.
    """
    cases = _by_subject(volumes) if convention is Convention.AUTOSAM else volumes
    found = [
        [_score(convention, case.prediction == value, case.reference == value) for value in class_names]
        for case in cases
    ]
    means = [
        ConventionMean(class_name=class_name, dice=dice, hd95_voxels=hd95, cases=len(found))
        for class_name, (dice, hd95) in zip(class_names.values(), np.mean(found, axis=0).tolist(), strict=True)
    ]
    return [
        *means,
        ConventionMean(
            class_name=name,
            dice=float(np.mean([one.dice for one in means])),
            hd95_voxels=float(np.mean([one.hd95_voxels for one in means])),
            cases=len(found),
        ),
    ]


def _score(convention: Convention, prediction: Mask, reference: Mask) -> tuple[float, float]:
    """Return Dice and HD95 of one class in one case."""
    found, there = np.count_nonzero(prediction), np.count_nonzero(reference)
    if found and there:
        dice = 2 * np.count_nonzero(prediction & reference) / (found + there)
        distances = np.concatenate(surface_distances(prediction, reference, spacing=(1.0, 1.0, 1.0)))
        return dice, float(np.percentile(distances, _PERCENT))
    if convention is Convention.AUTOSAM:
        return float(not found and not there), 0.0
    return float(found > 0), 0.0


def _by_subject(volumes: Iterable[LabelledCase]) -> list[LabelledCase]:
    """Return a case a subject, its volumes behind one another in their order, at AutoSAM's size."""
    by_subject: dict[str, list[tuple[Labels, Labels]]] = {}
    for volume in volumes:
        resized = _resized(volume.prediction), _resized(volume.reference)
        by_subject.setdefault(volume.subject, []).append(resized)
    return [
        LabelledCase(
            subject=subject,
            prediction=np.concatenate([prediction for prediction, _ in own]),
            reference=np.concatenate([reference for _, reference in own]),
        )
        for subject, own in by_subject.items()
    ]


def _resized(labels: Labels) -> Labels:
    """Bring planes to 224 x 224: each class interpolated linearly, and taken where it is at least a half."""
    zoom = (1, _AUTOSAM_PX / labels.shape[1], _AUTOSAM_PX / labels.shape[2])
    resized = np.zeros((len(labels), _AUTOSAM_PX, _AUTOSAM_PX), labels.dtype)
    for value in np.unique(labels):
        share = ndimage.zoom((labels == value).astype(np.float32), zoom, order=1, mode="nearest", grid_mode=True)
        resized[share >= 0.5] = value
    return resized
