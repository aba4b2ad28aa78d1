"""How the slices that a head was trained on were made, so that it is shown none that were made otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...store.slices import Volume
from ..readers.windows import Window


def way_of(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return what the user decided of an ingest recipe, as text; a volume's own percentiles are left out.

    What became of values that are no numbers, and which volume of a 4-D file it is, say nothing of the grey values.
    """
    return {
        "window": ",".join(str(window) for window in windows_of(recipe)) or "none",
        "intensity": ",".join(dict.fromkeys(str(one["rule"]) for one in recipe["intensities"])),
        "axis": str(recipe["axis"] or "chosen by the file"),
        "channels": str(recipe["channels"]),
    }


def windows_of(recipe: Mapping[str, Any]) -> tuple[Window, ...]:
    """Return the windows of an ingest recipe, one a channel; none where values were scaled otherwise."""
    return tuple(Window.from_json(window) for window in recipe["windows"])


def recorded_ways(training: Sequence[Volume], others: Iterable[Volume]) -> dict[str, Any]:
    """Return how volumes were ingested, as a run keeps it, so that new sources are ingested alike.

    Parameters
    ----------
    training
        Those that a head was trained on. One with windows speaks for all: the same command gives windows to CT and
        leaves them aside for MR.
    others
        The workspace's. They are asked which volume of a 4-D file was chosen, where the first say nothing of it.

    Returns
    -------
    dict
        ``ingest_recipe``: of one of them. ``other_ingest_recipes``: of one volume for each further way there is.
    """
    chosen: dict[str, Any] = {}
    for volume in (*training, *others):
        chosen = {**volume.ingest_recipe.get("volume", {}), **chosen}
    ways: list[Mapping[str, Any]] = []
    for volume in sorted(training, key=lambda one: not one.ingest_recipe["windows"]):
        if way_of(volume.ingest_recipe) not in map(way_of, ways):
            ways.append(volume.ingest_recipe)
    first, *rest = ways
    return {"ingest_recipe": {**first, "volume": chosen}, "other_ingest_recipes": rest}
