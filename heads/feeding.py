"""What a head is fed: features and labels of some volumes, slice by slice or tile by tile, from memory or streamed.

A *row* is what has an embedding of its own: a slice, or a tile of a slice that is larger than the encoder's input.

Shapes: N rows, B of them in a batch, C channels, h w cells of the embedding, G cells of the logit grid.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..store.embeddings import Embeddings
from ..store.errors import InputError, MissingEmbeddings
from ..store.keys import Recipe, RowKey
from ..store.slices import SliceFinder, Volume
from ..store.splits import DEFAULT_SPLIT
from .base import LOGIT_CELLS_PER_FEATURE_CELL
from .classes import class_values, to_class_index
from .frame import Frame
from .prompting import boxes_around, boxes_in_square
from .seen import SLICE_PX_PER_FEATURE_CELL, FeaturesAndBoxes, FeaturesAndSlices, Seen
from .tiling import DEFAULT_OVERLAP, Tile, Tiling, row_keys
from .views import View, image_of, words_for

AS_THEY_ARE = (str(View()),)
"""The bank of views of slices that are not transformed."""

# zlib's fastest: a label map is mostly runs of one value, and every batch unpacks some.
_COMPRESSION_LEVEL = 1


def frame_of(volume: Volume, embeddings: Embeddings) -> Frame:
    """Return where the slices of a volume lie in the square that the encoder was given."""
    return _frame_in(volume, embeddings.recipe)


def _frame_in(volume: Volume, recipe: Recipe) -> Frame:
    _, _, rows, columns = volume.record.shape
    return Frame(rows=rows, columns=columns, input_px=recipe.input_px, resize=recipe.resize)


def tiling_of(embeddings: Embeddings, overlap: float | None) -> Tiling | None:
    """Return how planes larger than the encoder's input are cut, by the overlap of tiles; None for not at all.

    Raises
    ------
    UsageError
        For an overlap that there cannot be.
    """
    return None if overlap is None else Tiling(input_px=embeddings.recipe.input_px, overlap=overlap)


def check_embedded(
    embeddings: Embeddings,
    volumes: Sequence[Volume],
    *,
    what: str,
    tiling: Tiling | None = None,
    views: Sequence[str] = AS_THEY_ARE,
    split: str | None = None,
) -> None:
    """Refuse volumes that have slices, or tiles or views of slices, without a row.

    Parameters
    ----------
    embeddings, volumes, tiling, views
        As of `LabelledSlices`.
    what
        Which volumes these are, for the message.
    split
        The split from whose pool they are, which gets views; None where they may be of no pool.

    Raises
    ------
    MissingEmbeddings
        With their number and the command that embeds them.
    """
    keys = _keys_of(volumes, tiling, views)
    missing = embeddings.journal.missing(keys)
    if missing:
        flags = "" if tiling is None else _flags(tiling)
        nouns = ["slices", *(["tiles"] if tiling is not None else [])]
        if tuple(views) != AS_THEY_ARE:
            flags += f" --views {words_for(views)}{_whose_views(split)}"
            nouns.append("views")
        message = (
            f"{len(missing)} of {len(set(keys))} {' and '.join(nouns)} of the {what} "
            f"volumes have no embedding under {embeddings.recipe.folder_name}. "
            f"Run `samkit embed{flags} --recipe {embeddings.recipe.id}`{_otherwise(embeddings, missing, keys, tiling)}."
        )
        raise MissingEmbeddings(message)


class LabelledInput(Protocol):
    """What `fitting` takes batches from: `LabelledSlices`, or `patches.LabelledPatches` for heads that see slices."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of one row of a batch."""

    @property
    def streamed(self) -> bool:
        """Whether every batch is read from the store."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def batches(self, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[Seen, torch.Tensor]]:
        """Yield shuffled batches for ever, what the head sees and its labels: every row once before any again."""

    def in_order(self, batch_size: int) -> Iterator[tuple[Seen, torch.Tensor]]:
        """Yield every row once, unchanged, on the CPU; labels uint8 or int64."""


class LabelledRows(ABC):
    """Rows in batches, from what a class reads of some of them by index."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def seen(self, indices: Sequence[int]) -> Seen:
        """Return what a head is given of some rows, on the CPU."""

    @abstractmethod
    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the class indices of some rows on the logit grid, (B, G, G) uint8, `losses.IGNORED` outside."""

    def batches(self, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[Seen, torch.Tensor]]:
        """Yield shuffled batches for ever: every row once before any comes again."""
        random = np.random.default_rng(seed)
        while True:
            order = random.permutation(len(self))
            for first in range(0, len(order), batch_size):
                chosen = order[first : first + batch_size].tolist()
                yield self.seen(chosen).to(device), self.labels(chosen).long().to(device)

    def in_order(self, batch_size: int) -> Iterator[tuple[Seen, torch.Tensor]]:
        """Yield (what a head is given, labels (B, G, G) uint8) of every row once, on the CPU."""
        for first in range(0, len(self), batch_size):
            indices = range(first, min(first + batch_size, len(self)))
            yield self.seen(indices), self.labels(indices)


class SquareSlices:
    """The slices of some rows in the encoder's frame, at 16 pixels a cell of the embedding, in their rows' views.

    Parameters
    ----------
    embeddings
        Whose grid and frame they lie in.
    volumes
        That the rows are of.
    grid
        Cells of the embedding along a side.
    """

    def __init__(self, embeddings: Embeddings, volumes: Sequence[Volume], grid: int) -> None:
        self._finder = SliceFinder({volume.id: volume for volume in volumes})
        self._resize = embeddings.recipe.resize
        self.input_px = grid * SLICE_PX_PER_FEATURE_CELL

    def read(self, keys: Sequence[RowKey]) -> torch.Tensor:
        """Return (B, channels, S, S) float16 in [0, 1], verified, padded with 0."""
        return torch.cat(_of_one_depth([self._read(key) for key in keys]))

    def _read(self, key: RowKey) -> torch.Tensor:
        image = torch.from_numpy(np.ascontiguousarray(image_of(self._finder, key)))[None]
        frame = Frame(rows=image.shape[2], columns=image.shape[3], input_px=self.input_px, resize=self._resize)
        return frame.slices_to_square(image).half()


def _of_one_depth(squares: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return squares (1, 1 or 3, S, S) with as many channels each: grey ones as the encoder sees them beside colour."""
    channels = max(square.shape[1] for square in squares)
    return [square.expand(-1, channels, -1, -1) for square in squares]


