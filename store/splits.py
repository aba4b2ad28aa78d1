"""Which subjects may be drawn for training and which are kept for the score.

A split is made once and kept; subjects that join the dataset later join the pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from .documents import read_sealed
from .errors import DamagedStore
from .keys import content_id
from .places import Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A named partition of the labelled subjects."""

    name: str
    seed: int
    #: Subjects that draws are taken from.
    pool: tuple[str, ...]
    #: Subjects whose labels are used for the final score only.
    test: tuple[str, ...]

    @property
    def digest(self) -> str:
        """A hash of the partition, kept in every run that used it."""
        return content_id({"pool": sorted(self.pool), "test": sorted(self.test)})

    def joined_by(self, subjects: Iterable[str]) -> Split:
        """Return the split with new subjects in its pool."""
        new = set(subjects) - set(self.pool) - set(self.test)
        return Split(name=self.name, seed=self.seed, pool=tuple(sorted({*self.pool, *new})), test=self.test)

    def to_json(self) -> dict[str, Any]:
        """Return the split as it is kept in ``splits/<name>.json``, its seal apart."""
        return {**asdict(self), "digest": self.digest}

    @classmethod
    def read(cls, place: Place) -> Self:
        """Read a split.

        Raises
        ------
        DamagedStore
            When it was changed after it was made, fields are missing or unknown, or a subject is on both sides.
        """
        remedy = "Restore it from a copy: a split made anew is another one, and scores would not compare."
        kept = read_sealed(place, (*(field.name for field in fields(cls)), "digest"), remedy)
        for side in ("pool", "test"):
            if not isinstance(kept[side], list) or not all(isinstance(subject, str) for subject in kept[side]):
                message = f"{place}: {side} is {kept[side]!r}, not a list of subjects. {remedy}"
                raise DamagedStore(message)
        split = cls(name=kept["name"], seed=kept["seed"], pool=tuple(kept["pool"]), test=tuple(kept["test"]))
        if both := sorted({*split.pool} & {*split.test}):
            message = f"{place}: {', '.join(both)} would be trained on and scored. {remedy}"
            raise DamagedStore(message)
        if kept["digest"] != split.digest:
            message = (
                f"{place}: its subjects have the digest {split.digest}, it says {kept['digest']}: it was changed after "
                f"it was made. {remedy}"
            )
            raise DamagedStore(message)
        return split
