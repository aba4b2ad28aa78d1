"""What is new about a volume that is in the workspace already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...store.errors import IdentifierTaken
from ...store.slices import Volume, VolumeRecord
from ..readers.windows import Window
from .job import IngestOptions


def predecessor_of(new: VolumeRecord, old: VolumeRecord) -> Mapping[str, Any] | None:
    """Return what is remembered of the generation before: of the slices that these ones took the place of.

    Where only a label or a detail is new, the slices are still those that replaced the predecessor's.
    """
    same_slices = new.slice_digests == old.slice_digests
    # Without a predecessor, a record of another source is taken for a clash when it is committed.
    if same_slices and (old.predecessor is not None or new.identity == old.identity):
        return old.predecessor
    return {
        "ingest_recipe": old.ingest_recipe,
        "slice_digests": old.slice_digests,
        "label_digest": old.label_digest,
    }


def change_of(new: VolumeRecord, there: Volume | None, options: IngestOptions) -> str:
    """Say what is new about a volume.

    Raises
    ------
    IdentifierTaken
        When the id belongs to another source whose pixels differ.
    """
    if there is None:
        return "new"
    old = there.record
    same_pixels = old.slice_digests == new.slice_digests
    chosen, before = (_chosen(dict(one.ingest_recipe["volume"])) for one in (new, old))
    if old.identity != new.identity and chosen != before and not same_pixels and not options.replace:
        message = (
            f"{new.id!r} is in the workspace with {before}, and this is {chosen} of it, or of a case of that name. A "
            f"case is there once: ingest this into another --workspace, or take it in its place with --replace."
        )
        raise IdentifierTaken(message)
    otherwise = recipe_differences(dict(old.ingest_recipe), dict(new.ingest_recipe))
    if old.identity != new.identity and not same_pixels and otherwise and not options.replace:
        message = (
            f"the volume id {new.id!r} already belongs to another source in this workspace, which was ingested "
            f"otherwise ({'; '.join(otherwise)}). If it is the same scan, ingest it as that was; if they are two "
            f"patients, one of them with --ids hash, or into another --workspace. To take this one in its place, add "
            f"--replace."
        )
        raise IdentifierTaken(message)
    if old.identity != new.identity and not same_pixels and not options.replace:
        message = (
            f"the volume id {new.id!r} already belongs to another source in this workspace, with other pixels. Two "
            f"files of one name in different folders are usually two patients: ingest one of them with --ids hash, or "
            f"into another --workspace. If the dataset has only moved and was meant to change, add --replace."
        )
        raise IdentifierTaken(message)
    if not same_pixels and old.identity == new.identity and old.subject != new.subject and not options.replace:
        message = (
            f"{new.id!r} is in the workspace as a scan of another subject, with other pixels. Either two patients bear "
            f"the same UIDs and PatientID, as some anonymisers write them: ingest this one into another --workspace. "
            f"Or it is the same patient, and --subject names it otherwise than before: then add --replace."
        )
        raise IdentifierTaken(message)
    if not same_pixels:
        return "new pixels"
    if old.label_digest != new.label_digest:
        return "new label"
    unlike = (old.affine, old.subject, dict(old.source_grid), dict(old.ingest_recipe)) != (
        new.affine,
        new.subject,
        dict(new.source_grid),
        dict(new.ingest_recipe),
    )
    if unlike:
        return "new details"
    waits = not old.pixels  # of the same ingest, for its pack
    return "unchanged" if waits or there.intact() else "repaired"


def _chosen(volume: Mapping[str, int | float | None]) -> str:
    return ", ".join(f"{name} {value}" for name, value in volume.items() if value is not None) or "its only channel"


def recipe_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say which fields of two ingest recipes differ: ``window 400/40 -> 350/40``."""

    def scale(recipe: Mapping[str, Any]) -> str:
        windows = ",".join(str(Window.from_json(window)) for window in recipe["windows"])
        return f"window {windows}" if windows else f"scale: {recipe['intensities'][0]['rule']}"

    def axis(recipe: Mapping[str, Any]) -> str:
        return f"axis {recipe['axis'] or 'through-plane'}"

    def non_finite(recipe: Mapping[str, Any]) -> str:
        return f"non-finite {recipe['non_finite']}"

    def volume(recipe: Mapping[str, Any]) -> str:
        chosen = [f"{name} {value}" for name, value in recipe["volume"].items() if value is not None]
        return f"volume {', '.join(chosen) or 'the only one'}"

    changes = [(told(old), told(new)) for told in (scale, axis, non_finite, volume)]
    return [
        # "window 400/40 -> 350/40": the word that both begin with is said once.
        f"{before} -> {after.removeprefix(f'{before.split()[0]} ')}"
        for before, after in changes
        if before != after
    ]
