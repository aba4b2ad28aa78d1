"""A trained head on a whole volume: features, or slices, in; label map on the slices' own pixels out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..store.embeddings import Embeddings
from ..store.errors import GeometryMismatch, UsageError
from ..store.slices import Volume
from .base import Head
from .chunks import ChunkHead, StoredChunks
from .classes import class_values
from .feeding import StoredFeatures, StoredFeaturesAndBoxes, StoredFeaturesAndSlices, frame_of, square_of
from .frame import Frame
from .live_encoder import LiveHead
from .patches import LARGEST_PATCH_PX
from .prompt_rules import Asked
from .seen import FeaturesAndBoxes, FeaturesAndSlices, Sees
from .tiling import Span, Tiling, blend_weights, row_keys

# Logits at the slice's own pixels are the largest thing here: 8 slices of 512 x 512 and 14 classes are 117 MB.
_SLICES_AT_ONCE = 8
# nnU-Net's, of the windows that a network at full resolution is moved over a plane by.
_WINDOW_OVERLAP = 0.5


Rows = NDArray[Any] | FeaturesAndSlices | FeaturesAndBoxes


class FeatureRows(Protocol):
    """Rows of what a head sees: an array of features, (C, h, w) each, or what reads them when they are asked for.

    `feeding.StoredFeatures`, for heads that see slices too `feeding.StoredFeaturesAndSlices`, and for those that are
    prompted `feeding.StoredFeaturesAndBoxes`.
    """

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, rows: slice, /) -> Rows:
        """Return some rows that follow each other, (B, C, h, w), or these and (B, channels, 16 h, 16 w)."""


class Piece(NamedTuple):
    """Logits of whole slices of a volume, or of some whole rows of one slice."""

    slices: slice
    rows: slice
    #: (B, classes, rows, columns) float32, on the CPU.
    logits: torch.Tensor


def segment_volume(
    head: Head,
    volume: Volume,
    label_names: Mapping[int, str],
    embeddings: Embeddings | None,
    tiling: Tiling | None = None,
    *,
    probabilities: NDArray[np.float32] | None = None,
) -> NDArray[np.unsignedinteger]:
    """Return the label map of a volume, from its rows or, where the head sees slices, from those.

    Parameters
    ----------
    head
        In eval mode.
    volume
        Whose slices or rows are read, some at a time.
    label_names
        By label value, those that the head was trained with.
    embeddings
        Where the rows are; None for a head that sees slices.
    tiling
        How planes larger than the encoder's input were cut; None for resized.
    probabilities
        (slices, rows, columns, classes), background first: what the softmax of the head's logits is written into,
        where that is wanted. It is what the head says, not how often it is right.

    Returns
    -------
    ndarray
        (slices, rows, columns), label values, the smallest unsigned kind that holds them: of each pixel the class with
        the largest logit.

    Raises
    ------
    UsageError
        For a head on features, without embeddings, or for one that is prompted, without a label.
    """
    slices, _, rows, columns = volume.record.shape
    answers = _logits_of_volume(head, volume, label_names, embeddings, tiling)
    return _joined(answers, (slices, rows, columns), label_names, probabilities)


def segment(
    head: Head,
    features: FeatureRows,
    frame: Frame,
    label_names: Mapping[int, str],
    tiling: Tiling | None = None,
) -> NDArray[np.unsignedinteger]:
    """Return the label map of a volume from its features: the most likely class of each pixel.

    Parameters are those of `logits_of_features`. Of a plane that was cut, no more than a row of tiles is in memory at
    once: its features, and its logits a few times (classes x rows of a tile x columns of the plane, float32). Measured
    with `linear` on 4000 x 4000 pixels in tiles of 1024: 0.33 GB for 3 classes, 1.0 GB for 14.

    Returns
    -------
    ndarray
        (slices, rows, columns), label values, the smallest unsigned kind that holds them.
    """
    shape = _slice_count(features, frame, tiling), frame.rows, frame.columns
    return _joined(logits_of_features(head, features, frame, tiling), shape, label_names)


def _joined(
    pieces: Iterable[Piece],
    shape: tuple[int, int, int],
    label_names: Mapping[int, str],
    probabilities: NDArray[np.float32] | None = None,
) -> NDArray[np.unsignedinteger]:
    values = np.asarray(class_values(label_names))
    label = np.empty(shape, np.min_scalar_type(int(values.max())))
    for piece in pieces:
        label[piece.slices, piece.rows] = values[piece.logits.argmax(dim=1).numpy()]
        if probabilities is not None:
            probabilities[piece.slices, piece.rows] = piece.logits.softmax(dim=1).permute(0, 2, 3, 1).numpy()
    return label


# -- on features -----------------------------------------------------------------------------------


@torch.inference_mode()
def logits_of_features(
    head: Head, features: FeatureRows, frame: Frame, tiling: Tiling | None = None
) -> Iterator[Piece]:
    """Yield logits on the slices' own pixels from the first slice to the last, and of a slice from top to bottom.

    Where planes were cut, each tile's logits are brought to its pixels, and at every pixel those of the tiles that
    cover it are averaged, each with a weight that falls to nothing where the tile ends, see `tiling.blend_weights`.

    Parameters
    ----------
    head
        In eval mode.
    features
        (slices, C, h, w); with tiles (slices x tiles, C, h, w), in the order of `tiling.row_keys`.
    frame
        Of the volume's slices.
    tiling
        How planes larger than the encoder's input were cut; None for resized.

    Yields
    ------
    Piece
        A few slices, or with tiles a row of these.

    Raises
    ------
    GeometryMismatch
        When the rows are not so many for every slice.
    """
    slices = _slice_count(features, frame, tiling)
    if tiling is None or not tiling.cuts(frame.rows, frame.columns):
        for first in range(0, slices, _SLICES_AT_ONCE):
            logits = frame.logits_to_slice(_answer(head, features[first : first + _SLICES_AT_ONCE])).cpu()
            yield Piece(slice(first, first + len(logits)), slice(0, frame.rows), logits)
        return
    for number in range(slices):
        for rows, logits in _bands(head, features, frame, tiling, number):
            yield Piece(slice(number, number + 1), rows, logits[None])


def _logits_of_volume(
    head: Head,
    volume: Volume,
    label_names: Mapping[int, str],
    embeddings: Embeddings | None,
    tiling: Tiling | None,
) -> Iterator[Piece]:
    """Return the logits of a volume by whatever the head sees."""
    if head.sees is Sees.SLICES:
        return _logits_of_slices(head, volume)
    if isinstance(head, LiveHead):
        return _logits_of_squares(head, volume)
    if isinstance(head, ChunkHead):
        return _logits_of_chunks(head, volume, label_names, embeddings)
    if embeddings is None:
        message = f"{head.name} sees features, and no embeddings were given to segment {volume.id} by."
        raise UsageError(message)
    if head.sees is Sees.FEATURES_AND_BOXES:
        check_promptable(head, volume)
        boxes = StoredFeaturesAndBoxes(embeddings, volume, class_values(label_names)[1:])
        return logits_of_features(head, boxes, frame_of(volume, embeddings))
    keys = row_keys(volume, tiling)
    features: FeatureRows = StoredFeatures(embeddings, keys)
    # Without any row there is no shape, and whoever reads the first is told so.
    if head.sees is Sees.FEATURES_AND_SLICES and embeddings.row_shape is not None:
        features = StoredFeaturesAndSlices(embeddings, volume, keys, embeddings.row_shape[1])
    return logits_of_features(head, features, frame_of(volume, embeddings), tiling)


def check_promptable(head: Head, volume: Volume) -> None:
    """Refuse a volume without the label that prompts are made from.

    Raises
    ------
    UsageError
        With the volume.
    """
    if not volume.labelled:
        message = (
            f"{head.name} is prompted from the reference, and {volume.id} has no label. Predict with a run of a head "
            f"that needs no prompt: samkit status"
        )
        raise UsageError(message)


# -- on slices, squares and chunks -----------------------------------------------------------------


@torch.inference_mode()
def _logits_of_slices(head: Head, volume: Volume) -> Iterator[Piece]:
    # One at a time: of a network at full resolution the activations are the largest thing.
    for number in range(volume.record.shape[0]):
        for rows, logits in _logits_of_plane(head, volume.read_slice(number).astype(np.float32)):
            yield Piece(slice(number, number + 1), rows, logits[None])


@torch.inference_mode()
@torch.inference_mode()
def classes_of_plane(head: Head, plane_CHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return what a head that sees slices answers for one: class numbers (0 for background) of each pixel.

    In windows as large as it has seen while training: statistics of an instance norm are others over a larger plane.

    Parameters
    ----------
    head
        One with `Sees.SLICES`.
    plane_CHW
        (channels, rows, columns), 0 to 1.

    Returns
    -------
    ndarray
        (rows, columns).
    """
    classes = np.empty(plane_CHW.shape[1:], np.uint8)
    for rows, logits in _logits_of_plane(head, plane_CHW):
        classes[rows] = logits.argmax(dim=0).numpy()
    return classes


