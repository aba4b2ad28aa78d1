"""Splits and draws: which subjects train, which validate, which are scored. Pure functions.

The order of subjects comes from a hash of their names and the seed, not from a shuffle: a
subject that joins later is slotted in and moves no other, one that is removed leaves the
others in their order, and draws are nested (the draw of one subject lies inside the draw of
five). A split keeps the names of removed subjects, because they may come back; what is drawn
and what is scored are those of its subjects that are present.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..store.errors import UsageError
from ..store.splits import DEFAULT_SPLIT, Split

# Three tenths for the score: AutoSAM keeps 15 of 100 for testing and 15 for validation; samkit needs no
# validation part, because validation comes out of the draw.
TEST_SHARE = 0.3
# From three labelled subjects on, one can be spared for early stopping.
SUBJECTS_FOR_VALIDATION = 3
SUBJECTS, FRAMES = "subjects", "frames"
"""What a draw counts: patients with all their labelled volumes, or labelled volumes one by one."""
# A message names so many subjects, and counts the rest.
_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """A seeded choice of labelled subjects."""

    number: int
    #: All drawn subjects, in the order of the draw.
    subjects: tuple[str, ...]
    #: Of these subjects, the labelled volumes that were drawn one by one; None where each brings all it has.
    volumes: tuple[str, ...] | None = None
    #: The one kept for early stopping, or None.
    validation: str | None

    @property
    def count(self) -> int:
        """How many subjects, or volumes where these were drawn."""
        return len(self.subjects if self.volumes is None else self.volumes)

    @property
    def training(self) -> tuple[str, ...]:
        """The subjects that the head is fitted to."""
        return tuple(subject for subject in self.subjects if subject != self.validation)


NO_DRAW = Draw(number=0, subjects=(), validation=None)
"""Of a head that is scored as it is built."""


def make_split(
    subjects: Iterable[str],
    *,
    name: str = DEFAULT_SPLIT,
    seed: int = 0,
    test_share: float = TEST_SHARE,
    strata: Mapping[str, str] | None = None,
) -> Split:
    """Part labelled subjects into a pool and a test part.

    Parameters
    ----------
    subjects
        Labelled subjects; at least two.
    test_share
        Of the subjects, between 0 and 1: so many are kept for the score, but at least one, and not all.
    strata
        A group of each subject, by which both parts are composed alike: each group gives its share to the test part,
        rounded so that their sum is what it would be without groups (largest remainders).

    Raises
    ------
    UsageError
        With fewer than two subjects there is nothing to score on; for a share that leaves a part empty; or a subject
        without a group.
    """
    if not 0 < test_share < 1:
        message = f"--test-share {test_share:g}: give a share between 0 and 1, for example 0.3."
        raise UsageError(message)
    ordered = _ordered(subjects, f"split/{seed}")
    if len(ordered) < 2:
        message = (
            f"{len(ordered)} labelled subject(s) in the workspace: at least two are needed, one to train on and one to "
            f"score on. Ingest more labelled volumes; if several volumes of different patients share a name, "
            f"give the rule with `samkit ingest --subject REGEX`."
        )
        raise UsageError(message)
    test_count = min(len(ordered) - 1, max(1, round(test_share * len(ordered))))
    test = _taken_alike(ordered, {} if strata is None else strata, test_count)
    pool = set(ordered) - test
    return Split(name=name, seed=seed, pool=tuple(sorted(pool)), test=tuple(sorted(test)))


def _taken_alike(ordered: Sequence[str], strata: Mapping[str, str], count: int) -> set[str]:
    """Take the first subjects of each group, of every group the same share; without groups the first of all."""
    if strata and (without := [subject for subject in ordered if subject not in strata]):
        message = f"no group is known of {listed_subjects(sorted(without))}: name one for every labelled subject."
        raise UsageError(message)
    groups: dict[str, list[str]] = {}
    for subject in ordered:
        groups.setdefault(strata.get(subject, ""), []).append(subject)
    exact = {group: count * len(members) / len(ordered) for group, members in groups.items()}
    taken = {group: math.floor(share) for group, share in exact.items()}
    # Of equal remainders the group whose subject comes first: by the seed, not by its name.
    by_remainder = sorted(groups, key=lambda group: taken[group] - exact[group])
    for group in by_remainder[: count - sum(taken.values())]:
        taken[group] += 1
    return {subject for group, members in groups.items() for subject in members[: taken[group]]}


def import_split(
    parts: Mapping[str, str], subject_of: Mapping[str, str], *, name: str = DEFAULT_SPLIT, seed: int = 0
) -> Split:
    """Return the split that somebody else has made.

    Parameters
    ----------
    parts
        ``pool``, ``test`` or ``unused`` by the name of a subject or a volume.
    subject_of
        The subject of each labelled volume of the workspace, by the volume's id. Those that ``parts`` does not name
        are left unused; names that it does not know are kept, because they may be ingested later.

    Raises
    ------
    UsageError
        When a subject would be in two parts, or nobody who is here would be drawn or scored.
    """
    present = set(subject_of.values())
    found: dict[str, set[str]] = {"pool": set(), "test": set(), "unused": set()}
    for told, part in parts.items():
        found[part].add(subject_of.get(told, told))
    for one, other in itertools.combinations(found, 2):
        if both := found[one] & found[other]:
            message = f"{listed_subjects(sorted(both))}: in the part {one} and in {other}. A subject belongs to one."
            raise UsageError(message)
    for part in ("pool", "test"):
        if not found[part] & present:
            there = listed_subjects(sorted(present)) if present else "no labelled subject"
            named = f" names {listed_subjects(sorted(found[part]))}" if found[part] else " is empty"
            message = f"the part {part}{named}: no labelled subject that is here, where there is {there}."
            raise UsageError(message)
    found["unused"] |= present - found["pool"] - found["test"]
    return Split(name=name, seed=seed, **{part: tuple(sorted(subjects)) for part, subjects in found.items()})


def draw_subjects(split: Split, count: int, number: int, present: Collection[str]) -> Draw:
    """Draw ``count`` subjects of those of the pool that are present.

    Parameters
    ----------
    split
        Whose pool is drawn from, and whose seed decides.
    count
        Labelled subjects, at least 1.
    number
        Which draw; different numbers are different orders of the pool.
    present
        The subjects that have a labelled volume in the workspace now.

    Raises
    ------
    UsageError
        When the pool has fewer subjects than asked for; those that were removed are named.
    """
    pool = [subject for subject in split.pool if subject in present]
    if not 1 <= count <= len(pool):
        test = len(split.test) - len(removed_subjects(split.test, present))
        asked = f" Ask for 1 to {len(pool)}." if pool else ""
        if gone := removed_subjects(split.pool, present):
            asked += (
                f" Removed, or without a label now: {listed_subjects(gone)}; they can be drawn when they are ingested "
                f"again (samkit ingest SOURCE)."
            )
        message = (
            f"--volumes {count}: the pool of split {split.name!r} has {len(pool)} labelled subjects ({test} more are "
            f"kept for the score).{asked}"
        )
        raise UsageError(message)
    subjects = tuple(_ordered(pool, f"draw/{split.seed}/{number}")[:count])
    # The last of the draw validates, so that the smaller draws inside it train on the same subjects.
    return Draw(number=number, subjects=subjects, validation=subjects[-1] if count >= SUBJECTS_FOR_VALIDATION else None)


def draw_frames(split: Split, count: int, number: int, subject_of: Mapping[str, str]) -> Draw:
    """Draw ``count`` labelled volumes of the pool's subjects one by one, as studies do that count frames.

    Parameters
    ----------
    split, number
        As of `draw_subjects`.
    count
        Labelled volumes, at least 1.
    subject_of
        The subject of each labelled volume of the workspace, by the volume's id.

    Raises
    ------
    UsageError
        When the pool's subjects have fewer volumes than asked for.
    """
    drawn_from = set(split.pool)
    pool = [volume for volume, subject in subject_of.items() if subject in drawn_from]
    if not 1 <= count <= len(pool):
        asked = f" Ask for 1 to {len(pool)}." if pool else ""
        message = (
            f"--volumes {count} --count {FRAMES}: the subjects of the pool of split {split.name!r} have {len(pool)} "
            f"labelled volumes.{asked}"
        )
        raise UsageError(message)
    volumes = tuple(_ordered(pool, f"draw/{split.seed}/{number}")[:count])
    subjects = tuple(dict.fromkeys(subject_of[volume] for volume in volumes))
    return Draw(number=number, subjects=subjects, volumes=volumes, validation=None)


def scored_subjects(split: Split, present: Collection[str]) -> tuple[str, ...]:
    """Return the test subjects that are present, in the order of the split.

    Parameters
    ----------
    split
        Whose test part is kept for the score.
    present
        The subjects that have a labelled volume in the workspace now.

    Raises
    ------
    UsageError
        When all of them were removed; they are named.
    """
    scored = tuple(subject for subject in split.test if subject in present)
    if not scored:
        message = (
            f"every test subject of split {split.name!r} was removed, or has no label now "
            f"({listed_subjects(split.test)}), so there is nothing to score on. Ingest them again: samkit ingest "
            f"SOURCE. If they are here under other names (--subject), part the subjects as they are now: samkit split "
            f"NAME, and train with --split NAME. Later runs do not compare with earlier ones then."
        )
        raise UsageError(message)
    return scored


def removed_subjects(subjects: Iterable[str], present: Collection[str]) -> list[str]:
    """Return those of some subjects of a split that have no labelled volume in the workspace now."""
    return sorted(set(subjects) - set(present))


def listed_subjects(subjects: Collection[str]) -> str:
    """Return the names of some subjects, cut where there are many.

    >>> listed_subjects(["p0", "p3"])
    'p0, p3'
    """
    shown = ", ".join(list(subjects)[:_NAMED])
    return shown + (f" and {len(subjects) - _NAMED} more" if len(subjects) > _NAMED else "")


def _ordered(subjects: Iterable[str], salt: str) -> list[str]:
    return sorted(set(subjects), key=lambda subject: hashlib.sha256(f"{salt}/{subject}".encode()).digest())