def square_of(slices: torch.Tensor, input_px: int, resize: str) -> torch.Tensor:
    """Bring slices (B, C, H, W) of one size to an encoder's square, as `Sees.SQUARES` says: (B, C, S, S) float32."""
    frame = Frame(rows=slices.shape[2], columns=slices.shape[3], input_px=input_px, resize=resize)
    return frame.slices_to_square(slices, padding=torch.nan)


class LabelledSquares(LabelledRows):
    """Labelled slices of some volumes in the encoder's square, for heads that run an encoder of their own.

    What `fitting` takes batches from. Slices are read and brought to the square when they are asked for: beside an
    encoder that is little, and squares of 1024 pixels would fill the memory.

    Parameters
    ----------
    recipe
        Whose square it is.
    volumes
        Labelled; their slices may differ in size.
    views
        Of every slice, canonical texts (`heads.views.View`); by default the slice as it is.

    Raises
    ------
    InputError
        For a volume without a label.
    DamagedStore
        When slices or a label are not what was ingested.
    """

    #: As rows are that do not fit into memory.
    streamed = True

    def __init__(self, recipe: Recipe, volumes: Sequence[Volume], *, views: Sequence[str] = AS_THEY_ARE) -> None:
        self._recipe = recipe
        self._finder = SliceFinder({volume.id: volume for volume in volumes})
        self._keys = _keys_of(volumes, None, views)
        grid = recipe.input_px // SLICE_PX_PER_FEATURE_CELL * LOGIT_CELLS_PER_FEATURE_CELL
        parsed = [View.parse(view) for view in views]
        planes = [
            plane
            for volume in volumes
            for plane in labels_on_grid(volume, _frame_in(volume, recipe), grid, parsed, tiling=None)
        ]
        self._labels = torch.from_numpy(np.concatenate(planes))
        #: (channels, S, S)
        self.input_shape = (volumes[0].record.shape[1], recipe.input_px, recipe.input_px)

    def __len__(self) -> int:
        return len(self._keys)

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the class indices of some rows on the logit grid, (B, G, G) uint8, `losses.IGNORED` outside."""
        return self._labels[torch.as_tensor(indices)]

    def seen(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the squares of some rows, (B, channels, S, S)."""
        planes = [torch.from_numpy(image_of(self._finder, self._keys[index]).copy())[None] for index in indices]
        squares = [square_of(plane, self._recipe.input_px, self._recipe.resize) for plane in planes]
        return torch.cat(_of_one_depth(squares))


