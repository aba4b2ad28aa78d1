"""status: what exists, what is missing or stale, and what to type next."""

from __future__ import annotations

import json
from typing import Any

from ...store.keys import RowKey
from ...store.runs import stale_because
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..console import counted
from ..exit_codes import DONE
from .hints import workspace_flag


def run_status(workspace_path: str, *, as_json: bool) -> int:
    """Say what exists, what is missing or stale, and how large it is."""
    workspace = open_workspace(workspace_path)
    status = status_of(workspace)
    if as_json:
        console.say(json.dumps(status, indent=1))
        return DONE
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
        columns = ["embeddings", "kept as", "rows", "missing", "orphaned", "size", "made by"]
        rows = [
            [
                entry["name"] + ("" if entry["trained"] else " (untrained)"),
                entry["recipe"]["storage_precision"],
                str(entry["rows"]),
                str(entry["missing"]),
                str(entry["orphaned"]),
                console.readable_bytes(entry["bytes"]),
                entry["compute"],
            ]
            for entry in status["embeddings"]
        ]
        console.table("Embeddings", columns, rows, numbers_from=2)
    if status["runs"]:
        rows = [[entry["id"], entry["alias"], entry["recipe"], entry["stale"] or ""] for entry in status["runs"]]
        console.table("Runs", ["run", "alias", "embeddings", "stale"], rows, numbers_from=None)
    console.say(f"next: {status['next']}")
    return DONE


def status_of(workspace: Workspace) -> dict[str, Any]:
    """Return the state of a workspace as plain values."""
    wanted: set[RowKey] = set()
    subjects: set[str] = set()
    labelled = slices = geometry_unknown = 0
    # Once over the volumes, holding none of them: there may be a hundred thousand.
    for volume in workspace.volumes.values():
        wanted.update(volume.row_keys())
        subjects.add(volume.subject)
        labelled += volume.labelled
        slices += len(volume.slice_digests)
        geometry_unknown += volume.affine is None
    embeddings = []
    for kept in workspace.recipes().values():
        there = set(kept.journal)
        compute = kept.compute or {}
        embeddings.append(
            {
                "name": kept.folder.name,
                "id": kept.recipe.id,
                "recipe": kept.recipe.to_json(),
                "trained": kept.trained,
                "rows": len(there & wanted),
                "missing": len(wanted - there),
                "orphaned": len(there - wanted),
                "bytes": kept.size_bytes,
                "compute": f"{compute.get('device', '?')}, batches of {compute.get('micro_batch', '?')}",
            }
        )
    runs = [
        {
            "id": run.id,
            "alias": run.alias,
            "recipe": f"{run.settings.encoder}--{run.settings.recipe_id}",
            "stale": stale_because(run, workspace.volumes),
        }
        for run in workspace.runs.values()
    ]
    flag = workspace_flag(workspace.path)
    if not workspace.volumes:
        following = f"samkit ingest FOLDER{flag}"
    elif not embeddings:
        following = f"samkit embed{flag}"
    elif all(entry["missing"] for entry in embeddings):
        following = f"samkit embed --recipe {embeddings[-1]['id']}{flag}"
    elif not runs:
        following = f"samkit train-head autosam --volumes 1 --draws 3{flag}"
    else:
        following = f"samkit report{flag}"
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
