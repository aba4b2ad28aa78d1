"""How the scores of many volumes become one number.

Conventions of the whole module:

- Means go class in volume, volume in subject, subject in draw, draws. A patient with two frames
  weighs as much as one with a single frame.
- What a volume does not have (``None``, see `heads.metrics`) is left out of the mean and counted beside it;
  it never enters as 0, and a mean of nothing is ``None``.
- Draws are told apart by what they drew, not by their numbers: of a small pool two may be the same, and count once.
- Standard deviations are those of a sample, with n - 1.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..store.runs import Run
    from .metrics import ClassScore, DistanceUnit, ScoredVolume

__all__ = [
    "ClassMean",
    "Drawn",
    "Measure",
    "Spread",
    "drawn_by",
    "mean_accuracy",
    "mean_by_class",
    "mean_over_classes",
    "over_draws",
    "unlike_draws",
]

Drawn: TypeAlias = tuple[tuple[str, str], ...]
"""Volume and content of each that was drawn: what tells one draw from another."""

Measure = Literal["dice", "iou", "accuracy", "hd95", "assd"]

_WORST: Mapping[Measure, Literal["lowest", "highest"]] = {
    "dice": "lowest",
    "iou": "lowest",
    "accuracy": "lowest",
    "hd95": "highest",
    "assd": "highest",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassMean:
    """One class (or all of them) over the subjects of one draw."""

    class_name: str
    dice: float | None
    iou: float | None
    hd95: float | None
    assd: float | None
    distance_unit: DistanceUnit | Literal["mixed"]
    """"mixed" where some volumes have millimetres and others do not: then the distances are None."""
    subjects: int
    """Subjects that entered the mean of Dice."""
    scored: int
    """Volumes (or classes in volumes) with every measure; the next three count the others."""
    prediction_empty: int
    reference_empty: int
    both_empty: int
    false_positive_volume: float | None
    """Summed over ``reference_empty``, in ml or, for "voxels", voxels; None where units are mixed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """One number over draws; every field that is undefined is None."""

    mean: float | None
    standard_deviation: float | None
    """Of the sample, with n - 1; None for fewer than two draws."""
    worst: float | None
    worst_draw: int | None
    """Position of the worst draw in the sequence given; the first one of equals."""
    draws: int
    """Draws that entered."""
    undefined_draws: int
    """Draws without a value, left out of all of the above."""


def mean_by_class(volumes: Iterable[ScoredVolume]) -> dict[str, ClassMean]:
    """Average each class over the volumes of one draw: volumes in their subject, then subjects.

    Each measure is averaged over the volumes that have it, so that a mean distance leaves out the volumes
    where nothing was predicted: read it beside ``prediction_empty``.

    Returns
    -------
    dict from class name to ClassMean
        In the order in which the classes are first met.
    """
    by_class: dict[str, list[tuple[str, list[ClassScore]]]] = {}
    for volume in volumes:
        for score in volume.scores:
            by_class.setdefault(score.class_name, []).append((volume.subject, [score]))
    return {name: _class_mean(name, entries) for name, entries in by_class.items()}


def mean_over_classes(volumes: Iterable[ScoredVolume], *, name: str = "all classes") -> ClassMean:
    """Average the volumes of one draw over everything: classes in their volume, volumes in their subject, subjects.

    This is not the mean of `mean_by_class` where a class is missing from some volumes: here each
    subject has the same weight, there each class.
    """
    return _class_mean(name, [(volume.subject, list(volume.scores)) for volume in volumes])


def mean_accuracy(volumes: Iterable[ScoredVolume]) -> float | None:
    """Average the accuracy over the volumes of one draw: volumes in their subject, then subjects."""
    mean, _ = _mean_over_subjects((volume.subject, volume.accuracy) for volume in volumes)
    return mean


def drawn_by(run: Run) -> Drawn:
    """Return what a run's draw drew: equal for draws that are the same."""
    return tuple(sorted(run.settings.drawn_volumes.items()))


def unlike_draws(runs: Iterable[Run]) -> list[Run]:
    """Return one run of each draw, in the order of their numbers: of those that drew the same the lowest number's.

    Parameters
    ----------
    runs
        Of one experiment.
    """
    found: dict[Drawn, Run] = {}
    for run in sorted(runs, key=lambda run: run.settings.draw):
        found.setdefault(drawn_by(run), run)
    return list(found.values())


def over_draws(means: Sequence[float | None], *, measure: Measure) -> Spread:
    """Reduce the mean of each draw to mean, standard deviation and worst.

    Parameters
    ----------
    means
        One number a draw, of unlike ones (see `unlike_draws`), as in ``[draw["liver"].dice for draw in draws]``; None
        where it is undefined.
    measure
        Says which end is the worst: the lowest of an overlap or an accuracy, the highest of a distance.
    """
    defined = [(value, draw) for draw, value in enumerate(means) if value is not None]
    values = [value for value, _ in defined]
    worst, worst_draw = None, None
    if defined:
        choose = min if _WORST[measure] == "lowest" else max
        worst, worst_draw = choose(defined, key=lambda pair: pair[0])
    return Spread(
        mean=fmean(values) if values else None,
        standard_deviation=stdev(values) if len(values) > 1 else None,
        worst=worst,
        worst_draw=worst_draw,
        draws=len(values),
        undefined_draws=len(means) - len(values),
    )


def _class_mean(name: str, entries: Sequence[tuple[str, Sequence[ClassScore]]]) -> ClassMean:
    """Reduce (subject, scores of one volume) pairs; the scores of a volume are averaged first."""

    def mean_of(measure: Measure) -> tuple[float | None, int]:
        return _mean_over_subjects(
            (subject, _mean_of_defined(getattr(score, measure) for score in scores)) for subject, scores in entries
        )

    scores = [score for _, of_volume in entries for score in of_volume]
    outcomes = Counter(score.outcome for score in scores)
    units = {score.distance_unit for score in scores}
    mixed = len(units) > 1  # millimetres and voxels have no mean
    dice, subjects = mean_of("dice")
    return ClassMean(
        class_name=name,
        dice=dice,
        iou=mean_of("iou")[0],
        hd95=None if mixed else mean_of("hd95")[0],
        assd=None if mixed else mean_of("assd")[0],
        distance_unit="mixed" if mixed else next(iter(units), "voxels"),
        subjects=subjects,
        scored=outcomes["scored"],
        prediction_empty=outcomes["prediction empty"],
        reference_empty=outcomes["reference empty"],
        both_empty=outcomes["both empty"],
        false_positive_volume=None if mixed else math.fsum(score.false_positive_volume or 0.0 for score in scores),
    )


def _mean_over_subjects(values: Iterable[tuple[str, float | None]]) -> tuple[float | None, int]:
    """Average (subject, value) pairs within subjects, then over them; return also how many subjects had a value."""
    by_subject: dict[str, list[float | None]] = {}
    for subject, value in values:
        by_subject.setdefault(subject, []).append(value)
    of_subjects = [mean for each in by_subject.values() if (mean := _mean_of_defined(each)) is not None]
    return _mean_of_defined(of_subjects), len(of_subjects)


def _mean_of_defined(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None
