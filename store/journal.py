"""Which rows exist: a row exists if and only if a journal record lists its key.

One record a shard, created if absent, after the shard's data is on the disk. A
record is never changed. So a kill loses at most the shards in flight, and two
writers of one shard cannot disagree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from .errors import DamagedStore, UsageError
from .files import publish_if_absent, read_json, readable_json
from .keys import RowKey, shard_id


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """What is known of one finished shard."""

    shard: str
    recipe: str
    keys: tuple[RowKey, ...]
    #: XXH3-64 of each row's bytes, little-endian, C order.
    checksums: tuple[int, ...]
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
        """Return the record as it is kept in ``journal/<shard>.json``."""
        return {**asdict(self), "keys": [str(key) for key in self.keys]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], place: object = "a journal record") -> Self:
        """Read a record.

        Parameters
        ----------
        value
            What the file holds.
        place
            The file, for messages.

        Raises
        ------
        DamagedStore
            When a field is missing, the numbers of keys and checksums differ, or the shard's name is not
            that of its keys.
        """
        remedy = "Remove it and run `samkit embed` to make its rows again."
        try:
            rows, columns, channels = value["row_shape"][1], value["row_shape"][2], value["row_shape"][0]
            record = cls(
                shard=value["shard"],
                recipe=value["recipe"],
                keys=tuple(RowKey.parse(key) for key in value["keys"]),
                checksums=tuple(value["checksums"]),
                row_shape=(channels, rows, columns),
                dtype=value["dtype"],
                compute=dict(value["compute"]),
                seconds=value["seconds"],
                peak_memory_bytes=value["peak_memory_bytes"],
                code_version=value["code_version"],
                writer=value["writer"],
            )
        except (AttributeError, KeyError, ValueError, TypeError, IndexError, UsageError) as error:
            message = f"{place}: this journal record is incomplete ({error!r}). {remedy}"
            raise DamagedStore(message) from error
        if len(record.keys) != len(record.checksums):
            message = (
                f"{place}: the record of shard {record.shard} lists {len(record.keys)} rows and "
                f"{len(record.checksums)} checksums. {remedy}"
            )
            raise DamagedStore(message)
        named = shard_id(record.recipe, record.keys)
        if named != record.shard:
            # A key changed by a disk fault would give another slice's features, with a checksum that fits.
            message = (
                f"{place}: it says shard {record.shard}, but its recipe and rows are those of {named}; "
                f"the disk or another program has changed it. {remedy}"
            )
            raise DamagedStore(message)
        return record


class Journal:
    """The records of one recipe, read once and kept in memory."""

    def __init__(self, folder: Path, leave_out: Collection[Path] = ()) -> None:
        self.folder = folder
        self.records: dict[str, ShardRecord] = {}
        #: Records known to be unreadable, which are not opened.
        self._leave_out = frozenset(leave_out)
        self._places: dict[RowKey, tuple[str, int]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the records that have appeared since the last look."""
        for path in self.record_paths(self.folder):
            if path.stem not in self.records and path not in self._leave_out:
                self._learn(read_record(path))

    @staticmethod
    def record_paths(folder: Path) -> list[Path]:
        """Return the files of a journal's records, in the order of their names."""
        return sorted(folder.glob("[!.]*.json")) if folder.is_dir() else []

    def retire(self, shard: str) -> None:
        """Take a shard's record away: its rows are missing from then on."""
        (self.folder / f"{shard}.json").unlink(missing_ok=True)
        self.records.pop(shard, None)
        self._places = {}
        for record in self.records.values():
            self._learn(record)

    def look_for(self, shard: str) -> bool:
        """Whether a shard has a record by now, looking for it alone: a listing costs more with every shard."""
        path = self.folder / f"{shard}.json"
        if shard not in self.records and path.exists():
            self._learn(read_record(path))
        return shard in self.records

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

    def commit(self, record: ShardRecord) -> bool:
        """Say that a shard is complete; its data must be on the disk already.

        Returns
        -------
        bool
            False when another writer has said so before; its record stands.
        """
        path = self.folder / f"{record.shard}.json"
        first = publish_if_absent(path, readable_json(record.to_json()))
        self._learn(record if first else read_record(path))
        return first

    def _learn(self, record: ShardRecord) -> None:
        self.records[record.shard] = record
        for position, key in enumerate(record.keys):
            # The same row in two shards holds the same numbers; the first is as good as the second.
            self._places.setdefault(key, (record.shard, position))


def read_record(path: Path) -> ShardRecord:
    """Read the record in a file.

    Raises
    ------
    DamagedStore
        When it is not one, or another shard's.
    """
    record = ShardRecord.from_json(read_json(path), path)
    if record.shard != path.stem:
        message = (
            f"{path}: this is the record of shard {record.shard}. Give the file its name back, {record.shard}.json."
        )
        raise DamagedStore(message)
    return record
