"""compare: runs -> which head is better on the same draws and test subjects, and how sure that is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..heads.base import head_words
from ..heads.comparison import Interval, bootstrap, dice_grid
from ..heads.metrics import ScoredVolume
from ..store.runs import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A head at one number of labelled subjects, beside the best head there: mean Dice over all classes."""

    #: As it is typed, with the options that differ from their defaults.
    head: str
    subjects: int
    draws: int
    test_subjects: int
    dice: Interval
    #: The best one's less this one's, on the same draws and test subjects; None for the best itself.
    behind: Interval | None
    best: str


def standings(runs: Iterable[Run]) -> list[Standing]:
    """Compare heads on the draws that all of them have, best first within each number of labelled subjects."""
    by_subjects: dict[int, dict[str, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        head = head_words(run.settings.head, run.settings.head_config)
        by_subjects[run.settings.subjects][head][run.settings.draw] = run
    return [one for subjects in sorted(by_subjects) for one in _standings(subjects, by_subjects[subjects])]


def _standings(subjects: int, heads: dict[str, dict[int, Run]]) -> list[Standing]:
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
            subjects=subjects,
            draws=len(draws),
            test_subjects=int(np.isfinite(grids[head]).any(axis=0).sum()),
            dice=told[head],
            behind=None if head == ordered[0] else bootstrap(grids[ordered[0]] - grids[head]),
            best=ordered[0],
        )
        for head in ordered
    ]
