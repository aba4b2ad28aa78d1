"""check: labels -> the encoder's grid -> back: the score of a head that has learnt its labels perfectly."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..heads.base import LOGIT_CELLS_PER_FEATURE_CELL
from ..heads.classes import class_values, to_class_index
from ..heads.frame import Frame
from ..heads.losses import IGNORED
from ..heads.metrics import ScoredVolume, judge
from ..store.errors import InputError
from ..store.slices import Volume

# Logits at the slice's own pixels are the largest thing here: 4 slices of 512 x 512 and 14 classes are 59 MB.
_SLICES_AT_ONCE = 4


def score_ceiling(volume: Volume, *, input_px: int, feature_cells: int) -> ScoredVolume:
    """Send a volume's label map through the encoder's frame and back, and score what returns.

    The way is that of training and prediction: nearest neighbour to the logit grid, which is what a head learns from;
    then logits that are certain of it, bilinearly back to the slice's pixels, and the most likely class. No head that
    is trained on this recipe can be expected to score more. The step from slices to the source's grid is a permutation
    and flips, and loses nothing.

    Parameters
    ----------
    volume
        With a label map.
    input_px
        Side of the encoder's square.
    feature_cells
        Cells of the embedding along each side.

    Raises
    ------
    InputError
        The volume has no label map.
    """
    label = volume.read_label()
    if label is None:
        message = f"{volume.id} has no label map to be sent anywhere. Ingest it with one, or leave it out."
        raise InputError(message)
    return judge(volume, _there_and_back(label, class_values(volume.label_names), input_px, feature_cells))


def _there_and_back(
    label: NDArray[np.unsignedinteger], values: list[int], input_px: int, feature_cells: int
) -> NDArray[np.unsignedinteger]:
    slices, rows, columns = label.shape
    frame = Frame(rows=rows, columns=columns, input_px=input_px)
    grid = feature_cells * LOGIT_CELLS_PER_FEATURE_CELL
    back = np.empty_like(label)
    for first in range(0, slices, _SLICES_AT_ONCE):
        part = slice(first, min(first + _SLICES_AT_ONCE, slices))
        cells = torch.from_numpy(frame.label_to_grid(to_class_index(label[part], values), grid)).long()
        certain = torch.nn.functional.one_hot(torch.where(cells == IGNORED, 0, cells), len(values))
        logits = frame.logits_to_slice(certain.permute(0, 3, 1, 2).float())
        back[part] = np.asarray(values, dtype=label.dtype)[logits.argmax(dim=1).numpy()]
    return back