def _logits_of_plane(head: Head, plane_CHW: NDArray[np.float32]) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (rows, logits (classes, rows, columns)) of a slice from top to bottom, in windows that overlap."""
    windows = Tiling(input_px=head.window_px or LARGEST_PATCH_PX, overlap=_WINDOW_OVERLAP)
    across_rows, across_columns = (windows.spans(length) for length in plane_CHW.shape[1:])
    strips = (
        (_answer(head, plane_CHW[None, :, slice(*down), slice(*right)])[0].cpu() for right in across_columns)
        for down in across_rows
    )
    return _stitched(strips, across_rows, across_columns)


@torch.inference_mode()
def _logits_of_squares(head: LiveHead, volume: Volume) -> Iterator[Piece]:
    slices, _, rows, columns = volume.record.shape
    encoder = head.encoder
    frame = Frame(rows=rows, columns=columns, input_px=encoder.shape.input_px, resize=encoder.resize)
    # One at a time: of an encoder the activations are the largest thing.
    for number in range(slices):
        plane = torch.from_numpy(volume.read_slice(number)[None].astype(np.float32))
        logits = head(square_of(plane, frame.input_px, frame.resize).to(head.device))
        yield Piece(slice(number, number + 1), slice(0, rows), frame.logits_to_slice(logits).cpu())


@torch.inference_mode()
def _logits_of_chunks(
    head: ChunkHead, volume: Volume, label_names: Mapping[int, str], embeddings: Embeddings | None
) -> Iterator[Piece]:
    if head.rule.kind is not Asked.NONE:
        check_promptable(head, volume)
    stored = StoredChunks(head, volume, embeddings, class_values(label_names)[1:])
    for chunk, seen in stored:
        answered = head(seen.to(head.device))
        for first in range(0, len(chunk), _SLICES_AT_ONCE):
            logits = stored.frame.logits_to_slice(answered[first : first + _SLICES_AT_ONCE]).cpu()
            place = chunk[first : first + _SLICES_AT_ONCE]
            yield Piece(slice(place.start, place.stop), slice(0, stored.frame.rows), logits)


# -- parts -----------------------------------------------------------------------------------------


def _bands(
    head: Head, features: FeatureRows, frame: Frame, tiling: Tiling, number: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (rows, logits (classes, rows, columns)) of one slice from top to bottom: row of tiles by row of tiles."""
    across_rows, across_columns = tiling.spans(frame.rows), tiling.spans(frame.columns)
    tile, count = tiling.frame_of_tile(frame), len(across_columns)
    first = number * len(across_rows) * count

    strips = (
        _tile_logits(head, features[start : start + count], count, tile)
        for start in range(first, first + len(across_rows) * count, count)
    )
    return _stitched(strips, across_rows, across_columns)


