"""What embeddings hold, as colours: the three directions in which the cells of a volume differ most."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...heads.feeding import frame_of
from ...store.embeddings import Embeddings
from ...store.slices import Volume

_COLOURS = 3
# Of the cells; beyond these shares a colour is full, or none.
_LOWEST, _HIGHEST = 2.0, 98.0
# Slices of a volume that decide its colours: all rows of a CT would take gigabytes.
_MOST_SLICES = 32


def principal_colours(features_NChw: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the first three principal components of some rows' cells as red, green and blue, (N, h, w, 3).

    Each component's sign is that with which its largest weight is positive, so that equal rows give equal colours.
    """
    count, channels, height, width = features_NChw.shape
    mean = np.mean([plane.mean(axis=(1, 2), dtype=np.float64) for plane in features_NChw], axis=0)

    def cells(plane_Chw: NDArray[Any]) -> NDArray[np.float64]:
        centred: NDArray[np.float64] = plane_Chw.reshape(channels, -1).T - mean
        return centred

    # Of the channels' covariance: a volume has many more cells than channels. A slice at a time, because all rows in
    # double precision take four times what they take in half.
    covariance = np.zeros((channels, channels))
    for plane in features_NChw:
        of_plane = cells(plane)
        covariance += of_plane.T @ of_plane
    _, directions = np.linalg.eigh(covariance)
    main = directions[:, ::-1][:, :_COLOURS]
    main = main * np.sign(main[np.abs(main).argmax(axis=0), range(main.shape[1])])
    along = np.concatenate([cells(plane) @ main for plane in features_NChw])
    low, high = np.percentile(along, [_LOWEST, _HIGHEST], axis=0)
    scaled = np.clip((along - low) / np.maximum(high - low, 1e-12), 0, 1)
    coloured = np.zeros((len(along), _COLOURS))
    coloured[:, : scaled.shape[1]] = scaled
    return (255 * coloured).round().astype(np.uint8).reshape(count, height, width, _COLOURS)


def spectrum(embeddings: Embeddings, volume: Volume, position: int) -> str | None:
    """Return a slice's embedding as a data URI; None where a slice of its volume has no row.

    Its colours are those of its volume: of a large one, of slices evenly spread through it.
    """
    keys = volume.row_keys()
    if embeddings.journal.missing(keys):
        return None
    chosen = _spread(len(keys), position)
    features = np.asarray(embeddings.read([keys[one] for one in chosen]))
    colours = principal_colours(features)[chosen.index(position)]
    frame = frame_of(volume, embeddings)
    cells = [max(1, round(side * len(colours) / frame.input_px)) for side in frame.inner_px]
    data = io.BytesIO()
    Image.fromarray(colours[: cells[0], : cells[1]]).save(data, format="png")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _spread(count: int, position: int) -> list[int]:
    """Return the positions of slices that stand for all: evenly spaced, ``position`` among them."""
    if count <= _MOST_SLICES:
        return list(range(count))
    spaced = np.linspace(0, count - 1, _MOST_SLICES).round().astype(int)
    spaced[np.abs(spaced - position).argmin()] = position
    return [int(one) for one in spaced]
