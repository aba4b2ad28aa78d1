"""Box prompts without any training, beside what the boxes themselves are worth: the ellipses inscribed in them.

A box a class and slice, around the reference, each side moved by up to 5 pixels of the slice and kept on it; Dice a
volume and class, each class by itself.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samkit.heads.feeding import frame_of
from samkit.heads.prompting import Prompts, boxes_around, boxes_in_square
from samkit.stages.encoders.nano import NANO
from samkit.stages.training.plan import labelled_volumes
from samkit.store.embeddings import Embeddings
from samkit.store.workspace import Workspace

_JITTER_PX = 5
_SEED = 0

ByClass = dict[str, float]


@torch.inference_mode()
def box_dice(
    workspace: Workspace, embeddings: Embeddings, weights: Path, subjects: Sequence[str]
) -> tuple[ByClass, ByClass]:
    """Return the mean Dice by class: of the masks that boxes prompt from the rows of `nano`, and of their ellipses."""
    decoder = NANO.prompted_decoder(weights, size=embeddings.recipe.input_px)
    random = np.random.default_rng(_SEED)
    by_box: defaultdict[str, list[float]] = defaultdict(list)
    by_ellipse: defaultdict[str, list[float]] = defaultdict(list)
    for volume in labelled_volumes(workspace, subjects):
        label = volume.read_label()
        assert label is not None
        frame = frame_of(volume, embeddings)
        rows = torch.from_numpy(np.asarray(embeddings[volume.id]))
        for value, name in volume.label_names.items():
            masks = label == value
            seen = np.flatnonzero(masks.any(axis=(1, 2)))
            if not len(seen):
                continue
            boxes = _moved(boxes_around(torch.from_numpy(masks[seen])), masks.shape[1:], random)
            logits, _ = decoder(rows[seen].float(), Prompts.of_boxes(boxes_in_square(boxes, frame)))
            answered = frame.logits_to_slice(logits[:, :1])[:, 0] > 0
            by_box[name].append(_dice(answered.numpy(), masks[seen]))
            by_ellipse[name].append(_dice(_ellipses(boxes, masks.shape[1:]).numpy(), masks[seen]))
    return _means(by_box), _means(by_ellipse)


def _means(by_class: dict[str, list[float]]) -> ByClass:
    return {name: statistics.mean(values) for name, values in by_class.items()}


def _moved(boxes_N4: Tensor, shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
    """Move each side, keep it on the slice, and keep the first side before the last."""
    moves = random.integers(-_JITTER_PX, _JITTER_PX, boxes_N4.shape, endpoint=True)
    corners = (boxes_N4 + torch.from_numpy(moves)).unflatten(1, (2, 2))
    corners = corners.clamp(torch.zeros(2), torch.tensor([shape[1] - 1, shape[0] - 1])).float()
    return corners.sort(dim=1).values.flatten(1)


def _ellipses(boxes_N4: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the ellipse that touches each box's sides, (N, H, W)."""
    left, top, right, bottom = boxes_N4.T[..., None, None]
    rows, columns = (torch.arange(length).float() for length in shape)
    y = (rows[:, None] - (top + bottom) / 2) / ((bottom - top + 1) / 2).clamp(min=0.5)
    x = (columns - (left + right) / 2) / ((right - left + 1) / 2).clamp(min=0.5)
    return x.square() + y.square() <= 1


def _dice(found: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    return 2 * np.count_nonzero(found & reference) / (np.count_nonzero(found) + np.count_nonzero(reference))
