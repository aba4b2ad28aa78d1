"""How the slices that a head was trained on were made, so that it is shown none that were made otherwise."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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


def told_way(way: Mapping[str, str], names: Iterable[str]) -> str:
    """Return some of what was decided: ``axis sagittal, window 400/40``."""
    return ", ".join(f"{name} {way[name]}" for name in names)


def windows_of(recipe: Mapping[str, Any]) -> tuple[Window, ...]:
    """Return the windows of an ingest recipe, one a channel; none where values were scaled otherwise."""
    return tuple(Window.from_json(window) for window in recipe["windows"])


def recorded_ways(training: Sequence[Volume], others: Collection[Volume]) -> dict[str, Any]:
    """Return how volumes were ingested, as a run keeps it, so that new sources are ingested alike.

    Parameters
    ----------
    training
        Those that a head was trained on. One with windows speaks for all: the same command gives windows to CT and
        leaves them aside for MR.
    others
        The workspace's. They are asked which volume of a 4-D file was chosen, and how labels were taken, where the
        first say nothing of it.

    Returns
    -------
    dict
        ``ingest_recipe``: of one of them. ``other_ingest_recipes``: of one volume for each further way there is.
        ``other_label_recipes``: each further way in which labels were taken, corrections by ``--labels-from`` left out.
    """
    chosen: dict[str, Any] = {}
    for volume in (*training, *others):
        chosen = {**volume.ingest_recipe.get("volume", {}), **chosen}
    ways: list[Mapping[str, Any]] = []
    for volume in sorted(training, key=lambda one: not one.ingest_recipe["windows"]):
        if way_of(volume.ingest_recipe) not in map(way_of, ways):
            ways.append(volume.ingest_recipe)
    first, *rest = ways
    label_recipes = _label_recipes(training, others)
    return {
        "ingest_recipe": {**first, "volume": chosen, "labels": label_recipes[0] if label_recipes else None},
        "other_ingest_recipes": rest,
        "other_label_recipes": label_recipes[1:],
    }


def _label_recipes(training: Iterable[Volume], others: Iterable[Volume]) -> list[Mapping[str, Any]]:
    """Return in how many ways labels were taken; one that was corrected speaks for itself, unless all came that way."""
    own, everywhere = _taken_labels(training), _taken_labels(others)
    for recipes in (own, everywhere):
        beside_images = [recipe for recipe in recipes if not recipe["apart"]]
        if beside_images:
            return beside_images
    return own


def _taken_labels(volumes: Iterable[Volume]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for volume in volumes:
        recipe = volume.ingest_recipe["labels"]
        if recipe is not None and recipe not in found:
            found.append(recipe)
    return found
