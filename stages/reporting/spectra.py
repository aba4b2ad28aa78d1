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


def principal_colours(features_NChw: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the first three principal components of some rows' cells as red, green and blue, (N, h, w, 3).

    Each component's sign is that with which its largest weight is positive, so that equal rows give equal colours.
    """
    count, channels, height, width = features_NChw.shape
    cells = features_NChw.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, channels)
    cells -= cells.mean(axis=0)
    # Of the channels' covariance: a volume has many more cells than channels.
    _, directions = np.linalg.eigh(cells.T @ cells)
    main = directions[:, ::-1][:, :_COLOURS]
    main = main * np.sign(main[np.abs(main).argmax(axis=0), range(main.shape[1])])
    along = cells @ main
    low, high = np.percentile(along, [_LOWEST, _HIGHEST], axis=0)
    scaled = np.clip((along - low) / np.maximum(high - low, 1e-12), 0, 1)
    coloured = np.zeros((len(along), _COLOURS))
    coloured[:, : scaled.shape[1]] = scaled
    return (255 * coloured).round().astype(np.uint8).reshape(count, height, width, _COLOURS)


def spectrum(embeddings: Embeddings, volume: Volume, position: int) -> str | None:
    """Return a slice's embedding as a data URI, its colours those of its volume; None where a slice has no row."""
    keys = volume.row_keys()
    if embeddings.journal.missing(keys):
        return None
    colours = principal_colours(np.asarray(embeddings.read(keys)))[position]
    frame = frame_of(volume, embeddings)
    cells = [max(1, round(side * len(colours) / frame.input_px)) for side in frame.inner_px]
    data = io.BytesIO()
    Image.fromarray(colours[: cells[0], : cells[1]]).save(data, format="png")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
