"""How sure a mean over draws and test subjects is, and whether one head is better than another on the same of both.

Conventions of the whole module:

- A *grid* is (draws, subjects): the mean Dice of a test subject by the head that one draw trained; classes in their
  volume first, volumes in their subject. What is undefined is NaN and left out.
- Draws are told apart by what they drew, not by their numbers: two that drew the same count once.
- Draws and test subjects are both samples of what there could have been, and every draw is scored on every subject: an
  interval comes from drawing both anew, with replacement, independently, and is widened for there being few of them.
- The pool stays: other draws are draws from the same labelled subjects. Those of several subjects share some, and tell
  less of what another pool would give: of five draws of five from 15, simulated, intervals held the mean of this
  pool in 97 cases of 100, and that of all pools in 86; of five draws of one in 95 and 92.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ..store.keys import content_id
from ..store.runs import Run, RunSettings
from .averages import Drawn, drawn_by, unlike_draws
from .base import asks_reference, head_words
from .metrics import ScoredVolume

__all__ = ["Comparison", "Interval", "Standing", "bootstrap", "compare", "dice_grid", "standings", "typed_head"]

_RESAMPLES = 4000
_COVERED = 0.95
_SEED = 0
# What a Dice can be, and a difference of two.
_DICE = (0.0, 1.0)
_DIFFERENCE = (-1.0, 1.0)

Grid = NDArray[np.float64]


class _Asked(NamedTuple):
    """What was asked of a head: scores are comparable where all of this is equal. Sorted by the first."""

    subjects: int
    amount: str
    split: str
    split_digest: str
    #: Of the volumes scored.
    scored: str

    @classmethod
    def of(cls, settings: RunSettings) -> _Asked:
        return cls(
            subjects=settings.subjects,
            amount=settings.amount,
            split=settings.split,
            split_digest=settings.split_digest,
            scored=content_id(dict(settings.scored_volumes)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean, and where it would lie with other draws from the pool and other test subjects, in 95 of 100 cases."""

    mean: float
    #: None, both, of a single draw or a single test subject: nothing tells how far another would be.
    low: float | None
    high: float | None

    @property
    def percent(self) -> str:
        """As people are told.

        >>> Interval(mean=0.5, low=0.4, high=0.625).percent, Interval(mean=0.5, low=None, high=None).percent
        ('50.0 (40.0 to 62.5)', '50.0')
        """
        if self.low is None or self.high is None:
            return f"{100 * self.mean:.1f}"
        return f"{100 * self.mean:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A head at one number of labelled subjects, beside the best head there: mean Dice over all classes."""

    head: str
    #: How many subjects were drawn; of frames with that word.
    amount: str
    #: Whose test part is scored.
    split: str
    #: Whether the reference tells the head where things are.
    prompted: bool
    #: Unlike ones.
    draws: int
    test_subjects: int
    dice: Interval
    #: Of those with most draws.
    best: str
    #: The best one's less this one's, on the draws and test subjects of both; None for the best itself, or without any.
    behind: Interval | None
    #: That both have.
    shared_draws: int

    @property
    def on_draws(self) -> str:
        """How many draws it has, and with how many of them it is compared: ``3``, ``3 (1 shared)``."""
        return f"{self.draws}" if self.shared_draws == self.draws else f"{self.draws} ({self.shared_draws} shared)"


def typed_head(run: Run) -> str:
    """Return the head of a run as it is typed, with the options that differ from their defaults."""
    return head_words(run.settings.head, run.settings.head_config)


