"""Embedded slices as a torch Dataset, for training loops of one's own.

Shapes: C channels, h w cells of the embedding, G cells of the logit grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from ..store.embeddings import Embeddings
from ..store.errors import InputError
from ..store.slices import Volume
from .base import LOGIT_CELLS_PER_FEATURE_CELL
from .feeding import AS_THEY_ARE, check_embedded, compressed, decompressed, frame_of, labels_on_grid
from .views import View


class EmbeddedSlice(NamedTuple):
    """One slice: its features and its label. Batches of it are what torch's default collation makes of it."""

    features: torch.Tensor
    """(C, h, w), as stored: float16, or float32."""
    label: torch.Tensor
    """(G, G) int64, G four times h: class indices, 0 the background, `losses.IGNORED` beside the slice."""
    volume_id: str
    position: int
    """Of the slice in its volume, from 0."""


class EmbeddedSlices(Dataset[EmbeddedSlice]):
    """The labelled slices of some volumes, read and verified when they are asked for.

    Parameters
    ----------
    embeddings
        Of one recipe: ``workspace.embeddings()``.
    volumes
        Labelled and embedded: ``workspace.volumes.values()``, or some of them.
    views
        Of every slice, canonical texts; by default the slice as it is. A view of a slice is an item of its own.

    Raises
    ------
    InputError
        For a volume without a label.
    MissingEmbeddings
        When a slice has no row; the message has the command that makes it.
    """

    def __init__(
        self, embeddings: Embeddings, volumes: Iterable[Volume], *, views: Sequence[str] = AS_THEY_ARE
    ) -> None:
        self.embeddings = embeddings
        self.views = tuple(views)
        self._volumes = list(volumes)
        for volume in self._volumes:
            if not volume.labelled:
                message = (
                    f"{volume.id} has no label map. Leave it out: [v for v in workspace.volumes.values() if v.labelled]"
                )
                raise InputError(message)
        check_embedded(embeddings, self._volumes, what="dataset's", views=self.views)
        self._items = [
            (number, view, position)
            for number, volume in enumerate(self._volumes)
            for view in self.views
            for position in range(len(volume.slice_digests))
        ]
        #: Of the volumes and views that were asked for: of a shuffled loader each is asked for once a slice.
        self._labels: dict[tuple[int, str], list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> EmbeddedSlice:
        number, view, position = self._items[index]
        volume = self._volumes[number]
        features = self.embeddings.read([volume.row_keys(view)[position]])[0]
        grid = features.shape[1] * LOGIT_CELLS_PER_FEATURE_CELL
        if (number, view) not in self._labels:
            planes = labels_on_grid(volume, frame_of(volume, self.embeddings), grid, [View.parse(view)], tiling=None)
            self._labels[number, view] = [compressed(plane) for of_slice in planes for plane in of_slice]
        label = decompressed(self._labels[number, view][position], grid).astype(np.int64)
        return EmbeddedSlice(torch.from_numpy(features), torch.from_numpy(label), volume.id, position)

    def __getstate__(self) -> dict[str, object]:
        """Leave the labels that are kept behind: each worker of a loader reads its own."""
        return {**self.__dict__, "_labels": {}}
