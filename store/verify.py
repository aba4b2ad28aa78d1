"""Whether everything on disk is what was written: every checksum and digest, looked at once.

Reading checks what it reads; this looks at all of it, and at what only others read (zarr's
description and index of a shard).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from .documents import bytes_digest
from .embeddings import Embeddings
from .errors import SamkitError
from .journal import Journal, read_records
from .places import Place
from .pretrained import MANIFEST, Pretraining
from .runs import Run
from .slices import Volume, file_digests
from .splits import Split
from .workspace import Workspace

Part = Literal["index", "volume", "split", "embeddings", "journal record", "shard", "pretraining", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """One thing that was looked at."""

    part: Part
    name: str
    #: What is wrong with it and what to do, or None where it is as it was written.
    fault: str | None = None


def verify(workspace: Workspace) -> Iterator[Checked]:
    """Read everything once and yield what was looked at, in the order volumes, splits, embeddings, pretrainings, runs.

    Nothing is changed.
    """
    for name, wrong in workspace.index.faults():
        yield Checked(part="index", name=name, fault=wrong)
    intact: dict[str, bool] = {}  # by folder: the volumes of a pack share one
    for volume in workspace.volumes.values():
        folder = volume.record.pixels
        if folder not in intact:
            intact[folder] = _is_intact(workspace.path / folder, volume.record.files)
        fault = None
        if not intact[folder] and (volume.record.plane is None or not _own_plane_is_intact(volume)):
            fault = f"slices or label are not what was ingested. {_remedy_of_volume(volume)}"
        elif not intact[folder]:
            fault = (
                f"the pack {folder}, which it shares with others, was changed in other planes than its own. Ingest the "
                f"source of the volume that is damaged again, then: samkit gc"
            )
        yield Checked(part="volume", name=volume.id, fault=fault)
    for name in (workspace.path / "splits").children():
        yield Checked(part="split", name=name, fault=_fault(_fault_of_split, workspace.path / "splits" / name))
    for name in (workspace.path / "embeddings").children():
        yield from _check_embeddings(workspace, workspace.path / "embeddings" / name)
    for name in (workspace.path / "pretrained").children():
        fault = _fault(_fault_of_pretraining, workspace.path / "pretrained" / name)
        yield Checked(part="pretraining", name=name, fault=fault)
    splits = set()
    for name in (workspace.path / "runs").children():
        broken = _fault(_fault_of_run, workspace.path / "runs" / name)
        yield Checked(part="run", name=name, fault=broken)
        splits |= set() if broken else {Run(workspace.path / "runs" / name).settings.split}
    for name in sorted(splits):
        if not (workspace.path / "splits" / f"{name}.json").exists():
            fault = (
                "runs were drawn from it and it is gone. Restore it from a copy: a split made anew may be another one."
            )
            yield Checked(part="split", name=f"{name}.json", fault=fault)


def _remedy_of_volume(volume: Volume) -> str:
    source = "Ingest its source again: what is damaged is written anew."
    if (volume.ingest_recipe.get("labels") or {}).get("apart"):
        return f"Its label came by --labels-from: first give it again, samkit ingest --labels-from LABELS. {source}"
    return source


def _fault(look: Callable[[Place], str | None], place: Place) -> str | None:
    """Return what is wrong with a thing; a bad sector in it is that, and the others are looked at all the same."""
    try:
        return look(place)
    except SamkitError as error:
        return str(error)
    except OSError as error:
        return _unread(place, error)


def _unread(place: Place, error: OSError) -> str:
    return (
        f"{place}: cannot be read ({error.strerror or error}): a disk fault is the usual cause. Copy the workspace to "
        f"another disk; what is damaged there is then told with what mends it."
    )


def _own_plane_is_intact(volume: Volume) -> bool:
    try:
        return volume.intact()
    except OSError:
        return False


def _is_intact(folder: Place, files: Mapping[str, str]) -> bool:
    try:
        return file_digests(folder) == dict(files)
    except OSError:  # a bad sector; the others are to be looked at all the same
        return False


def damaged_shards(embeddings: Embeddings) -> Iterator[tuple[str, str]]:
    """Yield (shard id, what is wrong) of every shard that cannot be read as it was written."""
    for record in list(embeddings.journal.records.values()):
        if fault := embeddings.fault_of(record):
            yield record.shard, fault


def unreadable_records(folder: Place) -> Iterator[tuple[str, str]]:
    """Yield (path in the journal, what is wrong) of every journal file of an embeddings folder that is damaged."""
    journal = folder / "journal"
    names = Journal.files_of(journal)
    try:
        contents = journal.read_children(names)
    except OSError:  # of one of them: which, is seen one by one
        contents = {}
    for name in names:
        try:
            read_records(contents[name] if name in contents else (journal / name).read_bytes(), journal / name)
        except SamkitError as error:
            yield name, str(error)
        except FileNotFoundError:
            continue  # compacted meanwhile
        except OSError as error:
            yield name, _unread(journal / name, error)


def _check_embeddings(workspace: Workspace, folder: Place) -> Iterator[Checked]:
    if not (folder / "recipe.json").exists() and not (folder / "journal").children():
        return  # a kill before the first row; the same command goes on
    unreadable = dict(unreadable_records(folder))
    for path, fault in unreadable.items():
        yield Checked(part="journal record", name=path.rpartition("/")[2].partition(".")[0], fault=fault)
    try:
        embeddings = Embeddings.open(folder, workspace.volumes, leave_out=unreadable)
    except (SamkitError, OSError) as error:
        fault = _unread(folder, error) if isinstance(error, OSError) else str(error)
        yield Checked(part="embeddings", name=folder.name, fault=fault)
        return
    faults: list[str | None] = [*_faults_beside(embeddings)]
    for one in faults or [None]:
        yield Checked(part="embeddings", name=folder.name, fault=one)
    for record in embeddings.journal.records.values():
        yield Checked(part="shard", name=record.shard, fault=embeddings.fault_of(record))


def _faults_beside(embeddings: Embeddings) -> Iterator[str]:
    """Yield what is wrong with each file that lies beside a recipe."""
    for name in embeddings.attachments:
        try:
            embeddings.attachment(name)
        except SamkitError as error:
            yield str(error)
        except OSError as error:
            yield _unread(embeddings.folder / name, error)
    try:
        _ = embeddings.compute
    except SamkitError as error:
        yield str(error)
    except OSError as error:
        yield _unread(embeddings.folder / "compute.json", error)


def _fault_of_split(place: Place) -> str | None:
    Split.read(place)
    return None


def _fault_of_pretraining(folder: Place) -> str | None:
    if not (folder / MANIFEST).exists():
        return (
            f"{MANIFEST} is missing: a kill while it was put into an object store, or a deleted file. `samkit gc` "
            f"takes the rest when it is old."
        )
    found = Pretraining(folder)
    for name in found.record.get("files", {}):
        found.read(name)
    return None


def _fault_of_run(folder: Place) -> str | None:
    remedy = f"Remove {folder} and train the run again."
    if not (folder / "run.json").exists():
        return (
            "run.json is missing: a kill while the run was put into an object store, or a deleted file. Train it "
            "again: `samkit gc` takes the rest when it is old."
        )
    run = Run(folder)
    try:
        head = (folder / "head.safetensors").read_bytes()
    except FileNotFoundError:
        head = b""
    if hashlib.sha256(head).hexdigest() != run.record.get("head_sha256"):
        return f"head.safetensors is missing or not what was trained. {remedy}"
    for name, digest in run.record.get("files", {}).items():
        found = folder.read_children([name]).get(name)
        if found is None or bytes_digest(found) != digest:
            return f"{name} is missing or not what was written. {remedy}"
    return None
