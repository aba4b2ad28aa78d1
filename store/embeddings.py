"""The rows of one recipe: (C, h, w) features, read by slice and checked, written a shard at a time.

Shapes: N rows, C channels, h w cells of the embedding's grid.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .documents import bytes_digest, read_sealed, sealed_json
from .errors import DamagedStore, MissingEmbeddings, StoreError, UsageError
from .journal import Journal, ShardRecord
from .keys import Recipe, RowKey, content_id, shard_id
from .places import Data, Place, as_bytes
from .precision import StoredRows, read_dtype, row_checksum, stored_row_bytes
from .shards import (
    DESCRIPTION,
    TornShard,
    fault_of_index,
    read_all,
    read_rows,
    read_scales,
    scales_files,
    shard_files,
)

if TYPE_CHECKING:
    from .slices import Volume

# 64 rows of SAM at 1024 (256 x 64 x 64 float16 = 2 MiB) are 128 MiB: few enough files for a cluster's
# file system, small enough to lose to a crash without regret.
ROWS_PER_SHARD = 64
BYTES_PER_SHARD = 128 * 1024 * 1024
# Records lying alone beyond this are worth a segment: opening would read them one by one.
_RECORDS_WORTH_COMPACTING = 64

# A message names so many volumes, and counts the rest.
_NAMED = 5

_COMPUTE_FIELDS = ("device", "kernel_path", "threads", "micro_batch")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """Rows that are computed, written and committed together."""

    recipe_id: str
    keys: tuple[RowKey, ...]

    @property
    def id(self) -> str:
        """The shard's name: a hash of the recipe and the ordered keys."""
        return shard_id(self.recipe_id, self.keys)


