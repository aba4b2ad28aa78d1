"""What encoding once has cost, and what encoding in every step would have: when the cache had paid for itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...heads.base import find_head, head_names
from ...store.embeddings import Embeddings
from ...store.runs import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodingCost:
    """One recipe's rows, and the runs that were trained on them."""

    recipe: str
    rows: int
    size_bytes: int
    #: Of all devices together, reading and writing apart.
    seconds: float
    runs: int
    #: How often a row was shown to a head while it was fitted, over all runs.
    visits: int
    #: Of fitting and reading features, over all runs.
    fitting_seconds: float
    #: Epochs of the first run after which encoding in every step would have taken as long as encoding all rows once.
    break_even_epochs: float
    #: Of the first run.
    epochs: float

    @property
    def seconds_a_row(self) -> float:
        """Of the encoder."""
        return self.seconds / self.rows

    @property
    def live_seconds(self) -> float:
        """What the encoder would have taken if it had run in every step of every run, as published code does."""
        return self.visits * self.seconds_a_row

    @property
    def times_saved(self) -> float:
        """How many times as long encoding in every step would have taken."""
        return self.live_seconds / self.seconds


def encoding_cost(embeddings: Embeddings, runs: Sequence[Run]) -> EncodingCost | None:
    """Count what the runs of a recipe would have cost without its rows; None where there are no fitted runs, or rows.

    Parameters
    ----------
    embeddings
        Of one recipe.
    runs
        Oldest first; those of other recipes are left out, and those that ran the encoder in every step themselves.
    """
    records = list(embeddings.journal.records.values())
    rows, seconds = sum(len(record.keys) for record in records), sum(record.seconds for record in records)
    own = [run for run in runs if run.settings.recipe_id == embeddings.recipe.id]
    fitted = [run for run in own if run.record["steps"] and not _encoded_live(run)]
    if not rows or not seconds or not fitted:
        return None
    first = fitted[0]
    return EncodingCost(
        recipe=embeddings.recipe.folder_name,
        rows=rows,
        size_bytes=embeddings.size_bytes,
        seconds=seconds,
        runs=len(fitted),
        visits=sum(_visits(run) for run in fitted),
        fitting_seconds=sum(run.record["seconds"]["features"] + run.record["seconds"]["fitting"] for run in fitted),
        break_even_epochs=rows / first.record["training_rows"],
        epochs=_visits(first) / first.record["training_rows"],
    )


def _visits(run: Run) -> int:
    """Return how many rows the steps of a run were shown; nearly so where heads see chunks, which are of unlike length.

    A round shows every row once, so that its last batch has what is left of them.
    """
    rows, batch_size = int(run.record["training_rows"]), int(run.settings.training["batch_size"])
    rounds, steps = divmod(int(run.record["steps"]), math.ceil(rows / batch_size))
    return rounds * rows + min(steps * batch_size, rows)


def _encoded_live(run: Run) -> bool:
    """Return whether the encoder was part of the head, so that no row was saved; of a head that is not here, no."""
    return run.settings.head in head_names() and find_head(run.settings.head).sees.squares
