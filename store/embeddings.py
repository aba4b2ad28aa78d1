"""The rows of one recipe: (C, h, w) features, read by slice and checked, written a shard at a time.

Shapes: N rows, C channels, h w cells of the embedding's grid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .arrays import TORN_ARRAY, open_array
from .errors import DamagedStore, MissingEmbeddings, StoreError, UsageError
from .files import (
    check_fields,
    publish,
    publish_if_absent,
    published_folder,
    read_json,
    readable_json,
    remove_folder,
    size_bytes,
)
from .journal import Journal, ShardRecord
from .keys import Recipe, RowKey, shard_id
from .shards import DATA_FILE, TornShard, fault_for_zarr, read_all, read_rows, row_checksum, write_shard

if TYPE_CHECKING:
    from .slices import Volume

# 64 rows of SAM at 1024 (256 x 64 x 64 float16 = 2 MiB) are 128 MiB: few enough files for a cluster's
# file system, small enough to lose to a crash without regret.
ROWS_PER_SHARD = 64
BYTES_PER_SHARD = 128 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """Rows that are computed, written and committed together."""

    recipe_id: str
    keys: tuple[RowKey, ...]

    @property
    def id(self) -> str:
        """The shard's name: a hash of the recipe and the ordered keys."""
        return shard_id(self.recipe_id, self.keys)


