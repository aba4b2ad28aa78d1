"""How sure a mean over draws and test subjects is, and whether one head is better than another on the same of both.

Conventions of the whole module:

- A *grid* is (draws, subjects): the mean Dice of a test subject by the head that one draw trained; classes in their
  volume first, volumes in their subject. What is undefined is NaN and left out.
- Draws and test subjects are both samples of what there could have been, and every draw is scored on every subject: an
  interval comes from drawing both anew, with replacement, independently. With few draws it says what these draws say,
  and no more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..store.runs import Run
from .base import asks_reference, head_words
from .metrics import ScoredVolume

__all__ = ["Comparison", "Interval", "Standing", "bootstrap", "compare", "dice_grid", "standings"]

_RESAMPLES = 4000
_COVERED = 0.95
_SEED = 0

Grid = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean, and where it would lie with other draws and other test subjects, in 95 of 100 cases."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A head at one number of labelled subjects, beside the best head there: mean Dice over all classes."""

    head: str
    #: How many subjects were drawn; of frames with that word.
    amount: str
    draws: int
    test_subjects: int
    dice: Interval
    #: The best one's less this one's, on the same draws and test subjects; None for the best itself.
    behind: Interval | None
    best: str


def typed_head(run: Run) -> str:
    """Return the head of a run as it is typed, with the options that differ from their defaults."""
    return head_words(run.settings.head, run.settings.head_config)


def standings(runs: Iterable[Run], name: Callable[[Run], str] = typed_head) -> list[Standing]:
    """Compare heads on the draws that all of them have, best first within each number of labelled subjects.

    Parameters
    ----------
    runs
        No more than one of a name in each draw of a split. Those of different splits are never compared, nor heads
        that are prompted from the reference with those that are not.
    name
        What a run's head is told by.
    """
    groups: dict[tuple[int, str, str, bool], dict[str, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        settings = run.settings
        # Whoever is told where things are by the reference is compared with others who are.
        told = asks_reference(settings.head, settings.head_config)
        groups[settings.subjects, settings.amount, settings.split_digest, told][name(run)][settings.draw] = run
    return [one for key in sorted(groups) for one in _standings(key[1], groups[key])]


def _standings(amount: str, heads: Mapping[str, Mapping[int, Run]]) -> list[Standing]:
    draws = sorted(set.intersection(*(set(of_draw) for of_draw in heads.values())))
    scored = {
        head: [[ScoredVolume.from_json(volume) for volume in of_draw[draw].scores] for draw in draws]
        for head, of_draw in heads.items()
    }
    test = sorted({volume.subject for of_head in scored.values() for volumes in of_head for volume in volumes})
    grids = {head: dice_grid(of_head, test) for head, of_head in scored.items()}
    told = {head: interval for head, grid in grids.items() if (interval := bootstrap(grid)) is not None}
    ordered: Sequence[str] = sorted(told, key=lambda head: -told[head].mean)
    return [
        Standing(
            head=head,
            amount=amount,
            draws=len(draws),
            test_subjects=int(np.isfinite(grids[head]).any(axis=0).sum()),
            dice=told[head],
            behind=None if head == ordered[0] else bootstrap(grids[ordered[0]] - grids[head]),
            best=ordered[0],
        )
        for head in ordered
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two experiments on the same draws and test subjects: mean Dice over all classes."""

    amount: str
    draws: int
    test_subjects: int
    one: Interval
    other: Interval
    #: The first less the second, paired.
    difference: Interval


def compare(one: Iterable[Run], other: Iterable[Run]) -> list[Comparison]:
    """Compare two experiments at every number of labelled subjects, on the draws and test subjects that both have.

    Parameters
    ----------
    one, other
        No more than one run of a draw, number of subjects and split in each.
    """
    sides: list[dict[tuple[int, str, str], dict[int, Run]]] = []
    for runs in (one, other):
        groups: dict[tuple[int, str, str], dict[int, Run]] = defaultdict(dict)
        for run in runs:
            settings = run.settings
            groups[settings.subjects, settings.amount, settings.split_digest][settings.draw] = run
        sides.append(groups)
    found = []
    for key in sorted(sides[0].keys() & sides[1].keys()):
        draws = sorted(sides[0][key].keys() & sides[1][key].keys())
        scored = [[[ScoredVolume.from_json(one) for one in side[key][draw].scores] for draw in draws] for side in sides]
        test = sorted(set.intersection(*({volume.subject for draw in side for volume in draw} for side in scored)))
        grids = [dice_grid(side, test) for side in scored]
        intervals = [bootstrap(grid) for grid in (*grids, grids[0] - grids[1])]
        if draws and all(interval is not None for interval in intervals):
            mine, theirs, difference = (interval for interval in intervals if interval is not None)
            subjects = int(np.isfinite(grids[0] - grids[1]).any(axis=0).sum())
            found.append(
                Comparison(
                    amount=key[1],
                    draws=len(draws),
                    test_subjects=subjects,
                    one=mine,
                    other=theirs,
                    difference=difference,
                )
            )
    return found


def dice_grid(draws: Sequence[Iterable[ScoredVolume]], subjects: Sequence[str]) -> Grid:
    """Return the mean Dice of every subject in every draw, (draws, subjects), 0 to 1; NaN where there is none."""
    grid = np.full((len(draws), len(subjects)), np.nan)
    places = {subject: place for place, subject in enumerate(subjects)}
    for number, volumes in enumerate(draws):
        found: dict[str, list[float]] = {}
        for volume in volumes:
            dice = [score.dice for score in volume.scores if score.dice is not None]
            if dice and volume.subject in places:
                found.setdefault(volume.subject, []).append(float(np.mean(dice)))
        for subject, values in found.items():
            grid[number, places[subject]] = np.mean(values)
    return grid


def bootstrap(grid: Grid) -> Interval | None:
    """Return the mean of a grid, subjects in their draw first, with an interval; None where nothing is defined.

    Of the difference of two grids with the same draws and subjects it is a paired comparison: a head is better beyond
    the spread where the interval does not hold 0.

    Source: the percentile bootstrap of Efron, over two crossed factors (Owen, Annals of Applied Statistics 1:386,
    2007: conservative). Seeded: equal grids have equal intervals.
    """
    defined = np.isfinite(grid)
    if not defined.any():
        return None
    draws, subjects = grid.shape
    random = np.random.default_rng(_SEED)
    by_draw = random.multinomial(draws, np.full(draws, 1 / draws), _RESAMPLES).astype(float)
    by_subject = random.multinomial(subjects, np.full(subjects, 1 / subjects), _RESAMPLES).astype(float)
    weights = by_subject @ defined.T.astype(float)  # (resamples, draws): how many subjects count in each draw
    sums = by_subject @ np.nan_to_num(grid).T
    means = np.divide(sums, weights, out=np.full(sums.shape, np.nan), where=weights > 0)
    some = np.isfinite(means)
    counts = (by_draw * some).sum(axis=1)
    totals = np.nansum(by_draw * np.nan_to_num(means), axis=1)
    resampled = totals[counts > 0] / counts[counts > 0]
    low, high = np.quantile(resampled, [(1 - _COVERED) / 2, (1 + _COVERED) / 2])
    rows = [np.mean(row[known]) for row, known in zip(grid, defined, strict=True) if known.any()]
    return Interval(mean=float(np.mean(rows)), low=float(low), high=float(high))
