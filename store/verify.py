"""Whether everything on disk is what was written: every checksum and digest, looked at once.

Reading checks what it reads; this looks at all of it, and at what only others read (zarr's
description and index of a shard).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .embeddings import Embeddings
from .errors import SamkitError
from .files import file_digest
from .journal import Journal, read_record
from .runs import Run
from .workspace import Workspace

Part = Literal["volume", "embeddings", "journal record", "shard", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """One thing that was looked at."""

    part: Part
    name: str
    #: What is wrong with it and what to do, or None where it is as it was written.
    fault: str | None = None


def verify(workspace: Workspace) -> Iterator[Checked]:
    """Read everything once and yield what was looked at, in the order volumes, embeddings, runs.

    Nothing is changed.
    """
    for volume in workspace.volumes.values():
        fault = None
        if not volume.intact():
            fault = (
                "slices or label are not what was ingested. Ingest its source again: what is damaged is written anew."
            )
        yield Checked(part="volume", name=volume.id, fault=fault)
    for folder in _folders(workspace.path / "embeddings"):
        yield from _check_embeddings(workspace, folder)
    for folder in _folders(workspace.path / "runs"):
        yield Checked(part="run", name=folder.name, fault=_fault_of_run(folder))


def damaged_shards(embeddings: Embeddings) -> Iterator[tuple[str, str]]:
    """Yield (shard id, what is wrong) of every shard that cannot be read as it was written."""
    for record in list(embeddings.journal.records.values()):
        if fault := embeddings.fault_of(record):
            yield record.shard, fault


def unreadable_records(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield (file, what is wrong) of every journal record below an embeddings folder that does not read as one."""
    for path in Journal.record_paths(folder / "journal"):
        try:
            read_record(path)
        except SamkitError as error:
            yield path, str(error)


def _check_embeddings(workspace: Workspace, folder: Path) -> Iterator[Checked]:
    unreadable = dict(unreadable_records(folder))
    yield from (Checked(part="journal record", name=path.stem, fault=fault) for path, fault in unreadable.items())
    try:
        embeddings = Embeddings.open(folder, workspace.volumes, leave_out=unreadable)
        for name in embeddings.attachments:
            embeddings.attachment(name)
        _ = embeddings.compute
    except SamkitError as error:
        yield Checked(part="embeddings", name=folder.name, fault=str(error))
        return
    yield Checked(part="embeddings", name=folder.name)
    for record in embeddings.journal.records.values():
        fault = embeddings.fault_of(record)
        remedy = f" Compute its rows again: samkit embed --recipe {embeddings.recipe.id} --repair"
        yield Checked(part="shard", name=record.shard, fault=None if fault is None else fault + remedy)


def _fault_of_run(folder: Path) -> str | None:
    remedy = f"Remove {folder} and train the run again."
    try:
        run = Run(folder)
    except SamkitError as error:
        return str(error)
    except FileNotFoundError:
        return f"run.json is missing. {remedy}"
    head = folder / "head.safetensors"
    if not head.exists() or hashlib.sha256(head.read_bytes()).hexdigest() != run.record.get("head_sha256"):
        return f"head.safetensors is missing or not what was trained. {remedy}"
    for name, digest in run.record.get("files", {}).items():
        file = folder / name
        if not file.exists() or file_digest(file) != digest:
            return f"{name} is missing or not what was written. {remedy}"
    return None


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))
