"""Which subjects may be drawn for training and which are kept for the score.

A split is made once and kept; subjects that join the dataset later join the pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from itertools import combinations
from typing import Any, Self

from .documents import read_json, unsealed
from .errors import DamagedStore
from .keys import content_id
from .places import Place

DEFAULT_SPLIT = "default"
"""The one that is made where nobody names any."""

_SIDES = ("pool", "test", "unused")
_MEANING = {"pool": "trained on", "test": "scored", "unused": "left out"}
_ADDED = "unused"


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A named partition of the labelled subjects."""

    name: str
    seed: int
    #: Subjects that draws are taken from.
    pool: tuple[str, ...]
    #: Subjects whose labels are used for the final score only.
    test: tuple[str, ...]
    #: Subjects that are neither drawn nor scored.
    unused: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of the partition, kept in every run that used it."""
        return content_id({"pool": sorted(self.pool), "test": sorted(self.test)})

    def joined_by(self, subjects: Iterable[str]) -> Split:
        """Return the split with new subjects in its pool."""
        new = set(subjects) - set(self.pool) - set(self.test) - set(self.unused)
        return replace(self, pool=tuple(sorted({*self.pool, *new})))

    def to_json(self) -> dict[str, Any]:
        """Return the split as it is kept in ``splits/<name>.json``, its seal apart."""
        kept = {**asdict(self), "digest": self.digest}
        # It came later; a split without it stays as it was.
        return kept if self.unused else {name: value for name, value in kept.items() if name != _ADDED}

    @classmethod
    def read(cls, place: Place) -> Self:
        """Read a split.

        Raises
        ------
        DamagedStore
            When it was changed after it was made, fields are missing or unknown, or a subject is on both sides.
        """
        remedy = "Restore it from a copy: a split made anew is another one, and scores would not compare."
        told = read_json(place, remedy)
        added = isinstance(told, dict) and _ADDED in told
        expected = [field.name for field in fields(cls) if field.name != _ADDED or added]
        kept = {_ADDED: [], **unsealed(told, place, (*expected, "digest"), remedy)}
        for side in _SIDES:
            if not isinstance(kept[side], list) or not all(isinstance(subject, str) for subject in kept[side]):
                message = f"{place}: {side} is {kept[side]!r}, not a list of subjects. {remedy}"
                raise DamagedStore(message)
        split = cls(name=kept["name"], seed=kept["seed"], **{side: tuple(kept[side]) for side in _SIDES})
        for one, other in combinations(_SIDES, 2):
            if both := sorted({*kept[one]} & {*kept[other]}):
                message = f"{place}: {', '.join(both)} would be {_MEANING[one]} and {_MEANING[other]}. {remedy}"
                raise DamagedStore(message)
        if kept["digest"] != split.digest:
            message = (
                f"{place}: its subjects have the digest {split.digest}, it says {kept['digest']}: it was changed after "
                f"it was made. {remedy}"
            )
            raise DamagedStore(message)
        return split
