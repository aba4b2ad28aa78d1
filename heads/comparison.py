"""How sure a mean over draws and test subjects is, and whether one head is better than another on the same of both.

Conventions of the whole module:

- A *grid* is (draws, subjects): the mean Dice of a test subject by the head that one draw trained; classes in their
  volume first, volumes in their subject. What is undefined is NaN and left out.
- Draws and test subjects are both samples of what there could have been, and every draw is scored on every subject: an
  interval comes from drawing both anew, with replacement, independently. With few draws it says what these draws say,
  and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .metrics import ScoredVolume

__all__ = ["Interval", "bootstrap", "dice_grid"]

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
