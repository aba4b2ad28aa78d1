"""What is to be computed, decided without touching anything. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..store.embeddings import ShardPlan, cut_into_shards
from ..store.journal import Journal
from ..store.slices import Volume


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingPlan:
    """The rows a recipe lacks, in shards, and what there is already."""

    shards: tuple[ShardPlan, ...]
    #: Bytes of one row.
    row_bytes: int
    #: Distinct rows wanted.
    wanted: int
    #: Rows that exist already.
    present: int

    @property
    def missing(self) -> int:
        """Rows to be computed."""
        return self.wanted - self.present

    @property
    def missing_bytes(self) -> int:
        """What the rows to be computed will take on disk."""
        return self.missing * self.row_bytes


def plan_embedding(recipe_id: str, journal: Journal | None, volumes: Iterable[Volume], row_bytes: int) -> EmbeddingPlan:
    """Decide which shards to compute so that every slice of the volumes has a row.

    The order is that of the volumes and their slices; a slice that occurs twice is computed once. Whichever shards of
    a plan are done, the next plan has exactly the others: what is left are whole shards, and the last one.

    Parameters
    ----------
    recipe_id
        The recipe of the rows.
    journal
        Which rows there are; None for a recipe that has none yet.
    volumes
        Whose slices shall have rows.
    row_bytes
        Of one row as it is stored.
    """
    wanted = list(dict.fromkeys(key for volume in volumes for key in volume.row_keys()))
    missing = wanted if journal is None else journal.missing(wanted)
    return EmbeddingPlan(
        shards=tuple(cut_into_shards(recipe_id, missing, row_bytes)),
        row_bytes=row_bytes,
        wanted=len(wanted),
        present=len(wanted) - len(missing),
    )