class StoredFeatures:
    """The features of some rows, read and verified when they are asked for: ``features[8:16]`` is (8, C, h, w).

    What `inference.segment` takes for a volume whose rows should not be in memory all at once.
    """

    def __init__(self, embeddings: Embeddings, keys: Sequence[RowKey]) -> None:
        self._embeddings = embeddings
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return self._embeddings.read(self._keys[rows])


class StoredFeaturesAndSlices:
    """As `StoredFeatures`, for heads that see the slices too."""

    def __init__(self, embeddings: Embeddings, volume: Volume, keys: Sequence[RowKey], grid: int) -> None:
        self._features = StoredFeatures(embeddings, keys)
        self._slices = SquareSlices(embeddings, [volume], grid)
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, rows: slice) -> FeaturesAndSlices:
        return FeaturesAndSlices(torch.from_numpy(self._features[rows]), self._slices.read(self._keys[rows]))


class StoredFeaturesAndBoxes:
    """As `StoredFeatures`, for heads that are prompted: with the box of each class around the reference."""

    def __init__(self, embeddings: Embeddings, volume: Volume, label_values: Sequence[int]) -> None:
        self._features = StoredFeatures(embeddings, volume.row_keys())
        self._frame = frame_of(volume, embeddings)
        label = volume.read_label()
        assert label is not None  # only labelled volumes are prompted
        self._label, self._values = label, label_values

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, rows: slice) -> FeaturesAndBoxes:
        return FeaturesAndBoxes(torch.from_numpy(self._features[rows]), self._boxes(self._label[rows]))

    def _boxes(self, label_BHW: NDArray[np.unsignedinteger]) -> torch.Tensor:
        """Return (B, classes, 4) as shares of the encoder's square, not a number where there is none of a class."""
        boxes = torch.full((len(label_BHW), len(self._values), 4), torch.nan)
        for number, value in enumerate(self._values):
            masks = torch.from_numpy(label_BHW == value)
            shown = masks.flatten(1).any(dim=1)
            if shown.any():
                within = boxes_in_square(boxes_around(masks[shown]), self._frame)
                boxes[shown, number] = (within + 0.5) / self._frame.input_px
        return boxes


