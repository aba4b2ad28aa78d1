"""A trained head on a whole volume: features in, label map on the slices' own pixels out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .base import Head
from .frame import Frame

# Logits at the slice's own pixels are the largest thing here: 8 slices of 512 x 512 and 14 classes are 117 MB.
_SLICES_AT_ONCE = 8


def class_values(label_names: Mapping[int, str]) -> list[int]:
    """Return the label value of each class index: background, then the named values in order."""
    return [0, *sorted(label_names)]


def to_class_index(label: NDArray[np.unsignedinteger], values: Sequence[int]) -> NDArray[np.uint8]:
    """Replace label values by class indices; every value must be among ``values``."""
    return np.searchsorted(np.asarray(values), label).astype(np.uint8)


@torch.inference_mode()
def logits_by_slice(head: Head, features: NDArray[np.floating], frame: Frame) -> Iterator[torch.Tensor]:
    """Yield logits on the slices' own pixels, a few slices at a time.

    Parameters
    ----------
    head
        In eval mode.
    features
        (slices, C, h, w).
    frame
        Of the volume's slices.

    Yields
    ------
    Tensor
        (B, classes, rows, columns) float32, on the CPU.
    """
    device = next(head.parameters()).device
    for first in range(0, len(features), _SLICES_AT_ONCE):
        batch = torch.from_numpy(np.ascontiguousarray(features[first : first + _SLICES_AT_ONCE])).to(device)
        yield frame.logits_to_slice(head(batch)).cpu()


def segment(
    head: Head, features: NDArray[np.floating], frame: Frame, label_names: Mapping[int, str]
) -> NDArray[np.unsignedinteger]:
    """Return the label map of a volume: the most likely class of each pixel.

    Returns
    -------
    ndarray
        (slices, rows, columns), label values, the smallest unsigned kind that holds them.
    """
    values = np.asarray(class_values(label_names))
    kind = np.min_scalar_type(int(values.max()))
    planes = [values[logits.argmax(dim=1).numpy()].astype(kind) for logits in logits_by_slice(head, features, frame)]
    label: NDArray[np.unsignedinteger] = np.concatenate(planes)
    return label