def _stitched(
    strips: Iterable[Iterable[torch.Tensor]], across_rows: Sequence[Span], across_columns: Sequence[Span]
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (rows, logits (classes, rows, columns)) of a plane from top to bottom, from rows of tiles that overlap."""
    joined = (torch.cat(list(_blended(tiles, across_columns, axis=2)), dim=2) for tiles in strips)
    row = 0
    for band in _blended(joined, across_rows, axis=1):
        yield slice(row, row + band.shape[1]), band
        row += band.shape[1]


def _tile_logits(head: Head, rows: Rows, count: int, tile: Frame) -> Iterator[torch.Tensor]:
    """Yield each tile's logits on its own pixels, (classes, rows, columns): one at a time, because they are large."""
    assert not isinstance(rows, FeaturesAndBoxes)  # boxes may lie across tiles, so that there are none
    for first in range(0, count, _SLICES_AT_ONCE):
        some = slice(first, first + _SLICES_AT_ONCE)
        for logits in _answer(head, rows.rows(some) if isinstance(rows, FeaturesAndSlices) else rows[some]):
            yield tile.logits_to_slice(logits[None])[0].cpu()


def _blended(parts: Iterable[torch.Tensor], spans: Sequence[Span], *, axis: int) -> Iterator[torch.Tensor]:
    """Yield the weighted sum of parts that overlap along an axis, cut where the next begins: joined they are the side.

    Parameters
    ----------
    parts
        One for each span, as long along ``axis`` as the span.
    spans
        As `Tiling.spans` gives them.
    axis
        Of the parts.
    """
    following = [first for first, _ in spans[1:]] + [spans[-1][1]]
    said: torch.Tensor | None = None  # by the parts before, of what the next one covers too
    for part, (first, _), weight, stop in zip(parts, spans, blend_weights(spans), following, strict=True):
        shape = [-1 if number == axis else 1 for number in range(part.ndim)]
        now = part * torch.from_numpy(weight).view(shape)
        if said is not None:
            now.narrow(axis, 0, said.shape[axis]).add_(said)
        finished, said = now.split([stop - first, now.shape[axis] - (stop - first)], dim=axis)
        yield finished


def _answer(head: Head, rows: Rows) -> torch.Tensor:
    seen = (
        rows if isinstance(rows, FeaturesAndSlices | FeaturesAndBoxes) else torch.from_numpy(np.ascontiguousarray(rows))
    )
    logits: torch.Tensor = head(seen.to(head.device))
    return logits


def _slice_count(features: FeatureRows, frame: Frame, tiling: Tiling | None) -> int:
    tiles = 1 if tiling is None else len(tiling.tiles(frame.rows, frame.columns))
    if len(features) % tiles:
        message = (
            f"{len(features)} rows of features, and a slice of {frame.rows} x {frame.columns} pixels has {tiles} tiles "
            f"of {tiling}: that is no whole number of slices. Ask for the rows of tiling.row_keys(volume, tiling)."
        )
        raise GeometryMismatch(message)
    return len(features) // tiles
