"""Splits and draws: which subjects train, which validate, which are scored. Pure functions.

The order of subjects comes from a hash of their names and the seed, not from a shuffle: a
subject that joins later is slotted in and moves no other, and draws are nested (the draw
of one subject lies inside the draw of five).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ..store.errors import UsageError
from ..store.splits import Split

# Three tenths for the score: AutoSAM keeps 15 of 100 for testing and 15 for validation; samkit needs no
# validation part, because validation comes out of the draw.
TEST_SHARE = 0.3
# From three labelled subjects on, one can be spared for early stopping.
SUBJECTS_FOR_VALIDATION = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """A seeded choice of labelled subjects."""

    number: int
    #: All drawn subjects, in the order of the draw.
    subjects: tuple[str, ...]
    #: The one kept for early stopping, or None.
    validation: str | None

    @property
    def training(self) -> tuple[str, ...]:
        """The subjects that the head is fitted to."""
        return tuple(subject for subject in self.subjects if subject != self.validation)


def make_split(subjects: Iterable[str], *, name: str = "default", seed: int = 0) -> Split:
    """Part labelled subjects into a pool and a test part.

    Parameters
    ----------
    subjects
        Labelled subjects; at least two.

    Raises
    ------
    UsageError
        With fewer than two subjects there is nothing to score on.
    """
    ordered = _ordered(subjects, f"split/{seed}")
    if len(ordered) < 2:
        message = (
            f"{len(ordered)} labelled subject(s) in the workspace: at least two are needed, one to train on and one to "
            f"score on. Ingest more labelled volumes; if several volumes of different patients share a name, "
            f"give the rule with `samkit ingest --subject REGEX`."
        )
        raise UsageError(message)
    test_count = min(len(ordered) - 1, max(1, round(TEST_SHARE * len(ordered))))
    test, pool = ordered[:test_count], ordered[test_count:]
    return Split(name=name, seed=seed, pool=tuple(sorted(pool)), test=tuple(sorted(test)))


def draw_subjects(split: Split, count: int, number: int) -> Draw:
    """Draw ``count`` subjects of the pool.

    Parameters
    ----------
    split
        Whose pool is drawn from, and whose seed decides.
    count
        Labelled subjects, at least 1.
    number
        Which draw; different numbers are different orders of the pool.

    Raises
    ------
    UsageError
        When the pool has fewer subjects than asked for.
    """
    if not 1 <= count <= len(split.pool):
        message = (
            f"--volumes {count}: the pool of split {split.name!r} has {len(split.pool)} labelled subjects "
            f"({len(split.test)} more are kept for the score). Ask for 1 to {len(split.pool)}."
        )
        raise UsageError(message)
    subjects = tuple(_ordered(split.pool, f"draw/{split.seed}/{number}")[:count])
    # The last of the draw validates, so that the smaller draws inside it train on the same subjects.
    return Draw(number=number, subjects=subjects, validation=subjects[-1] if count >= SUBJECTS_FOR_VALIDATION else None)


def _ordered(subjects: Iterable[str], salt: str) -> list[str]:
    return sorted(set(subjects), key=lambda subject: hashlib.sha256(f"{salt}/{subject}".encode()).digest())