def standings(runs: Iterable[Run], name: Callable[[Run], str] = typed_head) -> list[Standing]:
    """Compare heads with the best on the draws that both have, best first within each number of labelled subjects.

    Parameters
    ----------
    runs
        No more than one of a name, number of draw and split. Those of different splits, or scored on other volumes, are
        never compared, nor heads that are prompted from the reference with those that are not.
    name
        What a run's head is told by.
    """
    groups: dict[tuple[_Asked, bool], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        # Whoever is told where things are by the reference is compared with others who are.
        prompted = asks_reference(run.settings.head, run.settings.head_config)
        groups[_Asked.of(run.settings), prompted][name(run)].append(run)
    return [one for key in sorted(groups) for one in _standings(key[0], groups[key], prompted=key[1])]


def _standings(asked: _Asked, heads: Mapping[str, Sequence[Run]], *, prompted: bool) -> list[Standing]:
    scored = {head: _Scored.of(runs) for head, runs in heads.items()}
    dice = {head: interval for head, of_head in scored.items() if (interval := of_head.dice()) is not None}
    if not dice:
        return []
    most = max(len(scored[head].volumes) for head in dice)
    best = max((head for head in dice if len(scored[head].volumes) == most), key=lambda head: dice[head].mean)
    found = []
    for head in sorted(dice, key=lambda head: (head != best, -dice[head].mean)):
        behind, shared, _ = scored[best].less(scored[head])
        found.append(
            Standing(
                head=head,
                amount=asked.amount,
                split=asked.split,
                prompted=prompted,
                draws=len(scored[head].volumes),
                test_subjects=len(scored[head].subjects),
                dice=dice[head],
                best=best,
                behind=None if head == best else behind,
                shared_draws=shared,
            )
        )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two experiments on the same draws and test subjects: mean Dice over all classes."""

    amount: str
    split: str
    #: Unlike ones.
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
    sides: list[dict[_Asked, list[Run]]] = []
    for runs in (one, other):
        groups: dict[_Asked, list[Run]] = defaultdict(list)
        for run in runs:
            groups[_Asked.of(run.settings)].append(run)
        sides.append(groups)
    found = []
    for asked in sorted(sides[0].keys() & sides[1].keys()):
        of_one, of_other = ({drawn_by(run) for run in side[asked]} for side in sides)
        mine, theirs = (
            _Scored.of([run for run in side[asked] if drawn_by(run) in of_one & of_other]) for side in sides
        )
        difference, shared, subjects = mine.less(theirs)
        dice = mine.dice(), theirs.dice()
        if difference is not None and dice[0] is not None and dice[1] is not None:
            found.append(
                Comparison(
                    amount=asked.amount,
                    split=asked.split,
                    draws=shared,
                    test_subjects=subjects,
                    one=dice[0],
                    other=dice[1],
                    difference=difference,
                )
            )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scored:
    """What an experiment scored, by draw, of unlike ones."""

    volumes: Mapping[Drawn, Sequence[ScoredVolume]]
    subjects: tuple[str, ...]

    @classmethod
    def of(cls, runs: Iterable[Run]) -> _Scored:
        volumes = {drawn_by(run): [ScoredVolume.from_json(one) for one in run.scores] for run in unlike_draws(runs)}
        subjects = {volume.subject for scored in volumes.values() for volume in scored}
        return cls(volumes=volumes, subjects=tuple(sorted(subjects)))

    def dice(self) -> Interval | None:
        return bootstrap(dice_grid(list(self.volumes.values()), self.subjects), within=_DICE)

    def less(self, other: _Scored) -> tuple[Interval | None, int, int]:
        """Return the difference, paired, with how many draws and test subjects it is of."""
        draws = sorted(self.volumes.keys() & other.volumes.keys())
        subjects = sorted({*self.subjects} & {*other.subjects})
        mine, theirs = (dice_grid([each.volumes[draw] for draw in draws], subjects) for each in (self, other))
        known = int(np.isfinite(mine - theirs).any(axis=0).sum())
        return bootstrap(mine - theirs, within=_DIFFERENCE), len(draws), known


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


def bootstrap(grid: Grid, *, within: tuple[float, float] = (-np.inf, np.inf)) -> Interval | None:
    """Return the mean of a grid, subjects in their draw first, with an interval; None where nothing is defined.

    Of the difference of two grids with the same draws and subjects it is a paired comparison: a head is better beyond
    the spread where the interval does not hold 0.

    Source: the percentile bootstrap of Efron, over two crossed factors (Owen, Annals of Applied Statistics 1:386,
    2007), widened about the mean, because resampling a handful of draws gives too little spread (Hesterberg, American
    Statistician 69:371, 2015): to the width of Student's intervals of both factors, added in squares. So its width is
    that of a small sample, and its asymmetry the bootstrap's. Seeded: equal grids have equal intervals.

    Parameters
    ----------
    grid
        (draws, subjects).
    within
        Beyond what the interval is cut.
    """
    defined = np.isfinite(grid)
    if not defined.any():
        return None
    by_draw, by_subject = _means(grid), _means(grid.T)
    mean = float(by_draw.mean())
    if len(by_draw) < 2 or len(by_subject) < 2:
        return Interval(mean=mean, low=None, high=None)
    resampled = _resampled_means(grid)
    low, high = np.quantile(resampled, [(1 - _COVERED) / 2, (1 + _COVERED) / 2])
    widened = 2 * _half_width(by_draw, by_subject) / max(high - low, np.finfo(float).tiny)
    low, high = np.clip(mean + max(widened, 1.0) * (np.array([low, high]) - mean), *within)
    return Interval(mean=mean, low=float(low), high=float(high))


def _means(grid: Grid) -> Grid:
    """Return the mean of each row that has a value."""
    return np.array([row[np.isfinite(row)].mean() for row in grid if np.isfinite(row).any()])


def _resampled_means(grid: Grid) -> Grid:
    """Return the means of grids whose rows and whose columns were drawn anew, with replacement."""
    draws, subjects = grid.shape
    random = np.random.default_rng(_SEED)
    by_draw = random.multinomial(draws, np.full(draws, 1 / draws), _RESAMPLES).astype(float)
    by_subject = random.multinomial(subjects, np.full(subjects, 1 / subjects), _RESAMPLES).astype(float)
    weights = by_subject @ np.isfinite(grid).T.astype(float)  # (resamples, draws): how many subjects count in each draw
    sums = by_subject @ np.nan_to_num(grid).T
    means = np.divide(sums, weights, out=np.full(sums.shape, np.nan), where=weights > 0)
    counts = (by_draw * np.isfinite(means)).sum(axis=1)
    totals = (by_draw * np.nan_to_num(means)).sum(axis=1)
    resampled: Grid = totals[counts > 0] / counts[counts > 0]
    return resampled


def _half_width(*factors: Grid) -> float:
    """Return half of the interval of a mean over crossed factors, from the means of the levels of each.

    With Satterthwaite's degrees of freedom, which are guessed from the same few numbers, two draws held the truth in 88
    of 100 simulated cases; with each factor's own intervals hold it in 93 to 98.
    """
    upper = (1 + _COVERED) / 2
    squares = [special.stdtrit(len(means) - 1, upper) ** 2 * means.var(ddof=1) / len(means) for means in factors]
    return float(np.sqrt(sum(squares)))