def cut_into_shards(recipe_id: str, keys: Sequence[RowKey], row_bytes: int) -> list[ShardPlan]:
    """Cut rows into shards of at most 64 rows and 128 MiB, in order.

    >>> keys = [RowKey(slice_digest=str(number)) for number in range(130)]
    >>> [len(shard.keys) for shard in cut_into_shards("recipe", keys, row_bytes=2 << 20)]
    [64, 64, 2]
    """
    rows = max(1, min(ROWS_PER_SHARD, BYTES_PER_SHARD // row_bytes))
    return [
        ShardPlan(recipe_id=recipe_id, keys=tuple(keys[first : first + rows])) for first in range(0, len(keys), rows)
    ]


class Embeddings:
    """The features of one recipe in one workspace.

    ``features[volume_id]`` gives the rows of a volume in the order of its slices.
    """

    def __init__(
        self,
        folder: Place,
        recipe: Recipe,
        volumes: Mapping[str, Volume],
        *,
        trained: bool,
        attachments: Mapping[str, str] | None = None,
        created: float = 0.0,
        leave_out: Collection[str] = (),
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        #: False where the encoder's weights came from a seed; every table says so.
        self.trained = trained
        #: sha256 of each file kept beside the recipe, by its name.
        self.attachments = dict(attachments or {})
        self.journal = Journal(folder / "journal", leave_out)
        self._volumes = volumes
        #: When the recipe was begun, seconds since 1970: "the newest" does not change with a copy of the files.
        self.created = created
        #: Volumes by digest of their slices, for messages; made when the first is needed.
        self._volumes_of: dict[str, list[str]] | None = None

    @classmethod
    def open(cls, folder: Place, volumes: Mapping[str, Volume], *, leave_out: Collection[str] = ()) -> Embeddings:
        """Open the embeddings below ``folder``; ``leave_out`` names journal files that are known to be unreadable.

        Raises
        ------
        DamagedStore
            When ``recipe.json`` is not as it was written, or does not describe the folder it lies in.
        """
        remedy = "Restore it from a copy, or remove the folder and run `samkit embed`."
        expected = ("id", "recipe", "tolerance", "trained", "attachments", "created")
        kept = read_sealed(folder / "recipe.json", expected, remedy)
        recipe = Recipe.from_json(kept["recipe"])
        if recipe.folder_name != folder.name:
            message = (
                f"{folder}: recipe.json describes {recipe.folder_name}. The folder was renamed or the recipe edited; "
                f"no row of it is used. Restore the name, or remove the folder and run `samkit embed`."
            )
            raise DamagedStore(message)
        return cls(
            folder,
            recipe,
            volumes,
            trained=bool(kept["trained"]),
            attachments=dict(kept["attachments"]),
            created=float(kept["created"]),
            leave_out=leave_out,
        )

    @classmethod
    def create(
        cls,
        folder: Place,
        recipe: Recipe,
        volumes: Mapping[str, Volume],
        *,
        trained: bool,
        attachments: Mapping[str, bytes] | None = None,
    ) -> Embeddings:
        """Write ``recipe.json`` before the first row, and open the folder.

        Parameters
        ----------
        attachments
            Files to keep beside the recipe, by name: the encoder's mask decoder, for heads that start from it.
        """
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in (attachments or {}).items()}
        for name, data in (attachments or {}).items():
            (folder / name).publish(data)
        kept = {
            "id": recipe.id,
            "recipe": recipe.to_json(),
            "tolerance": recipe.tolerance,
            "trained": trained,
            "attachments": digests,
            "created": time.time(),
        }
        (folder / "recipe.json").publish_if_absent(sealed_json(kept))
        return cls.open(folder, volumes)

    # -- the compute class -------------------------------------------------------------------------

    @property
    def compute(self) -> dict[str, Any] | None:
        """What the rows are computed by (device kind, threads, micro-batch); None before the first plan."""
        place = self.folder / "compute.json"
        if not place.exists():
            return None
        remedy = "Restore it from a copy; or remove it: later rows then agree within the tolerance, not bitwise."
        return read_sealed(place, _COMPUTE_FIELDS, remedy)

    def fix_compute(self, compute: Mapping[str, Any]) -> None:
        """Keep the compute class beside the recipe, for every later shard; one that stands already stays."""
        (self.folder / "compute.json").publish_if_absent(sealed_json(compute))

    def attachment(self, name: str) -> bytes | None:
        """Return a file kept beside the recipe, verified; None where the recipe has none of that name.

        Raises
        ------
        DamagedStore
            When the file is gone or is not what was kept.
        """
        if name not in self.attachments:
            return None
        path = self.folder / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != self.attachments[name]:
            message = (
                f"{path}: missing, or not what was kept there. Run `samkit embed --recipe {self.recipe.id}`, which "
                f"writes it again as the encoder has it, or restore it from a copy."
            )
            raise DamagedStore(message)
        return data

    def mend_attachments(self, attachments: Mapping[str, bytes]) -> None:
        """Write files beside the recipe again that are damaged, where what is given is what was kept there."""
        for name, data in attachments.items():
            if self.attachments.get(name) != hashlib.sha256(data).hexdigest():
                continue
            try:
                self.attachment(name)
            except DamagedStore:
                (self.folder / name).publish(data)

    # -- reading -----------------------------------------------------------------------------------

    def __getitem__(self, volume_id: str) -> NDArray[Any]:
        """Return the features of a volume, (slices, C, h, w), in the stored precision.

        Raises
        ------
        KeyError
            When the workspace has no such volume, or some of its slices are not embedded.
        DamagedStore
            When a row does not match its checksum.
        """
        volume = self._volumes[volume_id]
        keys = volume.row_keys()
        missing = self.journal.missing(keys)
        if missing:
            message = (
                f"{volume_id}: {len(missing)} of {len(set(keys))} slices have no embedding under "
                f"{self.recipe.folder_name}. Run `samkit embed --recipe {self.recipe.id}`."
            )
            raise MissingEmbeddings(message)
        return self.read(keys)

    def read(self, keys: Sequence[RowKey], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the rows of ``keys``, (N, C, h, w), each verified against its checksum.

        Rows kept as float16 and float32 come as they are, rows kept as int8 as float16.

        Parameters
        ----------
        keys
            In any order; a key may occur twice.
        out
            Memory to fill, (N, C, h, w), C-contiguous, of the kind that is returned; by default it is allocated. What
            it holds after an error is not to be used.

        Raises
        ------
        MissingEmbeddings
            A key that no journal record lists.
        DamagedStore
            A shard that is missing, torn, or does not match its checksum.
        UsageError
            When ``out`` is not of that shape, kind or order.
        """
        places = self._places_of(keys)
        try:
            return self._read(places, out)
        except DamagedStore:
            # `gc` may have moved the rows into another shard since the journal was read.
            self.journal.reload()
            if (now := self._places_of(keys)) == places:
                raise
            return self._read(now, out)

    def _places_of(self, keys: Sequence[RowKey]) -> list[tuple[ShardRecord, int, int]]:
        """Return (record, row in its shard, position among the keys) of each key."""
        places: list[tuple[ShardRecord, int, int]] = []
        for position, key in enumerate(keys):
            found = self.journal.find(key)
            if found is None:
                message = f"no row for slice {key.slice_digest} (view {key.view}). Run `samkit embed`."
                raise MissingEmbeddings(message)
            places.append((*found, position))
        if not places:
            message = "no rows were asked for"
            raise MissingEmbeddings(message)
        return places

    def _read(self, places: Sequence[tuple[ShardRecord, int, int]], out: NDArray[Any] | None) -> NDArray[Any]:
        first = places[0][0]
        expected, dtype = (len(places), *first.row_shape), read_dtype(first.dtype)
        rows = np.empty(expected, dtype) if out is None else out
        if rows.shape != expected or rows.dtype != dtype or not rows.flags.c_contiguous:
            message = (
                f"out is {rows.shape} {rows.dtype}{'' if rows.flags.c_contiguous else ', not contiguous'}; these rows "
                f"need {expected} {dtype}, C-contiguous. Make it so, or leave it out."
            )
            raise UsageError(message)
        ordered = sorted(places, key=lambda place: (place[0].shard, place[1]))
        groups = [list(group) for _, group in groupby(ordered, key=lambda place: place[0].shard)]
        for members in groups:
            self._check_record(members[0][0], first)
        read_all([partial(self._read_shard, members, rows) for members in groups], rows.nbytes)
        return rows

    def _read_shard(self, members: Sequence[tuple[ShardRecord, int, int]], rows: NDArray[Any]) -> None:
        """Fill the places of one shard's rows; runs beside others of its kind."""
        record = members[0][0]
        if np.dtype(record.dtype) != np.int8:
            self._read_values(record, [(row, rows[position]) for _, row, position in members])
            for _, row, position in members:
                self._check_row(record, row, rows[position])
            return
        kept = StoredRows.empty((len(members), *record.row_shape), np.int8)
        scales = np.empty((0, 0), np.float32) if kept.scales is None else kept.scales
        self._read_values(record, [(row, kept.values[place]) for place, (_, row, _) in enumerate(members)])
        self._read_scales(record, [(row, scales[place]) for place, (_, row, _) in enumerate(members)])
        for place, (_, row, position) in enumerate(members):
            self._check_row(record, row, kept.values[place], scales[place])
            kept.take(slice(place, place + 1)).restore(rows[position : position + 1])

    def stored(self, record: ShardRecord) -> StoredRows:
        """Return the rows of a shard as they lie on disk, each verified against its checksum.

        Raises
        ------
        DamagedStore
            When the shard is missing, torn, or does not match its checksums.
        """
        self._check_record(record, record)
        kept = StoredRows.empty((len(record.keys), *record.row_shape), record.dtype)
        self._read_values(record, list(enumerate(kept.values)))
        if kept.scales is not None:
            self._read_scales(record, list(enumerate(kept.scales)))
        for row, values in enumerate(kept.values):
            self._check_row(record, row, values, None if kept.scales is None else kept.scales[row])
        return kept

    def _read_values(self, record: ShardRecord, wanted: Sequence[tuple[int, NDArray[Any]]]) -> None:
        try:
            read_rows(self.folder / "features" / record.data, len(record.keys), wanted)
        except TornShard as error:
            self._damaged(record, str(error))

    def _read_scales(self, record: ShardRecord, wanted: Sequence[tuple[int, NDArray[np.float32]]]) -> None:
        try:
            read_scales(self.folder / "scales" / record.data, len(record.keys), wanted)
        except TornShard as error:
            self._damaged(record, str(error))

    def _check_row(
        self, record: ShardRecord, row: int, values: NDArray[Any], scales: NDArray[np.float32] | None = None
    ) -> None:
        if row_checksum(values, scales) != record.checksums[row]:
            self._damaged(record, f"row {row} does not match its checksum")

    def _check_record(self, record: ShardRecord, first: ShardRecord) -> None:
        """Refuse a shard of another recipe, or of other rows than the first of a reading."""
        if record.recipe != self.recipe.id:
            self._damaged(record, f"it was made by recipe {record.recipe}")
        if record.row_shape != first.row_shape or record.dtype != first.dtype:
            other = f"{first.row_shape} {first.dtype}"
            self._damaged(record, f"its rows are {record.row_shape} {record.dtype}, others {other}")

    def fault_of(self, record: ShardRecord) -> str | None:
        """Say what is wrong with a shard and what to do, of its rows or of what zarr reads it by; None for nothing."""
        try:
            self.stored(record)
            what = self._fault_for_zarr(record)
        except DamagedStore as error:
            return str(error)
        except OSError as error:  # a bad sector; the others are to be looked at all the same
            what = f"it cannot be read ({error})"
        return None if what is None else self._told(record, what)

    def _fault_for_zarr(self, record: ShardRecord) -> str | None:
        shape = (len(record.keys), *record.row_shape)
        what = fault_of_index(self.folder / "features" / record.data, shape, np.dtype(record.dtype))
        for name, digest in record.descriptions.items():
            kind, _, file = name.partition("/")
            found = (self.folder / kind / record.data).read_children([file]).get(file)
            if found is None or bytes_digest(found) != digest:
                what = f"its {name} is missing or was changed"
        return what

    def retire(self, shards: Collection[str]) -> None:
        """Take shards away: first their records, so that their rows are missing, then their data. Hold the lease."""
        data = {shard: self.journal.records[shard].data for shard in shards}
        self.journal.retire(shards)
        for shard, name in data.items():
            # Somebody may have made the shard again since its record went: then this data is theirs.
            if not self.journal.look_for(shard):
                (self.folder / "features" / name).remove()
                (self.folder / "scales" / name).remove()

    def _damaged(self, record: ShardRecord, what: str) -> NoReturn:
        raise DamagedStore(self._told(record, what))

    def _told(self, record: ShardRecord, what: str) -> str:
        """Return what is said of a damaged shard: which volumes it hurts, and the command that mends it."""
        if self._volumes_of is None:
            self._volumes_of = defaultdict(list)
            for volume in self._volumes.values():
                for digest in set(volume.slice_digests):
                    self._volumes_of[digest].append(volume.id)
        touched = sorted({name for key in record.keys for name in self._volumes_of.get(key.slice_digest, ())})
        more = f" and {len(touched) - _NAMED} more" if len(touched) > _NAMED else ""
        return (
            f"shard {record.shard} of {self.folder.name}: {what}. "
            f"It holds slices of {', '.join(touched[:_NAMED]) or 'no volume'}{more}. "
            f"Run `samkit embed --recipe {self.recipe.id} --repair` to make these {len(record.keys)} rows again."
        )

    # -- writing -----------------------------------------------------------------------------------

    def write(
        self,
        plan: ShardPlan,
        rows: StoredRows,
        *,
        compute: Mapping[str, Any],
        seconds: float,
        peak_memory_bytes: int,
        code_version: str,
        writer: str,
    ) -> ShardRecord:
        """Write a shard and then its record.

        Parameters
        ----------
        plan
            The keys, in the order of the rows.
        rows
            (N, C, h, w) in the storage precision.
        compute, seconds, peak_memory_bytes, code_version, writer
            How the rows were made; see `ShardRecord`.

        Returns
        -------
        ShardRecord
            The record that stands: this writer's, or an earlier one's of the same shard.

        Raises
        ------
        StoreError
            When plan and rows do not belong together, or the recipe was removed meanwhile; nothing is written.
        """
        if plan.recipe_id != self.recipe.id or len(plan.keys) != len(rows):
            message = (
                f"shard {plan.id}: {len(plan.keys)} keys of recipe {plan.recipe_id} do not belong to {len(rows)} rows "
                f"of recipe {self.recipe.id}; nothing was written. Plan the shards again: samkit embed"
            )
            raise StoreError(message)
        if self.journal.look_for(plan.id):
            # Another writer was faster; a committed shard is never touched.
            return self.journal.records[plan.id]
        channels, height, width = rows.values.shape[1:]
        checksums = rows.checksums()
        arrays = {"features": shard_files(rows.values)}
        if rows.scales is not None:
            arrays["scales"] = scales_files(rows.scales)
        record = ShardRecord(
            shard=plan.id,
            # Two writers of one shard on unlike devices never touch each other's data: it is named by its numbers.
            data=f"{plan.id}-{content_id(checksums, digits=8)}",
            recipe=self.recipe.id,
            keys=plan.keys,
            checksums=checksums,
            descriptions={
                f"{kind}/{DESCRIPTION}": bytes_digest(as_bytes(files[DESCRIPTION])) for kind, files in arrays.items()
            },
            row_shape=(channels, height, width),
            dtype=rows.values.dtype.name,
            compute=dict(compute),
            seconds=round(seconds, 4),
            peak_memory_bytes=peak_memory_bytes,
            code_version=code_version,
            writer=writer,
        )
        if not (self.folder / "recipe.json").exists():
            message = (
                f"{self.folder}: the recipe was removed while rows of it were computed; these are not kept. To have "
                f"them after all: the same samkit embed"
            )
            raise StoreError(message)
        folders = {self.folder / kind / record.data: files for kind, files in arrays.items()}
        for folder, files in folders.items():
            _publish(folder, files)
        self.journal.commit(record)
        for folder, files in folders.items():
            # `gc` may have taken older data of this name for a leftover in the moment before the record.
            if not all((folder / name).exists() for name in files):
                _publish(folder, files)
        return self.journal.records[plan.id]

    def compact(self) -> None:
        """Gather the journal's records into a segment, where there are enough to be worth it. Hold the lease."""
        if len(self.journal.loose()) >= _RECORDS_WORTH_COMPACTING:
            self.journal.compact()

    @property
    def row_shape(self) -> tuple[int, int, int] | None:
        """(C, h, w) of a row; None before the first."""
        return next((record.row_shape for record in self.journal.records.values()), None)

    @property
    def size_bytes(self) -> int:
        """Bytes of the rows, from the journal: `features/` is never listed for it."""
        return sum(
            len(record.keys) * stored_row_bytes(record.row_shape, record.dtype)
            for record in self.journal.records.values()
        )


def _publish(folder: Place, files: Mapping[str, Data]) -> None:
    """Write a folder whose name tells its content, unless it lies there as it should be.

    Then it is another writer's, about to be committed, or a kill's: it stays, so that nobody finds it gone for a
    moment, and counts as new. Anything else of its name is what a disk fault left.
    """

    def lies_there() -> bool:
        if not folder.refresh():
            return False
        found = folder.read_children(files)
        return all(found.get(name) == as_bytes(data) for name, data in files.items())

    folder.publish_folder(files, keep=lies_there)