class Embeddings:
    """The features of one recipe in one workspace.

    ``features[volume_id]`` gives the rows of a volume in the order of its slices.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        volumes: Mapping[str, Volume],
        *,
        trained: bool,
        attachments: Mapping[str, str] | None = None,
        leave_out: Collection[Path] = (),
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        #: False where the encoder's weights came from a seed; every table says so.
        self.trained = trained
        #: sha256 of each file kept beside the recipe, by its name.
        self.attachments = dict(attachments or {})
        self.journal = Journal(folder / "journal", leave_out)
        self._volumes = volumes

    @classmethod
    def open(cls, folder: Path, volumes: Mapping[str, Volume], *, leave_out: Collection[Path] = ()) -> Embeddings:
        """Open the embeddings below ``folder``; ``leave_out`` names journal records that are known to be unreadable.

        Raises
        ------
        DamagedStore
            When ``recipe.json`` does not describe the folder it lies in.
        """
        path = folder / "recipe.json"
        remedy = "Restore it, or remove the folder and run `samkit embed`."
        kept = check_fields(path, read_json(path), ("id", "recipe", "tolerance", "trained", "attachments"), remedy)
        recipe = Recipe.from_json(kept["recipe"])
        if recipe.folder_name != folder.name:
            message = (
                f"{folder}: recipe.json describes {recipe.folder_name}. The folder was renamed or the recipe edited; "
                f"no row of it is used. Restore the name, or remove the folder and run `samkit embed`."
            )
            raise DamagedStore(message)
        trained, attachments = bool(kept["trained"]), dict(kept["attachments"])
        return cls(folder, recipe, volumes, trained=trained, attachments=attachments, leave_out=leave_out)

    @classmethod
    def create(
        cls,
        folder: Path,
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
            publish(folder / name, data)
        kept = {
            "id": recipe.id,
            "recipe": recipe.to_json(),
            "tolerance": recipe.tolerance,
            "trained": trained,
            "attachments": digests,
        }
        publish_if_absent(folder / "recipe.json", readable_json(kept))
        return cls.open(folder, volumes)

    # -- the compute class -------------------------------------------------------------------------

    @property
    def compute(self) -> dict[str, Any] | None:
        """What the rows are computed by (device kind, threads, micro-batch); None before the first plan."""
        path = self.folder / "compute.json"
        return dict(read_json(path)) if path.exists() else None

    def fix_compute(self, compute: Mapping[str, Any]) -> None:
        """Keep the compute class beside the recipe, for every later shard; one that stands already stays."""
        publish_if_absent(self.folder / "compute.json", readable_json(dict(compute)))

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
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != self.attachments[name]:
            message = (
                f"{path}: missing, or not what was kept there. Restore it from a copy, or remove the folder "
                f"{self.folder.name} and run `samkit embed`."
            )
            raise DamagedStore(message)
        return data

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

        Parameters
        ----------
        keys
            In any order; a key may occur twice.
        out
            Memory to fill, (N, C, h, w), C-contiguous, in the stored precision; by default it is allocated. What it
            holds after an error is not to be used.

        Raises
        ------
        MissingEmbeddings
            A key that no journal record lists.
        DamagedStore
            A shard that is missing, torn, or does not match its checksum.
        UsageError
            When ``out`` is not of that shape, kind or order.
        """
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
        row_shape, dtype = places[0][0].row_shape, np.dtype(places[0][0].dtype).newbyteorder("<")
        rows = np.empty((len(keys), *row_shape), dtype) if out is None else out
        if rows.shape != (len(keys), *row_shape) or rows.dtype != dtype or not rows.flags.c_contiguous:
            message = (
                f"out is {rows.shape} {rows.dtype}{'' if rows.flags.c_contiguous else ', not contiguous'}; these rows "
                f"need {(len(keys), *row_shape)} {dtype}, C-contiguous. Make it so, or leave it out."
            )
            raise UsageError(message)
        places.sort(key=lambda place: (place[0].shard, place[1]))
        groups = [list(group) for _, group in groupby(places, key=lambda place: place[0].shard)]
        for members in groups:
            self._check_record(members[0][0], row_shape, dtype)
        read_all([partial(self._read_shard, members, rows) for members in groups], rows.nbytes)
        return rows

    def _read_shard(self, members: Sequence[tuple[ShardRecord, int, int]], rows: NDArray[Any]) -> None:
        """Fill the places of one shard's rows; runs beside others of its kind."""
        record = members[0][0]
        file = self.folder / "features" / record.shard / DATA_FILE
        try:
            read_rows(file, len(record.keys), [(row, rows[position]) for _, row, position in members])
        except TornShard as error:
            self._damaged(record, str(error))
        for _, row, position in members:
            if row_checksum(rows[position]) != record.checksums[row]:
                self._damaged(record, f"row {row} does not match its checksum")

    def _check_record(self, record: ShardRecord, row_shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        if record.recipe != self.recipe.id:
            self._damaged(record, f"it was made by recipe {record.recipe}")
        if record.row_shape != row_shape or np.dtype(record.dtype) != dtype:
            self._damaged(record, f"its rows are {record.row_shape} {record.dtype}, others {row_shape} {dtype}")

    def fault_of(self, record: ShardRecord) -> str | None:
        """Say what is wrong with a shard, of its rows or of what zarr reads it by; None where it is as written."""
        rows = np.empty((len(record.keys), *record.row_shape), np.dtype(record.dtype).newbyteorder("<"))
        try:
            self._check_record(record, record.row_shape, rows.dtype)
            self._read_shard([(record, row, row) for row in range(len(rows))], rows)
        except DamagedStore as error:
            return str(error)
        folder = self.folder / "features" / record.shard
        what = fault_for_zarr(folder, rows.shape, rows.dtype)
        return None if what is None else f"shard {record.shard} of {self.folder.name}: {what}."

    def retire(self, shard: str) -> None:
        """Take a shard away: first its record, so that its rows are missing, then its data."""
        self.journal.retire(shard)
        remove_folder(self.folder / "features" / shard)

    def _damaged(self, record: ShardRecord, what: str) -> NoReturn:
        digests = {key.slice_digest for key in record.keys}
        touched = sorted(volume.id for volume in self._volumes.values() if digests & set(volume.slice_digests))
        record_path = self.folder / "journal" / f"{record.shard}.json"
        message = (
            f"shard {record.shard} of {self.folder.name}: {what}. "
            f"It holds slices of {', '.join(touched) or 'no volume'}. Remove its record {record_path} "
            f"and run `samkit embed`, or `samkit embed --repair` for all that is damaged, to make these "
            f"{len(record.keys)} rows again."
        )
        raise DamagedStore(message)

    # -- writing -----------------------------------------------------------------------------------

    def write(
        self,
        plan: ShardPlan,
        rows: NDArray[Any],
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
            When plan and rows do not belong together; nothing is written.
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
        checksums = tuple(row_checksum(row) for row in rows)
        path = self.folder / "features" / plan.id
        with published_folder(path, keep=lambda: self._stands(plan, checksums)) as part:
            write_shard(part, rows)
        channels, height, width = rows.shape[1:]
        record = ShardRecord(
            shard=plan.id,
            recipe=self.recipe.id,
            keys=plan.keys,
            checksums=checksums,
            row_shape=(channels, height, width),
            dtype=str(rows.dtype),
            compute=dict(compute),
            seconds=round(seconds, 4),
            peak_memory_bytes=peak_memory_bytes,
            code_version=code_version,
            writer=writer,
        )
        self.journal.commit(record)
        return self.journal.records[plan.id]

    def _stands(self, plan: ShardPlan, checksums: Sequence[int]) -> bool:
        """Whether the data that lies under a shard's name already is to stay.

        It stays once a record exists. Before that, data equal to ours stays too: another writer, about to commit
        it, must not find it gone. Anything else is a leftover, of a kill or of a disk fault.
        """
        if self.journal.look_for(plan.id):
            return True
        try:
            lying = np.asarray(open_array(self.folder / "features" / plan.id)[:])
        except TORN_ARRAY:
            return False
        return tuple(row_checksum(row) for row in lying) == tuple(checksums)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, features and journal."""
        return size_bytes(self.folder)