class LabelledSlices(LabelledRows):
    """The rows of some labelled volumes: features by index, labels on the logit grid.

    Without a tiling and views a row is a slice. A view of a slice is a row of its own, with its label moved as its
    image was. With a tiling, each tile of a slice is a row like any other, with its part of the
    label at its own resolution; where tiles overlap, a pixel is in several rows.

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
    tiling
        How planes larger than the encoder's input are cut; None for resized.
    views
        Of every slice, canonical texts (`heads.views.View`); by default the slice as it is.
    with_slices
        Whether a row is `FeaturesAndSlices`, not features alone.

    Raises
    ------
    MissingEmbeddings
        When a slice, a tile, or a view has no row.
    DamagedStore
        When a label is not the one that was ingested.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        volumes: Sequence[Volume],
        memory_bytes: int,
        tiling: Tiling | None = None,
        *,
        views: Sequence[str] = AS_THEY_ARE,
        with_slices: bool = False,
    ) -> None:
        check_embedded(embeddings, volumes, what="drawn", tiling=tiling, views=views)
        self._embeddings = embeddings
        self._tiling = tiling
        self._views = [View.parse(view) for view in views]
        self._keys = _keys_of(volumes, tiling, views)
        first = embeddings.read(self._keys[:1])
        #: (C, h, w)
        self.input_shape: tuple[int, int, int] = (first.shape[1], first.shape[2], first.shape[3])
        self._grid = self.input_shape[1] * LOGIT_CELLS_PER_FEATURE_CELL
        self._slices = SquareSlices(embeddings, volumes, self.input_shape[1]) if with_slices else None
        row_bytes = first.nbytes + self._grid**2
        if self._slices is not None:
            own = self._slices.read(self._keys[:1])
            deepest = max(volume.record.shape[1] for volume in volumes)
            row_bytes += own.nbytes // own.shape[1] * deepest  # grey ones too, beside colour
        #: Whether the features of every batch are read from the store.
        self.streamed = row_bytes * len(self._keys) > memory_bytes
        #: Of what may be kept in memory, so much is.
        self.kept_bytes = 0 if self.streamed else row_bytes * len(self._keys)
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None
        self._kept_slices: torch.Tensor | None = None
        #: A label map each, where features are streamed.
        self._compressed: list[bytes] = []
        if self.streamed:
            for volume in volumes:
                self._compressed += [compressed(plane) for planes in self._labels(volume) for plane in planes]
        else:
            labels = np.concatenate([planes for volume in volumes for planes in self._labels(volume)])
            self._kept = torch.from_numpy(embeddings.read(self._keys)), torch.from_numpy(labels)
            self._kept_slices = None if self._slices is None else self._slices.read(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def features(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the features of some rows, (B, C, h, w), in the stored precision."""
        if self._kept is not None:
            return self._kept[0][torch.as_tensor(indices)]
        return torch.from_numpy(self._embeddings.read([self._keys[index] for index in indices]))

    def seen(self, indices: Sequence[int]) -> Seen:
        """Return what a head is given of some rows: features, or features and slices."""
        features = self.features(indices)
        if self._slices is None:
            return features
        if self._kept_slices is not None:
            return FeaturesAndSlices(features, self._kept_slices[torch.as_tensor(indices)])
        return FeaturesAndSlices(features, self._slices.read([self._keys[index] for index in indices]))

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the class indices of some rows on the logit grid, (B, G, G) uint8, `losses.IGNORED` outside."""
        if self._kept is not None:
            return self._kept[1][torch.as_tensor(indices)]
        return torch.from_numpy(np.stack([decompressed(self._compressed[index], self._grid) for index in indices]))

    def _labels(self, volume: Volume) -> Iterator[NDArray[np.uint8]]:
        frame = frame_of(volume, self._embeddings)
        return labels_on_grid(volume, frame, self._grid, self._views, tiling=self._tiling)


def compressed(plane: NDArray[np.uint8]) -> bytes:
    """Return class indices on the logit grid, (G, G), in few bytes: hundreds on a grid of 64, a kB on one of 256."""
    return zlib.compress(plane.tobytes(), _COMPRESSION_LEVEL)


def decompressed(content: bytes, grid: int) -> NDArray[np.uint8]:
    """Return what was compressed, (G, G), to be read only."""
    return np.frombuffer(zlib.decompress(content), np.uint8).reshape(grid, grid)


def labels_on_grid(
    volume: Volume, frame: Frame, grid: int, views: Sequence[View], *, tiling: Tiling | None
) -> Iterator[NDArray[np.uint8]]:
    """Yield class indices on the logit grid, (1 or tiles, G, G), of each slice in each view, read and verified."""
    label, values = _label_of(volume), class_values(volume.label_names)
    tiles = [Tile()]
    if tiling is not None:
        tiles = [*tiling.tiles(frame.rows, frame.columns)]
        frame = tiling.frame_of_tile(frame)
    for view in views:
        rows, columns = view.plane_shape(frame.rows, frame.columns)
        seen = replace(frame, rows=rows, columns=columns)
        # A slice at a time: the indices of a large plane take eight bytes a pixel before they become one.
        for plane in label:
            index = to_class_index(plane, values)
            moved = np.stack([view.apply_to_label(tile.crop(index)) for tile in tiles])
            yield seen.label_to_grid(moved, grid)


def _keys_of(volumes: Sequence[Volume], tiling: Tiling | None, views: Sequence[str]) -> list[RowKey]:
    """Return the rows of some volumes: volume by volume, and of a volume view by view."""
    return [key for volume in volumes for view in views for key in row_keys(volume, tiling, view=view)]


def _whose_views(split: str | None) -> str:
    """Return how `samkit embed` is told of which slices views are wanted."""
    if split is None:
        return " --views-for all"
    return "" if split == DEFAULT_SPLIT else f" --split {split}"


def _flags(tiling: Tiling) -> str:
    """Return how `samkit embed` and `train-head` are told of a tiling."""
    return " --tiles" + ("" if tiling.overlap == DEFAULT_OVERLAP else f" --tile-overlap {tiling.overlap:g}")


def _otherwise(
    embeddings: Embeddings, missing: Sequence[RowKey], wanted: Sequence[RowKey], tiling: Tiling | None
) -> str:
    """Say of slices without a row that they have others, so that another flag may be meant."""
    digests, views, known = {key.slice_digest for key in missing}, {key.view for key in wanted}, set(wanted)
    rows = (key for key in embeddings.journal if key.slice_digest in digests and key.view in views)
    others = {key.tile for key in rows if key not in known}
    if not others:
        return ""
    if tiling is None:
        return "; or add --tiles: some are embedded in tiles"
    whole = str(Tile()) in others
    return "; or leave --tiles out: some are embedded whole" if whole else "; or name their --tile-overlap"


def _label_of(volume: Volume) -> NDArray[np.unsignedinteger[Any]]:
    label = volume.read_label()
    if label is None:
        message = f"{volume.id} has no label map to train on. Ingest it with one, or leave it out."
        raise InputError(message)
    return label
