"""status: what exists, what is missing or stale, and what to type next."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Set
from functools import cache
from typing import Any

from ...heads.tiling import Tile, cover
from ...store.local import LocalPlace
from ...store.places import place_of
from ...store.runs import NO_ENCODER, stale_because
from ...store.slices import Volume
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..console import counted
from ..exit_codes import DONE
from ..plan import FULL, IDENTITY
from .hints import after_embedding, workspace_flag

# A line names so many views, and counts the rest.
_NAMED = 5


def run_status(workspace_path: str, *, volumes: bool = False, as_json: bool) -> int:
    """Say what exists, what is missing or stale, and how large it is; with ``volumes``, also each volume."""
    workspace = open_workspace(workspace_path)
    status = status_of(workspace)
    if volumes:
        status["volumes"] = [_told(volume) for volume in workspace.volumes.values()]
    if as_json:
        console.say(json.dumps(status, indent=1))
        return DONE
    if volumes:
        columns = ["volume", "subject", "modality", "slices", "rows x columns", "mm", "label values"]
        console.table("Volumes", columns, [_row(told) for told in status["volumes"]], numbers_from=None)
    dataset = status["dataset"]
    console.say(
        f"{workspace.path}: {counted(dataset['volumes'], 'volume')} of {counted(dataset['subjects'], 'subject')}, "
        f"{dataset['labelled']} labelled, {dataset['slices']} slices; labels {dataset['labels'] or 'none'}"
    )
    if dataset["geometry_unknown"]:
        console.say(
            f"geometry unknown for {dataset['geometry_unknown']} volumes: distances are in voxels, masks have no affine"
        )
    if status["embeddings"]:
        columns = ["embeddings", "tap", "kept as", "rows", "missing", "orphaned", "size", "made by"]
        rows = [
            [
                entry["name"] + ("" if entry["trained"] else " (seeded)"),
                entry["recipe"]["tap"],
                entry["recipe"]["storage_precision"],
                str(entry["rows"]),
                str(entry["missing"]),
                str(entry["orphaned"]),
                console.readable_bytes(entry["bytes"]),
                entry["compute"],
            ]
            for entry in status["embeddings"]
        ]
        console.table("Embeddings", columns, rows, numbers_from=3)
        for entry in status["embeddings"]:
            if entry["missing"]:
                goes_on = f"{_going_on(entry)}{workspace_flag(workspace_path)} goes on with them"
                console.say(f"{entry['name']}: {counted(entry['missing'], 'slice')} without a row; {goes_on}")
            for line in bank_lines(entry["views"]):
                console.say(f"{entry['name']}: {line}")
    if status["runs"]:
        rows = [[entry["id"], entry["alias"], entry["recipe"], entry["stale"] or ""] for entry in status["runs"]]
        console.table("Runs", ["run", "alias", "embeddings", "stale"], rows, numbers_from=None)
    console.say(f"next: {status['next']}")
    return DONE


def _told(volume: Volume) -> dict[str, Any]:
    record = volume.record
    slices, channels, rows, columns = record.shape
    return {
        "id": volume.id,
        "subject": volume.subject,
        "modality": record.modality,
        "slices": slices,
        "channels": channels,
        "rows": rows,
        "columns": columns,
        "spacing_mm": record.spacing_mm,
        "label_values": list(record.label_values) if volume.labelled else None,
    }


def _row(told: Mapping[str, Any]) -> list[str]:
    spacing = " x ".join(f"{side:.3g}" for side in told["spacing_mm"] or ()) or "unknown"
    values = told["label_values"]
    return [
        told["id"],
        told["subject"],
        told["modality"] or "?",
        str(told["slices"]),
        f"{told['rows']} x {told['columns']}",
        spacing,
        "no label" if values is None else ",".join(map(str, values)) or "background alone",
    ]


def say_next(workspace_path: str) -> None:
    """Say in a line what there is and what comes next, or how to begin; nothing is listed behind a URL."""
    place = place_of(workspace_path)
    if not isinstance(place, LocalPlace):
        console.say(f"next: samkit status{workspace_flag(workspace_path)}")
    elif not (place / "workspace.json").exists():
        console.say("next: samkit ingest FOLDER, with your images; or samkit demo, for a sample that is drawn")
    else:
        status = status_of(open_workspace(place))
        volumes, recipes = status["dataset"]["volumes"], len(status["embeddings"])
        console.say(
            f"{workspace_path}: {counted(volumes, 'volume')}, {counted(recipes, 'recipe')} embedded, "
            f"{counted(len(status['runs']), 'run')}"
        )
        console.say(f"next: {status['next']}")


def status_of(workspace: Workspace) -> dict[str, Any]:
    """Return the state of a workspace as plain values."""
    live: set[str] = set()
    subjects: set[str] = set()
    labelled = slices = geometry_unknown = 0
    # Once over the volumes, holding none of them: there may be a hundred thousand.
    for volume in workspace.volumes.values():
        live.update(volume.slice_digests)
        subjects.add(volume.subject)
        labelled += volume.labelled
        slices += len(volume.slice_digests)
        geometry_unknown += volume.affine is None
    embeddings = []
    recipes = list(workspace.recipes().values())
    for kept in recipes:
        views: Counter[str] = Counter()
        plain: set[str] = set()
        cut: defaultdict[str, set[str]] = defaultdict(set)
        orphaned = 0
        for key in kept.journal:
            if key.slice_digest not in live:
                orphaned += 1
                continue
            views[key.view] += 1
            if key.view == IDENTITY and key.tile == FULL:
                plain.add(key.slice_digest)
            elif key.view == IDENTITY:
                cut[key.slice_digest].add(key.tile)
        plain |= _covered(workspace, cut)
        compute = kept.compute or {}
        embeddings.append(
            {
                "name": kept.folder.name,
                "id": kept.recipe.id,
                "recipe": kept.recipe.to_json(),
                "trained": kept.trained,
                "rows": views.total(),
                # Slices with no row as they are, whole or in tiles. Of which slices there shall be a bank of views is
                # said with each `samkit embed`, so none of it is ever missing here.
                "missing": len(live - plain),
                "orphaned": orphaned,
                "views": dict(sorted(views.items(), key=lambda item: (item[0] != IDENTITY, item[0]))),
                "tiled": bool(cut),
                "bytes": kept.size_bytes,
                "compute": f"{compute.get('device', '?')}, batches of {compute.get('micro_batch', '?')}",
            }
        )
    runs = [
        {
            "id": run.id,
            "alias": run.alias,
            "recipe": run.settings.features or NO_ENCODER,
            "stale": stale_because(run, workspace.volumes),
        }
        for run in workspace.runs.values()
    ]
    flag = workspace_flag(workspace.path)
    whole = [kept for kept, entry in zip(recipes, embeddings, strict=True) if not entry["missing"]]
    if not workspace.volumes:
        following = f"samkit ingest FOLDER{flag}"
    elif not recipes:
        following = f"samkit embed{flag}"
    elif not whole:
        following = f"{_going_on(embeddings[-1])}{flag}"
    elif all(run["stale"] for run in runs):
        following = after_embedding(workspace, whole[-1])
    else:
        following = f"samkit report{flag}, and for masks: samkit predict latest --output masks{flag}"
    return {
        "workspace": str(workspace.path),
        "dataset": {
            "volumes": len(workspace.volumes),
            "subjects": len(subjects),
            "labelled": labelled,
            "slices": slices,
            "geometry_unknown": geometry_unknown,
            "labels": ", ".join(f"{value}={name}" for value, name in workspace.label_names.items()),
        },
        "embeddings": embeddings,
        "runs": runs,
        "next": following,
    }


def _covered(workspace: Workspace, cut: Mapping[str, Set[str]]) -> set[str]:
    """Return the slices none of whose pixels is without a tile; ``cut`` holds the tiles of each that have a row."""
    if not cut:
        return set()

    @cache  # of a volume's slices, and of many volumes, all have the same
    def whole(tiles: frozenset[str], rows: int, columns: int) -> bool:
        return cover(map(Tile.parse, tiles), rows, columns)

    return {
        digest
        for volume in workspace.volumes.values()
        for digest in volume.slice_digests
        if digest in cut and whole(frozenset(cut[digest]), *volume.record.shape[2:])
    }


def _going_on(entry: Mapping[str, Any]) -> str:
    return f"samkit embed --recipe {entry['id']}{' --tiles' if entry['tiled'] else ''}"


def bank_lines(views: Mapping[str, int]) -> list[str]:
    """Say which views there are besides the slices as they are; views of which there are equally many go together.

    Parameters
    ----------
    views
        Rows by view.

    Examples
    --------
    >>> bank_lines({"identity": 9, "flip-rows": 4, "transpose": 4})
    ['2 more views of 4 rows each: flip-rows, transpose']
    >>> bank_lines({"identity": 9})
    []
    """
    alike: dict[int, list[str]] = defaultdict(list)
    for view, rows in views.items():
        if view != IDENTITY:
            alike[rows].append(view)
    lines = []
    for rows, names in sorted(alike.items(), reverse=True):
        shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        each = " each" if len(names) > 1 else ""
        lines.append(f"{counted(len(names), 'more view')} of {counted(rows, 'row')}{each}: {shown}")
    return lines
