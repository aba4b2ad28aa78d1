"""What a head is fed: features and labels of some volumes, slice by slice, from memory or streamed from the store.

Shapes: N slices, B of them in a batch, C channels, h w cells of the embedding, G cells of the logit grid.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..store.embeddings import Embeddings
from ..store.errors import InputError, MissingEmbeddings
from ..store.keys import RowKey
from ..store.slices import Volume
from .base import LOGIT_CELLS_PER_FEATURE_CELL
from .frame import Frame
from .inference import class_values, to_class_index

# zlib's fastest: a label map is mostly runs of one value, and every batch unpacks some.
_COMPRESSION_LEVEL = 1


def frame_of(volume: Volume, embeddings: Embeddings) -> Frame:
    """Return where the slices of a volume lie in the square that the encoder was given."""
    _, _, rows, columns = volume.record.shape
    return Frame(rows=rows, columns=columns, input_px=embeddings.recipe.input_px)


def check_embedded(embeddings: Embeddings, volumes: Sequence[Volume], *, what: str) -> None:
    """Refuse volumes that have slices without a row.

    Raises
    ------
    MissingEmbeddings
        With the number of slices and the command that embeds them.
    """
    keys = [key for volume in volumes for key in volume.row_keys()]
    missing = embeddings.journal.missing(keys)
    if missing:
        message = (
            f"{len(missing)} of {len(set(keys))} slices of the {what} volumes have no embedding under "
            f"{embeddings.recipe.folder_name}. Run `samkit embed --recipe {embeddings.recipe.id}`."
        )
        raise MissingEmbeddings(message)


class LabelledSlices:
    """The slices of some labelled volumes: features by index, labels on the logit grid.

    Both are read once, verified, and kept in memory where they fit. Where they do not, features are streamed from the
    store, verified in every batch, and labels are kept compressed: a few hundred bytes a slice on a grid of 64 cells, a
    kB on SAM's of 256. So memory hardly grows with the number of volumes, and no label is read twice.

    Parameters
    ----------
    embeddings
        Where the features come from.
    volumes
        Labelled and embedded.
    memory_bytes
        What features and labels together may take in memory; above it features are streamed.

    Raises
    ------
    MissingEmbeddings
        When a slice has no row.
    DamagedStore
        When a label is not the one that was ingested.
    """

    def __init__(self, embeddings: Embeddings, volumes: Sequence[Volume], memory_bytes: int) -> None:
        check_embedded(embeddings, volumes, what="drawn")
        self._embeddings = embeddings
        self._keys: list[RowKey] = [key for volume in volumes for key in volume.row_keys()]
        first = embeddings.read(self._keys[:1])
        #: (C, h, w)
        self.feature_shape: tuple[int, int, int] = (first.shape[1], first.shape[2], first.shape[3])
        self._grid = self.feature_shape[1] * LOGIT_CELLS_PER_FEATURE_CELL
        #: Whether the features of every batch are read from the store.
        self.streamed = (first.nbytes + self._grid**2) * len(self._keys) > memory_bytes
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None
        #: A label map each, where features are streamed.
        self._compressed: list[bytes] = []
        if self.streamed:
            for volume in volumes:
                self._compressed += [
                    zlib.compress(plane.tobytes(), _COMPRESSION_LEVEL) for plane in self._labels(volume)
                ]
        else:
            labels = np.concatenate([self._labels(volume) for volume in volumes])
            self._kept = torch.from_numpy(embeddings.read(self._keys)), torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self._keys)

    def features(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the features of some slices, (B, C, h, w), in the stored precision."""
        if self._kept is not None:
            return self._kept[0][torch.as_tensor(indices)]
        return torch.from_numpy(self._embeddings.read([self._keys[index] for index in indices]))

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the class indices of some slices on the logit grid, (B, G, G) uint8, `losses.IGNORED` outside."""
        if self._kept is not None:
            return self._kept[1][torch.as_tensor(indices)]
        planes = [np.frombuffer(zlib.decompress(self._compressed[index]), np.uint8) for index in indices]
        return torch.from_numpy(np.stack(planes).reshape(-1, self._grid, self._grid))

    def batches(self, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield shuffled batches for ever: every slice once before any comes again."""
        random = np.random.default_rng(seed)
        while True:
            order = random.permutation(len(self))
            for first in range(0, len(order), batch_size):
                chosen = order[first : first + batch_size].tolist()
                yield self.features(chosen).to(device), self.labels(chosen).long().to(device)

    def _labels(self, volume: Volume) -> NDArray[np.uint8]:
        """Return the class indices of a volume's slices on the logit grid, (slices, G, G), read and verified."""
        index = to_class_index(_label_of(volume), class_values(volume.label_names))
        return frame_of(volume, self._embeddings).label_to_grid(index, self._grid)


def _label_of(volume: Volume) -> NDArray[np.unsignedinteger[Any]]:
    label = volume.read_label()
    if label is None:
        message = f"{volume.id} has no label map to train on. Ingest it with one, or leave it out."
        raise InputError(message)
    return label
