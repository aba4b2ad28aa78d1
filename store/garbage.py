"""gc: what no volume, record or run needs any more is taken away; what is needed is first written anew.

Order makes it safe to kill: survivors are written, then said to be there, and only then
is what they replace retired. Data without a record may be work under way, so it is left
until it is old.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from .documents import canonical_json
from .embeddings import Embeddings, cut_into_shards
from .journal import ShardRecord
from .keys import RowKey
from .places import Place
from .precision import StoredRows, stored_row_bytes
from .slices import Pixels, VolumeRecord, write_packs
from .workspace import Workspace

_FEATURES = ("features", "scales")
# A reading of the index and the PUT that follows it, with room to spare.
_SECONDS_OF_A_COMMIT = 3600
# The journal is written anew with every retirement; so many shards of 128 MiB are 4 GiB that lie there twice.
_SHARDS_RETIRED_TOGETHER = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """One thing that is taken away, or would be."""

    #: "rows", "shard data", "slices", "packed slices", "predecessors", "index segments", "unfinished run",
    #: "pretraining", "leftovers".
    kind: str
    name: str
    #: Rows, volumes or files.
    count: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Survivors:
    """Which shards of a recipe go, and what of them stays."""

    retired: tuple[ShardRecord, ...]
    #: (record, row in its shard) of every row to be kept, by what made it, in the order of the shards.
    kept: Mapping[str, tuple[tuple[ShardRecord, int], ...]]
    dead_rows: int


def collect(workspace: Workspace, *, older_than_seconds: float, dry_run: bool) -> Iterator[Garbage]:
    """Take away what is not needed, yielding each thing; with ``dry_run`` nothing is changed.

    Parameters
    ----------
    older_than_seconds
        How old data must be that nothing points to: what is younger may be work under way.
    dry_run
        Only say what there is.

    Raises
    ------
    DamagedStore
        When rows or planes that have to move are not as they were written: verify and repair first.
    """
    before = time.time() - older_than_seconds
    # The journals before the index: what is ingested and embedded meanwhile is in neither, or in the index.
    recipes = workspace.recipes().values()
    workspace = Workspace(workspace.path)
    live = {digest for volume in workspace.volumes.values() for digest in volume.slice_digests}
    # A reader that was opened before the index last changed may use slices that it no longer names.
    settled = workspace.index.modified() < before
    for embeddings in recipes:
        yield from _collect_rows(embeddings, live, dry_run=dry_run)
        yield from _collect_data(embeddings, before, dry_run=dry_run)
        if not dry_run:
            embeddings.journal.compact()
    if settled:
        yield from _collect_slices(workspace, before, dry_run=dry_run)
    yield from _collect_predecessors(workspace, dry_run=dry_run)
    yield from _repack(workspace, dry_run=dry_run)
    yield from _collect_segments(workspace, before, dry_run=dry_run)
    yield from _collect_runs(workspace, before, dry_run=dry_run)
    yield from _collect_pretrainings(workspace, before, dry_run=dry_run)
    if not dry_run and (count := workspace.path.remove_leftovers(before)):
        yield Garbage(kind="leftovers", name="of killed writers", count=count, size_bytes=0)


# -- rows ------------------------------------------------------------------------------------------


def _collect_rows(embeddings: Embeddings, live: set[str], *, dry_run: bool) -> Iterator[Garbage]:
    """Retire shards with rows of slices that no volume has, keeping their other rows in new shards."""
    plan = _survivors(embeddings, live)
    if not plan.retired:
        return
    if not dry_run:
        _move_survivors(embeddings, plan)
    row_bytes = stored_row_bytes(plan.retired[0].row_shape, plan.retired[0].dtype)
    gone = sum(len(record.keys) for record in plan.retired) - sum(map(len, plan.kept.values()))
    yield Garbage(kind="rows", name=embeddings.folder.name, count=plan.dead_rows, size_bytes=gone * row_bytes)


def _move_survivors(embeddings: Embeddings, plan: _Survivors) -> None:
    """Retire shards as soon as what they held is recorded elsewhere: little more than a batch lies there twice."""
    left = {record.shard: 0 for record in plan.retired}
    for rows in plan.kept.values():
        for record, _ in rows:
            left[record.shard] += 1
    # First those with nothing to be kept: on a full disk they make the room for the others.
    embeddings.retire([shard for shard, count in left.items() if not count])
    done: list[str] = []
    for rows in plan.kept.values():
        for moved in _write_survivors(embeddings, rows):
            for shard in moved:
                left[shard] -= 1
                if not left[shard]:
                    done.append(shard)
            if len(done) >= _SHARDS_RETIRED_TOGETHER:
                embeddings.retire(done)
                done = []
    embeddings.retire(done)


def _survivors(embeddings: Embeddings, live: set[str]) -> _Survivors:
    """Decide which shards go: those that hold a dead row."""
    records = embeddings.journal.records.values()
    dead = {record.shard: sum(key.slice_digest not in live for key in record.keys) for record in records}
    retired = tuple(record for record in sorted(records, key=lambda one: one.shard) if dead[record.shard])
    # After a kill in the middle the rows to be kept may lie in a new shard already.
    seen: set[RowKey] = {key for record in records if not dead[record.shard] for key in record.keys}
    kept: dict[str, list[tuple[ShardRecord, int]]] = defaultdict(list)
    for record in retired:
        for row, key in enumerate(record.keys):
            if key.slice_digest in live and key not in seen:
                seen.add(key)
                # A record says what its rows were made by, so rows made otherwise go into shards of their own.
                kept[canonical_json([record.compute, record.dtype, record.row_shape])].append((record, row))
    return _Survivors(
        retired=retired, kept={made: tuple(rows) for made, rows in sorted(kept.items())}, dead_rows=sum(dead.values())
    )


def _write_survivors(embeddings: Embeddings, rows: Iterable[tuple[ShardRecord, int]]) -> Iterator[list[str]]:
    """Write rows of old shards into new ones, bit by bit as they were; yield the old shard of each row, by new ones."""
    places = {record.keys[row]: (record, row) for record, row in rows}
    first = next(iter(places.values()))[0]
    for plan in cut_into_shards(embeddings.recipe.id, list(places), stored_row_bytes(first.row_shape, first.dtype)):
        together = StoredRows.empty((len(plan.keys), *first.row_shape), first.dtype)
        by_shard: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for position, key in enumerate(plan.keys):
            record, row = places[key]
            by_shard[record.shard].append((position, row))
        for shard, moved in by_shard.items():
            there = embeddings.stored(embeddings.journal.records[shard])
            for position, row in moved:
                together.put(position, there.take(slice(row, row + 1)))
        embeddings.write(
            plan,
            together,
            compute=first.compute,
            seconds=0.0,
            peak_memory_bytes=first.peak_memory_bytes,
            code_version=first.code_version,
            writer=first.writer,
        )
        yield [places[key][0].shard for key in plan.keys]


def _collect_data(embeddings: Embeddings, before: float, *, dry_run: bool) -> Iterator[Garbage]:
    """Remove data that no record names, if it is old: of writers that were killed, or that came second."""
    named = {record.data for record in embeddings.journal.records.values()}
    nameless = [
        embeddings.folder / kind / name
        for kind in _FEATURES
        for name in (embeddings.folder / kind).children()
        if name not in named
    ]
    old = [place for place in nameless if place.modified() < before]
    if old and not dry_run:
        # A writer may have taken some of it over since, and recorded it.
        embeddings.journal.refresh()
        named = {record.data for record in embeddings.journal.records.values()}
    for place in old:
        if place.name not in named:
            yield from _removed(place, "shard data", before, dry_run=dry_run)


# -- slices and the index --------------------------------------------------------------------------


def _collect_predecessors(workspace: Workspace, *, dry_run: bool) -> Iterator[Garbage]:
    """Forget how earlier generations of volumes were made; their slices go like all that no volume names."""
    old = [volume.record for volume in workspace.volumes.values() if volume.record.predecessor is not None]
    if old:
        if not dry_run:
            workspace.exchange_records((record, replace(record, predecessor=None)) for record in old)
        yield Garbage(kind="predecessors", name="of volumes", count=len(old), size_bytes=0)


def _repack(workspace: Workspace, *, dry_run: bool) -> Iterator[Garbage]:
    """Write packs anew from which volumes have been removed."""
    members: dict[str, list[VolumeRecord]] = defaultdict(list)
    for volume in workspace.volumes.values():
        if volume.record.plane is not None:
            members[volume.record.pixels].append(volume.record)
    for folder, records in members.items():
        array = workspace.volumes[records[0].id].image
        gone = array.planes_in_file - len({record.plane for record in records})
        if not gone:
            continue
        if not dry_run:
            moved = {
                record.id: Pixels(
                    image=workspace.volumes[record.id].read_slice(0)[None],
                    label=workspace.volumes[record.id].read_label(),
                )
                for record in sorted(records, key=lambda one: one.plane or 0)
            }
            places = write_packs(workspace.path, moved)
            workspace.exchange_records(
                (record, replace(record, pixels=place.pixels, files=place.files, plane=place.plane))
                for record, place in ((record, places[record.id]) for record in records)
            )
        yield Garbage(kind="packed slices", name=folder, count=gone, size_bytes=0)


def _collect_slices(workspace: Workspace, before: float, *, dry_run: bool) -> Iterator[Garbage]:
    """Remove slices that no volume names, if they are old."""
    # As the index is now: an ingest may have committed since this began.
    named = {volume.record.pixels for volume in Workspace(workspace.path).volumes.values()}
    folder = workspace.path / "slices"
    for name in folder.children():
        if f"slices/{name}" not in named:
            yield from _removed(folder / name, "slices", before, dry_run=dry_run)


def _collect_segments(workspace: Workspace, before: float, *, dry_run: bool) -> Iterator[Garbage]:
    """Replace the log of the index by a snapshot, and remove what that covers, if it is old.

    However little is asked for, what is new stays for an hour: who commits meanwhile writes the next number if it is
    absent, and one that was taken away would be absent again, and the commit lie where nobody reads any more.
    """
    before = min(before, time.time() - _SECONDS_OF_A_COMMIT)
    state = workspace.index.read()
    if not dry_run and state.segment > state.snapshot:
        workspace.index.write_snapshot(state)
    for place in workspace.index.covered():
        yield from _removed(place, "index segments", before, dry_run=dry_run)


def _collect_runs(workspace: Workspace, before: float, *, dry_run: bool) -> Iterator[Garbage]:
    """Remove what a kill left of runs in an object store, where the manifest is put last."""
    folder = workspace.path / "runs"
    for name in folder.children():
        if not (folder / name / "run.json").exists():
            yield from _removed(folder / name, "unfinished run", before, dry_run=dry_run)


def _collect_pretrainings(workspace: Workspace, before: float, *, dry_run: bool) -> Iterator[Garbage]:
    """Remove pretrainings that no run began from, and what a kill left of one in an object store, if they are old."""
    named = {run.settings.head_config.get("pretrained") for run in workspace.runs.values()}
    folder = workspace.path / "pretrained"
    for name in folder.children():
        if name not in named:
            yield from _removed(folder / name, "pretraining", before, dry_run=dry_run)


def _removed(place: Place, kind: str, before: float, *, dry_run: bool) -> Iterator[Garbage]:
    if place.modified() < before:
        size = place.size_bytes()
        if not dry_run:
            place.remove()
        yield Garbage(kind=kind, name=place.name, count=1, size_bytes=size)
