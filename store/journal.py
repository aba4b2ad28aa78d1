"""Which rows exist: a row exists if and only if a journal record lists its key.

One record a shard, created if absent, after the shard's data is on the disk. A
record is never changed. So a kill loses at most the shards in flight, and two
writers of one shard cannot disagree. Records are compacted into segments, many
records in one file, so that opening takes few requests however many shards there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Self

from .documents import (
    bytes_digest,
    canonical_json,
    parse_json,
    read_sealed_lines,
    sealed,
    sealed_json,
    sealed_lines,
    unsealed,
)
from .errors import DamagedStore, UsageError
from .keys import RowKey, shard_id
from .places import Place

RECORD_SUFFIX = ".json"
SEGMENT_SUFFIX = ".jsonl"
# So many segments are merged into one: opening reads fewer than that, and each record is rewritten rarely.
_SEGMENTS_AT_MOST = 8

# How often a listing is taken anew when files of it have gone meanwhile.
_LOOKS = 20

_REMEDY = (
    "Run `samkit embed --recipe ID --repair`, ID being the end of the folder's name: it takes the record away and "
    "makes its rows again."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """What is known of one finished shard."""

    shard: str
    #: The folder of its rows below ``features/``: the shard's name and a hash of the checksums.
    data: str
    recipe: str
    keys: tuple[RowKey, ...]
    #: XXH3-64 of each row's bytes, little-endian, C order, and of its scales after them.
    checksums: tuple[int, ...]
    #: Digest of what zarr reads the arrays by, ``features/zarr.json`` and, for int8, ``scales/zarr.json``.
    descriptions: Mapping[str, str]
    #: (C, h, w) of a row.
    row_shape: tuple[int, int, int]
    dtype: str
    #: The compute class the rows were made by, see FORMAT.md.
    compute: Mapping[str, Any]
    #: Wall time to read, encode and write the shard.
    seconds: float
    #: Largest resident size of the process that made it, so far.
    peak_memory_bytes: int
    code_version: str
    #: A random name of the command that wrote the shard: tells a shard of another command that ran meanwhile.
    writer: str

    def to_json(self) -> dict[str, Any]:
        """Return the record as it is kept in the journal, its seal apart."""
        kept = {known.name: getattr(self, known.name) for known in fields(self)}
        return {**kept, "keys": [str(key) for key in self.keys]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], place: object = "a journal record") -> Self:
        """Read a record that was sealed, comparing it with its seal.

        Parameters
        ----------
        value
            What the file holds.
        place
            The file, for messages.

        Raises
        ------
        DamagedStore
            When it was changed, the numbers of keys and checksums differ, or the shard's name is not that of its keys.
        """
        kept = unsealed(value, place, (known.name for known in fields(cls)), _REMEDY)
        try:
            channels, rows, columns = kept["row_shape"]
            record = cls(
                **{
                    **kept,
                    "keys": tuple(RowKey.parse(key) for key in kept["keys"]),
                    "checksums": tuple(kept["checksums"]),
                    "row_shape": (channels, rows, columns),
                    "descriptions": dict(kept["descriptions"]),
                    "compute": dict(kept["compute"]),
                }
            )
        except (AttributeError, ValueError, TypeError, UsageError) as error:
            message = f"{place}: this journal record is not of its form ({error!r}). {_REMEDY}"
            raise DamagedStore(message) from error
        if len(record.keys) != len(record.checksums):
            message = (
                f"{place}: the record of shard {record.shard} lists {len(record.keys)} rows and "
                f"{len(record.checksums)} checksums. {_REMEDY}"
            )
            raise DamagedStore(message)
        named = shard_id(record.recipe, record.keys)
        if named != record.shard:
            # A key changed by a disk fault would give another slice's features, with a checksum that fits.
            message = (
                f"{place}: it says shard {record.shard}, but its recipe and rows are those of {named}; "
                f"the disk or another program has changed it. {_REMEDY}"
            )
            raise DamagedStore(message)
        return record


class Journal:
    """The records of one recipe, read once and kept in memory."""

    def __init__(self, folder: Place, leave_out: Collection[str] = ()) -> None:
        self.folder = folder
        self.records: dict[str, ShardRecord] = {}
        #: Files known to be unreadable, which are not opened: see `files_of`.
        self._leave_out = frozenset(leave_out)
        #: The shards of each segment that was read.
        self._segments: dict[str, list[str]] = {}
        self._places: dict[RowKey, tuple[str, int]] = {}
        self.refresh()

    # -- finding -----------------------------------------------------------------------------------

    def __contains__(self, key: RowKey) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[RowKey]:
        return iter(self._places)

    def find(self, key: RowKey) -> tuple[ShardRecord, int] | None:
        """Return the record that lists ``key`` and the row's position in its shard, or None."""
        place = self._places.get(key)
        return None if place is None else (self.records[place[0]], place[1])

    def missing(self, keys: Sequence[RowKey]) -> list[RowKey]:
        """Return the keys that no record lists, in their order, each once."""
        return [key for key in dict.fromkeys(keys) if key not in self._places]

    # -- reading -----------------------------------------------------------------------------------

    @staticmethod
    def files_of(folder: Place) -> list[str]:
        """Return the paths of a journal's segments and records in its folder, in order, segments first.

        Records are listed before segments: what a compaction moves from the one to the other in between is seen twice,
        and in the other order it would not be seen at all.
        """
        alone = [name for name in folder.children() if name.endswith(RECORD_SUFFIX)]
        return [*_segments_of(folder), *alone]

    def refresh(self) -> None:
        """Read the records that have appeared since the last look."""
        for _ in range(_LOOKS):
            complete = self._read_new(self.files_of(self.folder))
            # While somebody compacts the journal, what was listed may be gone, and a listing may miss what replaces it:
            # it is done when a second listing names nothing new.
            if complete and all(map(self._knows, self.files_of(self.folder))):
                return
        message = f"{self.folder}: files are listed there and cannot be found. Look at the disk, then: samkit verify"
        raise DamagedStore(message)

    def reload(self) -> None:
        """Read everything again: what was retired since is forgotten."""
        self.records, self._segments, self._places = {}, {}, {}
        self.refresh()

    def _catch_up(self) -> None:
        """Learn what has come and forget what has gone, before the journal is written anew from what is known.

        A record that somebody retired meanwhile must not come back: where a file is gone, everything is read again.
        """
        gathered = {shard for shards in self._segments.values() for shard in shards}
        alone = {f"{shard}{RECORD_SUFFIX}" for shard in self.records if shard not in gathered}
        if {*self._segments, *alone} <= set(self.files_of(self.folder)):
            self.refresh()
        else:
            self.reload()

    def look_for(self, shard: str) -> bool:
        """Whether a shard has a record by now, looking for it alone: a listing costs more with every shard."""
        if shard not in self.records and (self.folder / f"{shard}{RECORD_SUFFIX}").exists():
            self._read_new([f"{shard}{RECORD_SUFFIX}"])
        if shard not in self.records:
            # It may have been compacted since the last look; of segments there are few.
            self._read_new(_segments_of(self.folder))
        return shard in self.records

    def _read_new(self, names: Iterable[str]) -> bool:
        """Read those of some files that have not been read; return whether all of them were still there."""
        wanted = [name for name in names if not self._knows(name)]
        read = self.folder.read_children(wanted)
        for name in (name for name in wanted if name in read):
            records = read_records(read[name], self.folder / name)
            if name.startswith("compacted/"):
                self._segments[name] = [record.shard for record in records]
            for record in records:
                self._learn(record)
        return len(read) == len(wanted)

    def _knows(self, name: str) -> bool:
        return name in self._leave_out or name in self._segments or name.removesuffix(RECORD_SUFFIX) in self.records

    def _learn(self, record: ShardRecord) -> None:
        if record.shard in self.records:
            return
        self.records[record.shard] = record
        for position, key in enumerate(record.keys):
            # The same row in two shards holds the same numbers; the first is as good as the second.
            self._places.setdefault(key, (record.shard, position))

    # -- writing -----------------------------------------------------------------------------------

    def commit(self, record: ShardRecord) -> bool:
        """Say that a shard is complete; its data must be on the disk already.

        Returns
        -------
        bool
            False when another writer has said so before; its record stands.
        """
        place = self.folder / f"{record.shard}{RECORD_SUFFIX}"
        first = place.publish_if_absent(sealed_json(record.to_json()))
        if first:
            self._learn(record)
        else:
            self.look_for(record.shard)
        return first

    def loose(self) -> list[str]:
        """Return the files of records that lie alone, read already or not; those known to be unreadable left out."""
        return [name for name in self.folder.children() if name.endswith(RECORD_SUFFIX) and name not in self._leave_out]

    def compact(self) -> int:
        """Gather the records that lie alone into a segment; return how many.

        The segment is written first and the records removed after it: a reader that finds one gone lists again. Hold
        the workspace's lease, see `store.lease`.
        """
        self._catch_up()
        alone = [name for name in self.loose() if self._knows(name)]
        if not alone:
            return 0
        merged = dict(self._segments) if len(self._segments) >= _SEGMENTS_AT_MOST else {}
        shards = [shard for listed in merged.values() for shard in listed]
        shards += [name.removesuffix(RECORD_SUFFIX) for name in alone]
        written = self._write_segment(shards)
        superseded = [name for name in (*merged, *alone) if name != written]
        self.folder.remove_children(superseded)
        for name in superseded:
            self._segments.pop(name, None)
        return len(alone)

    def retire(self, shards: Iterable[str]) -> None:
        """Take the records of some shards away: their rows are missing from then on. Hold the workspace's lease."""
        gone = set(shards)
        self._catch_up()
        self.folder.remove_children(f"{shard}{RECORD_SUFFIX}" for shard in sorted(gone))
        for name, listed in list(self._segments.items()):
            if gone & set(listed):
                # What stays is written before the old segment goes: no moment is without it.
                self._write_segment(shard for shard in listed if shard not in gone)
                (self.folder / name).remove()
                self._segments.pop(name)
        self.records = {shard: record for shard, record in self.records.items() if shard not in gone}
        self._places = {}
        for record in self.records.values():
            for position, key in enumerate(record.keys):
                self._places.setdefault(key, (record.shard, position))

    def _write_segment(self, shards: Iterable[str]) -> str | None:
        """Write a segment of the records of some shards; return its path in the journal, or None for no shards."""
        kept = sorted(set(shards))
        if not kept:
            return None
        data = sealed_lines(canonical_json(sealed(self.records[shard].to_json())).encode() for shard in kept)
        name = f"compacted/{bytes_digest(data)}{SEGMENT_SUFFIX}"
        (self.folder / name).publish(data)
        self._segments[name] = kept
        return name


