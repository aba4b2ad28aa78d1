"""Which subjects may be drawn for training and which are kept for the score.

A split is made once and kept; subjects that join the dataset later join the pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from .keys import content_id


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
        """Return the split as it is kept in ``splits/<name>.json``."""
        return {**asdict(self), "digest": self.digest}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a split."""
        return cls(name=value["name"], seed=value["seed"], pool=tuple(value["pool"]), test=tuple(value["test"]))