def _segments_of(folder: Place) -> list[str]:
    return [f"compacted/{name}" for name in (folder / "compacted").children() if name.endswith(SEGMENT_SUFFIX)]


def read_records(data: bytes, place: Place) -> list[ShardRecord]:
    """Read the records in a file of the journal: one, or a segment of many.

    Raises
    ------
    DamagedStore
        When it was changed, or is another shard's.
    """
    if place.name.endswith(SEGMENT_SUFFIX):
        lines, _ = read_sealed_lines(data, place, _REMEDY)
        return [ShardRecord.from_json(parse_json(line, place), place) for line in lines]
    record = ShardRecord.from_json(parse_json(data, place), place)
    if f"{record.shard}{RECORD_SUFFIX}" != place.name:
        message = (
            f"{place}: this is the record of shard {record.shard}. Give the file its name back, {record.shard}.json."
        )
        raise DamagedStore(message)
    return [record]


def drop_damaged(folder: Place, name: str) -> None:
    """Remove a damaged file of a journal; of a segment, records that are as they were written are kept.

    Hold the workspace's lease.
    """
    place = folder / name
    if name.endswith(SEGMENT_SUFFIX):
        kept = []
        for line in place.read_bytes().splitlines():
            with suppress(DamagedStore):
                ShardRecord.from_json(parse_json(line, place), place)  # it has a seal of its own
                kept.append(line)
        if kept:
            data = sealed_lines(kept)
            anew = folder / f"compacted/{bytes_digest(data)}{SEGMENT_SUFFIX}"
            anew.publish(data)
            if anew == place:
                return
    place.remove()
